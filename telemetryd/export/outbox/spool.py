"""The files of one exporter: the pending payload, and the last delivery.

::

    <state_dir>/spool/<exporter>/pending         the payload, replaced by each newer one
    <state_dir>/spool/<exporter>/state           the last delivery
    <state_dir>/spool/<exporter>/*.corrupt       damaged files, for a person to examine
    <state_dir>/spool/<exporter>/*.format-2      files of a later version, for that to use

A file is written to a temporary name, synced and renamed, so that it is whole or absent, and begins
with its format and the checksum of the rest. Any change of what follows, such as one more member,
is another format. Everything here blocks: call it in a worker thread.
"""

import errno
import os
import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Annotated, Final, TypeVar
from urllib.parse import quote, unquote

import msgspec
from msgspec import UNSET, Meta, UnsetType

from telemetryd.atomicfile import explain_newer, write_file
from telemetryd.kube.files import MIB, read_small_file, why_unreadable
from telemetryd.kube.objects import UNPARSABLE, decode_or_none
from telemetryd.model import Delivery, Payload

PENDING: Final = "pending"
STATE: Final = "state"
CORRUPT: Final = ".corrupt"

LARGEST_BYTES: Final = 256 * MIB
"""No payload comes near; a larger file is not one of ours."""

MAX_SEQUENCE: Final = 2**63 - 1
"""Receivers may keep sequences and epochs as signed 64-bit integers."""

_FORMAT: Final = 1
_FORMAT_OF = re.compile(rb"telemetryd-spool ([0-9]{1,9})\b")
_FRAME = re.compile(rb"telemetryd-spool 1 ([0-9a-f]{64})\n")
_FRAME_BYTES: Final = len(b"telemetryd-spool 1 \n") + 64

_DAMAGE: Final = {errno.EISDIR, errno.EINVAL, errno.EFBIG, errno.EACCES, errno.ELOOP, errno.ENXIO}
"""Errors of a file that only a person can fix. Others may pass: a disk that fails or hangs."""

_ASIDE: Final = ("", *(f".{number}" for number in range(2, 10)))
"""A folder cannot replace a file, nor a file a folder: then the next name is tried."""

S = TypeVar("S", bound=msgspec.Struct)
T = TypeVar("T")

_Number = Annotated[int, Meta(ge=0, le=MAX_SEQUENCE)]
_Epoch = Annotated[int, Meta(ge=0, le=2**31 - 1)]
"""A Lease counts its terms in 32 bits."""
_Time = Annotated[float, Meta(ge=0, le=253_402_300_799)]
"""Unix time in seconds, to the end of the year 9999: it is shown as a date."""
_Word = Annotated[str, Meta(max_length=512, pattern=r"^[ -~]*\Z")]
"""Goes into headers and tables."""


@dataclass(frozen=True, slots=True)
class PendingPayload:
    """A payload, and everything that stays the same whenever it is sent again.

    Attributes:
        omitted: Names of the ``[privacy]`` keys that omitted something when it was made.
    """

    payload: Payload
    delivery: Delivery
    installation_id: str
    destination: str
    format: str = "scc"
    omitted: frozenset[str] = frozenset()


