"""Makes the schema of the chart's values, and the files of `deploy/monitoring` that it carries.

`config` of the values mirrors the configuration file: its schema is made of the structs that read
the file. The chart's own values stand in `charts/values.schema.yaml`. The longest durations and
what must hold between most keys are left to `telemetryd check-config`.
"""

import json
import re
from collections.abc import Callable
from dataclasses import MISSING
from pathlib import Path
from typing import Any

import yaml

from telemetryd.config.docstrings import attributes_of
from telemetryd.config.paths import LONGEST_SOCKET_PATH_BYTES, SocketPath
from telemetryd.config.schema import Key, Table, Variants, keys_of
from telemetryd.config.settings import Config
from telemetryd.config.storage import AbsolutePath, Size
from telemetryd.config.values import (
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
)

ROOT = Path(__file__).parents[2]
CHART = ROOT / "charts" / "telemetryd"
OWN_VALUES = ROOT / "charts" / "values.schema.yaml"
MONITORING = ROOT / "deploy" / "monitoring"

Schema = dict[str, Any]

_LABEL = "[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?"
_UUID = "[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}"
_DURATION = "^([0-9]+h)?([0-9]+m)?([0-9]+s)?([0-9]+ms)?$"
_AT_LEAST_A_SECOND = "[1-9][0-9]*(h|s|m($|[0-9]))|[1-9][0-9]{3,}ms"
# Probes and Prometheus come from outside of the pod.
_EVERY_ADDRESS = r"^(0\.0\.0\.0|\[::\])?:[1-9][0-9]{0,4}$"
# What ends a line or isn't printed, as characters: patterns of RE2 have no escapes for them.
_UNPRINTED = "\x00-\x1f\x7f-\x9f\u2028\u2029"
_ONE_LINE = rf"^[^{_UNPRINTED}]*[^{_UNPRINTED}\s][^{_UNPRINTED}]*$"
_LOOPBACK = r"^http://(127\.[0-9.]+|localhost|\[::1\])(:|/|$)"

_REQUIRES = {
    "client_key_file": ("client_cert_file",),
    "tls_cert_file": ("tls_key_file",),
    "tls_key_file": ("tls_cert_file",),
}
"""Keys that have a meaning only beside others."""
_NO_PATH = {"pattern": rf"/\.\.(/|$)|[{_UNPRINTED}]"}
_PATTERNS: dict[type[Kind[Any]], Schema] = {
    Size: {"pattern": "^[0-9]*[1-9][0-9]*(B|KiB|MiB|GiB|TiB)$"},
    Uuid: {"pattern": f"^{_UUID}$"},
    Url: {"pattern": r"^https?://[^\s@?#]+$"},
    DnsLabel: {"pattern": f"^{_LABEL}$"},
    DnsSubdomain: {"pattern": rf"^{_LABEL}(\.{_LABEL})*$", "maxLength": 253},
    SocketPath: {"pattern": "^/", "not": _NO_PATH, "maxLength": LONGEST_SOCKET_PATH_BYTES},
    AbsolutePath: {"pattern": "^/", "not": _NO_PATH},
}
_CREDENTIALS = ("headers_file", "bearer_token_file")
_OF_TLS = ("ca_file", "client_cert_file", "client_key_file")


def render_schema() -> str:
    """`values.schema.json`."""
    load: Any = yaml.safe_load
    schema: Schema = load(OWN_VALUES.read_text())
    schema["definitions"] = {
        kind.__name__: _of_kind(kind()) for kind in (DnsLabel, DnsSubdomain)
    } | _exporters()
    schema["properties"]["config"] = _of_table(Config)
    return json.dumps(schema, indent=1) + "\n"


def render_rules() -> str:
    """The groups of `telemetryd.rules.yml`, without comments."""
    text = (MONITORING / "telemetryd.rules.yml").read_text()
    return re.sub(r"^ *#.*\n", "", text[text.index("\ngroups:") + 1 :], flags=re.MULTILINE)


def render_dashboard() -> str:
    """`dashboard.json` on one line."""
    dashboard = json.loads((MONITORING / "dashboard.json").read_text())
    return json.dumps(dashboard, separators=(",", ":")) + "\n"


FILES: dict[Path, Callable[[], str]] = {
    CHART / "values.schema.json": render_schema,
    CHART / "files" / "telemetryd.rules.yml": render_rules,
    CHART / "files" / "dashboard.json": render_dashboard,
}
"""What is made for the chart, by its path."""


