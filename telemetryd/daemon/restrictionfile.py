"""Remembered restrictions on disk: read strictly, written whole, never replaced if damaged.

Without a file nothing is remembered. A damaged one may have held any restriction, so collection
stays off until a person fixes it or opts in.
"""

import stat
import threading
from collections.abc import Iterable, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Annotated, Final, Literal

import anyio
import msgspec
from anyio import to_thread

from telemetryd.atomicfile import explain_newer, write_file
from telemetryd.bounds import encodable
from telemetryd.config import ConfigSource
from telemetryd.config.paths import default_state_dir
from telemetryd.config.restrictions import is_known_key
from telemetryd.errors import TelemetrydError
from telemetryd.model import Restriction
from telemetryd.sharedread import SharedRead

FILE_NAME: Final = "restrictions.json"
DEADLINE_S: Final = 5.0
"""Of reading or writing all of it."""

_WHERE_CHARS: Final = 4096
_VERSION: Final = 1
_LARGEST_BYTES: Final = 4 << 20
_FIX: Final = "fix or remove it and reload, or run telemetryd ctl opt-in"

_Line = Annotated[str, msgspec.Meta(min_length=1, max_length=4096)]


class DamagedRestrictions(TelemetrydError):
    """What is remembered can't be read; the message names the file and the fix."""


class _Entry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    source: _Line
    key: _Line
    where: _Line
    since: Annotated[float, msgspec.Meta(ge=0)]


class _AnyDocument(msgspec.Struct, frozen=True):
    """What a file of any version has."""

    version: int


