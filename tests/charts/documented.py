"""Commands of `helm` in the documentation: what they name is in the chart."""

import json
from collections.abc import Callable
from itertools import pairwise
from typing import Any, Final

from tests.docs.commands import Command, NoSuchForm
from tests.docs.sandbox import Sandbox
from tests.docs.values import CHART

_VERBS: Final = frozenset({"install", "upgrade", "rollback", "uninstall", "template"})
_CHART: Final = "charts/telemetryd"


def check_helm(command: Command, sandbox: Sandbox, _run: Callable[[str], None]) -> None:
    """The chart and the values files are there, and the chart knows each value that is set.

    That the chart installs, upgrades and goes is what the tests beside this show.
    """
    (words,) = command.simple_commands()
    _, verb, *rest = words
    if verb not in _VERBS:
        raise NoSuchForm(f"{command.where}: teach tests/charts/documented.py helm {verb}")
    if verb in {"install", "upgrade", "template"} and _CHART not in rest:
        raise NoSuchForm(f"{command.where}: of which chart?")
    for option, value in pairwise(rest):
        if option in {"-f", "--values"} and not (sandbox.cwd / value).is_file():
            raise NoSuchForm(f"{command.where}: there is no {value}")
        if option == "--set":
            _find(value.partition("=")[0])


def _find(path: str) -> None:
    place: Any = json.loads((CHART / "values.schema.json").read_text())
    for name in path.split("."):
        if name not in place.get("properties", {}):
            raise NoSuchForm(f"the chart has no value {path}")
        place = place["properties"][name]
