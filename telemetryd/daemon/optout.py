"""The Rancher setting that opts out, watched by itself: all that is asked while it says so.

The watch outlives an opt-out and a collection, so that neither has a moment in which a change
could be missed. What an opt-out does is ``collector``'s.
"""

import logging
from collections.abc import Callable, Iterator
from typing import Final

import anyio

from telemetryd.daemon.collection import Informers
from telemetryd.gather.project import OPT_OUT
from telemetryd.model import Delta, InformerStatus, SettingRecord
from telemetryd.stats import InformerStats

log = logging.getLogger(__name__)

OUT: Final = "out"
"""The one value that opts out; ``in`` and ``prompt`` permit, and none at all says nothing."""

FIRST_LOOK_S: Final = 2.0
"""How long the fleet isn't asked for at the start, for the setting to be read first."""


class OptOut:
    """Follows the setting.

    Attributes:
        out: It opts out now.
        known: It has been read: what it says now, or that there is none, is known.
        looked: That is so, or couldn't be in time.
    """

    def __init__(
        self,
        informers: Informers,
        *,
        note: Callable[[str | None], None],
        changed: Callable[[], None],
    ) -> None:
        """Prepare.

        Args:
            informers: Makes the one informer that is needed.
            note: Called with each value; None where there is none, or none that can be read.
            changed: Called whenever an attribute has changed.
        """
        self._informers = informers
        self._informer = informers.make(OPT_OUT)
        self._note = note
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
        value = delta.new.value if isinstance(delta.new, SettingRecord) else None
        if self.out and not value:
            what = {True: "deleted", False: "unreadable"}[delta.new is None]
            if value is not None:
                what = "emptied"
            log.warning(
                "opt-out setting %s: collection stays off until it has another value or an opt-in",
                what,
            )
        self.out = value == OUT
        self._note(value)
        self._changed()
