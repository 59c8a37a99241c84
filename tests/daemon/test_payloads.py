"""From records to bytes, as the daemon wires it: whatever happens, and whose names never leave."""

import hashlib
import hmac
import json
from collections.abc import Iterator
from random import Random
from typing import Any
from uuid import NAMESPACE_DNS, NAMESPACE_OID, NAMESPACE_URL, NAMESPACE_X500, UUID, uuid3, uuid5

from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from telemetryd.config import IdentityConfig
from telemetryd.errors import UnreadableReason
from telemetryd.export.payloads.formats import PAYLOAD_FORMATS
from telemetryd.gather.gatherer import Gatherer
from telemetryd.model import ClusterRecord, Delivery, NodeRecord, Payload, Unreadable
from telemetryd.stats import GatherStats
from tests.gather.readers import (
    CLUSTER_UUID,
    INSTALL_UUID,
    NOW_S,
    Fleet,
    feature,
    node,
)

VALIDATORS = {
    name: Draft202012Validator(each.schema(), format_checker=Draft202012Validator.FORMAT_CHECKER)
    for name, each in PAYLOAD_FORMATS.items()
}
ALPHABET = "bcdfghjklmnpqrstvwxz2456789"
"""What Kubernetes makes random names of (k8s.io/apimachinery/pkg/util/rand)."""


class World:
    """A fleet in memory and everything behind it, down to the bytes."""

    def __init__(self) -> None:
        self.fleet = Fleet()
        self.now_s = NOW_S
        self.gatherer = Gatherer(
            readers=self.fleet.readers(),
            overrides=IdentityConfig(),
            git_hash=lambda: "0123abc",
            now=lambda: self.now_s,
            clock=lambda: self.now_s,
            stats=GatherStats(),
            detailed=True,
        )
        self._renderers = {name: each.renderer() for name, each in PAYLOAD_FORMATS.items()}

    def payload(self, payload_format: str = "fleet") -> Payload:
        render = self._renderers[payload_format]
        return render(self.gatherer.snapshot(), Delivery(self.now_s, 1))

    def document(self, payload_format: str = "fleet") -> dict[str, Any]:
        """The payload, held against its schema."""
        document: dict[str, Any] = json.loads(self.payload(payload_format).body)
        VALIDATORS[payload_format].validate(document)
        return document


uids = st.uuids(version=4).map(str)
unreadables = st.builds(Unreadable, uid=uids, reason=st.sampled_from(UnreadableReason))
names = st.sampled_from(["local", "c-m-7x2kq5zt", "c-4xk2p", "c-m-bcdfghjk"])
nodes = st.builds(
    node,
    st.sampled_from([None, "four", "500m", "4", "9E", 3]),
    st.sampled_from([None, "", "8Gi", "1500m", "9E"]),
    architecture=st.sampled_from(["amd64", ""]),
    roles=st.sampled_from([(), ("etcd", "worker"), ("controlplane",)]),
)
clusters = st.builds(ClusterRecord, uid=uids, kubernetes_version=st.sampled_from(["", "v1.33.1"]))
steps = st.one_of(
    st.tuples(
        st.just("node"),
        st.sampled_from(["local/a", "c-m-bcdfghjk/b", "c-4xk2p/e", "gone/c", "d"]),
        st.none() | unreadables | nodes,
    ),
    st.tuples(st.just("cluster"), names, st.none() | unreadables | clusters),
    st.tuples(st.just("feature"), st.sampled_from(["x", "y"]), st.none() | unreadables),
)


def apply(world: World, step: tuple[str, str, Any]) -> None:
    kind, key, record = step
    store: Any = {
        "node": world.fleet.nodes,
        "cluster": world.fleet.clusters,
        "feature": world.fleet.features,
    }[kind]
    if record is None:
        store.delete(key)
    else:
        store.put(key, record)


