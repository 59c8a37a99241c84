"""Probes and scrapes, one a second each, on connections of their own; and samples of a process.

What an answer takes counts from the connection's first packet to the answer's last byte, as a
kubelet and a Prometheus count it.
"""

import contextlib
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Final

PROBE_TIMEOUT_S: Final = 5.0
"""As the probes of `deploy/` have it."""
SCRAPE_TIMEOUT_S: Final = 10.0
"""Prometheus's default."""
SAMPLE_S: Final = 0.2
_THREADS = 24
_ESTABLISHED = "01"


@dataclass(frozen=True, slots=True)
class Asked:
    """One request and what came of it.

    Attributes:
        at_s: When it was begun, by the monotonic clock.
        took_s: To its answer or to giving up.
        status: Of the answer; 0 for none.
        text: The body.
        error: Why there is no answer.
    """

    at_s: float
    took_s: float
    status: int
    text: str = ""
    error: str = ""

    @property
    def is_answered(self) -> bool:
        """With 200, in time."""
        return self.status == 200


@dataclass(frozen=True, slots=True)
class Server:
    """Whom to ask; without a context over plain HTTP."""

    port: int
    context: ssl.SSLContext | None = None
    host: str = "127.0.0.1"

    def ask(
        self,
        path: str,
        *,
        source: str = "127.0.0.1",
        token: str | None = None,
        timeout_s: float = PROBE_TIMEOUT_S,
    ) -> Asked:
        """One GET on a connection of its own, from this address."""
        began_s = time.monotonic()
        lines = [f"GET {path} HTTP/1.1", "Host: localhost", "Connection: close"]
        if token is not None:
            lines.append(f"Authorization: Bearer {token}")
        try:
            answer = self._exchange("\r\n".join([*lines, "", ""]), source, began_s + timeout_s)
            head, _, body = answer.partition(b"\r\n\r\n")
            status = int(head.split(b" ", 2)[1])
        except (OSError, IndexError, ValueError) as error:
            said = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
            return Asked(began_s, time.monotonic() - began_s, 0, error=said)
        took_s = time.monotonic() - began_s
        return Asked(began_s, took_s, status, body.decode(errors="replace"))

    def _exchange(self, request: str, source: str, deadline_s: float) -> bytes:
        def left_s() -> float:
            return max(0.001, deadline_s - time.monotonic())

        with contextlib.ExitStack() as stack:
            stream = stack.enter_context(
                socket.create_connection((self.host, self.port), left_s(), (source, 0))
            )
            if self.context is not None:
                stream.settimeout(left_s())
                stream = stack.enter_context(
                    self.context.wrap_socket(stream, server_hostname=self.host)
                )
            stream.settimeout(left_s())
            stream.sendall(request.encode())
            received = bytearray()
            while True:
                stream.settimeout(left_s())
                chunk = stream.recv(65_536)
                if not chunk:
                    return bytes(received)
                received += chunk
                if time.monotonic() > deadline_s:
                    raise TimeoutError


@dataclass(frozen=True, slots=True)
class Series:
    """What is asked once a second, under a name.

    Attributes:
        ask: Asks once.
    """

    name: str
    ask: Callable[[], Asked]


class Prober:
    """Asks every series each second, whether or not the last answer is in, while `running`."""

    def __init__(self, series: Sequence[Series]) -> None:
        self._series = series
        self._lock = threading.Lock()
        self._asked: dict[str, list[Asked]] = {each.name: [] for each in series}
        self._over = threading.Event()
        self._pending: list[Future[None]] = []

    @contextlib.contextmanager
    def running(self) -> Iterator["Prober"]:
        """Asks until left, and then waits for the answers that are under way."""
        with ThreadPoolExecutor(_THREADS) as pool:
            thread = threading.Thread(target=self._run, args=(pool,))
            thread.start()
            try:
                yield self
            finally:
                self._over.set()
                thread.join()
        for each in self._pending:
            each.result()

    def between(self, begin_s: float, end_s: float) -> dict[str, list[Asked]]:
        """Those that were begun in this time and have ended, by series."""
        with self._lock:
            return {
                name: sorted(
                    (each for each in asked if begin_s <= each.at_s < end_s),
                    key=lambda each: each.at_s,
                )
                for name, asked in self._asked.items()
            }

    def _run(self, pool: ThreadPoolExecutor) -> None:
        step_s = 1.0 / len(self._series)
        next_s = time.monotonic()
        while True:
            for series in self._series:
                if self._over.wait(max(0.0, next_s - time.monotonic())):
                    return
                self._pending.append(pool.submit(self._once, series))
                next_s += step_s

    def _once(self, series: Series) -> None:
        asked = series.ask()
        with self._lock:
            self._asked[series.name].append(asked)


