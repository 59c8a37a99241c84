"""Makes the schema of the chart's values, and the files of `deploy/monitoring` that it carries.

`config` of the values mirrors the configuration file: its schema is that of the file
(`telemetryd/config/jsonschema.py`) in the forms of Helm. Exporters are a map by name, `null` gives
a key its default, and what no pod can use is refused. The chart's own values stand in
`charts/values.schema.yaml`.
"""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from telemetryd.config.jsonschema import LABEL, config_schema, kind_schema
from telemetryd.config.values import DnsLabel, DnsSubdomain

ROOT = Path(__file__).parents[2]
CHART = ROOT / "charts" / "telemetryd"
OWN_VALUES = ROOT / "charts" / "values.schema.yaml"
MONITORING = ROOT / "deploy" / "monitoring"

Schema = dict[str, Any]

# Probes and Prometheus come from outside of the pod.
_EVERY_ADDRESS = r"^(0\.0\.0\.0|\[::\])?:[1-9][0-9]{0,4}$"
_HTTPS = "^[Hh][Tt][Tt][Pp][Ss]://"
_LOOPBACK = r"^[Hh][Tt][Tt][Pp]://(127\.[0-9.]+|localhost|\[::1\])(:|/|$)"

_REQUIRES = {
    "client_key_file": ("client_cert_file",),
    "tls_cert_file": ("tls_key_file",),
    "tls_key_file": ("tls_cert_file",),
}
"""Keys that have a meaning only beside others."""
_ADDRESSES = ("url", "endpoint")
_CREDENTIALS = ("headers_file", "bearer_token_file")
_OF_TLS = ("ca_file", "client_cert_file", "client_key_file")


def render_schema() -> str:
    """`values.schema.json`."""
    load: Any = yaml.safe_load
    schema: Schema = load(OWN_VALUES.read_text())
    file = config_schema()
    schema["definitions"] = {
        kind.__name__: kind_schema(kind()) for kind in (DnsLabel, DnsSubdomain)
    } | {f"exporter-{name}": _of_exporter(table) for name, table in file["$defs"].items()}
    schema["properties"]["config"] = _of_table(file)
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


def _of_table(table: Schema) -> Schema:
    """A table of the file; of what the file says, a default is the chart's own to say."""
    properties = {name: _of_key(name, known) for name, known in table["properties"].items()}
    schema: Schema = {
        "type": "object",
        "additionalProperties": False,
        "properties": properties,
    }
    requires = {name: [*others] for name, others in _REQUIRES.items() if name in properties}
    if requires:
        schema["dependencies"] = requires
    if {*_CREDENTIALS, *_OF_TLS} <= {*properties}:
        addresses = [name for name in _ADDRESSES if name in properties]
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
        for pattern, names in ((f"{_HTTPS}|{_LOOPBACK}", _CREDENTIALS), (_HTTPS, _OF_TLS))
    ]


def _of_key(name: str, known: Schema) -> Schema:
    about = {"description": known["description"]}
    if name == "listen":
        return {**about, "type": "string", "pattern": _EVERY_ADDRESS}
    if known.get("type") == "array":
        return {**about, **_by_name(known["items"])}
    if "properties" in known:
        return {**about, **_of_table(known)}
    return _or_default({key: each for key, each in known.items() if key != "default"})


def _or_default(schema: Schema) -> Schema:
    """`null` gives a key its default, as everywhere in values of Helm."""
    if "enum" in schema:
        return {**schema, "enum": [*schema["enum"], None]}
    return {**schema, "type": [schema["type"], "null"]}


def _by_name(items: Schema) -> Schema:
    """Exporters as a map: `null` removes one, and plug-ins bring types of their own."""
    ((discriminator, types),) = items["properties"].items()
    by_type: Schema = {}
    for name in types["enum"]:
        by_type = {
            "if": {
                "type": "object",
                "required": [discriminator],
                "properties": {discriminator: {"const": name}},
            },
            "then": {"$ref": f"#/definitions/exporter-{name}"},
            **({"else": by_type} if by_type else {}),
        }
    exporter = {
        "type": ["object", "null"],
        "required": [discriminator],
        "properties": {discriminator: {"type": "string", "minLength": 1}},
        **by_type,
    }
    return {
        "type": "object",
        "additionalProperties": False,
        "patternProperties": {f"^{LABEL}$": exporter},
    }


def _of_exporter(table: Schema) -> Schema:
    """One type of exporter, whose name is its key in the map."""
    known = {name: each for name, each in table["properties"].items() if name != "name"}
    chosen = {name: each for name, each in known.items() if "const" in each}
    rest = {name: each for name, each in known.items() if name not in chosen}
    schema = _of_table({"properties": rest})
    schema["properties"] = chosen | schema["properties"]
    required = [name for name in table["required"] if name != "name"]
    if required:
        schema["required"] = required
        for name in required:
            schema["properties"][name]["type"] = "string"
    return schema
