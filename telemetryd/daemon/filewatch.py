"""Reloads the configuration file when it has changed.

By polling, because a file may be written in place, replaced by a rename, or reached through the
symbolic links of a ConfigMap, on file systems that notify no one.
"""

import os
from dataclasses import dataclass
from functools import partial
from typing import Final, TypeAlias

import anyio

from telemetryd.config import ConfigSource
from telemetryd.daemon.reload import Reloader
from telemetryd.errors import ConfigError
from telemetryd.sharedread import SharedRead
from telemetryd.timing import TICK_S, until_tick_s

POLL_S: Final = 1.0
"""While the file changes; a third as often while it is as it was read, or isn't watched."""
_RESTING: Final = round(TICK_S / POLL_S)
SETTLED_LOOKS: Final = 2
"""Content that was found this often in a row isn't being written any more."""
MISSING_LOOKS: Final = 5
"""An unreadable file may come back: an editor saves it, or a volume is updated."""

_Mark: TypeAlias = tuple[str | int, ...]


@dataclass(frozen=True, slots=True)
class _Found:
    """What one check of the file found.

    Attributes:
        mark: Changes when the file is written, replaced, or reached by another path.
        content: Its digest, or why it can't be read.
        missing: It can't be read, or is gone.
    """

    mark: _Mark
    content: str
    missing: bool


class FileWatch:
    """Watches while the configuration in force says so (``reload_on_change``)."""

    def __init__(self, reloader: Reloader, *, poll_s: float = POLL_S) -> None:
        self._reloader = reloader
        self._poll_s = poll_s
        self._reads = SharedRead[_Found | None]("configuration file watch")
        self._last: _Found | None = None
        self._looks = 0
        self._resting = False
        self._given_up: _Found | None = None

    async def run(self) -> None:
        """Watch until cancelled."""
        while True:
            resting = self._resting or not self._reloader.config.reload_on_change
            period_s = self._poll_s * (_RESTING if resting else 1)
            await anyio.sleep(until_tick_s(anyio.current_time(), period_s))
            if self._reloader.config.reload_on_change:
                self._resting = await self._look()

    async def _look(self) -> bool:
        """Reload if the file has changed; returns whether it is as it was read before."""
        last = self._last
        settled = last is not None and self._looks >= SETTLED_LOOKS
        # A link that is swapped back and forth keeps the mark: what was read last counts too.
        known = last.mark if last and settled and last.content == self._reloader.tried else None
        found = await self._reads.begin(partial(_look, self._reloader.source, known))
        if found is None:
            return True
        self._looks = self._looks + 1 if found == last else 1
        self._last = found
        needed = MISSING_LOOKS if found.missing else SETTLED_LOOKS
        known_content = found.content == self._reloader.tried
        if self._looks < needed or known_content or found == self._given_up:
            return False
        await self._reloader.reload("file")
        # The log says why it can't be read; once is enough while nothing changes.
        self._given_up = None if self._reloader.tried == found.content else found
        return False


def _look(source: ConfigSource, known: _Mark | None) -> _Found | None:
    """Check the file, and read it unless its mark is known: then None."""
    path = source.find()
    place = path or source.system_path
    mark: _Mark
    try:
        status = place.stat()
        mark = (
            os.path.realpath(place),
            status.st_dev,
            status.st_ino,
            status.st_size,
            status.st_mtime_ns,
            status.st_ctime_ns,
        )
    except (OSError, ValueError) as error:
        mark = (str(error),)
    if mark == known:
        return None
    try:
        return _Found(mark, source.read().digest, missing=path is None)
    except ConfigError as error:
        return _Found(mark, str(error), missing=True)
