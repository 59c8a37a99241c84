"""Waits for the source of snapshots on behalf of all exporters of a manager.

What exporters do meanwhile is the runner's affair.
"""

import logging
from collections.abc import Callable

import anyio

from telemetryd.errors import NotReady
from telemetryd.model import SnapshotSource

log = logging.getLogger(__name__)

_RETRY_S = 5.0


class SourceWatch:
    """Tells when the source gives snapshots; told when it no longer does."""

    def __init__(self, source: SnapshotSource, ready: Callable[[str], None]) -> None:
        """Prepare.

        Args:
            source: Where snapshots come from.
            ready: Called with the installation's id whenever the source has become ready.
        """
        self._source = source
        self._ready = ready
        self._lost: anyio.Event | None = None

    def lost(self) -> None:
        """The source isn't ready any more, or is another: wait for it anew."""
        if self._lost is not None:
            self._lost.set()

    async def run(self) -> None:
        """Wait whenever the source isn't ready; returns only when cancelled."""
        reported = False
        while True:
            self._lost = anyio.Event()
            try:
                await self._source.wait_ready()
                installation_id = self._source.snapshot().identity.install_uuid
            except Exception as exc:
                if not isinstance(exc, NotReady) and not reported:
                    reported = True
                    log.warning("snapshot source failed error=%r", exc, exc_info=exc)
                await anyio.sleep(_RETRY_S)
                continue
            reported = False
            self._ready(installation_id)
            await self._lost.wait()

    def missing(self) -> str:
        """What the source waits for, empty where it is ready."""
        try:
            self._source.snapshot()
        except NotReady as exc:
            return ", ".join(exc.waiting_for)
        except Exception as exc:  # noqa: BLE001 - a status is given whatever the source does
            return f"a snapshot, which fails with {type(exc).__name__}"
        return ""
