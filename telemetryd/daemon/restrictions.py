"""The restrictions of a running daemon: which hold, who made them, where they are remembered.

``config.restrictions`` weighs the sources; ``restrictionfile`` has the files and ``optout`` the
mark on Secrets.
"""

import logging
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Final

import anyio

from telemetryd.config import Config, ConfigFile, ConfigSource, EnvironmentSwitches
from telemetryd.config.restrictions import (
    COLLECTION,
    FILE,
    NOT_REMEMBERED,
    OPT_OUT,
    OUT,
    PERMITTING,
    SETTING,
    Decision,
    Statement,
    decide,
    describe,
    environment_statements,
    how_to_end,
    require_choices,
    restrict,
)
from telemetryd.daemon.restrictionfile import (
    DamagedRestrictions,
    RestrictionFiles,
    restriction_files,
)
from telemetryd.model import Restriction, RestrictionStatus, Switch, Switches

log = logging.getLogger(__name__)

RETRY_S: Final = 10.0
"""After a disk failed."""

DAMAGED: Final = "memory"
"""Source of the restriction that stands for a damaged file."""


async def recall_restrictions(
    source: ConfigSource, file: ConfigFile, config: Config, *, now: Callable[[], float]
) -> "Restrictions":
    """The restrictions of a daemon with this configuration; nothing is stored."""
    restrictions = Restrictions(source.statements(file), source.environ, now=now)
    await restrictions.recall(restriction_files(source, config.state_dir))
    return restrictions


