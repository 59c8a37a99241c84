"""What the environment and the command line set: one key each, above the file.

Every key has a variable, ``TELEMETRYD_<TABLE>__<KEY>``, and can be given as ``--set KEY=VALUE``. An
exporter is named, as in ``TELEMETRYD_EXPORTERS__MY_HTTP__INTERVAL`` or
``exporters.my-http.interval``, and must be in the file. Whether a value fits its key is checked
when the file is read.
"""

import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, Final, TypeVar

from telemetryd.config.schema import Key, Table, Variants, keys_of
from telemetryd.config.settings import Config
from telemetryd.config.values import Boolean, BooleanOrAuto, InvalidValue, Kind
from telemetryd.errors import Problem

T = TypeVar("T")

ENVIRONMENT: Final = "environment"
OPTION: Final = "option"
EXPORTERS: Final = "exporters"
PREFIX: Final = "TELEMETRYD_"
ENABLED_VARIABLE: Final = "TELEMETRYD_ENABLED"
CONFIG_VARIABLE: Final = "TELEMETRYD_CONFIG"
YES: Final = frozenset({"true", "1", "yes", "on"})
NO: Final = frozenset({"false", "0", "no", "off"})

_SEPARATOR: Final = "__"
_INJECTED: Final = re.compile(r"TELEMETRYD_(SERVICE_.*|PORT.*)")
"""What Kubernetes adds in the namespace of a Service that is called telemetryd."""
_ANOTHER_SERVICE: Final = re.compile(r"TELEMETRYD_\w+_(SERVICE_HOST|SERVICE_PORT\w*|PORT(_\w+)?)")
_NO_OVERRIDE: Final = frozenset({CONFIG_VARIABLE, ENABLED_VARIABLE})
"""The first names the file; the second only switches off, see ``restrictions``."""
_QUOTES: Final = re.compile(r",? without quotes| in quotes")

Path = tuple[str, ...]
"""``("server", "listen")``, ``("exporters", NAME, "interval")``, ``("log_level",)``."""


@dataclass(frozen=True, slots=True)
class Assignment:
    """One key that the command line sets.

    Attributes:
        option: As it was written: ``--set``, ``--log-level``.
        key: ``server.listen``, ``exporters.NAME.interval``.
        text: The value.
    """

    option: str
    key: str
    text: str


@dataclass(frozen=True, slots=True)
class Override:
    """One key that a variable or an option sets.

    Attributes:
        source: ``environment`` or ``option``.
        where: ``$TELEMETRYD_LOG_LEVEL``, ``--set log_level``.
        text: The value.
    """

    source: str
    where: str
    path: Path
    text: str

    def parse(self, kind: Kind[T]) -> T:
        """The value as its key takes it: as text, or as TOML writes it.

        Raises:
            InvalidValue: It doesn't fit.
        """
        candidates = [self.text, *_as_toml(self.text, kind)]
        if self.source == OPTION:
            candidates.reverse()
        for candidate in candidates:
            try:
                return kind.parse(candidate)
            except InvalidValue:
                continue
        try:
            return kind.parse(self.text)
        except InvalidValue as invalid:
            raise InvalidValue(_QUOTES.sub("", str(invalid))) from None


def find_overrides(
    environ: Mapping[str, str], assignments: Iterable[Assignment]
) -> tuple[tuple[Override, ...], tuple[Problem, ...]]:
    """What is set, the stronger later, and which variables and options name no key.

    Args:
        environ: An empty variable counts as unset.
        assignments: Of the command line, in its order; the last one of a key wins.
    """
    found: list[Override] = []
    problems: list[Problem] = []
    for name, text in environ.items():
        if not name.startswith(PREFIX) or not text or name in _NO_OVERRIDE:
            continue
        path = _second_variables().get(name) or _path_of(name)
        if path is not None:
            found.append(Override(ENVIRONMENT, f"${name}", path, text))
        elif not _INJECTED.fullmatch(name):
            problems.append(Problem(f"${name}", "", _unknown_variable(name)))
    # A second variable is the weaker one.
    found.sort(key=lambda each: each.where.removeprefix("$") not in _second_variables())
    for each in assignments:
        path = tuple(each.key.split("."))
        where = f"{each.option} {each.key}" if each.option == "--set" else each.option
        if is_key(path):
            found.append(Override(OPTION, where, path, each.text))
        else:
            problems.append(Problem(where, "", _unknown_key(each.key)))
    return tuple(found), tuple(problems)


def variable_of(path: Path) -> str:
    """The variable of a key."""
    return PREFIX + _SEPARATOR.join(part.upper().replace("-", "_") for part in path)


def is_key(path: Path) -> bool:
    """Whether there is such a key; of an exporter any key may be, its type is known later."""
    if path[0] == EXPORTERS:
        return len(path) == 3 and all(path)  # noqa: PLR2004 - array, name, key
    return path in _plain_keys()


@cache
def _plain_keys() -> dict[Path, Key]:
    """All keys that aren't an exporter's."""
    return dict(_walk(Config, ()))


@cache
def _second_variables() -> dict[str, Path]:
    return {key.env.variable: path for path, key in _plain_keys().items() if key.env}


def _walk(declaration: type[Any], path: Path) -> Iterator[tuple[Path, Key]]:
    for key in keys_of(declaration):
        match key.kind:
            case Table(inner):
                yield from _walk(inner, (*path, key.name))
            case Variants():
                continue
            case _:
                yield (*path, key.name), key


def _path_of(variable: str) -> Path | None:
    """The key of a variable, None where it is none's."""
    rest = variable.removeprefix(PREFIX)
    table, separator, key = rest.partition(_SEPARATOR)
    path: Path = (table.lower(), key.lower()) if separator else (table.lower(),)
    if path[0] == EXPORTERS and separator:
        name, _, last = key.rpartition(_SEPARATOR)
        path = (path[0], name.lower().replace("_", "-"), last.lower())
    return path if is_key(path) and variable_of(path) == variable else None


def _unknown_variable(name: str) -> str:
    if _ANOTHER_SERVICE.fullmatch(name):
        return (
            "unknown variable: if Kubernetes adds it for a Service, set enableServiceLinks to "
            "false in the pod"
        )
    known = [*map(variable_of, _plain_keys()), *_NO_OVERRIDE]
    near = _near(name.upper(), known)
    if near:
        return f"unknown variable; did you mean {near[0]}?"
    return (
        "unknown variable: write TELEMETRYD_KEY, TELEMETRYD_TABLE__KEY or "
        "TELEMETRYD_EXPORTERS__NAME__KEY"
    )


def _near(name: str, known: list[str]) -> list[str]:
    from difflib import get_close_matches  # noqa: PLC0415 - for mistakes alone

    return get_close_matches(name, known, n=1, cutoff=0.7)


def _unknown_key(key: str) -> str:
    known = [".".join(path) for path in _plain_keys()]
    near = _near(key.lower(), known)
    # A key alone, whose table was left out.
    near = near or [each for each in known if each.partition(".")[2] == key.lower()][:1]
    if near:
        return f"unknown key; did you mean {near[0]}?"
    return "unknown key: write KEY, TABLE.KEY or exporters.NAME.KEY"


def _as_toml(text: str, kind: Kind[Any]) -> list[object]:
    """What the text is in TOML, none where it isn't TOML."""
    word = text.strip().lower()
    if isinstance(kind, Boolean | BooleanOrAuto) and word in YES | NO:
        return [word in YES]
    try:
        table = tomllib.loads(f"value = {text}")
    except (ValueError, RecursionError):
        return []
    return [table["value"]] if table.keys() == {"value"} else []
