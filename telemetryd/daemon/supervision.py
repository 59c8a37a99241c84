"""What the service manager hears of a running daemon: its status in a line, and that it is alive.

Whether it is alive never hangs on the API server or on a sink. The messages' form is ``notify``'s.
"""

import logging
from collections.abc import Callable

import anyio

from telemetryd.daemon.notify import Notifier

log = logging.getLogger(__name__)

STATUS_PERIOD_S = 3.0
"""Between two looks at the status; one that hasn't changed is not told again."""

_NO_STATUS = "status unknown: the log says why"


class Supervision:
    """Tells the service manager, where there is one, for as long as the daemon runs."""

    def __init__(
        self,
        notifier: Notifier,
        *,
        summary: Callable[[], str],
        alive: Callable[[], bool],
    ) -> None:
        """Prepare.

        Args:
            notifier: Where it is told.
            summary: The status in one line.
            alive: Whether the loop and the scheduler are.
        """
        self._notifier = notifier
        self._summary = summary
        self._alive = alive
        self._told = ""

    def ready(self) -> None:
        """The daemon is up, or a reload is over."""
        self._told = self._summarise()
        self._notifier.ready(self._told)

    def reloading(self) -> None:
        """A reload begins."""
        self._notifier.reloading()

    def stopping(self) -> None:
        """The daemon drains."""
        self._notifier.stopping()

    async def run(self) -> None:
        """Tell until cancelled."""
        if not self._notifier:
            return
        async with anyio.create_task_group() as group:
            group.start_soon(self._tell_status, name="service status")
            if (period_s := self._notifier.watchdog_period_s) is not None:
                group.start_soon(self._feed_watchdog, period_s, name="watchdog")

    async def _tell_status(self) -> None:
        while True:
            await anyio.sleep(STATUS_PERIOD_S)
            summary = self._summarise()
            if summary != self._told:
                self._told = summary
                self._notifier.status(summary)

    def _summarise(self) -> str:
        try:
            return self._summary()
        except Exception:
            if self._told != _NO_STATUS:
                log.exception("status summary failed")
            return _NO_STATUS

    async def _feed_watchdog(self, period_s: float) -> None:
        was_alive = True
        while True:
            alive = self._alive()
            if alive:
                self._notifier.watchdog()
            elif was_alive:
                log.error("watchdog isn't fed: the event loop or the scheduler is stalled")
            was_alive = alive
            await anyio.sleep(period_s)
