"""Walks a decoded table against a declaration and collects every problem on the way.

A declaration is a dataclass whose fields are ``Annotated`` with a kind of ``values`` or with one
of the marks below. No key of the file is known here: they stand in ``settings``.
"""

import dataclasses
import re
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, TypeVar

from telemetryd.config.values import InvalidValue, Kind, Url, did_you_mean, name_kind, show
from telemetryd.errors import Problem
from telemetryd.redaction import SHORTEST

C = TypeVar("C")

_CREDENTIAL = re.compile(r"_file$|token|passw|passphrase|credential|header|api_?key|_key$")
"""Names of keys that may hold a credential, or one in place of its file."""
_BARE_KEY = re.compile(r"[A-Za-z0-9_-]{1,64}")


@dataclass(frozen=True, slots=True)
class Env:
    """An environment variable that overrides the key; unset and empty are the same."""

    variable: str


@dataclass(frozen=True, slots=True)
class Derived:
    """A default that is made from other attributes of the same table."""

    of: tuple[str, ...]
    make: Callable[..., Any]


@dataclass(frozen=True, slots=True)
class Rule:
    """What must hold between attributes of one table; reported at the first of them."""

    of: tuple[str, ...]
    holds: Callable[..., bool]
    message: str


@dataclass(frozen=True, slots=True)
class Unique:
    """Attributes that no two entries of an array may share; reported at the last of them."""

    of: tuple[str, ...]
    what: str
    same: Callable[[Any], Any] = lambda value: value
    """Equal for values that mean the same."""


@dataclass(frozen=True, slots=True)
class Table:
    """The key holds a table of this declaration."""

    declaration: type[Any]


@dataclass(frozen=True, slots=True)
class Variants:
    """The key holds an array of tables whose ``type`` chooses the declaration.

    Attributes:
        base: What every variant has.
        variants: Each a dataclass with a class attribute ``type``.
        more: Names of variants that come from elsewhere; asked when a table has another type.
        find: The declaration of one of those names; raises InvalidValue.
    """

    base: type[Any]
    variants: tuple[type[Any], ...]
    more: Callable[[], tuple[str, ...]] = tuple
    find: Callable[[str, type[Any]], type[Any]] | None = None
    discriminator: ClassVar[str] = "type"


@dataclass(frozen=True, slots=True)
class Key:
    """One key of a declaration.

    Attributes:
        default: ``dataclasses.MISSING`` where the key is required.
    """

    name: str
    attribute: str
    kind: Kind[Any] | Table | Variants
    default: Any
    derived: Derived | None
    env: Env | None


def keys_of(declaration: type[Any]) -> tuple[Key, ...]:
    """The keys that a declaration accepts, in its order."""
    hints = typing.get_type_hints(declaration, include_extras=True)
    return tuple(_key(each, hints[each.name]) for each in dataclasses.fields(declaration))


def _key(declared: "dataclasses.Field[Any]", hint: Any) -> Key:
    if typing.get_origin(hint) is not Annotated:
        raise TypeError(f"{declared.name} has no kind: annotate it")
    kind, *marks = hint.__metadata__
    return Key(
        name=declared.name.removesuffix(getattr(kind, "suffix", "")),
        attribute=declared.name,
        kind=kind,
        default=declared.default,
        derived=next((mark for mark in marks if isinstance(mark, Derived)), None),
        env=next((mark for mark in marks if isinstance(mark, Env)), None),
    )


