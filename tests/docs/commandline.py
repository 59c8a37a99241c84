"""Makes the table of commands out of the parser of the command line."""

import argparse
from collections.abc import Iterator

from telemetryd.cli.arguments import build_parser
from tests.docs.markdown import table

_HEADINGS = ("command", "does", "options")


def render_commands() -> str:
    """A row for each command, with the options that are its own."""
    return table(_HEADINGS, _rows(build_parser()))


def render_globals() -> str:
    """A row for each option that every command takes."""
    rows = ((f"`{_form(option)}`", _help(option)) for option in _globals(build_parser()))
    return table(("option", "does"), rows)


def _rows(parser: argparse.ArgumentParser) -> Iterator[tuple[str, ...]]:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            about = {each.dest: each.help for each in action._choices_actions}
            for name, sub in action.choices.items():
                yield from list(_rows(sub)) or [_row(sub, str(about[name]))]


def _row(parser: argparse.ArgumentParser, about: str) -> tuple[str, ...]:
    shared = _globals(parser)
    own = [each for each in parser._actions if each not in shared]
    given = [_positional(each) for each in own if not each.option_strings]
    options = [
        f"`{_form(each)}`: {_help(each)}"
        for each in own
        if each.option_strings and each.default != argparse.SUPPRESS
    ]
    return f"`{' '.join([parser.prog, *given])}`", about, "; ".join(options)


def _globals(parser: argparse.ArgumentParser) -> list[argparse.Action]:
    return [
        action
        for group in parser._action_groups
        if str(group.title).startswith("global")
        for action in group._group_actions
    ]


def _positional(action: argparse.Action) -> str:
    name = str(action.metavar) if action.choices is None else "|".join(action.choices)
    return f"[{name}...]" if action.nargs == "*" else name


def _form(action: argparse.Action) -> str:
    option = action.option_strings[-1]
    if action.nargs == 0:
        return option
    if action.choices is not None:
        return f"{option} {'|'.join(action.choices)}"
    return f"{option} {action.metavar or action.dest.upper()}"


def _help(action: argparse.Action) -> str:
    return str(action.help)
