"""Runs `telemetryd run` as a process and asks it, as an operator would, how it is."""

import http.client
import json
import os
import signal
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar

from tests.support import starter
from tests.support.processes import free_ports, whole_lines
from tests.support.waiting import until

PATIENCE_S = 60.0
T = TypeVar("T")

STATUS = '"message":"status"'
TOP_LEVEL = 'log_level = "debug"\nlog_format = "json"\n'


class Daemon:
    """One running daemon; its log goes to a file in the folder.

    Args:
        folder: Where the configuration and the log are written.
        kubeconfig: What it connects with.
        config: Further TOML, after `[kubernetes]` and `[server]`.
        top_level: What comes before them.
        kubernetes: Further TOML of `[kubernetes]`.
        environ: Further variables.
        under: A command that executes the one it is given, such as `unshare`.
        stderr: Where its log goes in place of the file.
        fresh: It has an interpreter of its own, as of ``starter.start``.
    """

    def __init__(
        self,
        folder: Path,
        kubeconfig: Path,
        config: str,
        top_level: str = TOP_LEVEL,
        *,
        kubernetes: str = "",
        environ: Mapping[str, str] = MappingProxyType({}),
        under: Sequence[str] = (),
        stderr: int | None = None,
        fresh: bool = False,
    ) -> None:
        self.port = free_port()
        self.config_file = folder / "config.toml"
        self._tables = (
            f'[kubernetes]\nkubeconfig = "{kubeconfig}"\n{kubernetes}\n'
            f'[server]\nlisten = "127.0.0.1:{self.port}"\n'
        )
        self.configure(config, top_level)
        self.log_file = folder / "telemetryd.log"
        with self.log_file.open("ab") as log:
            self.process = starter.start(
                *("run", "--config", str(self.config_file)),
                under=under,
                fresh=fresh,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log if stderr is None else stderr,
                env={
                    **os.environ,
                    "TELEMETRYD_CONFIG": "/nonexistent",
                    "STATE_DIRECTORY": str(folder),
                    "RUNTIME_DIRECTORY": str(folder),
                    **environ,
                },
            )

    def signal(self, number: signal.Signals) -> None:
        """Sends a signal."""
        self.process.send_signal(number)

    def configure(self, config: str, top_level: str = TOP_LEVEL) -> None:
        """Puts another file in the place of the configuration, by a rename."""
        new = self.config_file.with_suffix(".new")
        new.write_text(top_level + self._tables + config)
        new.rename(self.config_file)

    def stop(self) -> int:
        """Sends SIGTERM and returns the exit status; a daemon that hangs is killed and fails."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(timeout=PATIENCE_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise

    def get(self, path: str) -> tuple[int, str]:
        """Status and body of one GET; (0, "") while nothing listens."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            connection.request("GET", path)
            response = connection.getresponse()
            return response.status, response.read().decode()
        except OSError:
            return 0, ""
        finally:
            connection.close()

    def status(self) -> dict[str, Any]:
        """`/status.json`."""
        code, body = self.get("/status.json")
        assert code == 200, body
        document: dict[str, Any] = json.loads(body)
        return document

    def exporter(self, name: str = "scc") -> dict[str, Any]:
        """The named exporter's part of the status."""
        found: dict[str, Any] = next(
            entry for entry in self.status()["exporters"] if entry["name"] == name
        )
        return found

    def informer(self, resource: str) -> dict[str, Any]:
        """The named informer's part of the status."""
        found: dict[str, Any] = next(
            entry for entry in self.status()["informers"] if entry["resource"] == resource
        )
        return found

    def metric(self, series: str) -> float | None:
        """The value of one series, written as in the text format; None where it is absent."""
        for line in self.get("/metrics")[1].splitlines():
            if line.startswith(f"{series} "):
                return float(line.rpartition(" ")[2])
        return None

    def peak_mib(self) -> float:
        """The most it has held of the machine's memory so far."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        (line,) = (line for line in status.splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) / 1024

    def ready(self) -> bool:
        """Whether `/readyz` says 200."""
        return self.get("/readyz")[0] == 200

    def log(self) -> str:
        """All it has logged so far."""
        return whole_lines(self.log_file)

    def whole_log(self) -> str:
        """All that it had logged when this was called, be it written yet or not.

        A thread writes the lines, in their order: once the status that SIGUSR1 asks for is there,
        so is everything before it.
        """
        if self.process.poll() is None:
            before = self.log().count(STATUS)
            self.signal(signal.SIGUSR1)
            self.wait_for("its status in the log", lambda: self.log().count(STATUS) > before, 60)
        return self.log()

    def wait_for(self, what: str, probe: Callable[[], T], timeout_s: float) -> T:
        """Returns the first truthy result of the probe.

        It waits longer than asked on a slow machine: no test is about how long that takes.

        Raises:
            AssertionError: It stayed falsy, or the daemon ended; with the end of the log.
        """
        return until(
            probe,
            what,
            deadline_s=max(timeout_s, PATIENCE_S),
            more=lambda: self.log()[-4000:],
            ended=self.process.poll,
        )


def free_port() -> int:
    """A loopback port that has no listener."""
    return free_ports(1)[0]