@dataclass(slots=True)
class Reading:
    """One reading of a file: where from, what overrides it, what is wrong with it."""

    where: str
    environ: Mapping[str, str]
    problems: list[Problem] = field(default_factory=list)

    def read(self, declaration: type[C], table: Mapping[str, object]) -> C | None:
        """The whole file as its declaration, None where there are problems."""
        values = self._read_table(declaration, table, "")
        return None if self.problems else declaration(**values)

    def _report(self, path: str, message: str) -> None:
        self.problems.append(Problem(self.where, path, message))

    def _read_table(
        self, declaration: type[Any], table: Mapping[str, object], path: str
    ) -> dict[str, Any]:
        """Attributes that are valid; what is missing from them has been reported."""
        keys = {key.name: key for key in keys_of(declaration)}
        values: dict[str, Any] = {}
        for name, value in table.items():
            key = keys.get(name)
            if key is None:
                self._report(_join(path, name), _unknown_key(name, tuple(keys)))
            else:
                self._read_value(key, value, _join(path, name), values)
        for key in keys.values():
            self._override(key, values)
            if key.name not in table:
                self._fill(key, path, values)
        for rule in getattr(declaration, "RULES", ()):
            if all(name in values for name in rule.of) and not rule.holds(
                *(values[name] for name in rule.of)
            ):
                name = next(key.name for key in keys.values() if key.attribute == rule.of[0])
                self._report(_join(path, name), rule.message)
        return values

    def _read_value(self, key: Key, value: object, path: str, values: dict[str, Any]) -> None:
        match key.kind:
            case Table(declaration):
                if isinstance(value, dict):
                    self._add_built(declaration, value, path, values, key.attribute)
                else:
                    self._report(path, f"is {show(value)}: must be a table: write [{path}]")
            case Variants():
                if isinstance(value, list):
                    self._read_variants(key, key.kind, value, path, values)
                else:
                    self._report(
                        path, f"is {show(value)}: must be an array of tables: write [[{path}]]"
                    )
            case kind:
                try:
                    values[key.attribute] = kind.parse(value)
                except InvalidValue as invalid:
                    self._report(path, _without(value, str(invalid), key.name))

    def _add_built(
        self,
        declaration: type[Any],
        table: Mapping[str, object],
        path: str,
        values: dict[str, Any],
        attribute: str,
    ) -> None:
        known = len(self.problems)
        inner = self._read_table(declaration, table, path)
        if len(self.problems) == known:
            values[attribute] = declaration(**inner)

    def _read_variants(
        self,
        key: Key,
        kind: Variants,
        items: Sequence[object],
        path: str,
        values: dict[str, Any],
    ) -> None:
        known = len(self.problems)
        taken: dict[tuple[Any, ...], str] = {}
        built = []
        for index, item in enumerate(items):
            here = f"{path}[{index}]"
            if not isinstance(item, dict):
                self._report(here, f"is {show(item)}: must be a table: write [[{path}]]")
                continue
            declaration, inner = self._read_variant(kind, item, here)
            self._check_unique(declaration, inner, here, taken)
            if len(self.problems) == known:
                built.append(declaration(**inner))
        if len(self.problems) == known:
            values[key.attribute] = tuple(built)

    def _read_variant(
        self, kind: Variants, item: Mapping[str, object], path: str
    ) -> tuple[type[Any], dict[str, Any]]:
        by_type = {variant.type: variant for variant in kind.variants}
        rest = {name: value for name, value in item.items() if name != kind.discriminator}
        given = item.get(kind.discriminator)
        declaration = by_type.get(given) if isinstance(given, str) else None
        if declaration is not None:
            return declaration, self._read_table(declaration, rest, path)
        here = _join(path, kind.discriminator)
        others = tuple(name for name in kind.more() if name not in by_type)
        if kind.find and isinstance(given, str) and given in others:
            try:
                found = kind.find(given, kind.base)
            except InvalidValue as invalid:
                self._report(here, f"{show(given)} {invalid}")
            else:
                return found, self._read_table(found, rest, path)
        else:
            self._report(here, _unknown_variant(given, (*by_type, *others)))
        common = {key.name for key in keys_of(kind.base)}  # the others may be the meant type's
        return kind.base, self._read_table(
            kind.base, {name: value for name, value in rest.items() if name in common}, path
        )

    def _check_unique(
        self,
        declaration: type[Any],
        values: Mapping[str, Any],
        path: str,
        taken: dict[tuple[Any, ...], str],
    ) -> None:
        keys = keys_of(declaration)
        names = {key.attribute: key.name for key in keys}
        for unique in getattr(declaration, "UNIQUE", ()):
            if not all(name in values for name in unique.of):
                continue
            identity = (unique.what, *(unique.same(values[name]) for name in unique.of))
            first = taken.setdefault(identity, path)
            if first != path:
                # The path of a URL may be a credential, as that of a webhook is.
                is_url = any(
                    isinstance(key.kind, Url) for key in keys if key.attribute in unique.of
                )
                shown = "" if is_url else show("/".join(map(str, identity[1:]))) + " "
                self._report(
                    _join(path, names[unique.of[-1]]),
                    f"{shown}is the {unique.what} of {first} too: each needs its own",
                )

    def _override(self, key: Key, values: dict[str, Any]) -> None:
        given = self.environ.get(key.env.variable) if key.env else None
        if key.env is None or not given or isinstance(key.kind, Table | Variants):
            return
        try:
            values[key.attribute] = key.kind.parse(given)
        except InvalidValue as invalid:
            self.problems.append(Problem(f"${key.env.variable}", "", str(invalid)))

    def _fill(self, key: Key, path: str, values: dict[str, Any]) -> None:
        if key.attribute in values:
            return
        if isinstance(key.kind, Table):
            self._add_built(key.kind.declaration, {}, _join(path, key.name), values, key.attribute)
        elif key.derived is not None:
            if all(name in values for name in key.derived.of):
                values[key.attribute] = key.derived.make(*(values[name] for name in key.derived.of))
        elif key.default is dataclasses.MISSING:
            self._report(_join(path, key.name), "is missing: every entry needs it")
        else:
            values[key.attribute] = key.default


def _without(value: object, message: str, name: str) -> str:
    """The message of a kind, which may be another distribution's, about a key of this name."""
    if not _CREDENTIAL.search(name) or isinstance(value, bool):
        return message
    bare = str(value)
    for shown in (show(value), repr(value), bare):
        # A short one is no credential, and may be a part of any word of the message.
        if shown != name_kind(value) and (shown != bare or len(bare) >= SHORTEST):
            message = message.replace(shown, "a value that isn't shown")
    return message


def _join(path: str, name: str) -> str:
    quoted = name if _BARE_KEY.fullmatch(name) else show(name)
    return f"{path}.{quoted}" if path else quoted


def _unknown_variant(given: object, known: tuple[str, ...]) -> str:
    listed = ", ".join(show(name) for name in known)
    if given is None:
        return f"is missing: must be {listed}"
    hint = did_you_mean(given, known) if isinstance(given, str) else ""
    return f"is {show(given)}: must be {listed}{hint}"


def _unknown_key(name: str, known: tuple[str, ...]) -> str:
    hint = did_you_mean(name, known)
    return f"unknown key{hint}" if hint else f"unknown key: known here are {', '.join(known)}"
