"""Walks a decoded file and what is set above it against a declaration; collects every problem."""

import dataclasses
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from telemetryd.config.lines import Path as FilePath
from telemetryd.config.lines import find_lines, line_of
from telemetryd.config.overrides import EXPORTERS, Override, Path
from telemetryd.config.schema import Key, Table, Variants, keys_of
from telemetryd.config.values import InvalidValue, Url, did_you_mean, name_kind, show
from telemetryd.errors import Problem
from telemetryd.redaction import SHORTEST

C = TypeVar("C")

_CREDENTIAL = re.compile(r"_file$|token|passw|passphrase|credential|header|api_?key|_key$")
"""Names of keys that may hold a credential, or one in place of its file."""
_BARE_KEY = re.compile(r"[A-Za-z0-9_-]{1,64}")
_NAME = "name"


@dataclass(frozen=True, slots=True)
class Place:
    """A table or a key.

    Attributes:
        path: By which overrides name it.
        file: By which the file's lines name it.
        shown: In messages.
    """

    path: Path = ()
    file: FilePath = ()
    shown: str = ""

    def join(self, name: str) -> "Place":
        """The place of a key of this table."""
        quoted = name if _BARE_KEY.fullmatch(name) else show(name)
        shown = f"{self.shown}.{quoted}" if self.shown else quoted
        return Place((*self.path, name), (*self.file, name), shown)

    def entry(self, index: int, name: object) -> "Place":
        """The place of a table of this array, by its name, else by its position."""
        file = (*self.file, index)
        if isinstance(name, str) and _BARE_KEY.fullmatch(name):
            return Place((*self.path, name), file, f"{self.shown}.{name}")
        position = f"{self.shown}[#{index + 1}]"
        return Place((*self.path, position), file, position)


@dataclass(frozen=True, slots=True)
class Given:
    """A key that a variable or an option sets, whether or not it is in force."""

    override: Override
    value: object


