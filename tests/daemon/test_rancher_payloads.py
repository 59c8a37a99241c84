"""The SCC payload of ordinary fleets, held against what Rancher's own code computes of them."""

import gzip
import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from telemetryd.gather.clusters import CLUSTERS
from telemetryd.gather.project import NODES
from tests.daemon.test_payloads import World

DATA = Path(__file__).parents[1] / "export" / "data" / "rancher-payloads.ndjson.gz"
FLEETS = [json.loads(line) for line in gzip.decompress(DATA.read_bytes()).splitlines()]
COMPUTED = [fleet for fleet in FLEETS if "payload" in fleet["rancher"]]


def rows(document: dict[str, Any], key: str) -> list[Any]:
    """Rows without their order."""
    return sorted(document[key] or [], key=lambda row: sorted(map(str, row.items())))


@pytest.mark.parametrize("fleet", COMPUTED, ids=range(len(COMPUTED)))
def test_payload_of_an_ordinary_fleet_is_ranchers_own(fleet: dict[str, Any]) -> None:
    world = World()
    for each in fleet["clusters"]:
        name = each["metadata"]["name"]
        decoded = msgspec.json.decode(json.dumps(each), type=CLUSTERS.object_type)
        world.fleet.clusters.put(name, CLUSTERS.project(name, decoded))
    for each in fleet["nodes"]:
        key = f"{each['metadata']['namespace']}/{each['metadata']['name']}"
        node = msgspec.json.decode(json.dumps(each), type=NODES.object_type)
        world.fleet.nodes.put(key, NODES.project(key, node))
    for name, value in fleet["settings"].items():
        world.fleet.set(name, value)
    ours, theirs = world.document("scc"), fleet["rancher"]["payload"]
    assert ours["version"] == theirs["version"]
    assert ours["subscription"]["server_url"] == theirs["subscription"]["server_url"]
    assert ours["subscription"]["installuuid"] == theirs["subscription"]["installuuid"]
    for key in ("managedSystems", "managedClusters"):
        assert rows(ours, key) == rows(theirs, key)


def test_most_of_the_fleets_have_an_answer() -> None:
    assert len(COMPUTED) > 30
