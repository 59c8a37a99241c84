"""What holds the fleet while it is measured: telemetryd as a whole daemon, and its peers.

Each is a process that is started, timed until it holds everything, and asked further things; it
ends with its context. What is asked of them is ``scenarios``'s.
"""

import http.client
import json
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Any, Final, Protocol, Self

from benchmarks import processes
from benchmarks.errors import HolderError
from benchmarks.exposition import Exposition, fetch, parse
from tests.support.processes import free_ports

ROOT: Final = Path(__file__).parent.parent
"""The working tree: what is started is found from here."""

_SYNC_TIMEOUT_S = 1_200.0
_STOP_TIMEOUT_S = 25.0
_LOG_TAIL_BYTES = 4_000
_POLL_S = 0.002
_SETTLE_S = 0.3
"""After the sync, so that what is still being freed doesn't count as resident."""


@dataclass(frozen=True, slots=True)
class ColdSync:
    """What it took to hold a fleet, from nothing.

    Attributes:
        loaded_s: Seconds from the start of the process until it was ready to begin.
        loaded_cpu_s: CPU seconds of that: interpreter, imports, configuration.
        wall_s: Seconds from then until everything was held; for telemetryd, exported as well.
        cpu_s: CPU seconds of that.
        peak_bytes: Most resident memory, everything included.
        resident_bytes: Resident memory afterwards.
        nodes: Nodes held.
    """

    loaded_s: float
    loaded_cpu_s: float
    wall_s: float
    cpu_s: float
    peak_bytes: int
    resident_bytes: int
    nodes: int


class Holder(Protocol):
    """A process that holds a fleet."""

    name: str

    @property
    def pid(self) -> int:
        """Of the process."""

    def cold_sync(self) -> ColdSync:
        """Wait until it holds everything; once, right after the start."""

    def updates(self) -> int | None:
        """How many updates of nodes it has seen; None where it watches nothing.

        Where it counts none, something else that the last update of all changes.
        """

    def __enter__(self) -> Self: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None: ...


class Program:
    """A peer's process, which ends with its context."""

    def __init__(
        self, name: str, command: Sequence[str | Path], *, pipe: int = subprocess.DEVNULL
    ) -> None:
        """Start it.

        Args:
            name: As the tables have it.
            command: The program with its arguments.
            pipe: Its input and output.
        """
        self.name = name
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the process
        self._started_s = time.monotonic()
        self._process = subprocess.Popen(
            command, stdin=pipe, stdout=pipe, stderr=self._log, env=own_environ(), cwd=ROOT
        )

    @property
    def pid(self) -> int:
        """Of the process."""
        return self._process.pid

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._process.kill()
        self._process.communicate()
        self._log.close()

    def _said(self) -> str:
        """The end of what it wrote on its standard error."""
        self._log.seek(0)
        return self._log.read()[-_LOG_TAIL_BYTES:].decode(errors="replace")


class Peer(Program):
    """A peer that speaks the protocol of ``benchmarks.peers``.

    Attributes:
        watches: It goes on watching, and answers ``events`` and ``collect``.
    """

    def __init__(self, name: str, command: Sequence[str | Path], *, watches: bool = False) -> None:
        """Start it; ``watches`` is the attribute."""
        super().__init__(name, command, pipe=subprocess.PIPE)
        self.watches = watches

    def cold_sync(self) -> ColdSync:
        """Let it begin, and wait until it holds everything.

        Raises:
            HolderError: It ended, or took minutes.
        """
        self._hear("ready")
        loaded_s, loaded_cpu_s = time.monotonic() - self._started_s, processes.cpu_s(self.pid)
        begun_s = time.monotonic()
        self._say("start")
        nodes = self._hear("synced")["nodes"]
        wall_s = time.monotonic() - begun_s
        cpu_s = processes.cpu_s(self.pid) - loaded_cpu_s
        time.sleep(_SETTLE_S)
        memory = processes.memory(self.pid)
        return ColdSync(
            loaded_s=loaded_s,
            loaded_cpu_s=loaded_cpu_s,
            wall_s=wall_s,
            cpu_s=cpu_s,
            peak_bytes=memory.peak_bytes,
            resident_bytes=memory.resident_bytes,
            nodes=nodes,
        )

    def updates(self) -> int | None:
        """How many updates it has seen; None where it watches nothing."""
        return int(self.ask("events")["count"]) if self.watches else None

    def ask(self, what: str) -> dict[str, Any]:
        """Its answer to a command."""
        self._say(what)
        return self._hear(what)

    def _say(self, line: str) -> None:
        stdin = self._process.stdin
        assert stdin is not None  # noqa: S101 - for the type checker: it was asked for
        stdin.write(f"{line}\n".encode())
        stdin.flush()

    def _hear(self, event: str) -> dict[str, Any]:
        stdout = self._process.stdout
        assert stdout is not None  # noqa: S101 - likewise
        ready, _, _ = select.select([stdout], [], [], _SYNC_TIMEOUT_S)
        line = stdout.readline() if ready else b""
        message: dict[str, Any] = json.loads(line) if line else {}
        if message.get("event") != event:
            raise HolderError(
                f"{self.name}: said {line!r} where {event!r} was awaited\n{self._said()}"
            )
        return message


