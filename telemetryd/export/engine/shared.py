"""What all exporters of one manager share: the source of snapshots, clocks, leadership, limits."""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from random import Random

import anyio

from telemetryd.errors import NotReady
from telemetryd.limiter import Limiter
from telemetryd.model import SnapshotSource
from telemetryd.timing import boot_time_s

log = logging.getLogger(__name__)

_RETRY_S = 5.0


def suspended_s() -> float:
    """Seconds this machine has spent suspended since it booted."""
    return boot_time_s() - time.clock_gettime(time.CLOCK_MONOTONIC)


@dataclass(frozen=True, slots=True)
class Shared:
    """What all exporters of one manager share.

    Attributes:
        source: Where snapshots come from.
        watch: Whether the source gives snapshots.
        now: Unix time in seconds.
        rng: Source of every jitter.
        suspended_s: Seconds the machine has spent suspended since it booted.
        epoch: The leadership epoch.
        saw_epoch: Called with each epoch that is found on disk or in a receiver's answer.
        omitted: Names of the ``[privacy]`` keys that omit something now. A payload that was made
            while fewer did never leaves.
        require_leading: Called directly before each call of a sink; raises NotLeading where another
            replica may lead.
        spool_threads: For reading and writing pending payloads.
        spool_dir: Where exporters keep pending payloads; None for nowhere.
    """

    source: SnapshotSource
    watch: "SourceWatch"
    now: Callable[[], float]
    rng: Random
    suspended_s: Callable[[], float]
    epoch: Callable[[], int]
    saw_epoch: Callable[[int], None]
    omitted: Callable[[], frozenset[str]]
    require_leading: Callable[[], None]
    spool_threads: Limiter
    spool_dir: str | None


class SourceWatch:
    """Waits until the source gives snapshots, for all exporters of a manager.

    Attributes:
        ready: The source gives snapshots.
        installation_id: Of the snapshot when it last became ready; the splay depends on it.
    """

    def __init__(self, source: SnapshotSource, on_ready: Callable[[], None]) -> None:
        self.ready = False
        self.installation_id = ""
        self._source = source
        self._on_ready = on_ready
        self._lost: anyio.Event | None = None

    def lost(self) -> None:
        """The source is not ready any more, or may be another: wait for it again."""
        self.ready = False
        if self._lost is not None:
            self._lost.set()

    async def run(self) -> None:
        """Wait whenever the source isn't ready; returns only when cancelled."""
        reported = False
        while True:
            self._lost = anyio.Event()
            try:
                await self._source.wait_ready()
                self.installation_id = self._source.snapshot().identity.install_uuid
            except Exception as exc:
                if not isinstance(exc, NotReady) and not reported:
                    reported = True
                    log.warning("snapshot source failed error=%r", exc, exc_info=exc)
                await anyio.sleep(_RETRY_S)
                continue
            reported = False
            self.ready = True
            self._on_ready()
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
