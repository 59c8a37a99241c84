"""What the test kit makes up is what telemetryd itself makes."""

import json
from dataclasses import replace
from typing import Any

import jsonschema
import pytest

from telemetryd.api import ConfigError
from telemetryd.api.testing import make_context, make_payload, make_snapshot, read_table
from telemetryd.export.payloads.formats import PAYLOAD_FORMATS
from tests.api.testing.plugins import Memory, MemoryConfig, keep_the_contract

MEMORY = Memory(keep_the_contract)


@pytest.mark.parametrize("kind", sorted(PAYLOAD_FORMATS))
@pytest.mark.parametrize(("clusters", "nodes"), [(0, 0), (0, 1), (2, 3)])
def test_payload_fits_its_schema(kind: str, clusters: int, nodes: int) -> None:
    payload = make_payload(make_snapshot(clusters=clusters, nodes=nodes), format=kind)
    assert (payload.schema_valid, payload.schema_error) == (True, "")
    jsonschema.validate(json.loads(payload.body), PAYLOAD_FORMATS[kind].schema())


def test_snapshot_counts_its_fleet() -> None:
    totals = make_snapshot(clusters=2, nodes=3).totals
    assert (totals.managed_clusters, totals.local_clusters, totals.nodes) == (2, 1, 9)
    assert (totals.everything.nodes, totals.entitled.nodes) == (9, 6)
    assert not totals.everything.differing_clusters


def test_equal_arguments_make_equal_snapshots_and_payloads() -> None:
    assert make_snapshot() == make_snapshot()
    assert make_payload() == make_payload()
    assert make_payload(make_snapshot(nodes=4)).digest != make_payload().digest


def test_context_has_what_is_given() -> None:
    calls: list[int] = []
    context = make_context(fence=lambda: calls.append(1), attempt=2, sequence=3, epoch=4)
    context.fence()
    assert (calls, context.attempt, context.sequence, context.epoch) == ([1], 2, 3, 4)


def test_table_is_read_as_of_the_configuration_file() -> None:
    config: Any = read_table(MEMORY, {"place": "down", "interval": "2m"})
    assert isinstance(config, MemoryConfig)
    assert config == replace(MemoryConfig(name="it"), place="down", interval_s=120.0, timeout_s=10)


@pytest.mark.parametrize(
    ("table", "problem"),
    [
        ({"place": "dwn"}, 'exporters.it.place: is "dwn": must be one of "up", "down"; did you'),
        ({"plac": "up"}, 'exporters.it.plac: unknown key; did you mean "place"?'),
        ({"interval": "5"}, 'exporters.it.interval: "5" has no unit: write "5s" for seconds'),
        ({"timeout": "2m"}, "exporters.it.timeout: must be shorter than interval"),
        ({"name": "NO"}, "exporters.NO.name: is "),
    ],
)
def test_wrong_table_is_refused_with_the_message_of_the_file(
    table: dict[str, object], problem: str
) -> None:
    with pytest.raises(ConfigError) as raised:
        read_table(MEMORY, table)
    assert problem in str(raised.value)
