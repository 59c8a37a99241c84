"""How keys are declared; ``reading`` walks a decoded table against such a declaration.

A declaration is a dataclass whose fields are ``Annotated`` with a kind of ``values`` or with one
of the marks below. No key of the file is known here: they stand in ``settings``.
"""

import dataclasses
import typing
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Final

from telemetryd.config.values import Kind


@dataclass(frozen=True, slots=True)
class Env:
    """A second variable of the key, beside the one that every key has, which beats it."""

    variable: str


@dataclass(frozen=True, slots=True)
class Restricts:
    """The value of the key that restricts: where any source gives it, it holds."""

    value: object


@dataclass(frozen=True, slots=True)
class Derived:
    """A default that is made from other attributes of the same table.

    Attributes:
        of: Names of the attributes.
        make: Gets their values, and returns the default.
    """

    of: tuple[str, ...]
    make: Callable[..., Any]


@dataclass(frozen=True, slots=True)
class Rule:
    """What must hold between attributes of one table; reported at the first of them.

    Attributes:
        of: Names of the attributes.
        holds: Gets their values.
        message: Continues the name of the first key: ``must be shorter than interval``.
    """

    of: tuple[str, ...]
    holds: Callable[..., bool]
    message: str


@dataclass(frozen=True, slots=True)
class Unique:
    """Attributes that no two entries of an array may share; reported at the last of them.

    Attributes:
        of: Names of the attributes.
        what: They are, for messages: ``directory``.
        same: Returns what is equal for values that mean the same.
    """

    of: tuple[str, ...]
    what: str
    same: Callable[[Any], Any] = lambda value: value


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
    restricts: Restricts | None


def keys_of(declaration: type[Any]) -> tuple[Key, ...]:
    """The keys that a declaration accepts, in its order."""
    found = _FOUND.get(declaration)
    if found is None:
        hints = typing.get_type_hints(declaration, include_extras=True)
        found = tuple(_key(each, hints[each.name]) for each in dataclasses.fields(declaration))
        _FOUND[declaration] = found
    return found


_FOUND: Final[dict[type[Any], tuple[Key, ...]]] = {}
"""Looking them up costs more than the rest of a reading."""


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
        restricts=next((mark for mark in marks if isinstance(mark, Restricts)), None),
    )
