"""What a reload touches of a running daemon, and the exporters that it makes beforehand."""

from collections.abc import Awaitable, Callable, Collection, Iterable
from dataclasses import dataclass

import anyio
from anyio import to_thread

from telemetryd.config import Config, ExporterConfig, WebExporterConfig
from telemetryd.config.diff import ConfigDiff
from telemetryd.errors import ConfigError, Problem
from telemetryd.export.engine.manager import ExporterManager
from telemetryd.export.exporter import Exporter
from telemetryd.export.spec import ExporterSpec
from telemetryd.serve.http.security import Security

BUILD_TIMEOUT_S = 30.0
"""For making all exporters that changed: they read certificates."""


@dataclass(frozen=True, slots=True)
class Reloadable:
    """The parts of a running daemon that a reload touches.

    Attributes:
        build: Makes an exporter without side effects.
        spec: What the manager needs to know about an exporter; makes no sink.
        look: Looks for the mark of an opt-out where a configuration adds Secrets.
        follow: Puts a configuration in force for what is collected, before its exporters are.
        configure_requests: Puts other settings of SecretRequests in force; tells which of their
            exporters must end because those configured claim their Secrets.
        security: Who may see what is served.
        begin: Called before each reload.
        end: Called after it, whatever came of it.
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


async def make_exporters(
    config: Config, diff: ConfigDiff, target: Reloadable, where: str
) -> tuple[tuple[ExporterSpec, Exporter], ...]:
    """Make the exporters that are new or changed, those that read certificates off the event loop.

    Raises:
        ConfigError: With all that can't be made.
    """
    wanted = [*(change.config for change in diff.changed), *diff.added]
    index = {exporter.name: index for index, exporter in enumerate(config.exporters)}
    made: list[tuple[ExporterSpec, Exporter]] = []
    problems: list[Problem] = []
    deadline_s = anyio.current_time() + BUILD_TIMEOUT_S
    for exporter in sorted(wanted, key=lambda each: index[each.name]):
        key = f"exporters[{index[exporter.name]}]"
        try:
            if not isinstance(exporter, WebExporterConfig):
                made.append(target.build(exporter))
                continue
            with anyio.fail_after(deadline_s - anyio.current_time()):
                made.append(
                    await to_thread.run_sync(target.build, exporter, abandon_on_cancel=True)
                )
        except ConfigError as error:
            problems += error.problems
        except TimeoutError:
            message = f"isn't made within {BUILD_TIMEOUT_S:g} s: check the disk of its certificates"
            problems.append(Problem(where, key, message))
        except (OSError, ValueError) as error:
            problems.append(Problem(where, key, f"is unusable: {error}"))
    if problems:
        raise ConfigError(*problems)
    order = {exporter.name: number for number, exporter in enumerate(wanted)}
    return tuple(sorted(made, key=lambda each: order[each[0].name]))


def find_conflicts(
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