class Telemetryd:
    """``telemetryd run``, with a file exporter whose first file tells that all was held.

    Attributes:
        first_export_s: Seconds from the start of the process to that file, once it is there.
    """

    def __init__(
        self,
        name: str,
        kubeconfig: Path,
        *,
        kubernetes: str = "",
        nodes: str = "nodes.management.cattle.io",
        exporters: str = "",
        program: Sequence[str | Path] = ("-m", "telemetryd"),
        environ: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        """Start it.

        Args:
            name: As the tables have it.
            kubeconfig: Where the fleet is.
            kubernetes: Further TOML of ``[kubernetes]``.
            nodes: The resource whose updates count.
            exporters: TOML of further exporters; ``{folder}`` is one that it may use.
            program: What Python runs in telemetryd's place, with the same arguments.
            environ: Further variables.
        """
        self.name = name
        self.first_export_s = 0.0
        self._nodes = nodes
        self.folder = Path(tempfile.mkdtemp(prefix="telemetryd-bench-"))
        self._export = self.folder / "first" / "latest"
        (self.port,) = free_ports(1)
        self._notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._notify.bind(str(self.folder / "notify"))
        config = _CONFIG.format(
            folder=self.folder, kubeconfig=kubeconfig, kubernetes=kubernetes, port=self.port
        ) + exporters.replace("{folder}", str(self.folder))
        (self.folder / "config.toml").write_text(config, encoding="utf-8")
        self._log = (self.folder / "log").open("wb")
        self._started_s = time.monotonic()
        self._process = subprocess.Popen(
            [sys.executable, *program, "run", "--config", str(self.folder / "config.toml")],
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=self._log,
            cwd=ROOT,
            env={
                **own_environ(),
                "NOTIFY_SOCKET": str(self.folder / "notify"),
                "STATE_DIRECTORY": str(self.folder),
                "RUNTIME_DIRECTORY": str(self.folder),
                **environ,
            },
        )

    @property
    def pid(self) -> int:
        """Of the process."""
        return self._process.pid

    def cold_sync(self) -> ColdSync:
        """Wait until it has exported for the first time; the clock begins at its READY.

        Raises:
            HolderError: It ended, or took minutes.
        """
        self.await_ready()
        loaded_s, loaded_cpu_s = time.monotonic() - self._started_s, processes.cpu_s(self.pid)
        begun_s = time.monotonic()
        while not self.has_exported():
            self._check(begun_s, "exported nothing")
            time.sleep(_POLL_S)
        wall_s = time.monotonic() - begun_s
        cpu_s = processes.cpu_s(self.pid) - loaded_cpu_s
        self.first_export_s = loaded_s + wall_s
        payload = json.loads(self._export.read_bytes())
        time.sleep(_SETTLE_S)
        memory = processes.memory(self.pid)
        return ColdSync(
            loaded_s=loaded_s,
            loaded_cpu_s=loaded_cpu_s,
            wall_s=wall_s,
            cpu_s=cpu_s,
            peak_bytes=memory.peak_bytes,
            resident_bytes=memory.resident_bytes,
            nodes=sum(row["count"] for row in payload["managedSystems"]),
        )

    def has_exported(self) -> bool:
        """Whether the first export is on disk."""
        return self._export.exists()

    def updates(self) -> int | None:
        """How many updates of nodes it has seen."""
        labels = {"resource": self._nodes, "type": "modified"}
        name = "telemetryd_informer_events_total"
        return int(self.metrics(name).value(name, **labels))

    def metrics(self, *names: str) -> Exposition:
        """A scrape of these samples alone, for a thousand exporters have megabytes of them.

        Raises:
            HolderError: There was no answer.
        """
        query = "&".join(f"name[]={name}" for name in names)
        try:
            return parse(fetch(self.port, f"/metrics?{query}"))
        except (OSError, http.client.HTTPException) as error:
            raise HolderError(f"{self.name} can't be scraped: {error}\n{self._said()}") from error

    def stop(self) -> None:
        """Ask it to end, and wait until it has.

        Raises:
            HolderError: It ended with an error.
        """
        self._process.send_signal(signal.SIGTERM)
        status = self._process.wait(_STOP_TIMEOUT_S)
        if status:
            raise HolderError(f"{self.name} ended with {status}\n{self._said()}")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()
        self._notify.close()
        self._log.close()
        shutil.rmtree(self.folder)

    def await_ready(self) -> None:
        """Wait for its READY.

        Raises:
            HolderError: It ended, or took minutes.
        """
        begun_s = time.monotonic()
        self._notify.settimeout(1.0)
        while True:
            try:
                message = self._notify.recv(65536)
            except TimeoutError:
                self._check(begun_s, "was never ready")
                continue
            if b"READY=1" in message.split(b"\n"):
                return

    def _check(self, begun_s: float, what: str) -> None:
        late = time.monotonic() - begun_s > _SYNC_TIMEOUT_S
        if late or self._process.poll() is not None:
            raise HolderError(f"{self.name} {what}\n{self._said()}")

    def _said(self) -> str:
        return (self.folder / "log").read_text(encoding="utf-8", errors="replace")[
            -_LOG_TAIL_BYTES:
        ]


_CONFIG = """
log_level = "warning"
log_format = "json"
state_dir = "{folder}"

[kubernetes]
kubeconfig = "{kubeconfig}"
{kubernetes}

[server]
listen = "127.0.0.1:{port}"

# No server answers /rancherversion here, whose answer the first export would wait for.
[identity]
git_hash = "unknown"

[[exporters]]
name = "first"
type = "file"
directory = "{folder}/first"
interval = "60s"
"""


def own_environ() -> dict[str, str]:
    """Ours, without a proxy: all traffic stays on this machine. Modules are compiled once.

    An installed telemetryd has its modules compiled; one that may not keep what it compiles would
    do that again at each start.
    """
    kept = {name: value for name, value in os.environ.items() if "PROXY" not in name.upper()}
    kept.pop("PYTHONDONTWRITEBYTECODE", None)
    return kept