@dataclass(frozen=True, slots=True)
class Sample:
    """How a process was at one moment.

    Attributes:
        at_s: By the monotonic clock.
        rss_bytes: Resident.
        connections: To its port, established.
        cpu_s: Used so far.
        waited_s: For a core so far, its main thread: other processes of the machine held it.
    """

    at_s: float
    rss_bytes: int
    connections: int
    cpu_s: float
    waited_s: float


@dataclass(slots=True)
class Sampler:
    """Looks at a process several times a second while `running`; it may end meanwhile."""

    pid: int
    port: int
    samples: list[Sample] = field(default_factory=list)
    _over: threading.Event = field(default_factory=threading.Event)

    @contextlib.contextmanager
    def running(self) -> Iterator["Sampler"]:
        """Samples until left."""
        thread = threading.Thread(target=self._run)
        thread.start()
        try:
            yield self
        finally:
            self._over.set()
            thread.join()

    def between(self, begin_s: float, end_s: float) -> list[Sample]:
        """Samples of this time."""
        return [each for each in list(self.samples) if begin_s <= each.at_s < end_s]

    def now(self) -> Sample | None:
        """One more, None where the process is gone."""
        try:
            rss = memory_bytes(self.pid, "VmRSS")
            times = Path(f"/proc/{self.pid}/stat").read_text().rpartition(") ")[2].split()
            waited_ns = int(Path(f"/proc/{self.pid}/schedstat").read_text().split()[1])
        except (OSError, StopIteration):  # gone, or going: a zombie has no memory
            return None
        ticks = int(times[11]) + int(times[12])
        connections = count_connections(self.port)
        return Sample(time.monotonic(), rss, connections, ticks / 100, waited_ns / 1e9)

    def _run(self) -> None:
        while not self._over.wait(SAMPLE_S):
            sample = self.now()
            if sample is not None:
                self.samples.append(sample)


def memory_bytes(pid: int, name: str) -> int:
    """A line of `/proc/PID/status`, such as VmHWM.

    Raises:
        OSError: There is no such process.
        StopIteration: It has ended, but no one has waited for it.
    """
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    line = next(each for each in lines if each.startswith(f"{name}:"))
    return int(line.split()[1]) * 1024


def count_connections(port: int) -> int:
    """Established IPv4 connections whose local end is this port."""
    wanted = f":{port:04X}"
    lines = Path("/proc/net/tcp").read_text().splitlines()[1:]
    fields = (line.split() for line in lines)
    return sum(each[1].endswith(wanted) and each[3] == _ESTABLISHED for each in fields)


def read_metrics(text: str) -> dict[str, float]:
    """Values of the text format by series, as written."""
    found: dict[str, float] = {}
    for line in text.splitlines():
        series, _, value = line.rpartition(" ")
        if series and not line.startswith("#"):
            found[series] = float(value)
    return found


def milliseconds(asked: Sequence[Asked]) -> tuple[float, float, float]:
    """Median, 99th percentile and maximum of what answers took; zeros for none."""
    took = sorted(each.took_s * 1000 for each in asked if each.is_answered)
    if not took:
        return 0.0, 0.0, 0.0
    return median(took), took[min(len(took) - 1, int(len(took) * 0.99))], took[-1]
