"""Makes the reference of the configuration out of the structs that read it.

What a key may be is what telemetryd itself says to a value that it may not be.
"""

import json
from collections.abc import Iterator
from dataclasses import MISSING
from typing import Any

from telemetryd.config.diff import IN_PLACE, is_reloadable
from telemetryd.config.docstrings import attributes_of, lead_of
from telemetryd.config.schema import Key, Rule, Table, Unique, Variants, keys_of
from telemetryd.config.settings import Config
from telemetryd.config.values import Duration, InvalidValue, Kind, render_duration
from tests.docs.markdown import table

_RIGHT = "must be "
_QUOTES = (", without quotes", " without quotes", " in quotes")
_HEADINGS = ("key", "value", "default", "meaning", "a change of it")


def render_configuration() -> str:
    """Every table, with every key that it accepts."""
    return "\n".join(_sections()).rstrip() + "\n"


def form_of(kind: Kind[Any]) -> str:
    """What a value may be, in words."""
    if isinstance(kind, Duration):
        return f"a duration, {_complaint(kind, '-1s').partition(_RIGHT)[2]}"
    said = _complaint(kind, {}).partition(_RIGHT)[2]
    for rest in (";", ": "):
        said = said.partition(rest)[0]
    for quotes in _QUOTES:
        said = said.replace(quotes, "")
    return said


def _complaint(kind: Kind[Any], value: object) -> str:
    try:
        kind.parse(value)
    except InvalidValue as invalid:
        return str(invalid)
    raise AssertionError(f"{kind} takes {value!r}")


def _sections() -> Iterator[str]:
    keys = keys_of(Config)
    plain = [key for key in keys if not isinstance(key.kind, Table | Variants)]
    yield "## Top level\n"
    yield _table_of(Config, plain, "")
    for key in keys:
        match key.kind:
            case Table(declaration):
                yield f"## `[{key.name}]`\n"
                yield f"{_lead(declaration)}\n"
                yield _table_of(declaration, list(keys_of(declaration)), f"{key.name}.")
                yield from _rules(declaration)
            case Variants() as variants:
                yield from _variants(key.name, variants)


def _variants(name: str, kind: Variants) -> Iterator[str]:
    common = keys_of(kind.base)
    types = ", ".join(f'`"{variant.type}"`' for variant in kind.variants)
    said = attributes_of(kind.base)
    yield f"## `[[{name}]]`\n"
    yield "One table per exporter. What every type takes:\n"
    rows = [_row(key, said, _change_of(key), _defaults(key, kind)) for key in common]
    chosen = (
        f"`{kind.discriminator}`",
        f"one of {types}, or one that another distribution brings",
        "required",
        "What kind of exporter it is.",
        "exporter restarts",
    )
    yield table(_HEADINGS, [rows[0], chosen, *rows[1:]])
    yield from _rules(kind.base)
    shared = {key.name for key in common}
    for variant in kind.variants:
        yield f'### Type `"{variant.type}"`\n'
        yield f"{_lead(variant)}\n"
        said = attributes_of(variant)
        own = [key for key in keys_of(variant) if key.name not in shared]
        yield table(_HEADINGS, [_row(key, said, _change_of(key)) for key in own])
        yield from _rules(variant, beyond=kind.base)


def _lead(declaration: type[Any]) -> str:
    text = lead_of(declaration).rpartition("`: ")[2]
    return text[:1].upper() + text[1:]


def _table_of(declaration: type[Any], keys: list[Key], path: str) -> str:
    said = attributes_of(declaration)
    rows = (
        _row(key, said, "at once" if is_reloadable(f"{path}{key.name}") else "restart")
        for key in keys
    )
    return table(_HEADINGS, rows)


def _row(
    key: Key, said: dict[str, str], change: str, default: str | None = None
) -> tuple[str, ...]:
    assert not isinstance(key.kind, Table | Variants)
    assert key.attribute in said, f"say in the docstring of its table what {key.attribute} means"
    meaning = said[key.attribute]
    if key.env is not None:
        meaning = f"{meaning.rstrip('.')}. `${key.env.variable}` overrides it."
    return (f"`{key.name}`", form_of(key.kind), default or _default(key), meaning, change)


def _change_of(key: Key) -> str:
    return "in place" if key.name in IN_PLACE else "exporter restarts"


def _default(key: Key) -> str:
    if key.default is MISSING:
        return "required"
    if key.derived is not None:
        names = " and ".join(f"`{name.removesuffix('_s')}`" for name in key.derived.of)
        return f"from {names}"
    if key.default is None:
        return "none"
    if isinstance(key.kind, Duration):
        return f'`"{render_duration(key.default)}"`'
    plain = isinstance(key.default, bool | int | float | str)
    return f"`{json.dumps(key.default if plain else str(key.default))}`"


def _defaults(key: Key, kind: Variants) -> str:
    """The default of every type, and those of the types that have another."""
    usual = _default(key)
    by_default: dict[str, list[str]] = {}
    for variant in kind.variants:
        (own,) = (each for each in keys_of(variant) if each.name == key.name)
        if _default(own) != usual:
            by_default.setdefault(_default(own), []).append(f'`"{variant.type}"`')
    others = [f"{default} for {' and '.join(types)}" for default, types in by_default.items()]
    return "; ".join((usual, *others))


def _rules(declaration: type[Any], *, beyond: type[Any] = object) -> Iterator[str]:
    names = {key.attribute: f"`{key.name}`" for key in keys_of(declaration)}
    known = (*getattr(beyond, "RULES", ()), *getattr(beyond, "UNIQUE", ()))
    rules: list[Rule] = [r for r in getattr(declaration, "RULES", ()) if r not in known]
    unique: list[Unique] = [u for u in getattr(declaration, "UNIQUE", ()) if u not in known]
    by_message: dict[str, list[str]] = {}
    for rule in rules:
        by_message.setdefault(rule.message, []).append(names[rule.of[0]])
    lines = [f"- {', '.join(keys)}: {message}." for message, keys in by_message.items()]
    lines += [
        f"- No two exporters may have the same {' and '.join(names[name] for name in each.of)}."
        for each in unique
    ]
    if lines:
        yield "\n".join(
            ("What else must hold, as `telemetryd check-config` tells it:\n", *lines, "")
        )
