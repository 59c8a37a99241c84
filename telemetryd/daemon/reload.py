"""Reload: a new configuration is validated whole, and then what differs is applied, and only that.

What differs is found by ``config.diff``; when the file has changed is noticed by ``filewatch``.
How an exporter is stopped or started is the manager's affair.
"""

import logging
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field, replace
from typing import Literal, TypeAlias

import anyio
from anyio import to_thread

from telemetryd.config import Config, ConfigFile, ConfigSource, ExporterConfig
from telemetryd.config.diff import (
    ConfigDiff,
    KeyChange,
    config_hash,
    diff_configs,
    render_changes,
    render_value,
)
from telemetryd.errors import ConfigError, ManagerError, Problem
from telemetryd.export.exporter import Exporter
from telemetryd.export.manager import ExporterManager
from telemetryd.export.spec import ExporterSpec
from telemetryd.model import ConfigStatus
from telemetryd.serve.security import Measures, Security
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
        problems: Why it was rejected, a line each with file, key and mend; empty where it wasn't.
    """

    ok: bool
    changes: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Reloadable:
    """The parts of a running daemon that a reload touches.

    Attributes:
        build: Makes an exporter without side effects.
        follow: Puts a configuration in force for what is collected, before its exporters are.
        configure_requests: Puts other settings of SecretRequests in force; tells which of their
            exporters must end because those configured claim their Secrets.
        security: Who may see what is served.
        begin: Called before each reload.
        end: Called after it, whatever came of it.
    """

    manager: ExporterManager
    build: Callable[[ExporterConfig], tuple[ExporterSpec, Exporter]]
    follow: Callable[[Config], None]
    configure_requests: Callable[[Config], Collection[str]]
    security: Security
    begin: Callable[[], None]
    end: Callable[[], None]


@dataclass(slots=True)
class _Request:
    """One reload to come, shared by all who ask before it begins."""

    trigger: Trigger
    done: anyio.Event = field(default_factory=anyio.Event)
    result: ReloadResult = ReloadResult(ok=False, problems=(_STOPPING,))


@dataclass(frozen=True, slots=True)
class _Plan:
    """A configuration that can be put in force, and the exporters made for it."""

    config: Config
    where: str
    diff: ConfigDiff
    into: tuple[tuple[ExporterSpec, Exporter], ...]
    rescheduled: tuple[ExporterSpec, ...]


class Reloader:
    """Reloads the configuration, one reload at a time.

    Who asks while one is waiting shares it; who asks while one is at work gets the next, as the
    file may have changed since it was read. It can be asked from its construction on.

    Attributes:
        source: Where the file is looked for.
        config: In force, as the file has it: folders that it leaves open are left open.
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
        self.config = source.parse_as_written(file)
        self.tried = file.digest
        self.stats = ConfigStats(ConfigStatus(file.where, config_hash(self.config), now()))
        self._configure_logging = configure_logging
        self._now = now
        self._asked = anyio.Event()
        self._next: _Request | None = None
        self._over = False

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

    async def run(self, target: Reloadable) -> None:
        """Do what is asked for until cancelled; whatever is asked for later is refused."""
        request: _Request | None = None
        try:
            while True:
                await self._asked.wait()
                self._asked = anyio.Event()
                request, self._next = self._next, None
                if request is not None:
                    request.result = await self._reload(request.trigger, target)
                    request.done.set()
        finally:
            self._over = True
            for unanswered in (request, self._next):
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

    async def _reload(self, trigger: Trigger, target: Reloadable) -> ReloadResult:
        target.begin()
        try:
            result = await self._try(target)
        except Exception as exc:
            # A fault of ours: the daemon runs on, and whoever asked learns of it.
            log.exception("config reload failed trigger=%s", trigger)
            result = ReloadResult(ok=False, problems=(f"internal error: {type(exc).__name__}",))
        self._record(trigger, result)
        target.end()
        return result

    async def _try(self, target: Reloadable) -> ReloadResult:
        try:
            plan = self._plan(*await self._read(), target)
            measures = await target.security.prepare(plan.config.server, plan.where)
        except ConfigError as error:
            return ReloadResult(ok=False, problems=tuple(map(str, error.problems)))
        try:
            await self._apply(plan, measures, target)
        except ManagerError as error:
            return ReloadResult(ok=False, problems=(f"{plan.where}: exporters: {error}",))
        return ReloadResult(ok=True, changes=render_changes(plan.diff))

    async def _read(self) -> tuple[ConfigFile, Config]:
        """Read the file, wherever it is by now, and validate it; both off the event loop.

        Raises:
            ConfigError: With every problem found.
        """
        self.tried = ""
        try:
            with anyio.fail_after(READ_TIMEOUT_S):
                file = await to_thread.run_sync(self.source.read, abandon_on_cancel=True)
                self.tried = file.digest
                config = await to_thread.run_sync(
                    self.source.parse_as_written, file, abandon_on_cancel=True
                )
        except TimeoutError as error:
            message = f"can't be read within {READ_TIMEOUT_S:g} s: look after its file system"
            raise ConfigError(Problem(self.stats.status.where, "", message)) from error
        return file, config

    def _plan(self, file: ConfigFile, config: Config, target: Reloadable) -> _Plan:
        """Find what differs and make what is new, so that nothing can go wrong afterwards.

        Raises:
            ConfigError: With all that stands in the way.
        """
        diff = diff_configs(self.config, config)
        problems = [Problem(file.where, key.path, _needs_restart(key)) for key in diff.restart_only]
        problems += _find_conflicts(config, diff, target.manager, file.where)
        if problems:
            raise ConfigError(*problems)
        made: dict[str, tuple[ExporterSpec, Exporter]] = {}
        for index, exporter in enumerate(config.exporters):
            if exporter.name in diff.untouched:
                continue
            try:
                made[exporter.name] = target.build(exporter)
            except ConfigError as error:
                problems += error.problems
            except (OSError, ValueError) as error:
                problems.append(Problem(file.where, f"exporters[{index}]", f"is unusable: {error}"))
        if problems:
            raise ConfigError(*problems)
        return _Plan(
            config=config,
            where=file.where,
            diff=diff,
            into=tuple(
                made[exporter.name]
                for exporter in (*(change.config for change in diff.changed), *diff.added)
            ),
            rescheduled=tuple(made[change.config.name][0] for change in diff.rescheduled),
        )

    async def _apply(self, plan: _Plan, measures: Measures, target: Reloadable) -> None:
        """Put a plan in force.

        Raises:
            ManagerError: The daemon is stopping.
        """
        diff, config = plan.diff, plan.config
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
        self.config = config
        self.stats.status = ConfigStatus(plan.where, config_hash(config), self._now())

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


def _needs_restart(key: KeyChange) -> str:
    undo = "take it out" if key.old is None else f"put {render_value(key.old)} back"
    return f"can't change while telemetryd runs: restart it, or {undo}"


def _find_conflicts(
    config: Config, diff: ConfigDiff, manager: ExporterManager, where: str
) -> Iterable[Problem]:
    """Names that running exporters have which don't come from the file, and the other way round."""
    index = {exporter.name: index for index, exporter in enumerate(config.exporters)}
    for exporter in diff.added:
        if manager.has(exporter.name):
            yield Problem(
                where,
                f"exporters[{index[exporter.name]}].name",
                f'"{exporter.name}" is the name of a running exporter: choose another',
            )
