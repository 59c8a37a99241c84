"""The JSON Schema of the configuration file, made from its declaration: for editors and charts.

It says which keys there are and how each value is written. What must hold between keys it doesn't
say, nor how long a duration or how large a size may be: ``telemetryd check-config`` does. Patterns
are those that RE2 knows too.
"""

import dataclasses
from typing import Any, Final

from telemetryd.config.diff import render_default
from telemetryd.config.docstrings import attributes_of, lead_of
from telemetryd.config.paths import LONGEST_SOCKET_PATH_BYTES, SocketPath
from telemetryd.config.schema import Key, Table, Variants, keys_of
from telemetryd.config.settings import Config
from telemetryd.config.storage import AbsolutePath, Size
from telemetryd.config.values import (
    AUTO,
    DAY_S,
    DURATION_PATTERN,
    Boolean,
    BooleanOrAuto,
    Choice,
    DnsLabel,
    DnsSubdomain,
    Duration,
    Integer,
    Kind,
    Listen,
    Number,
    Text,
    Url,
    Uuid,
    render_duration,
)

DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"

LABEL: Final = "[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?"
# What ends a line or isn't printed, as characters: patterns of RE2 have no escapes for them.
_UNPRINTED: Final = "\x00-\x1f\x7f-\x9f\u2028\u2029"
_ONE_LINE: Final = rf"^[^{_UNPRINTED}]*[^{_UNPRINTED}\s][^{_UNPRINTED}]*$"
_NO_PATH: Final = {"pattern": rf"/\.\.(/|$)|[{_UNPRINTED}]"}
_DURATION: Final = f"^{DURATION_PATTERN}$"
_AT_LEAST_A_SECOND: Final = "[1-9][0-9]*(y|d|h|s|m($|[0-9]))|[1-9][0-9]{3,}ms"
_ABOUT_DAYS: Final = "[1-9][0-9]*[ydh]|[1-9][0-9]{3,}m($|[0-9])|[1-9][0-9]{5,}s|[1-9][0-9]{8,}ms"
"""No pattern adds units up: it refuses no value of two days, and takes some shorter ones."""

Document = dict[str, Any]


def config_schema() -> Document:
    """The schema of the whole file; types that other distributions bring are in it."""
    definitions: Document = {}
    document: Document = {
        "$schema": DIALECT,
        "title": "telemetryd configuration",
        **_table_schema(Config, definitions),
    }
    return {**document, "$defs": definitions}


def _table_schema(declaration: type[Any], definitions: Document) -> Document:
    """A table; the types of an array's tables go to the definitions."""
    said = attributes_of(declaration)
    properties: Document = {}
    for key in keys_of(declaration):
        about = {"description": said[key.attribute]} if key.attribute in said else {}
        match key.kind:
            case Table(inner):
                about = {"description": _lead(inner)}
                properties[key.name] = about | _table_schema(inner, definitions)
            case Variants() as variants:
                properties[key.name] = about | _array_schema(variants, definitions)
            case kind:
                properties[key.name] = _described(key, kind, about)
    document: Document = {"type": "object", "properties": properties, "additionalProperties": False}
    required = [
        key.name
        for key in keys_of(declaration)
        if key.default is dataclasses.MISSING and key.derived is None
    ]
    return document | ({"required": required} if required else {})


def _described(key: Key, kind: Kind[Any], about: Document) -> Document:
    """One key with its meaning, its form and its default."""
    if isinstance(kind, Duration):
        span = f"{render_duration(kind.minimum_s)} to {render_duration(kind.maximum_s)}"
        about = {"description": f"{about.get('description', '')} A duration, {span}.".strip()}
    default = None if key.derived else render_default(key)
    return about | kind_schema(kind) | ({} if default is None else {"default": default})


def _array_schema(variants: Variants, definitions: Document) -> Document:
    """An array of tables whose type chooses what each may have."""
    found = {variant.type: variant for variant in variants.variants}
    for name in variants.more():
        if name not in found and variants.find is not None:
            found[name] = variants.find(name, variants.base)
    chosen = variants.discriminator
    for name, variant in found.items():
        definition = _table_schema(variant, definitions)
        kind = {"const": name, "description": _lead(variant)}
        definition["properties"] = {chosen: kind, **definition["properties"]}
        definitions[name] = {"description": _lead(variant), **definition}
    branches = [
        {
            "if": {"properties": {chosen: {"const": name}}, "required": [chosen]},
            "then": {"$ref": f"#/$defs/{name}"},
        }
        for name in found
    ]
    types = {"enum": list(found), "description": "What kind of exporter it is."}
    return {
        "type": "array",
        "items": {
            "type": "object",
            "properties": {chosen: types},
            "required": [chosen],
            "allOf": branches,
        },
    }


def kind_schema(kind: Kind[Any]) -> Document:  # noqa: C901, PLR0911, PLR0912 - one a kind
    """How a value of this kind is written."""
    match kind:
        case Boolean():
            return {"type": "boolean"}
        case BooleanOrAuto():
            return {"enum": [AUTO, True, False]}
        case Choice(words):
            return {"enum": list(words)}
        case Integer(minimum, maximum):
            return {"type": "integer", "minimum": minimum, "maximum": maximum}
        case Number(minimum, maximum):
            return {"type": "number", "minimum": minimum, "maximum": maximum}
        case Duration(minimum_s):
            return {"type": "string", "minLength": 2, **_durations(minimum_s)}
        case Size():
            return _pattern("[0-9]*[1-9][0-9]*(B|KiB|MiB|GiB|TiB)")
        case AbsolutePath():
            return {"type": "string", "pattern": "^/", "not": _NO_PATH}
        case SocketPath():
            longest = LONGEST_SOCKET_PATH_BYTES
            return {"type": "string", "pattern": "^/", "not": _NO_PATH, "maxLength": longest}
        case Uuid():
            return _pattern("[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
        case Url():
            return _pattern(r"[Hh][Tt][Tt][Pp][Ss]?://[^/?#@\s]+(/[^?#\s]*)?")
        case DnsLabel():
            return _pattern(LABEL)
        case DnsSubdomain():
            return _pattern(rf"{LABEL}(\.{LABEL})*") | {"maxLength": 253}
        case Listen():
            return _pattern(r"(\[[^\]]*\]|[^:\[\]]*):[0-9]{1,5}")
        case Text(_, maximum):
            return {"type": "string", "pattern": _ONE_LINE, "maxLength": maximum}
        case _:
            return {}  # another distribution's: anything


def _durations(minimum_s: float) -> Document:
    """The form, and where it must be long that it is."""
    form = {"pattern": _DURATION}
    if not minimum_s:
        return form
    long = "[1-9]"
    if minimum_s >= 2 * DAY_S:
        long = _ABOUT_DAYS
    elif minimum_s >= 1:
        long = _AT_LEAST_A_SECOND
    return {**form, "if": form, "then": {"pattern": long}}


def _pattern(pattern: str) -> Document:
    return {"type": "string", "pattern": f"^{pattern}$"}


def _lead(declaration: type[Any]) -> str:
    text = lead_of(declaration).rpartition("`: ")[2]
    return text[:1].upper() + text[1:]