@dataclass(slots=True)
class Reading:
    """One reading of a file: what is set above it, where each value is from, what is wrong.

    Attributes:
        text: Of the file; its lines are looked up in it.
        given: What the overrides set, in their order.
        conflicts: Overrides that have no effect, and why, a line each.
    """

    where: str
    text: str
    overrides: Sequence[Override] = ()
    problems: list[Problem] = field(default_factory=list)
    given: list[Given] = field(default_factory=list)
    conflicts: list[str] = field(default_factory=list)
    _lines: dict[FilePath, int] | None = None
    _written: dict[Path, Place] = field(default_factory=dict)
    _overridden: dict[Path, str] = field(default_factory=dict)
    _used: set[Path] = field(default_factory=set)
    _exporters: set[str] | None = None
    _same: dict[str | float, str | float] = field(default_factory=dict)

    def read(self, declaration: type[C], table: Mapping[str, object]) -> C | None:
        """The whole file as its declaration, None where there are problems."""
        values = self._read_table(declaration, table, Place())
        self._report_unused()
        return None if self.problems else declaration(**values)

    def origin(self, path: Path) -> str:
        """Where the value of a key is from: ``c.toml:3``, ``$VARIABLE``; empty for the default."""
        if path in self._overridden:
            return self._overridden[path]
        place = self._written.get(path)
        return f"{self.where}:{self._line(place)}" if place else ""

    def _report(self, place: Place, message: str) -> None:
        line = self._line(place) if self.text else 0
        self.problems.append(Problem(self.where, place.shown, message, line))

    def _line(self, place: Place) -> int:
        if self._lines is None:
            self._lines = find_lines(self.text)
        return line_of(place.file, self._lines)

    def _read_table(
        self, declaration: type[Any], table: Mapping[str, object], place: Place
    ) -> dict[str, Any]:
        """Attributes that are valid; what is missing from them has been reported."""
        keys = {key.name: key for key in keys_of(declaration)}
        values: dict[str, Any] = {}
        for name, value in table.items():
            key = keys.get(name)
            if key is None:
                self._report(place.join(name), _unknown_key(name, tuple(keys)))
            else:
                self._read_value(key, value, place.join(name), values)
        for key in keys.values():
            self._override(key, place.join(key.name), values)
            if key.name not in table:
                self._fill(key, place.join(key.name), values)
        for override in self.overrides:
            if override.path[:-1] == place.path and override.path not in self._used:
                self._used.add(override.path)
                message = _unknown_key(override.path[-1], tuple(keys))
                self.problems.append(Problem(override.where, "", message))
        self._check_rules(declaration, values, place)
        return values

    def _check_rules(self, declaration: type[Any], values: dict[str, Any], place: Place) -> None:
        names = {key.attribute: key.name for key in keys_of(declaration)}
        for rule in getattr(declaration, "RULES", ()):
            if not all(name in values for name in rule.of):
                continue
            if not rule.holds(*(values[name] for name in rule.of)):
                self._report_rule([place.join(names[name]) for name in rule.of], rule.message)

    def _report_rule(self, places: Sequence[Place], message: str) -> None:
        """Report at the first place; what isn't from the file is named."""
        first, *others = places
        set_above = [
            f"{place.path[-1]} is set by {self._overridden[place.path]}"
            for place in others
            if place.path in self._overridden
        ]
        if set_above:
            message = f"{message} ({', '.join(set_above)})"
        if first.path in self._overridden:
            self.problems.append(Problem(self._overridden[first.path], "", message))
        else:
            self._report(first, message)

    def _read_value(self, key: Key, value: object, place: Place, values: dict[str, Any]) -> None:
        match key.kind:
            case Table(declaration):
                if isinstance(value, dict):
                    self._add_built(declaration, value, place, values, key.attribute)
                else:
                    message = f"is {show(value)}: must be a table: write [{place.shown}]"
                    self._report(place, message)
            case Variants():
                if isinstance(value, list):
                    self._read_variants(key, key.kind, value, place, values)
                else:
                    message = (
                        f"is {show(value)}: must be an array of tables: write [[{place.shown}]]"
                    )
                    self._report(place, message)
            case kind:
                try:
                    values[key.attribute] = self._share(kind.parse(value))
                except InvalidValue as invalid:
                    self._report(place, _without(value, str(invalid), key.name))
                else:
                    self._written[place.path] = place

    def _add_built(
        self,
        declaration: type[Any],
        table: Mapping[str, object],
        place: Place,
        values: dict[str, Any],
        attribute: str,
    ) -> None:
        known = len(self.problems)
        inner = self._read_table(declaration, table, place)
        if len(self.problems) == known:
            values[attribute] = declaration(**inner)

    def _read_variants(
        self,
        key: Key,
        kind: Variants,
        items: Sequence[object],
        place: Place,
        values: dict[str, Any],
    ) -> None:
        known = len(self.problems)
        taken: dict[tuple[Any, ...], Place] = {}
        built = []
        self._exporters = set()
        for index, item in enumerate(items):
            here = place.entry(index, item.get(_NAME) if isinstance(item, dict) else None)
            if not isinstance(item, dict):
                self._report(here, f"is {show(item)}: must be a table: write [[{place.shown}]]")
                continue
            self._exporters.add(here.path[-1])
            declaration, inner = self._read_variant(kind, item, here)
            self._check_unique(declaration, inner, here, taken)
            if len(self.problems) == known:
                built.append(declaration(**inner))
        if len(self.problems) == known:
            values[key.attribute] = tuple(built)

    def _read_variant(
        self, kind: Variants, item: Mapping[str, object], place: Place
    ) -> tuple[type[Any], dict[str, Any]]:
        by_type = {variant.type: variant for variant in kind.variants}
        rest = {name: value for name, value in item.items() if name != kind.discriminator}
        here = place.join(kind.discriminator)
        given = item.get(kind.discriminator)
        self._refuse_fixed((here, place.join(_NAME)))
        declaration = by_type.get(given) if isinstance(given, str) else None
        if declaration is not None:
            return declaration, self._read_table(declaration, rest, place)
        others = tuple(name for name in kind.more() if name not in by_type)
        if kind.find and isinstance(given, str) and given in others:
            try:
                found = kind.find(given, kind.base)
            except InvalidValue as invalid:
                self._report(here, f"{show(given)} {invalid}")
            else:
                return found, self._read_table(found, rest, place)
        else:
            self._report(here, _unknown_variant(given, (*by_type, *others)))
        self._used |= {each.path for each in self.overrides if each.path[:-1] == place.path}
        common = {key.name for key in keys_of(kind.base)}  # the others may be the meant type's
        return kind.base, self._read_table(
            kind.base, {name: value for name, value in rest.items() if name in common}, place
        )

    def _refuse_fixed(self, places: Sequence[Place]) -> None:
        """An exporter's name and type stand in the file: all other keys depend on them."""
        fixed = {place.path for place in places}
        for override in self.overrides:
            if override.path in fixed - self._used:
                message = f"the {override.path[-1]} of an exporter must be written in the file"
                self.problems.append(Problem(override.where, "", message))
        self._used |= fixed

    def _check_unique(
        self,
        declaration: type[Any],
        values: Mapping[str, Any],
        place: Place,
        taken: dict[tuple[Any, ...], Place],
    ) -> None:
        keys = keys_of(declaration)
        names = {key.attribute: key.name for key in keys}
        for unique in getattr(declaration, "UNIQUE", ()):
            if not all(name in values for name in unique.of):
                continue
            identity = (unique.what, *(unique.same(values[name]) for name in unique.of))
            first = taken.setdefault(identity, place)
            if first != place:
                # The path of a URL may be a credential, as that of a webhook is.
                is_url = any(
                    isinstance(key.kind, Url) for key in keys if key.attribute in unique.of
                )
                shown = "" if is_url else show("/".join(map(str, identity[1:]))) + " "
                of = first.shown
                if first.shown == place.shown:  # the same name
                    line = self._line(first)
                    of = f"the exporter on line {line}" if line else "another exporter"
                self._report_rule(
                    [place.join(names[name]) for name in reversed(unique.of)],
                    f"{shown}is the {unique.what} of {of} too: each needs its own",
                )

    def _override(self, key: Key, place: Place, values: dict[str, Any]) -> None:
        if isinstance(key.kind, Table | Variants):
            return
        for override in self.overrides:
            if override.path != place.path or override.path in self._used:
                continue
            try:
                value = override.parse(key.kind)
            except InvalidValue as invalid:
                message = _without(override.text, str(invalid), key.name)
                self.problems.append(Problem(override.where, "", message))
                continue
            self.given.append(Given(override, value))
            former = values.get(key.attribute)
            if key.restricts and former == key.restricts.value != value:
                self.conflicts.append(
                    f"{override.where} has no effect: {self.origin(place.path)} restricts"
                    f" {place.shown}, and the strictest holds"
                )
                continue
            values[key.attribute] = value
            self._overridden[place.path] = override.where
        self._used.add(place.path)

    def _fill(self, key: Key, place: Place, values: dict[str, Any]) -> None:
        if key.attribute in values:
            return
        if isinstance(key.kind, Table):
            self._add_built(key.kind.declaration, {}, place, values, key.attribute)
        elif isinstance(key.kind, Variants) and self._sets_any_of(place):
            implied = [{_NAME: each.name, "type": each.type} for each in key.default]
            self._read_variants(key, key.kind, implied, place, values)
        elif key.derived is not None:
            if all(name in values for name in key.derived.of):
                made = key.derived.make(*(values[name] for name in key.derived.of))
                values[key.attribute] = self._share(made)
        elif key.default is dataclasses.MISSING:
            self._report(place, "is missing: every entry needs it")
        else:
            values[key.attribute] = key.default

    def _share(self, value: Any) -> Any:
        """One object for equal texts or numbers: exporters have much in common."""
        return self._same.setdefault(value, value) if type(value) in {str, float} else value

    def _sets_any_of(self, place: Place) -> bool:
        return any(each.path[: len(place.path)] == place.path for each in self.overrides)

    def _report_unused(self) -> None:
        """What names an exporter that isn't in the file."""
        known = self._exporters
        if known is None:
            return
        for override in self.overrides:
            name = override.path[1] if override.path[0] == EXPORTERS else ""
            if name and name not in known:
                listed = ", ".join(map(show, sorted(known))) or "none"
                message = f"there is no exporter {show(name)}: the file has {listed}"
                self.problems.append(Problem(override.where, "", message))


def may_be_credential(name: str) -> bool:
    """Whether a key of this name may hold a credential."""
    return _CREDENTIAL.search(name) is not None


def _without(value: object, message: str, name: str) -> str:
    """The message of a kind, which may be another distribution's, about a key of this name."""
    if not may_be_credential(name) or isinstance(value, bool):
        return message
    bare = str(value)
    for shown in (show(value), repr(value), bare):
        # A short one is no credential, and may be a part of any word of the message.
        if shown != name_kind(value) and (shown != bare or len(bare) >= SHORTEST):
            message = message.replace(shown, "a value that isn't shown")
    return message


def _unknown_variant(given: object, known: tuple[str, ...]) -> str:
    listed = ", ".join(show(name) for name in known)
    if given is None:
        return f"is missing: must be {listed}"
    hint = did_you_mean(given, known) if isinstance(given, str) else ""
    return f"is {show(given)}: must be {listed}{hint}"


def _unknown_key(name: str, known: tuple[str, ...]) -> str:
    hint = did_you_mean(name, known)
    return f"unknown key{hint}" if hint else f"unknown key: known here are {', '.join(known)}"