class LastDelivery(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The last delivery of an exporter.

    Attributes:
        at: Unix time in seconds of the receiver's answer.
        epoch: None in files of earlier versions, which did not keep it.
        exporter: Empty in files of earlier versions.
    """

    installation_id: str
    destination: str
    sequence: _Number
    digest: _Word
    at: _Time
    epoch: _Epoch | None = None
    exporter: _Word = ""

    def covers(self, pending: PendingPayload) -> bool:
        """Whether that payload is delivered, or older than what is."""
        delivery = pending.delivery
        epoch = delivery.epoch if self.epoch is None else self.epoch
        return (epoch, self.sequence) >= (delivery.epoch, delivery.sequence)


class _Label(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The line before a payload's bytes; earlier versions wrote it without the last three."""

    installation_id: str
    destination: str
    sequence: _Number
    epoch: _Epoch
    collected_at: _Time
    digest: _Word
    content_type: _Word
    revision: int
    exporter: _Word = ""
    format: _Word = ""
    omitted: list[str] = []


class _Unlabelled(msgspec.Struct, frozen=True):
    """Tells the formats of earlier versions apart: the SCC payload has no such key."""

    schema_version: msgspec.Raw | UnsetType = UNSET


_UNLABELLED: Final = msgspec.json.Decoder(_Unlabelled)


class NewerSpoolFileError(ValueError):
    """A later version wrote the file.

    Attributes:
        format: Of the file.
    """

    def __init__(self, found: int) -> None:
        super().__init__(f"it {explain_newer(found, _FORMAT)}")
        self.format = found


@dataclass(frozen=True, slots=True)
class Damage:
    """A file that cannot be used.

    Attributes:
        moved_to: Where it is now, empty where it is still in its place.
        newer: It isn't damaged, a later version wrote it.
    """

    file: str
    why: str
    moved_to: str = ""
    newer: bool = False


@dataclass(frozen=True, slots=True)
class Contents:
    """The content of a folder.

    Attributes:
        pending: None where it is delivered already.
        pending_damaged: The receiver may have a payload that the file no longer shows.
    """

    pending: PendingPayload | None
    delivered: LastDelivery | None
    damaged: tuple[Damage, ...] = ()
    pending_bytes: int = 0
    pending_damaged: bool = False


class SpoolFolder:
    """One exporter's folder, made when something is kept.

    Methods that change it return the size of the pending payload's file in bytes, 0 without one.
    """

    def __init__(self, spool_dir: str, exporter: str) -> None:
        self.exporter = exporter
        self.path = Path(spool_dir, quote(exporter, safe="").replace(".", "%2E"))

    def load(self) -> Contents:
        """Read everything; damaged files are moved aside.

        Raises:
            OSError: The folder cannot be read.
        """
        return self._take_stock(self._move_aside)

    def peek(self) -> Contents:
        """The same, without changing anything.

        Raises:
            OSError: The folder cannot be read.
        """
        return self._take_stock(lambda _name, _suffix: "")

    def store(self, pending: PendingPayload, *, unless_there: bool = False) -> int:
        """Keep a payload, instead of any other.

        Raises:
            OSError: It cannot be written. An older payload stays, the last delivery is forgotten.
        """
        content = render_pending(pending, self.exporter)
        if not (unless_there and (self.path / PENDING).is_file()):
            try:
                write_file(self.path / PENDING, content)
            except OSError:
                self._forget()
                raise
        return len(content)

    def settle(self, delivered: LastDelivery) -> int:
        """Record a delivery; nothing is pending then.

        Raises:
            OSError: It cannot be written. The earlier delivery is forgotten.
        """
        record = msgspec.structs.replace(delivered, exporter=self.exporter)
        try:
            write_file(self.path / STATE, _frame(msgspec.json.encode(record)))
        except OSError:
            self._forget()
            raise
        finally:
            # A full disk can still remove files, and a delivered payload must not leave again.
            self._remove(PENDING)
        return 0

    def discard(self) -> int:
        """Remove the pending payload.

        Raises:
            OSError: It cannot be removed.
        """
        self._remove(PENDING)
        return 0

    def forget(self) -> bool:
        """Remove the record of the last delivery, before something else is sent; always true.

        Raises:
            OSError: It cannot be removed.
        """
        self._remove(STATE)
        return True

    def _forget(self) -> None:
        with suppress(OSError):
            self.forget()

    def _remove(self, name: str) -> None:
        with suppress(FileNotFoundError):
            (self.path / name).unlink()

    def _take_stock(self, move_aside: Callable[[str, str], str]) -> Contents:
        damaged: list[Damage] = []

        def read(name: str, parse: Callable[[bytes], tuple[T, str]]) -> tuple[T | None, int]:
            why, newer = "", 0
            try:
                content = read_small_file(str(self.path / name), LARGEST_BYTES)
                value, owner = parse(content)
            except FileNotFoundError:
                return None, 0
            except OSError as error:
                if error.errno not in _DAMAGE or not os.access(self.path, os.X_OK):
                    raise
                why = why_unreadable(error)
            except ValueError as error:
                why = str(error)
                newer = error.format if isinstance(error, NewerSpoolFileError) else 0
            else:
                if owner in {"", self.exporter}:
                    return value, len(content)
                why = f"it belongs to exporter {owner}"
            moved_to = move_aside(name, f".format-{newer}" if newer else CORRUPT)
            damaged.append(Damage(str(self.path / name), why, moved_to, newer=bool(newer)))
            return None, 0

        pending, size_bytes = read(PENDING, parse_pending)
        pending_damaged = bool(damaged)
        delivered, _ = read(STATE, _parse_delivery)
        if pending is not None and delivered is not None and delivered.covers(pending):
            pending, size_bytes = None, 0
        return Contents(pending, delivered, tuple(damaged), size_bytes, pending_damaged)

    def _move_aside(self, name: str, suffix: str) -> str:
        for number in _ASIDE:
            target = self.path / (name + suffix + number)
            if suffix != CORRUPT and os.path.lexists(target):
                continue  # what can still be used isn't replaced
            with suppress(OSError):
                (self.path / name).replace(target)
                return str(target)
        return ""


def exporters_in(spool_dir: str) -> Iterator[str]:
    """Names of the exporters that have kept anything, sorted.

    Raises:
        OSError: The folder cannot be read.
    """
    with suppress(FileNotFoundError):
        for path in sorted(Path(spool_dir).iterdir()):
            if path.is_dir() and not path.is_symlink():
                yield unquote(path.name)


def render_pending(pending: PendingPayload, exporter: str = "") -> bytes:
    """A pending payload as a file's content."""
    payload, delivery = pending.payload, pending.delivery
    label = _Label(
        installation_id=pending.installation_id,
        destination=pending.destination,
        sequence=delivery.sequence,
        epoch=delivery.epoch,
        collected_at=delivery.at,
        digest=payload.digest,
        content_type=payload.content_type,
        revision=payload.revision,
        exporter=exporter,
        format=pending.format,
        omitted=sorted(pending.omitted),
    )
    return _frame(msgspec.json.encode(label) + b"\n" + payload.body)


def parse_pending(content: bytes) -> tuple[PendingPayload, str]:
    """The pending payload and the exporter that ``render_pending`` wrote.

    Raises:
        ValueError: The content is something else, or not whole.
    """
    line, newline, body = _unframe(content).partition(b"\n")
    if not newline:
        raise ValueError("it is not a pending payload")
    label = _decode(line, _Label, "a pending payload")
    pending = PendingPayload(
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
        format=label.format or _format_of(body),
        omitted=frozenset(label.omitted),
    )
    return pending, label.exporter


def _parse_delivery(content: bytes) -> tuple[LastDelivery, str]:
    delivered = _decode(_unframe(content), LastDelivery, "the note of a delivery")
    return delivered, delivered.exporter


def _format_of(body: bytes) -> str:
    """The format of a payload whose label does not name it."""
    document = decode_or_none(_UNLABELLED, body)
    return "scc" if document is None or document.schema_version is UNSET else "fleet"


def _frame(content: bytes) -> bytes:
    return b"telemetryd-spool 1 %b\n%b" % (sha256(content).hexdigest().encode(), content)


def _unframe(content: bytes) -> bytes:
    version = _FORMAT_OF.match(content)
    if version is not None and int(version[1]) > _FORMAT:
        raise NewerSpoolFileError(int(version[1]))
    found = _FRAME.match(content)
    rest = content[_FRAME_BYTES:]
    if found is None or sha256(rest).hexdigest().encode() != found[1]:
        raise ValueError("it is cut off or altered")
    return rest


def _decode(content: bytes, struct: type[S], what: str) -> S:
    try:
        return msgspec.json.decode(content, type=struct)
    except UNPARSABLE as error:
        raise ValueError(f"it is not {what}") from error
