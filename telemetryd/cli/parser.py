"""A parser of the command line: errors in one line with the usage, and options anywhere.

Which commands there are is in ``arguments``.
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from telemetryd.config import Assignment
from telemetryd.config.values import did_you_mean, show

EX_USAGE = 64
"""The command line was wrong (sysexits.h)."""


class Parser(argparse.ArgumentParser):
    """A parser whose errors are one line with the usage, and suggest what may have been meant."""

    def error(self, message: str) -> NoReturn:
        """Exit with the status of a usage error."""
        self.print_usage(sys.stderr)
        self.exit(EX_USAGE, f"{self.prog}: {message}\n")

    def parse(self, arguments: Sequence[str], **more: Any) -> argparse.Namespace:
        """Parse a whole command line; exits where it is wrong, or asks for help."""
        self._check_leading(arguments)
        options, rest = self.parse_known_args(arguments, argparse.Namespace(**more))
        if rest:
            options.parser.error(options.parser.explain(rest[0]))
        return options

    def explain(self, unknown: str) -> str:
        """Why an argument isn't taken."""
        if not unknown.startswith("-"):
            return f"unexpected argument {show(unknown)}"
        name = unknown.partition("=")[0]
        return f"unknown option {show(name)}{did_you_mean(name, tuple(self.options))}"

    @property
    def options(self) -> dict[str, argparse.Action]:
        """Each option, by each of its names."""
        return self._option_string_actions

    def _check_leading(self, arguments: Sequence[str]) -> None:
        """An unknown option before the command; its value would be taken for the command."""
        rest = iter(arguments)
        for each in rest:
            name, separator, _ = each.partition("=")
            if not each.startswith("-"):
                return
            action = self.options.get(name)
            if action is None:
                self.error(self.explain(each))
            elif action.nargs != 0 and not separator:
                next(rest, None)

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is None or value in action.choices:
            return
        known = tuple(map(str, action.choices))
        listed = ", ".join(known)
        hint = did_you_mean(str(value), known)
        if isinstance(action, argparse._SubParsersAction):  # noqa: SLF001 - there is no other name
            raise argparse.ArgumentError(None, f"unknown command {show(value)}: {listed}{hint}")
        raise argparse.ArgumentError(action, f"is {show(value)}: must be one of {listed}{hint}")


class _Assign(argparse.Action):
    """Appends to the assignments of the whole command line, wherever the option stands."""

    def __init__(self, *, given: list[Assignment], key: str = "", **rest: Any) -> None:
        super().__init__(default=argparse.SUPPRESS, **rest)
        self._given, self._key = given, key

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        del parser, namespace
        key, separator, text = (self._key, "=", values) if self._key else values.partition("=")
        if not (key and separator):
            raise argparse.ArgumentError(self, f"is {show(values)}: must be KEY=VALUE")
        self._given.append(Assignment(str(option_string), key.strip(), text))


def add_globals(
    parser: argparse.ArgumentParser,
    given: list[Assignment],
    config: Any,
    *,
    has_config: bool = True,
) -> None:
    """Add the options that every command takes; what they set is appended to ``given``."""
    group = parser.add_argument_group("global options, before or after the command")
    if has_config:
        about = "configuration file (TOML)"
        group.add_argument("--config", metavar="FILE", default=config, help=about)
    for option, metavar, key in (
        ("--log-level", "LEVEL", "log_level"),
        ("--kubeconfig", "FILE", "kubernetes.kubeconfig"),
        ("--context", "NAME", "kubernetes.context"),
    ):
        about = f"the same as --set {key}={metavar}"
        group.add_argument(
            option, metavar=metavar, action=_Assign, given=given, key=key, help=about
        )
    group.add_argument(
        "--set",
        metavar="KEY=VALUE",
        action=_Assign,
        given=given,
        help="set one key, above environment and file: server.listen, exporters.NAME.interval",
    )


def adder(
    parser: argparse.ArgumentParser, given: list[Assignment], *, required: bool = True
) -> Callable[..., argparse.ArgumentParser]:
    """A function that adds a command: name, what it does, an example, what carries it out."""
    commands = parser.add_subparsers(metavar="COMMAND", required=required, parser_class=Parser)

    def add(
        name: str, about: str, example: str, command: Any, *, has_config: bool = True
    ) -> argparse.ArgumentParser:
        sub = commands.add_parser(
            name,
            help=about,
            description=about[0].upper() + about[1:] + ".",
            epilog=f"example: {example}",
        )
        sub.set_defaults(command=command, parser=sub)
        add_globals(sub, given, argparse.SUPPRESS, has_config=has_config)
        return sub

    return add
