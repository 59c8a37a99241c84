"""A fleet in which nothing changes: what wakes the daemon, and how soon a dead stream is noticed.

A proxy stands between a daemon and its API server for the second. It can go silent: what is open
stays open, and the kernel goes on to acknowledge, but nothing is passed on.
"""

import contextlib
import json
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from benchmarks import processes
from benchmarks.errors import HolderError
from benchmarks.fleet import BenchFleet
from benchmarks.holders import Holder, Telemetryd
from benchmarks.scenarios import Measured, say
from benchmarks.servers import Server

_SETTLE_S = 3.0
_SPANS = 2
"""What happens once in two minutes is seen in a span of two, and has settled after as many."""
_STAGGER_S = 7.0
_POLL_S = 0.5
_CHUNK_BYTES = 1 << 16


def measure_rest(start: Callable[[], Telemetryd], measured: Measured, *, duration_s: float) -> None:
    """CPU, wake-ups and requests of a daemon while nothing changes.

    A wake-up is a voluntary context switch of any of its threads: it has slept, and goes to sleep
    again. Requests are those of the daemon's own counter, to each stream of an informer. Two spans
    of ``duration_s`` go by before two that count.
    """
    duration_s *= _SPANS
    requests, synced = "telemetryd_kube_requests_total", "telemetryd_informer_synced"
    with start() as daemon:
        daemon.cold_sync()
        time.sleep(duration_s)
        before = daemon.metrics(requests, synced)
        time.sleep(_SETTLE_S)  # so that the scrape counts for nothing
        begun_s, spent_s = time.monotonic(), processes.cpu_s(daemon.pid)
        wakeups = processes.wakeups(daemon.pid)
        time.sleep(duration_s)
        took_s = time.monotonic() - begun_s
        core = (processes.cpu_s(daemon.pid) - spent_s) / took_s
        per_s = (processes.wakeups(daemon.pid) - wakeups) / took_s
        after = daemon.metrics(requests, synced)
    asked = after.value(requests) - before.value(requests)
    streams = after.value(synced)
    measured.add(daemon.name, "rest_core", core)
    measured.add(daemon.name, "rest_wakeups_per_s", per_s)
    minutes = (took_s + _SETTLE_S) / 60
    measured.add(daemon.name, "rest_requests_per_stream", asked / streams / minutes)
    measured.add(daemon.name, "rest_streams", streams)
    say(
        f"rest: {core:.2%} of a core, {per_s:.1f} wake-ups a second, "
        f"{asked:.0f} requests for {streams:.0f} streams in {minutes:.1f} min"
    )


def measure_silent(
    server: Server,
    fleet: BenchFleet,
    starts: Sequence[Callable[[Path], Holder]],
    measured: Measured,
    *,
    patience_s: float,
) -> None:
    """How long a stream may be silent until its holder opens another and sees what it missed.

    Each holder has a proxy of its own. All go silent at once, when the holders have had their
    streams for different times. Then a node changes.

    Args:
        server: Must take updates.
        fleet: That it holds.
        starts: Each starts a holder by the kubeconfig to use.
        measured: Gets ``silent_s``.
        patience_s: Who has not noticed after this time is left out.

    Raises:
        HolderError: None of them noticed.
    """
    if server.update is None:
        return
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="telemetryd-bench-")))
        proxies, waiting = [], {}
        for number, start in enumerate(starts):
            proxy = stack.enter_context(SilentProxy.before(server.kubeconfig))
            proxies.append(proxy)
            holder = stack.enter_context(start(proxy.kubeconfig(folder / f"kubeconfig-{number}")))
            holder.cold_sync()
            waiting[holder] = holder.updates() or 0
            time.sleep(_STAGGER_S)
        for proxy in proxies:
            proxy.silence()
        begun_s = time.monotonic()
        server.update(fleet.heartbeats(1), 1.0)
        noticed = _await_updates(waiting, begun_s + patience_s)
        for holder, at_s in noticed:
            measured.add(holder.name, "silent_s", at_s - begun_s)
            say(f"silent: noticed by {holder.name} after {at_s - begun_s:.0f} s")
        if not noticed:
            raise HolderError(f"nothing was noticed in {patience_s:.0f} s")


def _await_updates(waiting: dict[Holder, int], until_s: float) -> Sequence[tuple[Holder, float]]:
    """Who sees more updates than so many, and when."""
    noticed: list[tuple[Holder, float]] = []
    while waiting and time.monotonic() < until_s:
        time.sleep(_POLL_S)
        for holder, seen in list(waiting.items()):
            if (holder.updates() or 0) > seen:
                noticed.append((holder, time.monotonic()))
                del waiting[holder]
    return noticed


class SilentProxy:
    """Passes TCP connections on to an API server, until it goes silent; runs while entered."""

    def __init__(self, target: tuple[str, int], config: dict[str, Any]) -> None:
        self._target = target
        self._config = config
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._open: list[tuple[socket.socket, threading.Event]] = []
        self._lock = threading.Lock()
        self._threads: list[threading.Thread] = []
        self._run(self._accept)

    @classmethod
    @contextlib.contextmanager
    def before(cls, kubeconfig: Path) -> Iterator["SilentProxy"]:
        """One before the server that a kubeconfig of the tests leads to."""
        config = json.loads(kubeconfig.read_text(encoding="utf-8"))
        address = urlsplit(config["clusters"][0]["cluster"]["server"])
        proxy = cls((address.hostname or "", address.port or 443), config)
        try:
            yield proxy
        finally:
            proxy.close()

    def kubeconfig(self, path: Path) -> Path:
        """Write one that leads here."""
        host, port = self._listener.getsockname()
        config = json.loads(json.dumps(self._config))
        config["clusters"][0]["cluster"]["server"] = f"https://{host}:{port}"
        path.write_text(json.dumps(config), encoding="utf-8")
        return path

    def silence(self) -> None:
        """Pass nothing on any more on what is open; what is opened from now on works."""
        with self._lock:
            for _, silent in self._open:
                silent.set()

    def close(self) -> None:
        """End all connections."""
        with self._lock:
            ending = [self._listener, *(connection for connection, _ in self._open)]
        for open_socket in ending:
            with contextlib.suppress(OSError):  # it has ended
                open_socket.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()
        for open_socket in ending:
            open_socket.close()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            silent = threading.Event()
            with self._lock:  # before the server sees the connection
                far = socket.create_connection(self._target)
                self._open += ((near, silent), (far, silent))
            for source, sink in ((near, far), (far, near)):
                self._run(_pass, source, sink, silent)

    def _run(self, work: Callable[..., None], *arguments: object) -> None:
        thread = threading.Thread(target=work, args=arguments, daemon=True)
        self._threads.append(thread)
        thread.start()


def _pass(source: socket.socket, sink: socket.socket, silent: threading.Event) -> None:
    """Passes on what comes until either side ends; throws it away while silent."""
    with contextlib.suppress(OSError):
        while chunk := source.recv(_CHUNK_BYTES):
            if not silent.is_set():
                sink.sendall(chunk)
        if not silent.is_set():
            sink.shutdown(socket.SHUT_WR)
