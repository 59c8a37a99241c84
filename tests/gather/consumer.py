"""What reads the SCC payload, apart from all that telemetryd knows of it.

``rancher-schema.json`` is the schema in ``pkg/telemetry/schemas`` of Rancher v2.15.0, without its
prose. What scc-operator reads, and what ends it, is that of its ``internal/telemetry`` and
``internal/semver`` in July 2026.
"""

import json
import re
import uuid
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from jsonschema import Draft202012Validator

UPSTREAM_SCHEMA: dict[str, Any] = json.loads(
    Path(__file__).with_name("rancher-schema.json").read_text()
)
_VALIDATOR = Draft202012Validator(
    UPSTREAM_SCHEMA, format_checker=Draft202012Validator.FORMAT_CHECKER
)
_NUMBERS = re.compile(r"[0-9]+\.[0-9]+\.[0-9]+")
_NUMBER = r"(?:0|[1-9][0-9]*)"
_WORD = rf"(?:{_NUMBER}|[0-9]*[a-zA-Z-][0-9a-zA-Z-]*)"
_SEMANTIC = re.compile(
    rf"v?{_NUMBER}\.{_NUMBER}(?P<patch>\.{_NUMBER})?(?P<prerelease>-{_WORD}(?:\.{_WORD})*)?"
    r"(?:\+[0-9a-zA-Z-]+(?:\.[0-9a-zA-Z-]+)*)?"
)


class Product(NamedTuple):
    """What scc-operator registers."""

    identifier: str
    version: str
    arch: str


def accepted(body: bytes | str) -> Product:
    """What scc-operator makes of the payload, which both of its readers take."""
    document = json.loads(body, parse_constant=_refuse)
    assert isinstance(document, dict)
    checked = document
    if not _NUMBERS.fullmatch(document["version"]):
        # The one deviation: a version that has no three numbers stays as it is.
        assert document["version"] == document["subscription"]["version"]
        checked = {**document, "version": "0.0.0"}
    _VALIDATOR.validate(checked)
    return registered(document)


def registered(document: dict[str, Any]) -> Product:
    """What scc-operator registers; each assertion is one whose failure ends it."""
    subscription = document["subscription"]
    assert isinstance(subscription, dict)
    for key in ("installuuid", "product", "version", "arch", "git"):
        assert isinstance(subscription[key], str), key
    assert isinstance(document["version"], str)
    for key in ("installuuid", "clusteruuid"):
        uuid.UUID(subscription[key])
    return Product(
        subscription["product"], product_version(document["version"]), subscription["arch"]
    )


def product_version(version: str) -> str:
    """The version in the product that it registers, ``other`` for builds without a release."""
    found = _SEMANTIC.fullmatch(version)
    is_release = found is not None and bool(found["patch"]) and not found["prerelease"]
    return version.removeprefix("v") if is_release else "other"


def _refuse(name: str) -> NoReturn:
    raise AssertionError(f"{name} is no JSON")
