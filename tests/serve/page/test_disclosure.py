"""What the page and ``/status.json`` say is collected, held against what is declared and read."""

import json
import re
from collections.abc import Iterator
from typing import Annotated, Any

import msgspec
import pytest

from telemetryd.cli import run_command
from telemetryd.config import FORMATS, IdentityConfig, PrivacyConfig
from telemetryd.daemon.signals import EarlySignals
from telemetryd.export.payloads import otlp_metrics
from telemetryd.export.payloads.formats import PAYLOAD_FORMATS
from telemetryd.export.payloads.payload import fields_of, sent
from telemetryd.gather.reads import KEYS_READ
from telemetryd.model import Disclosure, SourceKind
from telemetryd.serve.page.disclosure import (
    NEVER_READ,
    FieldState,
    list_fields,
    list_reads,
    render_plugin,
    situation_of,
)
from tests.serve.facts import exporter_status, informer_status

FIELDS = {name: PAYLOAD_FORMATS[name].fields for name in FORMATS} | {"otlp": otlp_metrics.FIELDS}


def leaves(schema: dict[str, Any], path: str = "") -> Iterator[str]:
    """Every key that a document may hold and that holds a value: ``a.b``, ``list[].c``."""
    if properties := schema.get("properties"):
        for name, inner in properties.items():
            yield from leaves(inner, f"{path}.{name}" if path else name)
    elif "items" in schema:
        yield from leaves(schema["items"], f"{path}[]")
    else:
        yield path


@pytest.mark.parametrize("name", FORMATS)
def test_fields_of_a_format_are_those_of_its_schema(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command(["schema", "--format", name], EarlySignals()) == 0
    shown = [field.key for field in FIELDS[name]]
    assert sorted(shown) == sorted(leaves(json.loads(capsys.readouterr().out)))


@pytest.mark.parametrize("name", FIELDS)
def test_declarations_are_phrases_and_each_key_has_one(name: str) -> None:
    fields = FIELDS[name]
    assert len({field.key for field in fields}) == len(fields)
    assert not [field.what for field in fields if re.search(r"[.!]$", field.what)]
    assert all(field.what and field.rancher for field in fields)
    assert {field.privacy for field in fields} <= {"", "server_url", "cluster_ids"}
    assert len(set(NEVER_READ)) == len(NEVER_READ)


def test_field_without_a_declaration_is_an_error() -> None:
    class Inner(msgspec.Struct):
        shown: Annotated[int, sent("Shown", "counted")]
        untold: int

    class Document(msgspec.Struct):
        rows: list[Inner]

    with pytest.raises(TypeError, match=r"^rows\[\]\.untold: nothing is declared of it$"):
        fields_of(Document)


def states(
    name: str,
    source: SourceKind,
    privacy: PrivacyConfig = PrivacyConfig(),  # noqa: B008 - frozen
    identity: IdentityConfig = IdentityConfig(),  # noqa: B008 - frozen
) -> dict[str, FieldState]:
    """What becomes of each field."""
    situation = situation_of(source, privacy, identity)
    listed = list_fields(Disclosure(name, FIELDS[name]), situation)
    return {field.key: field.state for field in listed}


def test_what_privacy_omits_is_listed_as_empty_or_left_out() -> None:
    omitting = PrivacyConfig(server_url="omit", cluster_ids="omit")
    shown = states("fleet", SourceKind.RANCHER, omitting)
    assert shown.pop("installation.server_url") is FieldState.EMPTY
    assert shown.pop("clusters[].id") is FieldState.LEFT_OUT
    assert set(shown.values()) == {FieldState.SENT}
    assert set(states("fleet", SourceKind.RANCHER).values()) == {FieldState.SENT}
    assert set(states("otlp", SourceKind.RANCHER, omitting).values()) == {FieldState.SENT}


def test_plain_kubernetes_has_neither_url_nor_flags_unless_configured() -> None:
    shown = states("scc", SourceKind.KUBERNETES)
    assert shown["subscription.server_url"] is FieldState.EMPTY
    assert shown["feature_flags[]"] is FieldState.LEFT_OUT
    identity = IdentityConfig(server_url="https://a.invalid")
    given = states("scc", SourceKind.KUBERNETES, identity=identity)
    assert given["subscription.server_url"] is FieldState.SENT
    hidden = states("scc", SourceKind.KUBERNETES, PrivacyConfig(server_url="omit"), identity)
    assert hidden["subscription.server_url"] is FieldState.EMPTY


def test_what_is_read_are_the_keys_of_the_types_and_only_of_what_is_followed() -> None:
    assert (
        "status.internalNodeStatus.nodeInfo.kernelVersion"
        in KEYS_READ["nodes.management.cattle.io"]
    )
    assert "status.nodeInfo.kernelVersion" in KEYS_READ["nodes"]
    rancher = situation_of(SourceKind.RANCHER, PrivacyConfig(), IdentityConfig())
    plain = situation_of(SourceKind.KUBERNETES, PrivacyConfig(), IdentityConfig())
    exporters = [exporter_status(type="otlp")]
    informers = [informer_status(resource="nodes"), informer_status(resource="namespaces")]
    read = dict(list_reads(informers, exporters, plain))
    assert list(read) == ["nodes", "namespaces", "API server's /version"]
    assert "cattle" not in str(read)
    settings = [informer_status(resource="settings.management.cattle.io")]
    shown = dict(list_reads(settings, [exporter_status(type="secret")], rancher))
    assert "server-url" in shown["settings.management.cattle.io"]
    assert "The Secret that an exporter writes" in shown
    assert dict(list_reads([], [], rancher)) == {}


def test_plugin_is_named_with_its_version_and_what_it_is_given() -> None:
    given = (("payload.body", "The payload"),)
    shown = render_plugin(Disclosure("scc", (), plugin="some-exporter 1.2", given=given))
    assert shown == {
        "plugin": {
            "distribution": "some-exporter",
            "version": "1.2",
            "given": [{"key": "payload.body", "what": "The payload"}],
        }
    }
    assert render_plugin(Disclosure("scc")) == {}