class _Document(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    version: Literal[1]
    restrictions: list[_Entry]


def restriction_folders(
    state_dir: str | None, environ: Mapping[str, str], default: str | None
) -> tuple[str, ...]:
    """The folders where the next start may look.

    The file that names ``state_dir`` may be cut or gone by then. So the folder of the service
    counts too, and the default one if the daemon was started without naming a file.

    ``default`` is the default folder, None if a file was named.
    """
    service = environ.get("STATE_DIRECTORY", "").partition(":")[0]
    candidates = (state_dir, service if service.startswith("/") else None, default)
    return tuple(dict.fromkeys(each for each in candidates if each))


def restriction_files(source: ConfigSource, state_dir: str | None) -> "RestrictionFiles":
    """Where a daemon with this configuration keeps its restrictions."""
    default = default_state_dir(source.environ) if source.unnamed else None
    return RestrictionFiles(restriction_folders(state_dir, source.environ, default))


class RestrictionFiles:
    """The same file in each of the folders.

    Attributes:
        paths: Of the files, the main one first.
        stored: Those that hold what was stored last.
        failure: Why others don't, empty if all do.
    """

    def __init__(self, folders: Iterable[str]) -> None:
        self.paths = tuple(Path(folder, FILE_NAME) for folder in folders)
        self.stored: tuple[str, ...] = ()
        self.failure = "" if self.paths else "no state folder is usable: set state_dir"
        self._reads = {path: SharedRead[bytes | None]("restrictions") for path in self.paths}
        self._newest: tuple[Restriction, ...] = ()
        self._writing = threading.Lock()

    async def load(self, *, deadline_s: float = DEADLINE_S) -> tuple[Restriction, ...]:
        """All restrictions in any of the files, the earliest of each.

        Raises:
            DamagedRestrictions: A file is damaged, or can't be read in time.
        """
        found: dict[tuple[str, str], Restriction] = {}
        for path, reads in self._reads.items():
            try:
                with anyio.fail_after(deadline_s):
                    content = await reads.take(partial(_read, path))
            except TimeoutError as error:
                message = f"{path}: can't be read within {deadline_s:g} s: check the disk"
                raise DamagedRestrictions(message) from error
            for each in () if content is None else _parse(path, content):
                known = found.setdefault((each.source, each.key), each)
                if each.since < known.since:
                    found[each.source, each.key] = each
        return tuple(found.values())

    async def store(
        self, restrictions: Iterable[Restriction], *, deadline_s: float = DEADLINE_S
    ) -> None:
        """Write them; errors go to ``failure``. No empty file is created."""
        self._newest = tuple(restrictions)
        try:
            with anyio.fail_after(deadline_s):
                self.stored, self.failure = await to_thread.run_sync(
                    self._write, abandon_on_cancel=True
                )
        except TimeoutError:
            self.stored, self.failure = (), f"can't be written within {deadline_s:g} s"
        if not self.paths:
            self.failure = "no state folder is usable: set state_dir"

    async def set_aside(self, *, deadline_s: float = DEADLINE_S) -> None:
        """Rename damaged files; a person may want them."""
        with anyio.move_on_after(deadline_s):
            await to_thread.run_sync(self._set_aside, abandon_on_cancel=True)

    def _write(self) -> tuple[tuple[str, ...], str]:
        """Runs in a thread. After a write that hangs, the next one writes the newest."""
        if not self._writing.acquire(timeout=DEADLINE_S):
            return (), "an earlier write hangs: check the disk"
        try:
            stored, failures = [], []
            content = _render(self._newest)
            for path in self.paths:
                try:
                    if content != _EMPTY or path.exists():
                        write_file(path, content)
                    stored.append(str(path))
                except OSError as error:
                    failures.append(f"{path}: {error.strerror or error}")
            return tuple(stored), "; ".join(failures)
        finally:
            self._writing.release()

    def _set_aside(self) -> None:
        for path in self.paths:
            try:
                content = _read(path)
                if content is not None:
                    _parse(path, content)
            except DamagedRestrictions:
                with suppress(OSError):
                    path.rename(_free_name(path))


def _free_name(path: Path) -> Path:
    numbered = (path.with_name(f"{FILE_NAME}.damaged-{number}") for number in range(1, 10_000))
    return next(each for each in numbered if not each.exists())


def _read(path: Path) -> bytes | None:
    """The file's content, None without a file.

    Raises:
        DamagedRestrictions: It can't be read.
    """
    try:
        mode = path.lstat().st_mode
        if stat.S_ISREG(mode):
            with path.open("rb") as file:
                return file.read(_LARGEST_BYTES + 1)
    except FileNotFoundError:
        return None
    except OSError as error:
        message = f"{path}: can't be read: {(error.strerror or str(error)).lower()}: {_FIX}"
        raise DamagedRestrictions(message) from error
    raise DamagedRestrictions(f"{path}: isn't a regular file: {_FIX}")


def _parse(path: Path, content: bytes) -> tuple[Restriction, ...]:
    """The restrictions in a file.

    Raises:
        DamagedRestrictions: It isn't one of ours.
    """
    try:
        version = msgspec.json.decode(content, type=_AnyDocument).version
        if version > _VERSION:
            otherwise = "remove the file and reload, or run telemetryd ctl opt-in"
            raise DamagedRestrictions(f"{path}: {explain_newer(version, _VERSION, otherwise)}")
        entries = msgspec.json.decode(content, type=_Document).restrictions
    except (ValueError, RecursionError) as error:
        raise DamagedRestrictions(f"{path}: is damaged: {error}: {_FIX}") from error
    unknown = [each.key for each in entries if not is_known_key(each.key)]
    if unknown or len(content) > _LARGEST_BYTES:
        why = f"{unknown[0][:80]!r} is no restriction" if unknown else "it is too large"
        raise DamagedRestrictions(f"{path}: is damaged: {why}: {_FIX}")
    return tuple(
        Restriction(each.source, each.key, each.where, each.since, written=False)
        for each in entries
    )


def _render(restrictions: Iterable[Restriction]) -> bytes:
    entries = [
        _Entry(each.source, each.key, encodable(each.where, _WHERE_CHARS), each.since)
        for each in restrictions
    ]
    document = msgspec.json.encode(_Document(_VERSION, entries))
    return msgspec.json.format(document, indent=2) + b"\n"


_EMPTY: Final = _render(())
