"""Label and field selectors: which objects a list or a watch is about."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from telemetryd.demo import status
from telemetryd.demo.objects import StoredObject

_NOT_IN = "notin"  # codespell:ignore notin
_SET_BASED = re.compile(rf"(?P<key>\S+)\s+(?P<operator>in|{_NOT_IN})\s+\((?P<values>[^)]*)\)")
_EQUALITY = re.compile(r"(?P<key>[^=!\s]+)\s*(?P<operator>==|=|!=)\s*(?P<values>[^=!\s]*)")
_EXISTENCE = re.compile(r"(?P<operator>!?)(?P<key>[^=!\s()]+)")
_OUTSIDE_PARENTHESES = re.compile(r",(?![^(]*\))")
_FIELDS = ("metadata.name", "metadata.namespace")


@dataclass(frozen=True, slots=True)
class Requirement:
    """One term of a selector.

    Attributes:
        values: What the key's value is compared with; empty asks whether the key exists.
        negated: The term holds where the comparison doesn't; a key that is missing then fits.
    """

    key: str
    values: frozenset[str]
    negated: bool

    def matches(self, values: Mapping[str, str]) -> bool:
        """Whether a set of labels, or of fields, fits."""
        held = values.get(self.key)
        found = held is not None and (not self.values or held in self.values)
        return found is not self.negated


@dataclass(frozen=True, slots=True)
class Selector:
    """Terms that must all hold; without any, everything matches."""

    labels: tuple[Requirement, ...] = ()
    fields: tuple[Requirement, ...] = ()

    @property
    def everything(self) -> bool:
        """Whether nothing is selected out."""
        return not (self.labels or self.fields)

    @property
    def name(self) -> str:
        """The one name that can match, empty where there may be several."""
        return next(
            (
                value
                for term in self.fields
                for value in term.values
                if term.key == "metadata.name" and not term.negated
            ),
            "",
        )

    def matches(self, stored: StoredObject | None) -> bool:
        """Whether an object is selected; what doesn't exist is not."""
        if stored is None:
            return False
        if self.fields:
            fields = {"metadata.name": stored.name, "metadata.namespace": stored.namespace}
            if not all(term.matches(fields) for term in self.fields):
                return False
        return all(term.matches(stored.labels) for term in self.labels)


def parse_selector(labels: str, fields: str) -> Selector:
    """A selector from the ``labelSelector`` and ``fieldSelector`` parameters.

    Raises:
        BadRequest: It can't be parsed, or asks for another field than name and namespace.
    """
    return Selector(_parse_labels(labels), _parse_fields(fields))


def _parse_labels(text: str) -> tuple[Requirement, ...]:
    terms = []
    for part in _OUTSIDE_PARENTHESES.split(text) if text else ():
        term = part.strip()
        if match := _SET_BASED.fullmatch(term):
            values = frozenset(value.strip() for value in match["values"].split(","))
            terms.append(Requirement(match["key"], values, match["operator"] == _NOT_IN))
        elif match := _EQUALITY.fullmatch(term):
            terms.append(_equality(match))
        elif match := _EXISTENCE.fullmatch(term):
            terms.append(Requirement(match["key"], frozenset(), bool(match["operator"])))
        else:
            raise status.BadRequest(f"unable to parse requirement: {term}")
    return tuple(terms)


def _parse_fields(text: str) -> tuple[Requirement, ...]:
    terms = []
    for part in text.split(",") if text else ():
        match = _EQUALITY.fullmatch(part.strip())
        if match is None:
            raise status.BadRequest(f"invalid selector: '{text}'; can't understand '{part}'")
        if match["key"] not in _FIELDS:
            raise status.BadRequest(f"field label not supported: {match['key']}")
        terms.append(_equality(match))
    return tuple(terms)


def _equality(match: re.Match[str]) -> Requirement:
    return Requirement(match["key"], frozenset({match["values"]}), match["operator"] == "!=")
