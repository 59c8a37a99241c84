"""What one exporter keeps on disk: the newest payload that isn't delivered, and what last was.

::

    <state_dir>/spool/<exporter>/pending         the payload, replaced by each newer one
    <state_dir>/spool/<exporter>/state           the last delivery
    <state_dir>/spool/<exporter>/*.corrupt       what could not be read, for a person to look at

A file is written beside its place, synced and renamed, so that it is whole or not there, and
begins with the checksum of the rest. Everything blocks: this is for a worker thread. When something
is kept or sent doesn't belong here.
"""

import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Final, TypeVar
from urllib.parse import quote

import msgspec

from telemetryd.atomicfile import write_file
from telemetryd.kube.files import MIB, read_small_file
from telemetryd.model import Delivery, Payload

PENDING: Final = "pending"
STATE: Final = "state"
CORRUPT: Final = ".corrupt"

LARGEST_BYTES: Final = 256 * MIB
"""No payload comes near; whatever is larger isn't ours."""

_FRAME = re.compile(rb"telemetryd-spool 1 ([0-9a-f]{64})\n")
_FRAME_BYTES: Final = len(b"telemetryd-spool 1 \n") + 64
S = TypeVar("S", bound=msgspec.Struct)


@dataclass(frozen=True, slots=True)
class Parcel:
    """A payload and all that stays the same whenever it is sent again.

    Attributes:
        installation_id: Of whom it tells.
        destination: Where it is meant to go.
    """

    payload: Payload
    delivery: Delivery
    installation_id: str
    destination: str


class Delivered(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The last delivery of an exporter.

    Attributes:
        at: Unix time in seconds of the receiver's answer.
    """

    installation_id: str
    destination: str
    sequence: int
    digest: str
    at: float


class _Label(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The line before a payload's bytes."""

    installation_id: str
    destination: str
    sequence: int
    epoch: int
    collected_at: float
    digest: str
    content_type: str
    revision: int


@dataclass(frozen=True, slots=True)
class Contents:
    """What a folder holds.

    Attributes:
        corrupt: How many files could not be read this time, and were put aside.
        pending_bytes: Size of the file with the parcel, 0 without one.
    """

    parcel: Parcel | None
    delivered: Delivered | None
    corrupt: int = 0
    pending_bytes: int = 0


class SpoolFolder:
    """One exporter's folder, made when something is to be kept."""

    def __init__(self, spool_dir: str, exporter: str) -> None:
        """Name it; nothing is opened or made yet.

        Args:
            spool_dir: Absolute; holds the folders of all exporters.
            exporter: Its name.
        """
        self.path = Path(spool_dir, quote(exporter, safe="").replace(".", "%2E"))

    def load(self) -> Contents:
        """All that was kept; what can't be made sense of is put aside, and counted.

        Raises:
            OSError: It can't be read.
        """
        corrupt = 0
        raw, parcel = self._read(PENDING), None
        if raw is not None:
            parcel = parse_parcel(raw)
            corrupt += self._put_aside(PENDING) if parcel is None else 0
        state, delivered = self._read(STATE), None
        if state is not None:
            delivered = _decode(_unframe(state), Delivered)
            corrupt += self._put_aside(STATE) if delivered is None else 0
        kept_bytes = len(raw) if raw is not None and parcel is not None else 0
        return Contents(parcel, delivered, corrupt, kept_bytes)

    def peek(self) -> Contents:
        """The same, without touching anything.

        Raises:
            OSError: It can't be read.
        """
        raw, state = self._read(PENDING), self._read(STATE)
        parcel = None if raw is None else parse_parcel(raw)
        delivered = None if state is None else _decode(_unframe(state), Delivered)
        corrupt = (raw is not None and parcel is None) + (state is not None and delivered is None)
        return Contents(parcel, delivered, corrupt, len(raw) if raw is not None else 0)

    def store(self, parcel: Parcel, *, unless_there: bool = False) -> int:
        """Keep a parcel in the place of any other.

        Args:
            parcel: The parcel.
            unless_there: What is there is it, where anything is.

        Returns:
            The size of its file in bytes.

        Raises:
            OSError: It can't be written; what was there stays.
        """
        content = render_parcel(parcel)
        if not (unless_there and (self.path / PENDING).is_file()):
            write_file(self.path / PENDING, content)
        return len(content)

    def settle(self, delivered: Delivered, *, clear: bool) -> None:
        """Note a delivery.

        Args:
            delivered: The delivery.
            clear: What is pending is delivered too, or older than what is.

        Raises:
            OSError: It can't be written.
        """
        try:
            write_file(self.path / STATE, _frame(msgspec.json.encode(delivered)))
        finally:
            # Even where nothing can be written: it takes no space to have it sent no more.
            if clear:
                with suppress(FileNotFoundError):
                    (self.path / PENDING).unlink()

    def _read(self, name: str) -> bytes | None:
        try:
            return read_small_file(str(self.path / name), LARGEST_BYTES)
        except FileNotFoundError:
            return None

    def _put_aside(self, name: str) -> int:
        with suppress(OSError):
            (self.path / name).replace(self.path / (name + CORRUPT))
        return 1


def exporters_in(spool_dir: str) -> Iterator[str]:
    """Names of the exporters that have kept anything, sorted.

    Raises:
        OSError: The folder can't be read.
    """
    with suppress(FileNotFoundError):
        for path in sorted(Path(spool_dir).iterdir()):
            if path.is_dir() and not path.is_symlink():
                yield path.name


def render_parcel(parcel: Parcel) -> bytes:
    """A parcel as a file's content."""
    payload, delivery = parcel.payload, parcel.delivery
    label = _Label(
        installation_id=parcel.installation_id,
        destination=parcel.destination,
        sequence=delivery.sequence,
        epoch=delivery.epoch,
        collected_at=delivery.at,
        digest=payload.digest,
        content_type=payload.content_type,
        revision=payload.revision,
    )
    return _frame(msgspec.json.encode(label) + b"\n" + payload.body)


def parse_parcel(content: bytes) -> Parcel | None:
    """What ``render_parcel`` made, None where it is anything else or not whole."""
    framed = _unframe(content)
    line, newline, body = (framed or b"").partition(b"\n")
    label = _decode(line, _Label) if newline else None
    if label is None:
        return None
    return Parcel(
        payload=Payload(
            body=body,
            content_type=label.content_type,
            digest=label.digest,
            revision=label.revision,
            schema_valid=True,
            schema_error="",
        ),
        delivery=Delivery(at=label.collected_at, sequence=label.sequence, epoch=label.epoch),
        installation_id=label.installation_id,
        destination=label.destination,
    )


def _frame(content: bytes) -> bytes:
    return b"telemetryd-spool 1 %b\n%b" % (sha256(content).hexdigest().encode(), content)


def _unframe(content: bytes) -> bytes | None:
    found = _FRAME.match(content)
    rest = content[_FRAME_BYTES:]
    whole = found is not None and sha256(rest).hexdigest().encode() == found[1]
    return rest if whole else None


def _decode(content: bytes | None, struct: type[S]) -> S | None:
    if content is None:
        return None
    try:
        return msgspec.json.decode(content, type=struct)
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        return None
