"""The outbox of one exporter: which payload is sent, under which epoch and sequence.

At most one payload is pending: the newest. It keeps its bytes, epoch and sequence whenever it is
sent again, so that a receiver can recognise it. ``spool`` writes the files.
"""

import errno
import os
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Final, TypeAlias, TypeVar, assert_never

import anyio

from telemetryd.errors import OutrankedError
from telemetryd.export.ledger import Ledger, Shared
from telemetryd.export.outbox.spool import (
    MAX_SEQUENCE,
    Contents,
    LastDelivery,
    PendingPayload,
    SpoolFolder,
)
from telemetryd.export.threads import StillHangingError, WorkerThread
from telemetryd.model import Delivery

DISK_TIMEOUT_S: Final = 2.0
"""A disk that takes longer does not keep a payload from being sent."""

HIGHEST_EPOCH: Final = 2**31 - 2
"""The highest epoch to continue above: a Lease counts its terms in 32 bits."""
MOST_TERMS_AHEAD: Final = 1_000_000
"""How many terms a receiver may be ahead: years of failovers, one a minute."""
HIGHEST_SEQUENCE: Final = MAX_SEQUENCE - 2**32
"""The highest sequence to continue above: four billion payloads remain."""

_FIXES: Final = {
    errno.ENOSPC: "free space or inodes there",
    errno.EDQUOT: "raise the quota there",
    errno.EROFS: "mount it writable, or configure another state_dir",
    errno.EACCES: "let the daemon's user write there, or configure another state_dir",
    errno.EPERM: "let the daemon's user write there, or configure another state_dir",
    errno.ENOTDIR: "move away the file that is there",
    errno.EISDIR: "move away the folder that has the name of a file there",
    errno.ENOTEMPTY: "move away the folders whose names end in .tmp there",
    errno.EIO: "check the disk or the file server",
}

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Empty:
    """Nothing is pending, and it is not known what the receiver has."""


@dataclass(frozen=True, slots=True)
class Pending:
    """A payload must be sent. The receiver may already have it: an answer can get lost.

    Attributes:
        stored: It is on disk, or nothing must be.
        counted: That it could not be stored was counted.
    """

    payload: PendingPayload
    stored: bool = False
    counted: bool = False


@dataclass(frozen=True, slots=True)
class Delivered:
    """The receiver has everything.

    Attributes:
        at_s: When it was, on the outbox's clock.
    """

    payload: LastDelivery
    at_s: float
    noted: bool = False


OutboxState: TypeAlias = Empty | Pending | Delivered


def offer(
    state: OutboxState, newest: PendingPayload, *, now_s: float, max_silence_s: float
) -> OutboxState:
    """The state once the newest payload is there.

    Unchanged content is sent again after ``max_silence_s``.
    """
    content = (newest.payload.digest, newest.installation_id)
    match state:
        case Empty():
            return Pending(newest)
        case Pending(payload=former):
            # Another leader may have sent since: what is sent now must come after that.
            same_term = former.delivery.epoch == newest.delivery.epoch
            same = same_term and content == (former.payload.digest, former.installation_id)
            return state if same else Pending(newest)
        case Delivered(payload=last, at_s=at_s):
            unchanged = content == (last.digest, last.installation_id)
            return state if unchanged and now_s - at_s < max_silence_s else Pending(newest)
        case _:
            assert_never(state)


def recover(contents: Contents, *, destination: str, now: float, now_s: float) -> OutboxState:
    """The state that an earlier process left.

    ``now`` is Unix time in seconds, ``now_s`` the time on the outbox's clock.
    """
    if contents.pending is not None and contents.pending.destination == destination:
        return Pending(contents.pending, stored=True)
    last = contents.delivered
    if last is None or last.destination != destination or contents.pending_damaged:
        return Empty()
    # By the wall clock, which alone outlives a process; one that was set back counts too.
    return Delivered(last, at_s=now_s - abs(now - last.at), noted=True)


