"""The service manager's view of the daemon: sd_notify(3), the status line and the watchdog.

The protocol is one datagram of ``KEY=value`` lines; it needs no library. Without a service manager
nothing is sent. Whether the daemon is alive never depends on the API server or on a sink.
"""

import logging
import socket
import time
from collections.abc import Callable, Mapping
from typing import Final, Self

import anyio

from telemetryd.timing import TICK_S, until_tick_s

log = logging.getLogger(__name__)

STATUS_PERIOD_S: Final = TICK_S
"""Between two checks of the status; one that hasn't changed isn't sent again."""

_LONGEST_STATUS_BYTES = 1024
"""systemd ignores a datagram of more than 4096 bytes as a whole."""

_NO_STATUS = "status unknown: the log says why"


class Notifier:
    """Sends notifications; never waits and never raises: one that can't be sent is lost.

    Attributes:
        watchdog_period_s: Seconds between two watchdog notifications, a third of what the service
            manager allows; None if it expects none.
    """

    def __init__(self, address: str = "", watchdog_period_s: float | None = None) -> None:
        """``address`` is a datagram socket's path, ``@`` and an abstract name, or empty."""
        self._address = f"\0{address[1:]}" if address.startswith("@") else address
        self.watchdog_period_s = watchdog_period_s

    @classmethod
    def from_environ(cls, environ: Mapping[str, str], pid: int) -> Self:
        """From ``NOTIFY_SOCKET``, if it is an AF_UNIX address, and the ``WATCHDOG`` variables."""
        address = environ.get("NOTIFY_SOCKET", "")
        return cls(
            address if address.startswith(("/", "@")) else "", _watchdog_period_s(environ, pid)
        )

    def __bool__(self) -> bool:
        """Whether there is a service manager."""
        return bool(self._address)

    def ready(self, status: str) -> None:
        """The daemon is up, or a reload is over, successful or not."""
        self._send("READY=1", _status(status))

    def reloading(self) -> None:
        """A reload starts; ``ready`` must follow."""
        # Without the time the service manager ignores it and waits forever (Type=notify-reload).
        now_us = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        self._send("RELOADING=1", f"MONOTONIC_USEC={now_us}", _status("reloading"))

    def stopping(self) -> None:
        """The daemon drains; only its status may follow."""
        self._send("STOPPING=1", _status("draining"))

    def status(self, text: str) -> None:
        """The status, in one line for people."""
        self._send(_status(text))

    def watchdog(self) -> None:
        """The daemon is alive."""
        self._send("WATCHDOG=1")

    def _send(self, *lines: str) -> None:
        if not self._address:
            return
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as sender:
                sender.sendto("\n".join(lines).encode(errors="replace"), self._address)
        except (OSError, ValueError) as error:
            log.debug("notification lost text=%s error=%r", lines[0], error)


def _watchdog_period_s(environ: Mapping[str, str], pid: int) -> float | None:
    if environ.get("WATCHDOG_PID", str(pid)) != str(pid):
        return None
    allowed_us = environ.get("WATCHDOG_USEC", "")
    if not allowed_us.isdecimal() or int(allowed_us) == 0:
        return None
    return int(allowed_us) / 3_000_000


def _status(text: str) -> str:
    line = " ".join(text.split()).encode(errors="replace")[:_LONGEST_STATUS_BYTES]
    return f"STATUS={line.decode(errors='ignore')}"


class Supervision:
    """Keeps the service manager up to date while the daemon runs."""

    def __init__(
        self, notifier: Notifier, *, summary: Callable[[], str], alive: Callable[[], bool]
    ) -> None:
        """``summary`` is the status in one line; ``alive`` is about loop and scheduler."""
        self._notifier = notifier
        self._summary = summary
        self._alive = alive
        self._sent = ""

    def ready(self) -> None:
        """The daemon is up, or a reload is over."""
        if self._notifier:
            self._sent = self._summarise()
            self._notifier.ready(self._sent)

    def reloading(self) -> None:
        """A reload starts."""
        self._notifier.reloading()

    async def run(self) -> None:
        """Send status and watchdog notifications until cancelled."""
        if not self._notifier:
            return
        async with anyio.create_task_group() as group:
            group.start_soon(self._send_status, name="service status")
            if (period_s := self._notifier.watchdog_period_s) is not None:
                group.start_soon(self._feed_watchdog, period_s, name="watchdog")

    async def _send_status(self) -> None:
        while True:
            await anyio.sleep(until_tick_s(anyio.current_time(), STATUS_PERIOD_S))
            summary = self._summarise()
            if summary != self._sent:
                self._sent = summary
                self._notifier.status(summary)

    def _summarise(self) -> str:
        try:
            return self._summary()
        except Exception:
            if self._sent != _NO_STATUS:
                log.exception("status summary failed")
            return _NO_STATUS

    async def _feed_watchdog(self, period_s: float) -> None:
        was_alive = True
        period_s = period_s // TICK_S * TICK_S or period_s
        while True:
            alive = self._alive()
            if alive:
                self._notifier.watchdog()
            elif was_alive:
                log.error("watchdog notification withheld: event loop or scheduler stalled")
            was_alive = alive
            await anyio.sleep(until_tick_s(anyio.current_time(), period_s))


class StatusLog:
    """Logs the status in one line on request, also on a request from before ``run``."""

    def __init__(self) -> None:
        self._asked = anyio.Event()

    def ask(self) -> None:
        """Request a line."""
        self._asked.set()

    async def run(self, summary: Callable[[], str]) -> None:
        """Log what is requested until cancelled."""
        while True:
            await self._asked.wait()
            self._asked = anyio.Event()
            fields = dict(part.partition("=")[::2] for part in summary().split())
            message = "status" + "".join(f" {key}=%s" for key in fields)
            log.info(message, *(int(v) if v.isdecimal() else v for v in fields.values()))


class Startup:
    """Lets a signal cancel the start until all sockets are bound, but not the drain."""

    def __init__(self) -> None:
        self.scope = anyio.CancelScope()
        self._over = False

    def started(self, _listening: object = None) -> None:
        """All sockets are bound: for ``run_until``."""
        self._over = True

    def interrupt(self) -> None:
        """A signal to end has come."""
        if not self._over:
            self.scope.cancel()
