"""Pins the public surface: a change of a name, a parameter or a default shows as a difference.

`python -m tests.api.test_surface` writes `surface.txt` after a change that is meant. What the API
promises stands in `telemetryd/api/__init__.py`: raise `API_VERSION` with the file.
"""

import ast
import dataclasses
import importlib
import inspect
import re
import sys
from collections.abc import Iterator
from enum import Enum
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from telemetryd import api
from telemetryd.api import testing
from telemetryd.config.docstrings import attributes_of

PINNED = Path(__file__).with_name("surface.txt")
MODULES = (api, testing)
PROMISED = {
    "ExporterManager": {
        *("__init__", "run", "register", "unregister", "has", "status", "statuses", "payload"),
        *("start", "stop", "restart", "trigger", "drain_timeout_s"),
    },
    "Gatherer": {"snapshot", "wait_ready", "missing"},
    "KubeClient": {"connect", "server", "login_problem"},
    "HttpTransport": {"post"},
    "Drive": {"calls", "closed", "leads", "manager", "run", "source", "status", "stop"},
}
"""Classes of which only these members are part of the API."""


def surface() -> str:
    """Every public name with its signature, in the words of the source."""
    lines = [f"API_VERSION = {api.API_VERSION}"]
    for module in MODULES:
        lines += ["", f"# {module.__name__}", ""]
        for name in sorted(module.__all__):
            lines += described(module, name)
    return "\n".join(lines) + "\n"


def described(module: ModuleType, name: str) -> Iterator[str]:
    value = getattr(module, name)
    if inspect.isclass(value):
        bases = ", ".join(base.__name__ for base in value.__bases__ if base is not object)
        yield f"class {name}({bases})"
        yield from (f"    {line}" for line in sorted(members(value)))
    elif inspect.isfunction(value):
        yield signature(node_of(inspect.getmodule(value), value.__name__))
    elif name != "API_VERSION":
        yield f"{name} = {ast.unparse(assigned(module, name))}"


def members(kind: type[Any]) -> set[str]:
    """The public fields and methods of a class, with those that it has from classes of ours."""
    if issubclass(kind, Enum):
        return {f"{each.name} = {each.value!r}" for each in kind}
    found = {name: f"{name}: an attribute" for name in attributes_of(kind)}
    ours = [each for each in reversed(kind.__mro__) if each.__module__.startswith("telemetryd")]
    for node in (part for owner in ours for part in body_of(owner)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            found[node.name] = signature(node)
        elif isinstance(node, ast.AnnAssign):
            if "ClassVar" in ast.unparse(node.annotation):
                node.value = None  # the value is the class's own
            found[ast.unparse(node.target)] = ast.unparse(node)
    public = {name for name in found if name[0] != "_" or name == "__init__"}
    return {found[name] for name in public & PROMISED.get(kind.__name__, public)}


def body_of(kind: type[Any]) -> list[ast.stmt]:
    found: list[ast.stmt] = node_of(sys.modules[kind.__module__], kind.__name__).body
    return found


def signature(node: Any) -> str:
    marks = [f"@{ast.unparse(each)} " for each in node.decorator_list]
    kind = "async def" if isinstance(node, ast.AsyncFunctionDef) else "def"
    returns = f" -> {ast.unparse(node.returns)}" if node.returns else ""
    return f"{''.join(marks)}{kind} {node.name}({ast.unparse(node.args)}){returns}"


@cache
def tree(file: str) -> ast.Module:
    return ast.parse(Path(file).read_text())


def node_of(module: ModuleType | None, name: str) -> Any:
    assert module is not None
    assert module.__file__ is not None
    named = (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    (node,) = (
        each for each in tree(module.__file__).body if isinstance(each, named) and each.name == name
    )
    return node


def assigned(module: ModuleType, name: str) -> ast.expr:
    """What a name is assigned in the module that it is imported from."""
    assert module.__file__ is not None
    (origin,) = (
        each.module
        for each in tree(module.__file__).body
        if isinstance(each, ast.ImportFrom) and name in {alias.name for alias in each.names}
    )
    source = importlib.import_module(str(origin)).__file__
    assert source is not None
    (value,) = (
        each.value
        for each in tree(source).body
        if isinstance(each, ast.AnnAssign)
        and ast.unparse(each.target) == name
        and each.value is not None
    )
    return value


def test_public_names_and_signatures_are_those_that_are_pinned() -> None:
    assert surface() == PINNED.read_text(), "run `python -m tests.api.test_surface`, if it is meant"


def test_members_that_are_promised_of_a_part_are_documented_and_there() -> None:
    for name, members in PROMISED.items():
        if name != "Drive":
            said = (api.__doc__ or "").partition(f"``{name}``")[2].partition("\n-")[0]
            assert members - {"__init__", "connect"} <= set(re.findall(r"``(\w+)``", said)), name
    assert "made by its ``connect``" in (api.__doc__ or "")


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.__name__)
def test_every_public_name_can_be_imported_and_no_other_is_listed(module: ModuleType) -> None:
    namespace: dict[str, Any] = {}
    exec(f"from {module.__name__} import *", namespace)
    assert {name for name in namespace if name != "__builtins__"} == set(module.__all__)
    assert len(set(module.__all__)) == len(module.__all__)


def public() -> Iterator[Any]:
    for module in MODULES:
        for name in module.__all__:
            value = getattr(module, name)
            if inspect.isclass(value):
                yield pytest.param(value, id=name)
                for key, member in vars(value).items():
                    called = inspect.isfunction(member) or isinstance(
                        member, property | classmethod | staticmethod
                    )
                    if called and key[0] != "_":
                        yield pytest.param(member, id=f"{name}.{key}")
            elif inspect.isfunction(value):
                yield pytest.param(value, id=name)


@pytest.mark.parametrize("value", list(public()))
def test_every_public_name_has_a_docstring_of_its_own(value: Any) -> None:
    said = inspect.getdoc(value) or ""
    # What a dataclass or a Protocol makes up is no documentation.
    assert said
    assert not said.startswith(f"{getattr(value, '__name__', '')}(")


VALUES = [
    pytest.param(value, id=name)
    for module in MODULES
    for name in module.__all__
    if dataclasses.is_dataclass(value := getattr(module, name)) and dataclasses.fields(value)
]


@pytest.mark.parametrize("kind", VALUES)
def test_every_attribute_of_a_public_value_is_documented(kind: type[Any]) -> None:
    said = " ".join(inspect.getdoc(each) or "" for each in kind.__mro__)
    names = [each.name for each in dataclasses.fields(kind) if each.name[0] != "_"]
    assert not [name for name in names if not re.search(rf"\b{name}\b", said)]


if __name__ == "__main__":
    PINNED.write_text(surface())
