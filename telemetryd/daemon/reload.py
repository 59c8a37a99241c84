"""Reload: a new configuration is validated whole, and then what differs is applied, and only that.

What differs is found by ``config.diff``; when the file has changed is noticed by ``filewatch``.
How an exporter is stopped or started is the manager's affair.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Literal, TypeAlias

import anyio
from anyio import to_thread

from telemetryd.config import (
    DEFAULTS,
    Config,
    ConfigFile,
    ConfigSource,
)
from telemetryd.config.diff import (
    ConfigDiff,
    KeyChange,
    config_hash,
    diff_configs,
    is_hidden,
    render_changes,
    render_value,
)
from telemetryd.config.restrictions import Statement
from telemetryd.daemon.memory import memory_of
from telemetryd.daemon.reloadable import Reloadable, find_conflicts, make_exporters
from telemetryd.daemon.restrictions import Restrictions
from telemetryd.errors import ConfigError, ManagerError, Problem
from telemetryd.export.exporter import Exporter
from telemetryd.export.spec import ExporterSpec
from telemetryd.model import ConfigStatus
from telemetryd.serve.http.security import AccessRules
from telemetryd.sharedread import SharedRead
from telemetryd.stats import ConfigStats

log = logging.getLogger(__name__)

READ_TIMEOUT_S = 10.0
"""For reading the file: a network file system may hang."""

Trigger: TypeAlias = Literal["signal", "control", "file"]

_STOPPING = "telemetryd is stopping: nothing is reloaded any more"


@dataclass(frozen=True, slots=True)
class ReloadResult:
    """What came of a reload.

    Attributes:
        ok: The new configuration is in force, whether or not anything differed.
        changes: What was changed, a line each; empty where nothing differed.
        problems: Why it was rejected, a line each with file, key and fix; empty where it wasn't.
    """

    ok: bool
    changes: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()


@dataclass(slots=True)
class _Request:
    """One reload to come, shared by all who ask before it begins.

    Attributes:
        again: The last good file is applied again, as other restrictions hold now.
    """

    trigger: Trigger
    again: bool = False
    done: anyio.Event = field(default_factory=anyio.Event)
    result: ReloadResult = ReloadResult(ok=False, problems=(_STOPPING,))


@dataclass(frozen=True, slots=True)
class _Plan:
    """A configuration that can be put in force, and the exporters made for it."""

    config: Config
    file: ConfigFile
    statements: tuple[Statement, ...]
    diff: ConfigDiff
    into: tuple[tuple[ExporterSpec, Exporter], ...]
    rescheduled: tuple[ExporterSpec, ...]


class Reloader:
    """Reloads the configuration, one reload at a time.

    Who asks while one is waiting shares it; who asks while one is at work gets the next, as the
    file may have changed since it was read. It can be asked from its construction on.

    Attributes:
        source: Where the file is looked for.
        config: In force: the file's, with every restriction applied; folders that the file leaves
            open are left open.
        restrictions: What holds whatever the file says.
        tried: Digest of what the last reload read, accepted or not; empty where it couldn't.
        stats: For the metrics and the status.
    """

    def __init__(
        self,
        source: ConfigSource,
        file: ConfigFile,
        *,
        configure_logging: Callable[[Config], None],
        now: Callable[[], float],
    ) -> None:
        """Prepare.

        Args:
            source: The attribute.
            file: What the daemon was started with.
            configure_logging: Puts level and format in force.
            now: Unix time in seconds.

        Raises:
            ConfigError: That file isn't valid.
        """
        self.source = source
        config = source.parse_as_written(file)
        statements = source.statements(file)
        self.restrictions = Restrictions(statements, source.environ, now=now)
        self.config = self.restrictions.restrict(config, statements)
        self._file = file
        self.tried = file.digest
        self.stats = ConfigStats(ConfigStatus(file.where, config_hash(self.config), now()))
        self._configure_logging = configure_logging
        self._now = now
        self._reads = SharedRead[ConfigFile]("configuration file")
        self._asked = anyio.Event()
        self._next: _Request | None = None
        self._again: _Request | None = None
        self._over = False

    async def recall(self, config: Config) -> Config:
        """The configuration of the start as it is in force with all that is remembered.

        Args:
            config: The file's.

        Raises:
            ConfigError: The file was cut, by what is remembered of it; nothing has changed.
        """
        await self.restrictions.recall(memory_of(self.source, config.state_dir))
        statements = self.source.statements(self._file)
        self.config = self.restrictions.restrict(
            self.source.parse_as_written(self._file), statements
        )
        await self.restrictions.accept(statements)
        status = replace(self.stats.status, hash=config_hash(self.config))
        self.stats.status = status
        return self.restrictions.restrict(config, statements)

    def ask(self, trigger: Trigger) -> None:
        """Have it reloaded, without waiting for what comes of it."""
        self._request(trigger)

    async def reload(self, trigger: Trigger) -> ReloadResult:
        """Reload, and say what came of it; takes at most the drain timeout and some seconds.

        The reload goes on where its caller is cancelled.
        """
        request = self._request(trigger)
        await request.done.wait()
        return request.result

    def reapply(self) -> None:
        """Have the last good file applied again: other restrictions hold now."""
        self._request_again()

    async def reapplied(self) -> ReloadResult:
        """The same, and what came of it."""
        request = self._request_again()
        await request.done.wait()
        return request.result

    async def run(self, target: Reloadable) -> None:
        """Do what is asked for until cancelled; whatever is asked for later is refused."""
        request: _Request | None = None
        try:
            while True:
                await self._asked.wait()
                self._asked = anyio.Event()
                request, self._again = self._again, None
                if request is not None:
                    request.result = await self._reload(request, target)
                    request.done.set()
                request, self._next = self._next, None
                if request is not None:
                    request.result = await self._reload(request, target)
                    request.done.set()
        finally:
            self._over = True
            for unanswered in (request, self._next, self._again):
                if unanswered is not None:
                    unanswered.done.set()

    def _request(self, trigger: Trigger) -> _Request:
        if self._over:
            log.debug("config not reloaded trigger=%s reason=%r", trigger, _STOPPING)
            request = _Request(trigger)
            request.done.set()
            return request
        if self._next is None:
            self._next = _Request(trigger)
            self._asked.set()
        return self._next

    def _request_again(self) -> _Request:
        if self._again is None:
            self._again = _Request("control", again=True)
            self._asked.set()
        if self._over:
            self._again.done.set()
        return self._again

    async def _reload(self, request: _Request, target: Reloadable) -> ReloadResult:
        trigger = request.trigger
        target.begin()
        try:
            result = await self._try(target, again=request.again)
        except Exception as exc:
            # A fault of ours: the daemon runs on, and whoever asked learns of it.
            log.exception("config reload failed trigger=%s", trigger)
            result = ReloadResult(ok=False, problems=(f"internal error: {type(exc).__name__}",))
        if not request.again:
            self._record(trigger, result)
        target.end()
        return result

    async def _try(self, target: Reloadable, *, again: bool) -> ReloadResult:
        try:
            await self.restrictions.recall_damaged()
            file, config = await self._read(again=again)
            plan = await self._plan(file, config, target)
            measures = await target.security.prepare(plan.config.server, file.where)
        except ConfigError as error:
            return ReloadResult(ok=False, problems=tuple(map(str, error.problems)))
        try:
            await self._apply(plan, measures, target)
        except ManagerError as error:
            return ReloadResult(ok=False, problems=(f"{file.where}: exporters: {error}",))
        return ReloadResult(ok=True, changes=render_changes(plan.diff))

    async def _read(self, *, again: bool) -> tuple[ConfigFile, Config]:
        """Read the file, wherever it is by now, and validate it; both off the event loop.

        Raises:
            ConfigError: With every problem found.
        """
        where = self.stats.status.where
        try:
            with anyio.fail_after(READ_TIMEOUT_S):
                file = self._file
                if not again:
                    self.tried = ""
                    file = await self._reads.begin(self.source.read)
                if file.where == DEFAULTS != where:
                    message = "is gone: put it back; to run by the defaults, restart without it"
                    raise ConfigError(Problem(where, "", message))
                if not again:
                    self.tried = file.digest
                config = await to_thread.run_sync(
                    self.source.parse_as_written, file, abandon_on_cancel=True
                )
                if line := _cut_line(file.text, self._file.text):
                    message = f"ends in the middle of line {line}, which was longer: write it whole"
                    raise ConfigError(Problem(file.where, "", message))
        except TimeoutError as error:
            message = f"can't be read within {READ_TIMEOUT_S:g} s: look after its file system"
            raise ConfigError(Problem(where, "", message)) from error
        return file, config

    async def _plan(self, file: ConfigFile, config: Config, target: Reloadable) -> _Plan:
        """Find what differs and make what is new, so that nothing can go wrong afterwards.

        Raises:
            ConfigError: With all that stands in the way.
        """
        statements = self.source.statements(file)
        config = self.restrictions.restrict(config, statements)
        diff = diff_configs(self.config, config)
        problems = [Problem(file.where, key.path, _needs_restart(key)) for key in diff.restart_only]
        problems += find_conflicts(config, diff, target.manager, file.where)
        if problems:
            raise ConfigError(*problems)
        return _Plan(
            config=config,
            file=file,
            statements=statements,
            diff=diff,
            into=await make_exporters(config, diff, target, file.where),
            rescheduled=tuple(target.spec(change.config) for change in diff.rescheduled),
        )

    async def _apply(self, plan: _Plan, measures: AccessRules, target: Reloadable) -> None:
        """Put a plan in force.

        Raises:
            ManagerError: The daemon is stopping.
        """
        diff, config = plan.diff, plan.config
        await target.look(config)
        await self.restrictions.accept(plan.statements)
        target.security.apply(measures)
        target.follow(config)  # first: what ends below must send nothing once collection is off
        if (config.log_level, config.log_format) != (self.config.log_level, self.config.log_format):
            self._configure_logging(config)
        target.manager.drain_timeout_s = config.drain_timeout_s
        for spec in plan.rescheduled:
            target.manager.reschedule(spec)
        ending = [exporter.name for exporter in diff.removed]
        ending += [change.config.name for change in diff.changed]
        ending += target.configure_requests(config)
        await target.manager.exchange(ending, plan.into)
        self.config, self._file = config, plan.file
        self.stats.status = replace(
            self.stats.status,
            where=plan.file.where,
            hash=config_hash(config),
            in_force_at=self._now(),
        )

    def _record(self, trigger: Trigger, result: ReloadResult) -> None:
        status = replace(self.stats.status, reloaded_at=self._now(), problems=result.problems)
        self.stats.status = status
        self.stats.reloads["success" if result.ok else "failure", trigger] += 1
        if result.ok:
            log.info(
                "config reloaded trigger=%s file=%s changes=%r",
                trigger,
                status.where,
                "; ".join(result.changes) or "none",
            )
        else:
            log.error(
                "config rejected trigger=%s problems=%r",
                trigger,
                "; ".join(result.problems),
            )


def _cut_line(text: str, in_force: str) -> int:
    """The line within which a file in force was cut, 0 where it wasn't.

    An edit that removes lines leaves no line in part.
    """
    rest = in_force.removeprefix(text)
    is_cut = rest != in_force and not text.endswith("\n") and not rest.startswith(("\r", "\n"))
    return text.count("\n") + 1 if rest and is_cut else 0


def _needs_restart(key: KeyChange) -> str:
    former = "the former value" if is_hidden(key.path) else render_value(key.old)
    undo = "take it out" if key.old is None else f"put {former} back"
    return f"can't change while telemetryd runs: restart it, or {undo}"
