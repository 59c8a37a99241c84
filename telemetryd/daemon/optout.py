"""The Rancher setting that opts out, watched by itself: all that is asked while it says so.

The watch outlives an opt-out and a collection, so that neither has a moment in which a change
could be missed. What an opt-out does is ``collector``'s.
"""

import logging
from collections.abc import Callable, Iterator
from typing import Final

import anyio

from telemetryd.config.restrictions import OUT, PERMITTING
from telemetryd.config.values import show
from telemetryd.daemon.collection import Informers
from telemetryd.gather.project import OPT_OUT, OPT_OUT_SETTING
from telemetryd.model import Delta, InformerStatus, SettingRecord
from telemetryd.stats import InformerStats

log = logging.getLogger(__name__)

FIRST_LOOK_S: Final = 2.0
"""How long the fleet isn't asked for at the start, for the setting to be read first."""


class OptOut:
    """Follows the setting.

    Attributes:
        out: It opts out now.
        known: It has been read: what it says now, or that there is none, is known.
        looked: That is so, or couldn't be in time.
        problem: What is wrong with its value, empty where nothing is.
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
            note: Called with each value; None where there is none that says anything.
            changed: Called whenever an attribute has changed.
        """
        self._informers = informers
        self._informer = informers.make(OPT_OUT)
        self._note = note
        self._changed = changed
        self.out = False
        self.known = False
        self.looked = False
        self.problem = ""
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
        if self._informer.reader.synced and not self.known and not self.problem:
            self.known = self.looked = True
            self._changed()

    def _follow(self, delta: Delta[SettingRecord]) -> None:
        record = delta.new
        value = record.value if isinstance(record, SettingRecord) else None
        problem = ""
        if record is not None and value is None:
            problem = "can't be read"
        elif value and value != OUT and value not in PERMITTING:
            problem = f"is {show(value)}"
        if problem:
            problem = f"setting {OPT_OUT_SETTING} {problem}: give it the value in, prompt or out"
        if problem and problem != self.problem:
            log.error("opt-out setting damaged: it changes nothing error=%r", problem)
        elif self.out and not value:
            log.warning(
                "opt-out setting without a value: collection stays off until it has another value"
                " or an opt-in setting=%s",
                "deleted" if record is None else "emptied",
            )
        self.problem = problem
        self.out = value == OUT
        self._note(None if problem else value)
        self._note_synced()
        self._changed()
