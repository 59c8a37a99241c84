"""Stands in for systemd: starts `telemetryd run` and hears what it tells on its notify socket."""

import json
import os
import re
import signal
import socket
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Any, Self

from tests.support import starter
from tests.support.daemon import PATIENCE_S, free_port
from tests.support.processes import whole_lines
from tests.support.waiting import until

Message = dict[str, str]


class ServiceManager:
    """A notify socket and the one service that it is for; the API server can't be reached.

    Args:
        folder: For configuration, log and state; must be this service's own.
        abstract: The socket has a name instead of a path.
        config: TOML at the top level of the configuration.
        environ: Further variables of the service.
        user: What it authenticates with, in the form of a kubeconfig.
    """

    def __init__(
        self,
        folder: Path,
        *,
        abstract: bool = False,
        config: str = "",
        environ: Mapping[str, str] | None = None,
        user: Mapping[str, Any] = MappingProxyType({"token": "x"}),
    ) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        address = f"@telemetryd-test-{os.getpid()}-{id(self)}" if abstract else f"{folder}/notify"
        self._socket.bind(re.sub("^@", "\0", address))
        self.port = free_port()
        self.config_file = folder / "config.toml"
        self.write_config(config)
        (folder / "kubeconfig").write_text(json.dumps(_kubeconfig(dict(user))))
        self._log_file = folder / "log"
        self._environ = {
            **{name: value for name, value in os.environ.items() if "PROXY" not in name.upper()},
            "NOTIFY_SOCKET": address,
            "STATE_DIRECTORY": str(folder),
            "RUNTIME_DIRECTORY": str(folder),
            "KUBECONFIG": str(folder / "kubeconfig"),
            **(environ or {}),
        }
        self.process = self._start()

    def write_config(self, top_level: str) -> None:
        """Write another configuration: these lines, and where it listens."""
        self.config_file.write_text(
            f'{top_level}\nlog_format = "json"\n[server]\nlisten = "127.0.0.1:{self.port}"\n'
        )

    def next(self, *, timeout_s: float = PATIENCE_S) -> Message:
        """The next datagram, a value for each key; times out with the service's log."""
        self._socket.settimeout(timeout_s)
        try:
            lines = self._socket.recv(65536).decode().split("\n")
        except TimeoutError:
            raise AssertionError(f"no notification within {timeout_s} s\n{self.log()}") from None
        return dict(line.partition("=")[::2] for line in lines)

    def next_with(self, key: str, *, timeout_s: float = PATIENCE_S) -> Message:
        """The next datagram that has the key; those before it are passed over."""
        deadline = time.monotonic() + timeout_s
        while key not in (message := self.next(timeout_s=max(0.1, deadline - time.monotonic()))):
            pass
        return message

    def catches_signals(self) -> bool:
        """Whether all have handlers by now: SIGHUP's is the last that is installed.

        Not SIGTERM's, for measuring coverage installs one of its own before ours.
        """
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        caught = int(status.partition("SigCgt:")[2].split()[0], 16)
        return bool(caught & 1 << signal.SIGHUP - 1)

    def wait_until_signals_are_caught(self) -> None:
        """Returns as soon as the process no longer dies of any."""
        until(self.catches_signals, "its handlers", more=self.log, ended=self.process.poll)

    def wait_for_log(self, text: str, *, timeout_s: float = PATIENCE_S) -> None:
        """Returns as soon as the log holds the text."""
        until(lambda: text in self.log(), text, deadline_s=timeout_s, more=self.log)

    def end(self) -> int:
        """Asks the service to stop, and returns its exit status."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout=PATIENCE_S)

    def log(self) -> str:
        """All that the service has logged so far."""
        return whole_lines(self._log_file)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        _type: type[BaseException] | None,
        _value: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        self._socket.close()

    def _start(self) -> "subprocess.Popen[bytes]":
        with self._log_file.open("ab") as log:
            return starter.start(
                *("run", "--config", str(self.config_file)),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self._environ,
            )


def _kubeconfig(user: dict[str, Any]) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "x",
        "contexts": [{"name": "x", "context": {"cluster": "x", "user": "x"}}],
        "clusters": [{"name": "x", "cluster": {"server": "http://127.0.0.1:1"}}],
        "users": [{"name": "x", "user": user}],
    }
