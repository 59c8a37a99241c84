"""The Rancher setting that opts out, watched by itself: all that is asked while it says so.

The watch outlives an opt-out and a collection, so that neither has a moment in which a change
could be missed. What an opt-out does is ``collector``'s.
"""

import logging
from collections.abc import Callable, Iterator
from typing import Final

import anyio

from telemetryd.daemon.collection import Informers
from telemetryd.gather.project import OPT_OUT, OPT_OUT_SETTING
from telemetryd.model import Delta, InformerStatus, SettingRecord
from telemetryd.stats import InformerStats

log = logging.getLogger(__name__)

OUT: Final = "out"
"""The one value that opts out: ``in``, ``prompt`` and none at all don't."""

FIRST_LOOK_S: Final = 2.0
"""How long the fleet isn't asked for at the start, for the setting to be read first."""


class OptOut:
    """Follows the setting.

    Attributes:
        out: It opts out, or did when it was last seen: one that is deleted or can't be read
            changes nothing.
        known: It has been read: what it says now, or that there is none, is known.
        looked: That is so, or couldn't be in time.
    """

    def __init__(self, informers: Informers, *, changed: Callable[[], None]) -> None:
        """Prepare.

        Args:
            informers: Makes the one informer that is needed.
            changed: Called whenever an attribute has changed.
        """
        self._informers = informers
        self._informer = informers.make(OPT_OUT)
        self._changed = changed
        self.out = False
        self.known = False
        self.looked = False
        self._informer.reader.subscribe(self._follow)
        self._informer.reader.on_change(self._note_synced)

    async def run(self) -> None:
        """Watch the setting; returns only when cancelled."""
        async with anyio.create_task_group() as group:
            group.start_soon(self._give_up_waiting)
            group.start_soon(self._informers.run)

    def reload(self) -> None:
        """Forget a value that isn't there any more."""
        if self._informer.reader.get(OPT_OUT_SETTING) is None:
            self._turn(out=False)

    def informers(self) -> Iterator[tuple[InformerStatus, InformerStats]]:
        """Status and counters of the informer."""
        return self._informers.statuses()

    async def _give_up_waiting(self) -> None:
        await anyio.sleep(FIRST_LOOK_S)
        if not self.looked:
            self.looked = True
            self._changed()

    def _note_synced(self) -> None:
        if self._informer.reader.synced and not self.known:
            self.known = self.looked = True
            self._changed()

    def _follow(self, delta: Delta[SettingRecord]) -> None:
        if isinstance(delta.new, SettingRecord):
            self._turn(out=delta.new.value == OUT)
        elif self.out:
            what = "deleted" if delta.new is None else "unreadable"
            log.warning(
                "opt-out setting %s: collection stays off until it has another value or a reload",
                what,
            )

    def _turn(self, *, out: bool) -> None:
        if out is not self.out:
            self.out = out
            self._changed()
