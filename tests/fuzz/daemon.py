"""A real daemon that tells what it holds, and is judged by its log."""

import json
import socket
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from telemetryd.serve.control.client import ask
from telemetryd.serve.control.protocol import CommandAnswer, Request
from tests.fuzz.counts import Counts
from tests.support.daemon import Daemon
from tests.support.processes import said

LONGEST_LINE_BYTES: Final = 16 * 1024
"""Of the log, tracebacks apart: what others say is cut off before."""

EXPORTERS: Final = """
[[exporters]]
name = "folder"
type = "file"
interval = "1h"
directory = "{folder}"
"""


@dataclass
class Probed:
    """The daemon, and where it can be asked.

    Attributes:
        control: Its control socket.
        probe: The socket that tells what its process holds.
        expected: Parts of messages of the level error that the test itself brings about.
    """

    daemon: Daemon
    folder: Path
    control: Path
    probe: Path
    expected: set[str] = field(default_factory=set)
    _judged: int = 0

    def ask(self, command: Any, name: str = "") -> CommandAnswer:
        """What `telemetryd ctl` asks."""
        return ask([str(self.control)], Request(command, name), timeout_s=60)

    def configure(self, server: str = "", more: str = "") -> None:
        """Put a configuration in place, without a reload.

        Args:
            server: Further TOML of ``[server]``.
            more: After everything else.
        """
        exporters = EXPORTERS.format(folder=self.folder / "snapshots")
        self.daemon.configure(f'control_socket = "{self.control}"\n{server}\n{exporters}\n{more}')

    def counts(self) -> Counts:
        """What its process holds now."""
        with socket.socket(socket.AF_UNIX) as stream:
            stream.settimeout(60)
            stream.connect(str(self.probe))
            received = b""
            while chunk := stream.recv(4096):
                received += chunk
        return Counts(**json.loads(received))

    def assert_well(self) -> None:
        """It runs, and has said nothing since the last look that tells of a fault of its own."""
        assert self.daemon.process.poll() is None, self.daemon.log()[-4000:]
        self.judge_log()

    def judge_log(self) -> None:
        """What it has logged since the last look are bounded lines of JSON, and none is bad."""
        with self.daemon.log_file.open("rb") as log:
            log.seek(self._judged)
            for line in log:
                if not line.endswith(b"\n"):
                    break  # it is being written
                self._judged += len(line)
                self._judge(line)

    def _judge(self, line: bytes) -> None:
        entry = json.loads(line)  # whatever is said, the log stays lines of JSON
        assert len(line) <= LONGEST_LINE_BYTES, line[:2000]
        assert b"Traceback" not in line, line.decode()
        harmless = entry["level"] not in {"error", "critical"}
        assert harmless or any(part in said(entry) for part in self.expected), line.decode()


@contextmanager
def probed(folder: Path, kubeconfig: Path) -> Iterator[Probed]:
    """A daemon that is ready; it must end well, and must have said nothing bad at its end."""
    (folder / "snapshots").mkdir()
    with tempfile.TemporaryDirectory(prefix="td-", dir="/tmp") as short:
        control, probe = Path(short, "control.sock"), Path(short, "probe.sock")
        exporters = EXPORTERS.format(folder=folder / "snapshots")
        daemon = Daemon(
            folder,
            kubeconfig,
            f'control_socket = "{control}"\n{exporters}',
            environ={"PYTHONPATH": str(Path.cwd())},
            under=(sys.executable, "-m", "tests.fuzz.probe", str(probe)),
        )
        found = Probed(daemon, folder, control, probe)
        try:
            daemon.wait_for("ready", daemon.ready, 60)
            found.counts()
            yield found
        finally:
            status = daemon.stop()
        assert status == 0, daemon.log()[-4000:]
        found.judge_log()
