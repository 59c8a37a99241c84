"""What of an exporter's payloads is sent, under which sequence, and what is remembered of it.

One payload is ever pending: the newest. It keeps its bytes and its sequence whenever it is sent
again, so that a receiver can tell. How files are written is ``spool``'s affair, when attempts are
made the runner's.
"""

import errno
import os
from collections.abc import Callable
from typing import Final, TypeVar

import anyio

from telemetryd.export.ledger import Ledger
from telemetryd.export.spec import ExporterSpec
from telemetryd.export.spool import Contents, Delivered, Parcel, SpoolFolder
from telemetryd.export.turn import StillHangingError, Turn
from telemetryd.model import Delivery, Payload
from telemetryd.turnstile import Turnstile

DISK_TIMEOUT_S: Final = 2.0
"""A disk that takes longer doesn't keep a payload from being sent."""

_MENDS: Final = {
    errno.ENOSPC: "free space or inodes there",
    errno.EDQUOT: "raise the quota there",
    errno.EROFS: "mount it writable, or configure another state_dir",
    errno.EACCES: "let the daemon's user write there, or configure another state_dir",
    errno.EPERM: "let the daemon's user write there, or configure another state_dir",
    errno.ENOTDIR: "move away the file that stands there",
    errno.EIO: "look after the disk or its server",
}

T = TypeVar("T")


