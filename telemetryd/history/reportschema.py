"""JSON Schema of what ``telemetryd report --format json`` prints."""

from typing import Any, Final

from telemetryd.history.entitlement import METHODS, PRESETS
from telemetryd.history.report import DAY, MONTH
from telemetryd.history.slots import Gap

_TIME: Final = {"type": "string", "format": "date-time"}
_COUNT: Final = {"type": "integer", "minimum": 0}
_NUMBER: Final = {"type": "number", "minimum": 0}


def report_schema() -> dict[str, Any]:
    """The schema, for JSON Schema 2020-12. Members may be added; those that are here stay."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "telemetryd report",
        "description": "The report of one installation, or with --all-installations of each.",
        "oneOf": [
            {"$ref": "#/$defs/report"},
            {"type": "array", "items": {"$ref": "#/$defs/report"}},
        ],
        "$defs": {"report": _report(), "rule": _rule(), "period": _period()},
    }


def _report() -> dict[str, Any]:
    return _object(
        installation=_about("Install UUID.", {"type": "string"}),
        instance=_about("The host whose record it is.", {"type": "string"}),
        since=_about("The first hour that is known; null for none.", _or_null(_TIME)),
        made=_about("The end of what is counted: when it was made, or --to.", _TIME),
        by=_about("The length of the periods, in UTC.", {"enum": [DAY, MONTH]}),
        rule={"$ref": "#/$defs/rule"},
        periods={"type": "array", "items": {"$ref": "#/$defs/period"}},
    )


def _rule() -> dict[str, Any]:
    return _object(
        preset=_about("null for a rule of your own.", {"enum": [*PRESETS, None]}),
        unit={"enum": ["node", "core", "cluster"]},
        scope={"enum": ["managed", "all"]},
        method={"enum": [*METHODS]},
        minimum=_about("Units that are counted at least.", _COUNT),
        per_license=_about("Units of a license.", {"type": "integer", "minimum": 1}),
        limit=_about("In licenses; null for none.", _or_null(_COUNT)),
    )


def _period() -> dict[str, Any]:
    peak = _object(value=_NUMBER, at=_about("The beginning of its first hour.", _TIME))
    counts = {"type": "object", "additionalProperties": _COUNT}
    hours = _object(
        total=_about("Of the period, up to now.", _NUMBER),
        known=_about("With a count, complete or not.", _NUMBER),
        complete=_about("With a complete count.", _NUMBER),
        gaps=_about(
            "Hours without one, by reason.",
            {
                "type": "object",
                "propertyNames": {"enum": [str(gap) for gap in Gap]},
                "additionalProperties": _NUMBER,
            },
        ),
    )
    return _object(
        **{"from": _TIME},
        to=_about("The moment after its last.", _TIME),
        figure=_about("By the rule, in its unit; null where nothing is known.", _or_null(_NUMBER)),
        licenses=_or_null(_COUNT),
        peak=_or_null(peak),
        mean=_about("Of complete counts, weighted by time.", _or_null(_NUMBER)),
        hours=hours,
        versions=_about("Of the product.", {"type": "array", "items": {"type": "string"}}),
        providers=_about("The most clusters of each distribution.", counts),
        kubernetes=_about("The most clusters of each Kubernetes minor version.", counts),
        digest=_about(
            "SHA-256 over installation, rule and hours.",
            {"type": "string", "pattern": "^[0-9a-f]{64}$"},
        ),
    )


def _object(**members: Any) -> dict[str, Any]:
    return {"type": "object", "required": [*members], "properties": members}


def _about(words: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"description": words, **schema}


def _or_null(schema: dict[str, Any]) -> dict[str, Any]:
    kind = schema["type"]
    return {**schema, "type": [kind, "null"]}