def why_withheld(payload: PendingPayload, format_: str, omitted: frozenset[str]) -> str:
    """Why a payload must not leave, as the counter of dropped payloads names it.

    Returns:
        Empty where it may leave.
    """
    if not omitted <= payload.omitted:
        return "privacy"
    return "" if payload.format == format_ else "format"


@dataclass(slots=True, eq=False)
class Outbox:
    """Holds the state of one exporter's deliveries, and keeps it on disk where its spec says so.

    The status shows a disk that cannot be used. It never keeps a payload from being sent.
    """

    _ledger: Ledger
    _shared: Shared
    _folder: SpoolFolder | None = field(default=None, init=False)
    _opened: bool = field(default=False, init=False)
    _state: OutboxState = field(default=Empty(), init=False)
    _highest: Delivery = field(default=Delivery(at=0.0), init=False)
    _thread: WorkerThread | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        spec, spool_dir = self._ledger.spec, self._shared.spool_dir
        if spec.destination and spool_dir is not None:
            self._folder = SpoolFolder(spool_dir, spec.name)
        elif spec.destination:
            self._ledger.spool_failed("there is no usable state_dir: configure one")

    @property
    def pending(self) -> PendingPayload | None:
        """The payload that is pending, None without one."""
        return self._state.payload if isinstance(self._state, Pending) else None

    async def open(self, omitted: frozenset[str]) -> None:
        """Read the disk once, and drop the pending payload where it must not be sent any more."""
        folder = self._folder
        if folder is not None and not self._opened:
            contents = await self._on_disk(folder.load)
            if contents is not None:
                self._opened = True
                await self._adopt(folder, contents)
        if self.pending is not None:
            why = why_withheld(self.pending, self._ledger.spec.disclosure.format, omitted)
            if why:
                await self._drop(why)
        await self._note()

    def epoch(self, term: int) -> int:
        """The epoch to send under: that of the term, or a higher one that was seen."""
        return max(term, self._highest.epoch)

    def next_delivery(self, term: int) -> Delivery:
        """Epoch, sequence and time of a new payload: above all others, whatever the clock says."""
        at, epoch = self._shared.now(), self.epoch(term)
        sequence = max(self._highest.sequence + 1, int(at * 1000))
        if sequence > MAX_SEQUENCE:  # no receiver could keep it, nor would it be read from disk
            epoch, sequence = epoch + 1, int(at * 1000)
            self._shared.saw_epoch(epoch)
        self._highest = Delivery(at=at, sequence=sequence, epoch=epoch)
        return self._highest

    def offer(self, newest: PendingPayload) -> PendingPayload | None:
        """The payload to send now that this is the newest; None where the receiver has that."""
        self._state = offer(
            self._state,
            newest,
            now_s=self._shared.clock_s(),
            max_silence_s=self._ledger.spec.max_silence_s,
        )
        return self.pending

    async def keep(self, payload: PendingPayload) -> None:
        """Store a payload on disk before it is sent."""
        folder, state = self._folder, self._state
        if folder is None or not isinstance(state, Pending):
            return
        if not self._ledger.spec.spooled:
            if not state.stored:
                self._state = replace(state, stored=await self._on_disk(folder.forget) is not None)
            return
        if await self._update(lambda: folder.store(payload, unless_there=state.stored)):
            self._state = replace(state, stored=True)
        elif not state.counted:
            self._state = replace(state, stored=False, counted=True)
            self._ledger.stats.spool_dropped["storage"] += 1

    async def delivered(self, payload: PendingPayload) -> None:
        """The receiver has taken it."""
        delivery = payload.delivery
        last = LastDelivery(
            installation_id=payload.installation_id,
            destination=payload.destination,
            sequence=delivery.sequence,
            epoch=delivery.epoch,
            digest=payload.payload.digest,
            at=self._shared.now(),
        )
        self._state = Delivered(last, at_s=self._shared.clock_s())
        await self._note()

    async def outranked(self, payload: PendingPayload, error: OutrankedError) -> bool:
        """The receiver has a higher pair: drop this payload, and send the next one above that pair.

        Where the receiver knows a later term than ours, ours becomes the one after it, so that what
        an earlier leader may still send stays below.

        Returns:
            Whether that can help. It can't where the receiver's pair is below what was sent, or
            unreasonably high.
        """
        sent = payload.delivery
        later_term = error.epoch > sent.epoch
        if not (
            (later_term or error.sequence >= sent.sequence)
            and 0 <= error.epoch <= min(sent.epoch + MOST_TERMS_AHEAD, HIGHEST_EPOCH)
            and 0 <= error.sequence <= HIGHEST_SEQUENCE
        ):
            return False
        self._shared.saw_epoch(error.epoch)
        self._raise_highest(error.epoch + later_term, error.sequence)
        if isinstance(self._state, Pending):
            await self._drop("")
        return True

    async def _drop(self, why: str) -> None:
        """Drop the pending payload, on disk too; the reason is counted where there is one."""
        stored = isinstance(self._state, Pending) and self._state.stored
        self._state = Empty()
        if why:
            self._ledger.payload_dropped(why)
        if self._folder is not None and stored:
            await self._update(self._folder.discard)

    async def _note(self) -> None:
        folder, state = self._folder, self._state
        if folder is None or not isinstance(state, Delivered) or state.noted:
            return
        last = state.payload
        if await self._update(lambda: folder.settle(last)):
            self._state = replace(state, noted=True)

    async def _adopt(self, folder: SpoolFolder, contents: Contents) -> None:
        """Continue where an earlier process ended, unless something newer was sent since."""
        for damage in contents.damaged:
            self._ledger.spool_damaged(damage.file, damage.why, damage.moved_to, newer=damage.newer)
        pending, last = contents.pending, contents.delivered
        if last is not None:
            self._saw(last.epoch or 0, last.sequence)
        if pending is not None:
            self._saw(pending.delivery.epoch, pending.delivery.sequence)
        destination = self._ledger.spec.destination
        if isinstance(self._state, Empty):
            now, now_s = self._shared.now(), self._shared.clock_s()
            self._state = recover(contents, destination=destination, now=now, now_s=now_s)
            if isinstance(self._state, Pending):
                self._show_kept(contents.pending_bytes)
        if pending is not None and pending.destination != destination:
            self._ledger.payload_dropped("destination")
            await self._on_disk(folder.discard)

    def _saw(self, epoch: int, sequence: int) -> None:
        self._raise_highest(epoch, sequence)
        if epoch:
            self._shared.saw_epoch(epoch)

    def _raise_highest(self, epoch: int, sequence: int) -> None:
        highest = self._highest
        self._highest = replace(
            highest, epoch=max(highest.epoch, epoch), sequence=max(highest.sequence, sequence)
        )

    def _show_kept(self, size_bytes: int) -> None:
        self._ledger.stats.spool_bytes = size_bytes
        self._ledger.stats.spool_items = int(size_bytes > 0)

    async def _update(self, call: Callable[[], int]) -> bool:
        """Whether the call changed what is on disk; it returns the pending bytes there."""
        size_bytes = await self._on_disk(call)
        if size_bytes is not None:
            self._show_kept(size_bytes)
        return size_bytes is not None

    async def _on_disk(self, call: Callable[[], T]) -> T | None:
        """Call it in a worker thread, within a bound; None where it fails, shown in the status."""
        thread = self._thread = self._thread or WorkerThread(self._shared.spool_threads)
        # Most of an attempt's time is for sending.
        timeout_s = min(DISK_TIMEOUT_S, self._ledger.spec.attempt_timeout_s / 4)
        try:
            with anyio.fail_after(timeout_s):
                result = await thread.run(call)
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
        return ": ".join(filter(None, (f"can't use {where}", why, _FIXES.get(number))))