def _of_table(declaration: type[Any]) -> Schema:
    said = attributes_of(declaration)
    properties = {
        key.name: {"description": said[key.attribute], **_of_key(key)}
        for key in keys_of(declaration)
    }
    schema: Schema = {
        "type": "object",
        "additionalProperties": False,
        "properties": properties,
    }
    requires = {name: [*others] for name, others in _REQUIRES.items() if name in properties}
    if requires:
        schema["dependencies"] = requires
    addresses = [key.name for key in keys_of(declaration) if isinstance(key.kind, Url)]
    if addresses and {*_CREDENTIALS, *_OF_TLS} <= {*properties}:
        schema["allOf"] = [rule for name in addresses for rule in _on_plain_http(name)]
    return schema


def _on_plain_http(address: str) -> list[Schema]:
    """No credentials in clear text, and no certificates where there is no TLS."""
    return [
        {
            "if": {
                "anyOf": [
                    {"required": [name], "properties": {name: {"type": "string"}}} for name in names
                ]
            },
            "then": {"properties": {address: {"pattern": pattern}}},
        }
        for pattern, names in ((f"^https://|{_LOOPBACK}", _CREDENTIALS), ("^https://", _OF_TLS))
    ]


def _of_key(key: Key) -> Schema:
    match key.kind:
        case Table(declaration):
            return _of_table(declaration)
        case Variants() as variants:
            return _by_name(variants)
        case Listen():
            return {"type": "string", "pattern": _EVERY_ADDRESS}
        case kind:
            return _or_default(_of_kind(kind))


def _or_default(schema: Schema) -> Schema:
    """`null` gives a key its default, as everywhere in values of Helm."""
    if "enum" in schema:
        return {**schema, "enum": [*schema["enum"], None]}
    return {**schema, "type": [schema["type"], "null"]}


def _by_name(kind: Variants) -> Schema:
    """Exporters as a map: `null` removes one, and plug-ins bring types of their own."""
    return {
        "type": "object",
        "additionalProperties": False,
        "patternProperties": {f"^{_LABEL}$": _of_exporter(kind)},
    }


def _of_exporter(kind: Variants) -> Schema:
    by_type: Schema = {}
    for variant in kind.variants:
        by_type = {
            "if": {
                "type": "object",
                "required": [kind.discriminator],
                "properties": {kind.discriminator: {"const": variant.type}},
            },
            "then": {"$ref": f"#/definitions/exporter-{variant.type}"},
            **({"else": by_type} if by_type else {}),
        }
    return {
        "type": ["object", "null"],
        "required": [kind.discriminator],
        "properties": {kind.discriminator: {"type": "string", "minLength": 1}},
        **by_type,
    }


def _exporters() -> dict[str, Schema]:
    (kind,) = (key.kind for key in keys_of(Config) if isinstance(key.kind, Variants))
    return {f"exporter-{variant.type}": _of_variant(kind, variant) for variant in kind.variants}


def _of_variant(kind: Variants, variant: type[Any]) -> Schema:
    schema = _of_table(variant)
    schema["properties"] = {
        kind.discriminator: {"const": variant.type},
        **{name: known for name, known in schema["properties"].items() if name != "name"},
    }
    required = [
        key.name for key in keys_of(variant) if key.default is MISSING and key.name != "name"
    ]
    if required:
        schema["required"] = required
        for name in required:
            schema["properties"][name]["type"] = "string"
    return schema


def _of_kind(kind: Kind[Any]) -> Schema:  # noqa: PLR0911 - one line a kind
    if type(kind) in _PATTERNS:
        return {"type": "string", **_PATTERNS[type(kind)]}
    match kind:
        case Boolean():
            return {"type": "boolean"}
        case BooleanOrAuto():
            return {"enum": ["auto", True, False]}
        case Choice(words):
            return {"enum": [*words]}
        case Integer(minimum, maximum) | Number(minimum, maximum):
            name = "integer" if isinstance(kind, Integer) else "number"
            return {"type": name, "minimum": minimum, "maximum": maximum}
        case Duration(minimum_s):
            return {"type": "string", "minLength": 2, **_durations(minimum_s)}
        case Text(_, maximum):
            return {"type": "string", "pattern": _ONE_LINE, "maxLength": maximum}
        case _:
            raise AssertionError(f"teach tests/docs/values.py the values of {kind}")


def _durations(minimum_s: float) -> Schema:
    """Its form, and where it has to be long that it is."""
    form = {"pattern": _DURATION}
    if not minimum_s:
        return form
    long = {"pattern": _AT_LEAST_A_SECOND if minimum_s >= 1 else "[1-9]"}
    return {**form, "if": form, "then": long}