class Restrictions:
    """Weighs file, environment, command line and setting against what is remembered.

    Attributes:
        effective: Every restriction that holds now.
        damaged: Why the remembered ones can't be read, empty if they can.
        marked: Secrets with the mark of the opt-out.
        marked_since: Unix time in seconds of the latest mark that was seen.
        stores: What must outlive the process is written to the disk.
        opted_in_at: Unix time in seconds of an opt-in here without a later opt-out; None for none.
    """

    def __init__(
        self,
        file: Iterable[Statement],
        environ: Mapping[str, str],
        *,
        now: Callable[[], float],
    ) -> None:
        """From the configuration file and the environment; ``recall`` adds what is remembered."""
        self._now = now
        self._file = tuple(file)
        self._began_at = now()
        self._environment = environment_statements(environ, since=self._began_at)
        self._value: str | None = None
        self._setting: tuple[Statement, ...] = ()
        self._remembered: tuple[Restriction, ...] = ()
        self._files = RestrictionFiles(())
        self._dirty = anyio.Event()
        self._lock = anyio.Lock()
        self._stored: tuple[Restriction, ...] | None = None
        self._listeners: list[Callable[[], None]] = []
        self._logged_failure = ""
        self.effective: tuple[Restriction, ...] = ()
        self.damaged = ""
        self.stores = True
        self.marked: tuple[str, ...] = ()
        self.marked_since = 0.0
        self.opted_in_at: float | None = None
        self._opted_in_elsewhere_at = 0.0
        self._settle()

    # -- what holds

    def weigh(self, file: Iterable[Statement]) -> Decision:
        """The restrictions with this file; nothing changes."""
        dated = (
            replace(each, since=self._began_at) if each.source in NOT_REMEMBERED else each
            for each in file
        )
        written = (*dated, *self._environment, *self._setting)
        return decide(written, self._remembered, at=self._now())

    def restrict(self, config: Config, file: Iterable[Statement]) -> Config:
        """The configuration as it would be in force with this file.

        Raises:
            ConfigError: It doesn't say what an exporter sends or where to: it may have been cut.
        """
        statements = tuple(file)
        decision = self.weigh(statements)
        restricted = restrict(config, decision.effective)
        where = next((each.where for each in statements if each.source == FILE), "")
        require_choices(restricted, decision.missing, where)
        return replace(restricted, enabled=False) if self.damaged else restricted

    @property
    def remembered_switches(self) -> frozenset[str]:
        """Keys of remembered restrictions that alone keep collection off."""
        keys = {each.key for each in self.effective if not each.written}
        return frozenset(keys & {COLLECTION, OPT_OUT}) | ({COLLECTION} if self.damaged else set())

    @property
    def opted_out_since(self) -> float | None:
        """Since when the setting's opt-out holds, in Unix time; None if it doesn't."""
        held = (each.since for each in self.effective if each.source == SETTING)
        return next(held, None)

    def statuses(self) -> tuple[RestrictionStatus, ...]:
        """What is shown of each restriction."""
        found = tuple(self._status(each) for each in self.effective)
        if not self.damaged:
            return found
        lost = Restriction(DAMAGED, COLLECTION, self.damaged, self._now(), written=False)
        what = "collection is off: what is remembered can't be read"
        end = "fix the file and reload, or run telemetryd ctl opt-in"
        return (*found, RestrictionStatus(lost, what, (), end))

    @property
    def warning(self) -> str:
        """Why restrictions may be lost after a restart, empty if they won't."""
        if self.damaged:
            return self.damaged
        lost = (
            each.restriction.source not in NOT_REMEMBERED and not each.remembered_in
            for each in self.statuses()
        )
        if any(lost):
            return f"not remembered after a restart: {self._files.failure or 'not stored yet'}"
        return ""

    def on_change(self, listener: Callable[[], None]) -> None:
        """Call the listener when other restrictions hold."""
        self._listeners.append(listener)

    # -- what changes it

    async def recall(self, files: RestrictionFiles) -> None:
        """Read what is remembered; if that fails, nothing is collected."""
        self._files = files
        try:
            remembered = await files.load()
        except DamagedRestrictions as error:
            if self.damaged != str(error):
                log.error(  # noqa: TRY400 - a traceback says no more
                    "collection stays off error=%r", str(error)
                )
                self.damaged = str(error)
                self._changed()
            return
        self.damaged = ""
        self._remembered = decide((), (*remembered, *self._remembered), at=0).remembered
        self._settle()
        self._changed()

    async def recall_damaged(self) -> None:
        """Read damaged files again: a person may have fixed them."""
        if self.damaged:
            await self.recall(self._files)

    async def accept(self, file: Iterable[Statement]) -> None:
        """Remember the restrictions of a configuration before it is in force."""
        self._file = tuple(file)
        self._settle()
        await self.store()
        self._changed()

    def note_setting(self, value: str | None) -> None:
        """Note the setting's value; None and unknown values say nothing."""
        said = value if value == OUT or value in PERMITTING else None
        if said == self._value:
            return
        self._value, self._setting = said, ()
        if said is not None:
            where, since = f"setting {OPT_OUT}", max(self._now(), self._opted_in_elsewhere_at + 1)
            self._setting = (Statement(SETTING, OPT_OUT, said == OUT, where, since),)
        if said == OUT:
            self.opted_in_at = None
        self._settle()
        self._changed()

    def note_mark(self, where: str, since: float) -> None:
        """Note that a Secret has the mark of the opt-out."""
        if self.opted_out_since is None:
            log.warning("opted out earlier: collection stays off where=%r", where)
        self.opted_in_at = None
        mark = Restriction(SETTING, OPT_OUT, where, since, written=False)
        self._remembered = decide((), (mark, *self._remembered), at=0).remembered
        self._settle()
        self._changed()

    def note_opt_in(self, where: str, at: float) -> None:
        """Note an opt-in on a Secret: it ends an earlier opt-out that is only remembered."""
        self._opted_in_elsewhere_at = max(at, self._opted_in_elsewhere_at)
        since = self.opted_out_since
        if since is None or since >= at or self._value == OUT:
            return
        log.warning("opted in: the opt-out before it has ended where=%r", where)
        self._remembered = tuple(each for each in self._remembered if each.source != SETTING)
        self._settle()
        self._changed()

    async def opt_in(self) -> tuple[RestrictionStatus, ...]:
        """Forget all restrictions that aren't written; returns those that ended."""
        ended = tuple(each for each in self.statuses() if not each.restriction.written)
        if self.damaged:
            await self._files.set_aside()
            self.damaged = ""
        self._remembered = ()
        # Later than all that it ends, by any clock.
        before = (self._now(), self.marked_since, self.opted_out_since or 0.0)
        self.opted_in_at = math.ceil(max(before)) + 1.0
        self._settle()
        await self.store()
        self._changed()
        return ended

    def ended_at(self, marked_since: float | None = None) -> float | None:
        """When an opt-in or the setting ended the opt-out, so its mark must go; None for never.

        An opt-in doesn't end an opt-out that a mark (``marked_since``) says is later.
        """
        if self.opted_out_since is not None:
            return None
        if self.opted_in_at is not None and (marked_since or 0.0) < self.opted_in_at:
            return self.opted_in_at
        return self._setting[0].since if self._setting else None

    # -- what is stored

    async def store(self) -> None:
        """Write what must outlive the process; ``run`` tries again if the disk fails."""
        if self.damaged or not self.stores:
            return  # the damaged file stays: it keeps collection off over a restart too
        async with self._lock:
            remembered = self._remembered
            if remembered == self._stored and not self._files.failure:
                return
            await self._files.store(remembered)
            self._stored = remembered
        failure = self._files.failure if self._remembered else ""
        if failure and failure != self._logged_failure:
            log.warning("restrictions not stored error=%r", failure)
        self._logged_failure = failure

    async def run(self, reapply: Callable[[], None]) -> None:
        """Store changes, and retry what failed; ends only when cancelled.

        ``reapply`` is called when damaged files can be read again.
        """
        while True:
            dirty = self._dirty
            if self.damaged:
                await self.recall(self._files)
                if not self.damaged:
                    reapply()
            await self.store()
            failing = self.damaged or (self._remembered and self._files.failure)
            with anyio.move_on_after(RETRY_S if failing else None):
                await dirty.wait()

    def _settle(self) -> None:
        decision = self.weigh(self._file)
        self.effective, self._remembered = decision.effective, decision.remembered

    def _changed(self) -> None:
        self._dirty.set()
        self._dirty = anyio.Event()
        for listener in self._listeners:
            listener()

    def _status(self, each: Restriction) -> RestrictionStatus:
        remembered: tuple[str, ...] = ()
        if any((each.source, each.key) == (other.source, other.key) for other in self._remembered):
            remembered = self._files.stored
        if each.source == SETTING:
            remembered += self.marked
        return RestrictionStatus(each, describe(each.key), remembered, how_to_end(each))


def switches_of(
    environment: EnvironmentSwitches, *, enabled: bool, opted_out: bool, remembered: bool = False
) -> Switches:
    """All switches; ``remembered`` is an opt-out that is only remembered."""
    off = {
        Switch.CONFIG: not enabled,
        Switch.ENVIRONMENT: not environment.enabled,
        Switch.DO_NOT_TRACK: not environment.tracking,
        Switch.SETTING: opted_out,
        Switch.MEMORY: remembered,
    }
    return Switches(frozenset(switch for switch, is_off in off.items() if is_off))
