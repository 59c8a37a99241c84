"""The commands about telemetryd itself: its configuration, its schemas, its version."""

import argparse
import platform
import sys
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import anyio

from telemetryd import __version__, revision
from telemetryd.cli.commands import recall, source_of
from telemetryd.cli.output import complain, print_document, print_text
from telemetryd.config import DEFAULTS
from telemetryd.errors import ConfigError, Problem

EX_CONFIG = 78
"""The configuration can't be used (sysexits.h); the unit doesn't restart on it."""

SHELL_FILES = Path(__file__).with_name("shell")
"""What ``make docs`` makes from the parser."""
COMPLETIONS = {"bash": "telemetryd.bash", "zsh": "_telemetryd", "fish": "telemetryd.fish"}

_NOW = time.time  # noqa: TID251 - the clock is chosen here


def check_config(options: argparse.Namespace) -> int:
    """Say what is wrong with a configuration, as far as a start would refuse it."""
    problems: tuple[Problem, ...] = ()
    warnings: tuple[str, ...] = ()
    where = options.config or DEFAULTS
    try:
        where = str(source_of(options).find() or DEFAULTS)
        problems, warnings = _check(options)
    except ConfigError as error:
        problems = error.problems
    if options.json:
        print_document(
            {
                "file": where,
                "valid": not problems,
                "problems": [_describe(each) for each in problems],
                "warnings": list(warnings),
            }
        )
        return EX_CONFIG if problems else 0
    for line in (*map(str, problems), *(f"telemetryd: {each}" for each in warnings)):
        complain(line)
    if not problems:
        print(f"{where}: valid")  # noqa: T201 - its data
    return EX_CONFIG if problems else 0


def _check(options: argparse.Namespace) -> tuple[tuple[Problem, ...], tuple[str, ...]]:
    """What is wrong, and what is only to be warned of.

    Raises:
        ConfigError: With every problem of the text.
    """
    source = source_of(options)
    file = source.read()
    ignored = source.conflicts(file)
    if options.offline:
        return (), ignored
    _, config, restrictions = recall(options)
    from telemetryd.cli.verdict import judge_config  # noqa: PLC0415 - heavy imports on demand

    verdict = anyio.run(partial(judge_config, config, file, now=_NOW))
    warnings = (*ignored, *map(str, verdict.warnings))
    if restrictions.damaged:
        what = "not compared with what an earlier start remembers"
        warnings += (f"{what}: {restrictions.damaged}",)
    return verdict.problems, warnings


def _describe(problem: Problem) -> Mapping[str, object]:
    table, _, rest = problem.key.partition(".")
    exporter = rest.partition(".")[0] if table == "exporters" else ""
    return {
        "where": problem.where,
        "line": problem.line or None,
        "key": problem.key,
        "exporter": exporter or None,
        "message": problem.message,
    }


def config_show(options: argparse.Namespace) -> int:
    """Print what is in force and where each value is from."""
    _, config, restrictions = recall(options)
    from telemetryd.config.show import render_in_force  # noqa: PLC0415 - needed here alone

    source = source_of(options)
    found = restrictions.statuses()
    lines = render_in_force(config, source, source.read(), found)
    print_text("".join(f"{line}\n" for line in lines))
    for each in found:
        if not each.restriction.written:
            complain(f"telemetryd: {each.what}: {each.restriction.where}; to end it, {each.end}")
    return 0


def schema(options: argparse.Namespace) -> int:
    """Print the JSON Schema of a payload, of the configuration file or of the report."""
    if options.of_config:
        from telemetryd.config.jsonschema import config_schema  # noqa: PLC0415 - as below

        print_document(config_schema())
        return 0
    if options.of_report:
        from telemetryd.history.reportschema import report_schema  # noqa: PLC0415 - as below

        print_document(report_schema())
        return 0
    from telemetryd.export.payloads.formats import PAYLOAD_FORMATS  # noqa: PLC0415 - heavy imports on demand

    print_document(PAYLOAD_FORMATS[options.format].schema())
    return 0


def completion(options: argparse.Namespace) -> int:
    """Print a completion script."""
    print_text(SHELL_FILES.joinpath(COMPLETIONS[options.shell]).read_text())
    return 0


def version(_options: argparse.Namespace) -> int:
    """Print what runs here."""
    print_text(
        f"telemetryd {__version__}\n"
        f"revision {revision() or 'unknown'}\n"
        f"Python {platform.python_version()} ({sys.executable})\n"
    )
    return 0
