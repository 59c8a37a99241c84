"""Core nodes: roles in every form since 1.20, and no label's value in a record."""

import json
from typing import Any

import msgspec
import pytest

from telemetryd.errors import UnreadableReason
from telemetryd.gather.plain import CORE_NODES, CoreNodeObject
from telemetryd.informer.decode import ObjectDecoder
from telemetryd.model import NodeRecord, Unreadable
from tests.apiserver.fixtures import core_node

META = {"name": "n", "uid": "u-1", "resourceVersion": "7"}
ROLE = "node-role.kubernetes.io/"


def decode(labels: Any, **changes: Any) -> NodeRecord | Unreadable:
    content = core_node("n", roles=())
    content["metadata"] |= META | {"labels": labels}
    return ObjectDecoder(CORE_NODES).decode(json.dumps(content | changes).encode()).value


def roles(labels: Any) -> tuple[str, ...]:
    record = decode(labels)
    assert isinstance(record, NodeRecord)
    return record.shape.roles


def test_a_core_node_becomes_its_uid_and_its_shape() -> None:
    record = decode({f"{ROLE}etcd": "true"})
    assert isinstance(record, NodeRecord)
    assert record.uid == "u-1"
    shape = record.shape
    assert (shape.architecture, shape.operating_system) == ("amd64", "linux")
    assert shape.container_runtime == "containerd://2.0.5"
    assert shape.kernel_version == "6.4.0-150600.23-default"
    assert (shape.cpu_nano, shape.memory_nano) == (4 * 10**9, 16384256 * 1024 * 10**9)


@pytest.mark.parametrize("value", ["", "true", "false", None])
@pytest.mark.parametrize(
    ("key", "role"),
    [
        (f"{ROLE}control-plane", "controlplane"),
        (f"{ROLE}controlplane", "controlplane"),
        (f"{ROLE}master", "controlplane"),
        (f"{ROLE}etcd", "etcd"),
        (f"{ROLE}worker", "worker"),
    ],
)
def test_the_label_alone_gives_the_role_whatever_its_value(
    key: str, role: str, value: str | None
) -> None:
    assert roles({key: value, "kubernetes.io/hostname": "x"}) == (role,)


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ({f"{ROLE}control-plane": "", f"{ROLE}master": ""}, ("controlplane",)),
        (
            {f"{ROLE}control-plane": "true", f"{ROLE}etcd": "true", f"{ROLE}master": "true"},
            ("controlplane", "etcd"),
        ),
        (
            {f"{ROLE}controlplane": "true", f"{ROLE}etcd": "true", f"{ROLE}worker": "true"},
            ("controlplane", "etcd", "worker"),
        ),
        ({"kubernetes.io/role": "master"}, ("controlplane",)),
        ({"kubernetes.io/role": "control-plane"}, ("controlplane",)),
        ({"kubernetes.io/role": "worker"}, ("worker",)),
        ({"kubernetes.io/role": "etcd", f"{ROLE}worker": ""}, ("etcd", "worker")),
        ({"kubernetes.io/role": "agent", f"{ROLE}agent": ""}, ()),
        ({"kubernetes.io/role": 5}, ()),
        ({"kubernetes.io/role": None}, ()),
        ({f"{ROLE}infra": "true", "node-role.kubernetes.io": "worker"}, ()),
        ({"x/node-role.kubernetes.io/worker": "true"}, ()),
        ({}, ()),
        (None, ()),
    ],
)
def test_roles_in_the_forms_of_distributions(labels: Any, expected: tuple[str, ...]) -> None:
    assert roles(labels) == expected


def test_labels_and_status_that_are_missing_or_null_report_nothing() -> None:
    for status in (None, {}, {"capacity": None, "nodeInfo": None}):
        record = decode({}, status=status)
        assert isinstance(record, NodeRecord)
        shape = record.shape
        assert (shape.architecture, shape.cpu_nano, shape.memory_nano) == ("", None, None)


def test_labels_of_another_type_cost_the_object_alone() -> None:
    record = decode(["a"])
    assert isinstance(record, Unreadable)
    assert record.reason is UnreadableReason.TYPE


def test_no_other_label_becomes_an_object_that_is_kept() -> None:
    labels = {"example.com/owner": "SENTINEL-owner", f"{ROLE}worker": "SENTINEL-value"}
    assert "SENTINEL" not in repr(decode(labels))
    raw = json.dumps({"kind": "Node", "metadata": META | {"labels": labels}}).encode()
    decoded = msgspec.json.decode(raw, type=CoreNodeObject)
    assert decoded.metadata is not None
    assert decoded.metadata.labels is not None
    kept = msgspec.structs.asdict(decoded.metadata.labels)
    assert [name for name, raw in kept.items() if raw] == ["worker"]
    assert not any(b"SENTINEL-owner" in bytes(raw) for raw in kept.values())
