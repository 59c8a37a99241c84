"""Reload: a new configuration is validated whole, and then only what differs is applied."""

import logging
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass, field, replace
from typing import Literal, TypeAlias

import anyio
from anyio import to_thread

from telemetryd.config import (
    DEFAULTS,
    Config,
    ConfigFile,
    ConfigSource,
    ExporterConfig,
    WebExporterConfig,
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
from telemetryd.daemon.restrictionfile import restriction_files
from telemetryd.daemon.restrictions import Restrictions
from telemetryd.errors import ConfigError, ManagerError, Problem
from telemetryd.export.engine.manager import ExporterManager
from telemetryd.export.exporter import Exporter, ExporterSpec
from telemetryd.model import ConfigStatus
from telemetryd.serve.http.security import AccessRules, Security
from telemetryd.sharedread import SharedRead
from telemetryd.stats import ConfigStats

log = logging.getLogger(__name__)

READ_TIMEOUT_S = 10.0
"""For reading the file: a network file system may hang."""
BUILD_TIMEOUT_S = 30.0
"""For making all exporters that changed: they read certificates."""

Trigger: TypeAlias = Literal["signal", "control", "file"]
_STOPPING = "telemetryd is stopping: nothing is reloaded any more"


@dataclass(frozen=True, slots=True)
class ReloadResult:
    """What came of a reload.

    Attributes:
        ok: The new configuration is in force, whether or not anything differed.
        changes: What was changed, a line each; empty if nothing differed.
        problems: Why it was rejected, a line each with file, key and fix; empty if it wasn't.
    """

    ok: bool
    changes: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()


@dataclass(slots=True)
class _PendingReload:
    """A reload that hasn't ended, of the file or ``again`` of the last good one."""

    trigger: Trigger
    again: bool = False
    done: anyio.Event = field(default_factory=anyio.Event)
    result: ReloadResult = ReloadResult(ok=False, problems=(_STOPPING,))

    async def wait(self) -> ReloadResult:
        await self.done.wait()
        return self.result


@dataclass(frozen=True, slots=True)
class ReloadTarget:
    """The parts of a running daemon that a reload changes.

    Attributes:
        build: Makes an exporter without side effects.
        spec: What the manager needs to know about an exporter; makes no sink.
        look: Looks for the mark of an opt-out if a configuration adds Secrets.
        follow: Puts a configuration in force for the collection, before its exporters are.
        configure_requests: Puts other settings of SecretRequests in force; returns which of their
            exporters must end because configured ones claim their Secrets.
        security: Who may see what is served.
        begin: Called before each reload.
        end: Called after it, successful or not.
    """

    manager: ExporterManager
    build: Callable[[ExporterConfig], tuple[ExporterSpec, Exporter]]
    spec: Callable[[ExporterConfig], ExporterSpec]
    look: Callable[[Config], Awaitable[None]]
    follow: Callable[[Config], None]
    configure_requests: Callable[[Config], Collection[str]]
    security: Security
    begin: Callable[[], None]
    end: Callable[[], None]


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

    Requests share a reload that hasn't started; while one runs they get the next, as the file may
    have changed since it was read. Requests are taken from construction on.

    Attributes:
        source: Where the file is looked for.
        file: The last good one.
        config: In force: of that file, with every restriction; default folders aren't set.
        restrictions: What holds whatever the file says.
        tried: Digest of what the last reload read, accepted or not; empty if it couldn't.
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
        """With the file that the daemon was started with.

        Raises:
            ConfigError: That file isn't valid.
        """
        self.source = source
        config = source.parse_as_written(file)
        statements = source.statements(file)
        self.restrictions = Restrictions(statements, source.environ, now=now)
        self.config = self.restrictions.restrict(config, statements)
        self.file = file
        self.tried = file.digest
        self.stats = ConfigStats(ConfigStatus(file.where, config_hash(self.config), now()))
        self._configure_logging = configure_logging
        self._now = now
        self._reads = SharedRead[ConfigFile]("configuration file")
        self._asked = anyio.Event()
        self._waiting: dict[bool, _PendingReload] = {}
        self._over = False

    async def recall(self, config: Config) -> Config:
        """The configuration of the start with all restrictions that are remembered.

        Raises:
            ConfigError: The file was cut, as far as its restrictions are remembered.
        """
        await self.restrictions.recall(restriction_files(self.source, config.state_dir))
        statements = self.source.statements(self.file)
        self.config = self.restrictions.restrict(
            self.source.parse_as_written(self.file), statements
        )
        await self.restrictions.accept(statements)
        status = replace(self.stats.status, hash=config_hash(self.config))
        self.stats.status = status
        return self.restrictions.restrict(config, statements)

    def ask(self, trigger: Trigger) -> None:
        """Request a reload, without waiting for it."""
        self._request(trigger)

    async def reload(self, trigger: Trigger) -> ReloadResult:
        """Reload; takes at most the drain timeout and some seconds.

        The reload goes on if its caller is cancelled.
        """
        return await self._request(trigger).wait()

    def reapply(self) -> None:
        """Request that the last good file is applied again: other restrictions hold now."""
        self._request("control", again=True)

    async def reapplied(self) -> ReloadResult:
        """The same, and wait for it."""
        return await self._request("control", again=True).wait()

    async def run(self, target: ReloadTarget) -> None:
        """Make the requested reloads until cancelled; later requests are refused."""
        current: _PendingReload | None = None
        try:
            while True:
                await self._asked.wait()
                self._asked = anyio.Event()
                for again in (True, False):
                    current = self._waiting.pop(again, None)
                    if current is not None:
                        current.result = await self._reload(current, target)
                        current.done.set()
        finally:
            self._over = True
            for unanswered in (current, *self._waiting.values()):
                if unanswered is not None:
                    unanswered.done.set()

    def _request(self, trigger: Trigger, *, again: bool = False) -> _PendingReload:
        if self._over:
            log.debug("config not reloaded trigger=%s reason=%r", trigger, _STOPPING)
            refused = _PendingReload(trigger)
            refused.done.set()
            return refused
        if again not in self._waiting:
            self._waiting[again] = _PendingReload(trigger, again=again)
            self._asked.set()
        return self._waiting[again]

    async def _reload(self, request: _PendingReload, target: ReloadTarget) -> ReloadResult:
        trigger = request.trigger
        target.begin()
        try:
            result = await self._try(target, again=request.again)
        except Exception as exc:
            log.exception("config reload failed trigger=%s", trigger)  # a bug
            result = ReloadResult(ok=False, problems=(f"internal error: {type(exc).__name__}",))
        if not request.again:
            self._record(trigger, result)
        target.end()
        return result

    async def _try(self, target: ReloadTarget, *, again: bool) -> ReloadResult:
        file = self.file
        try:
            await self.restrictions.recall_damaged()
            file, config = await self._read(again=again)
            plan = await self._plan(file, config, target)
            measures = await target.security.prepare(plan.config.server, file.where)
        except ConfigError as error:
            problems = tuple(str(file.locate(problem)) for problem in error.problems)
            return ReloadResult(ok=False, problems=problems)
        try:
            await self._apply(plan, measures, target)
        except ManagerError as error:
            return ReloadResult(ok=False, problems=(f"{file.where}: exporters: {error}",))
        return ReloadResult(ok=True, changes=render_changes(plan.diff))

    async def _read(self, *, again: bool) -> tuple[ConfigFile, Config]:
        """Read and validate the file off the event loop, wherever it is by now.

        Raises:
            ConfigError: With every problem found.
        """
        where = self.stats.status.where
        try:
            with anyio.fail_after(READ_TIMEOUT_S):
                file = self.file
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
                if line := _cut_line(file.text, self.file.text):
                    message = f"ends in the middle of line {line}, which was longer: write it whole"
                    raise ConfigError(Problem(file.where, "", message))
        except TimeoutError as error:
            message = f"can't be read within {READ_TIMEOUT_S:g} s: check its file system"
            raise ConfigError(Problem(where, "", message)) from error
        return file, config

    async def _plan(self, file: ConfigFile, config: Config, target: ReloadTarget) -> _Plan:
        """Find what differs and make what is new, so that nothing can fail afterwards.

        Raises:
            ConfigError: With every problem found.
        """
        statements = self.source.statements(file)
        config = self.restrictions.restrict(config, statements)
        diff = diff_configs(self.config, config)
        problems = [Problem(file.where, key.path, _needs_restart(key)) for key in diff.restart_only]
        for exporter in diff.added:
            if target.manager.has(exporter.name):
                key = f"exporters.{exporter.name}.name"
                message = f'"{exporter.name}" is the name of a running exporter: choose another'
                problems.append(Problem(file.where, key, message))
        if problems:
            raise ConfigError(*problems)
        return _Plan(
            config=config,
            file=file,
            statements=statements,
            diff=diff,
            into=await _make_exporters(config, diff, target, file.where),
            rescheduled=tuple(target.spec(change.config) for change in diff.rescheduled),
        )

    async def _apply(self, plan: _Plan, measures: AccessRules, target: ReloadTarget) -> None:
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
        if plan.file.digest != self.file.digest:
            for line in self.source.conflicts(plan.file):
                log.warning("setting ignored detail=%s", line)
        self.config, self.file = config, plan.file
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
            changes = "; ".join(result.changes) or "none"
            message = "config reloaded trigger=%s file=%s changes=%r"
            log.info(message, trigger, status.where, changes)
        else:
            problems = "; ".join(result.problems)
            log.error("config rejected trigger=%s problems=%r", trigger, problems)


async def _make_exporters(
    config: Config, diff: ConfigDiff, target: ReloadTarget, where: str
) -> tuple[tuple[ExporterSpec, Exporter], ...]:
    """Make the exporters that are new or changed, those that read certificates off the event loop.

    Raises:
        ConfigError: With every problem found.
    """
    wanted = [*(change.config for change in diff.changed), *diff.added]
    names = {exporter.name for exporter in wanted}
    made: dict[str, tuple[ExporterSpec, Exporter]] = {}
    problems: list[Problem] = []
    deadline_s = anyio.current_time() + BUILD_TIMEOUT_S
    for exporter in config.exporters:
        if exporter.name not in names:
            continue
        key = f"exporters.{exporter.name}"
        try:
            if isinstance(exporter, WebExporterConfig):
                with anyio.fail_after(deadline_s - anyio.current_time()):
                    made[exporter.name] = await to_thread.run_sync(
                        target.build, exporter, abandon_on_cancel=True
                    )
            else:
                made[exporter.name] = target.build(exporter)
        except ConfigError as error:
            problems += error.problems
        except TimeoutError:
            message = f"isn't made within {BUILD_TIMEOUT_S:g} s: check the disk of its certificates"
            problems.append(Problem(where, key, message))
        except (OSError, ValueError) as error:
            problems.append(Problem(where, key, f"is unusable: {error}"))
    if problems:
        raise ConfigError(*problems)
    return tuple(made[exporter.name] for exporter in wanted)


def _cut_line(text: str, in_force: str) -> int:
    """The line in which the file was cut off, 0 if it wasn't: an edit removes whole lines."""
    rest = in_force.removeprefix(text)
    is_cut = rest != in_force and not text.endswith("\n") and not rest.startswith(("\r", "\n"))
    return text.count("\n") + 1 if rest and is_cut else 0


def _needs_restart(key: KeyChange) -> str:
    former = "the former value" if is_hidden(key.path) else render_value(key.old)
    undo = "take it out" if key.old is None else f"put {former} back"
    return f"can't change while telemetryd runs: restart it, or {undo}"
