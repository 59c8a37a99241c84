"""Makes what a shell knows of the command line: completion for bash, zsh and fish, and a man page.

``make docs`` writes the files, which are part of the package. They are made from the parser, by
shtab and argparse-manpage.
"""

import argparse
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import shtab
from argparse_manpage.manpage import Manpage

from telemetryd import __version__
from telemetryd.cli.arguments import build_parser
from telemetryd.cli.configcommands import COMPLETIONS, SHELL_FILES

MAN_PAGE = "telemetryd.1"
_COMPLETED = {"FILE": shtab.FILE, "DIR": shtab.DIRECTORY}


def render_files() -> dict[str, str]:
    """The content of each file, by its name."""
    files = {
        name: shtab.complete(_parser(), shell=shell).rstrip() + "\n"
        for shell, name in COMPLETIONS.items()
    }
    with _undated():
        data = {
            "project_name": "telemetryd",
            "description": "telemetry daemon for Rancher and Kubernetes",
            "version": __version__,
            "manual_title": "telemetryd",
        }
        page = str(Manpage(_parser(), _data=data))  # type: ignore[no-untyped-call]
    # The date would be that of the build.
    return files | {MAN_PAGE: page.replace('"1970\\-01\\-01"', '""', 1).rstrip() + "\n"}


def write_files() -> None:
    """Write them where the package has them."""
    SHELL_FILES.mkdir(exist_ok=True)
    for name, text in render_files().items():
        Path(SHELL_FILES, name).write_text(text)


def _parser() -> argparse.ArgumentParser:
    parser = build_parser()
    for action in _actions(parser):
        if isinstance(action.metavar, str) and action.metavar in _COMPLETED:
            action.complete = _COMPLETED[action.metavar]  # type: ignore[attr-defined]
    return parser


def _actions(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    for action in parser._actions:  # noqa: SLF001 - as shtab does
        yield action
        if isinstance(action, argparse._SubParsersAction):  # noqa: SLF001 - as shtab does
            for inner in action.choices.values():
                yield from _actions(inner)


@contextmanager
def _undated() -> Iterator[None]:
    """argparse-manpage takes the day of today otherwise; and lines are as wide as the terminal."""
    kept = {name: os.environ.get(name) for name in ("SOURCE_DATE_EPOCH", "COLUMNS")}
    os.environ.update(SOURCE_DATE_EPOCH="0", COLUMNS="100")
    try:
        yield
    finally:
        for name, value in kept.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