def recount(world: World) -> dict[str, Any]:
    """What the fleet payload must say of clusters, nodes and shapes, from the stores alone."""
    held: list[tuple[str, int, int]] = []
    for key in world.fleet.nodes.keys():  # noqa: SIM118 - a store, not a dict
        record = world.fleet.nodes.get(key)
        cpu_nano = memory_nano = 0
        if isinstance(record, NodeRecord):
            cpu_nano, memory_nano = record.shape.cpu_nano or 0, record.shape.memory_nano or 0
        held.append((key.rpartition("/")[0], cpu_nano, memory_nano))
    present = set(world.fleet.clusters.keys())
    counted = [each for each in held if each[0] in present]

    def capped(nano: int, unit: int) -> int:
        return min(-(-nano // unit), 2**63 - 1)

    return {
        "clusters": sorted(
            (
                name == "local",
                sum(cluster == name for cluster, _, _ in counted),
                capped(sum(cpu for cluster, cpu, _ in counted if cluster == name), 10**6),
            )
            for name in present
        ),
        "shapes": len(counted),
        "nodes": len(counted),
        "orphans": len(held) - len(counted),
        "memory": capped(sum(memory for _, _, memory in counted), 10**9),
    }


def facts_of(document: dict[str, Any]) -> dict[str, Any]:
    """The same of a payload."""
    return {
        "clusters": sorted(
            (row["upstream"], row["nodes"], row["cpu_millis"]) for row in document["clusters"]
        ),
        "shapes": sum(row["nodes"] for row in document["node_shapes"]),
        "nodes": document["totals"]["nodes"],
        "orphans": document["totals"]["orphan_nodes"],
        "memory": document["totals"]["memory_bytes"],
    }


@settings(deadline=None)  # other tests share the machine
@given(st.lists(steps, max_size=25))
def test_after_any_deltas_payloads_are_valid_and_the_fleet_equals_a_recount(
    changes: list[tuple[str, str, Any]],
) -> None:
    world = World()
    for step in changes:
        apply(world, step)
        assert facts_of(json.loads(world.payload().body)) == recount(world)
    world.document("scc")
    document = world.document()
    unreadable = sum(row["objects"] for row in document["unreadable"])
    assert document["complete"] is (unreadable == 0)
    assert not any(name in json.dumps(document["incomplete_reasons"]) for name in ("c-", "local"))


@settings(deadline=None)
@given(st.lists(steps, max_size=12), st.randoms(use_true_random=False))
def test_the_same_facts_give_the_same_bytes_whatever_came_before(
    changes: list[tuple[str, str, Any]], rng: Random
) -> None:
    first, second = World(), World()
    for step in changes:
        apply(first, step)
    last: dict[tuple[str, str], Any] = {step[:2]: step for step in changes}
    for key in rng.sample(list(last), len(last)):
        apply(second, last[key])
    ours, theirs = first.payload(), second.payload()
    assert (ours.body, ours.digest) == (theirs.body, theirs.digest)


def test_staleness_shows_in_the_fleet_payload_and_not_in_the_scc_digest() -> None:
    world = World()
    world.fleet.cluster("c-1", node())
    scc, fleet = world.payload("scc"), world.payload()
    world.now_s += 3600
    assert world.payload("scc").digest == scc.digest
    assert world.payload().digest != fleet.digest
    document = world.document()
    assert document["complete"] is False
    assert "nodes.management.cattle.io: no contact for 120 s" in document["incomplete_reasons"]


def rancher_names(rng: Random, count: int) -> Iterator[str]:
    """Names as Rancher gives them to clusters, and to nodes."""
    for _ in range(count):
        yield "c-" + "".join(rng.choices(ALPHABET, k=5))
        yield "c-m-" + "".join(rng.choices(ALPHABET, k=8))
        yield "machine-" + "".join(rng.choices(ALPHABET, k=5))


def guesses(name: str, keys: tuple[UUID, ...]) -> Iterator[str]:
    """All that a reader of the payload could make of a name and see in it, as 32 hex digits."""
    text = name.encode()
    yield from (hashlib.new(how, text).hexdigest() for how in ("md5", "sha1", "sha256"))
    for key in keys:
        for secret in (key.bytes, str(key).encode(), key.hex.encode()):
            yield hmac.digest(secret, text, "sha256").hex()
            yield hashlib.sha256(secret + text).hexdigest()
        yield uuid5(key, name).hex
        yield uuid3(key, name).hex


def without_version(digits: str) -> str:
    """The first 32 digits but for those in which a UUID keeps its version and variant."""
    return digits[:12] + digits[13:16] + digits[17:32]


def test_no_name_is_found_in_any_payload_even_by_trying_every_one() -> None:
    rng = Random(4)
    world = World()
    ours = list(rancher_names(rng, 60))
    fleet_names = ["local", *ours]
    for number, name in enumerate(fleet_names):
        uid = str(UUID(int=rng.getrandbits(128), version=4))
        world.fleet.clusters.put(name, ClusterRecord(uid, "v1.33.1+rke2r1"))
        world.fleet.nodes.put(f"{name}/machine-{ours[number - 1]}", node())
    world.fleet.features.put("fleet", feature(default=True))
    keys = (
        UUID(INSTALL_UUID), UUID(CLUSTER_UUID), NAMESPACE_DNS, NAMESPACE_OID, NAMESPACE_URL,
        NAMESPACE_X500,
    )  # fmt: skip
    document = world.document()
    ids = {without_version(UUID(row["id"]).hex) for row in document["clusters"]}
    assert len(ids) == len(fleet_names)
    for name in (*fleet_names, *rancher_names(rng, 1_500)):
        assert ids.isdisjoint(map(without_version, guesses(name, keys))), name
    for payload_format in PAYLOAD_FORMATS:
        body = world.payload(payload_format).body.decode()
        for name in ours:  # "local" is a kind of cluster too
            assert name not in body, (payload_format, name)


def test_the_guess_would_find_ids_that_were_made_of_names() -> None:
    key = UUID(INSTALL_UUID)
    wrong = hmac.digest(key.bytes, b"c-m-7x2kq5zt", "sha256").hex()
    assert without_version(wrong) in map(without_version, guesses("c-m-7x2kq5zt", (key,)))