class DeliveryLog:
    """The deliveries of one exporter, on disk too where its spec says so.

    That nothing can be kept is shown and told, and no reason not to send.
    """

    __slots__ = (
        "_clock",
        "_destination",
        "_folder",
        "_ledger",
        "_now",
        "_opened",
        "_pending",
        "_sent",
        "_sent_at_s",
        "_sequence",
        "_spooled",
        "_stored",
        "_timeout_s",
        "_turn",
        "_unnoted",
        "_unstored",
    )

    def __init__(
        self,
        spec: ExporterSpec,
        ledger: Ledger,
        *,
        spool_dir: str | None,
        now: Callable[[], float],
        clock: Callable[[], float],
        threads: Turnstile,
    ) -> None:
        """Nothing is read yet.

        Args:
            spec: The exporter's.
            ledger: Told of trouble with the disk.
            spool_dir: Where all exporters keep theirs, None for nowhere.
            now: Unix time in seconds.
            clock: Seconds that also pass in suspend, from anywhere.
            threads: Shared by all exporters: few are at the disk at a time.
        """
        self._ledger = ledger
        self._now = now
        self._clock = clock
        self._destination = spec.destination
        self._spooled = spec.spooled
        self._folder: SpoolFolder | None = None
        if spec.destination and spool_dir is not None:
            self._folder = SpoolFolder(spool_dir, spec.name)
        elif spec.destination:
            ledger.spool_failed("there is no usable state_dir: configure one")
        self._opened = False
        self._sequence = 0
        self._pending: Parcel | None = None
        self._sent: Delivered | None = None
        self._sent_at_s = 0.0
        self._unnoted: Delivered | None = None
        self._stored = self._unstored = 0
        # However short an attempt is, most of it is for sending.
        self._timeout_s = min(DISK_TIMEOUT_S, spec.attempt_timeout_s / 4)
        self._turn = Turn(threads)

    @property
    def pending(self) -> Parcel | None:
        """What is to be sent and hasn't been taken yet."""
        return self._pending

    async def open(self) -> None:
        """Learn once what an earlier process has left, and catch up with what wasn't noted."""
        folder = self._folder
        if folder is None:
            return
        if not self._opened:
            contents = await self._on_disk(folder.load)
            if contents is not None:
                self._opened = True
                self._adopt(contents)
        await self._note()

    def next_delivery(self, epoch: int) -> Delivery:
        """How a new payload would be sent; its sequence rises even where the clock is set back."""
        at = self._now()
        self._sequence = max(self._sequence + 1, int(at * 1000))
        return Delivery(at=at, sequence=self._sequence, epoch=epoch)

    def offer(
        self, payload: Payload, delivery: Delivery, *, installation_id: str, max_silence_s: float
    ) -> Parcel | None:
        """What is to be sent of the newest payload.

        Args:
            payload: The newest.
            delivery: How it was rendered.
            installation_id: Of whom it tells.
            max_silence_s: For so long unchanged content isn't sent again.

        Returns:
            The payload, or the pending one with the same content; None where the receiver has that.
        """
        sent, pending = self._sent, self._pending
        if (
            # Of what is pending nobody knows whether it was taken: it has to be outdone.
            pending is None
            and sent is not None
            and (sent.digest, sent.installation_id) == (payload.digest, installation_id)
            and self._clock() - self._sent_at_s < max_silence_s
        ):
            return None
        if (
            pending is None
            # Another leader has sent since: what is sent now has to come after that.
            or pending.delivery.epoch != delivery.epoch
            or (pending.payload.digest, pending.installation_id)
            != (payload.digest, installation_id)
        ):
            pending = Parcel(payload, delivery, installation_id, self._destination)
        self._pending = pending
        return pending

    async def keep(self, parcel: Parcel) -> None:
        """Put what is about to be sent on disk, unless it is there."""
        folder, sequence = self._folder, parcel.delivery.sequence
        if folder is None or not self._spooled:
            return
        stored = self._stored == sequence
        size_bytes = await self._on_disk(lambda: folder.store(parcel, unless_there=stored))
        if size_bytes is not None:
            self._stored = sequence
            self._show_kept(size_bytes)
        elif self._unstored != sequence:
            self._unstored = sequence
            self._ledger.stats.spool_dropped["storage"] += 1

    async def delivered(self, parcel: Parcel) -> None:
        """The receiver has taken it."""
        self._pending = None
        self._sent_at_s = self._clock()
        self._sent = self._unnoted = Delivered(
            installation_id=parcel.installation_id,
            destination=parcel.destination,
            sequence=parcel.delivery.sequence,
            digest=parcel.payload.digest,
            at=self._now(),
        )
        await self._note()

    async def _note(self) -> None:
        folder, unnoted = self._folder, self._unnoted
        if folder is None or unnoted is None:
            return
        clear = self._stored <= unnoted.sequence

        def note() -> bool:
            folder.settle(unnoted, clear=clear)
            return True

        if await self._on_disk(note):
            self._unnoted = None
            if clear:
                self._show_kept(0)

    def _adopt(self, contents: Contents) -> None:
        """Go on where an earlier process has ended, unless something newer has been sent since."""
        stats = self._ledger.stats
        if contents.corrupt:
            stats.spool_dropped["corrupt"] += contents.corrupt
            self._ledger.spool_corrupt(str(self._folder and self._folder.path))
        sent, parcel = contents.delivered, contents.parcel
        if sent is not None:
            self._sequence = max(self._sequence, sent.sequence)
            if self._sent is None and sent.destination == self._destination:
                self._sent = sent
                # By the wall clock, as nothing else outlives a process; set back, it counts too.
                self._sent_at_s = self._clock() - abs(self._now() - sent.at)
        if parcel is None:
            return
        sequence = parcel.delivery.sequence
        self._sequence = max(self._sequence, sequence)
        if parcel.destination != self._destination:
            stats.spool_dropped["destination"] += 1
        elif self._pending is None and (self._sent is None or sequence > self._sent.sequence):
            self._pending = parcel
            self._stored = sequence
            self._show_kept(contents.pending_bytes)

    def _show_kept(self, size_bytes: int) -> None:
        self._ledger.stats.spool_bytes = size_bytes
        self._ledger.stats.spool_items = int(size_bytes > 0)

    async def _on_disk(self, call: Callable[[], T]) -> T | None:
        """Do it in a worker thread, within a bound; None where it fails, which is told."""
        try:
            with anyio.fail_after(self._timeout_s):
                result = await self._turn.take(call)
        except (TimeoutError, StillHangingError):
            self._ledger.spool_failed(self._trouble("it takes too long", errno.EIO))
        except OSError as exc:
            number = exc.errno or 0
            self._ledger.spool_failed(self._trouble(os.strerror(number), number))
        else:
            self._ledger.spool_usable()
            return result
        return None

    def _trouble(self, why: str, number: int) -> str:
        where = self._folder.path if self._folder else ""
        return ": ".join(filter(None, (f"can't use {where}", why, _MENDS.get(number))))
