"""The allow-list: raw JSON in, records out, each field null and of a wrong type in turn."""

import copy
import json
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

from telemetryd.errors import UnreadableObject, UnreadableReason
from telemetryd.gather.clusters import CLUSTERS
from telemetryd.gather.project import (
    FEATURES,
    KUBE_SYSTEM,
    NODES,
    PROJECTS,
    SETTINGS,
    SETTINGS_READ,
)
from telemetryd.informer.decode import ObjectDecoder
from telemetryd.informer.resource import KubeObject, Resource
from telemetryd.model import (
    Amounts,
    ClusterRecord,
    ClusterTraits,
    FeatureRecord,
    NamespaceRecord,
    NodeRecord,
    ProjectRecord,
    SettingRecord,
    Unreadable,
)

SYSTEM_LABEL = "authz.management.cattle.io/system-project"
META = {"name": "n", "uid": "u-1", "resourceVersion": "7"}
NODE: dict[str, Any] = {
    "apiVersion": "management.cattle.io/v3",
    "kind": "Node",
    "metadata": {**META, "namespace": "c-m-7x2kq", "labels": {"private": "x"}},
    "spec": {
        "etcd": True,
        "controlPlane": True,
        "worker": False,
        "requestedHostname": "private",
        "internalNodeSpec": {"unschedulable": False, "taints": [], "podCIDR": "private"},
    },
    "status": {
        "nodeName": "cp-0",
        "internalNodeStatus": {
            "capacity": {"cpu": "4", "memory": "16384256Ki", "pods": "110"},
            "nodeInfo": {
                "architecture": "amd64",
                "operatingSystem": "linux",
                "containerRuntimeVersion": "containerd://2.0.5",
                "kernelVersion": "6.4.0",
                "machineID": "private",
            },
            "addresses": [{"type": "Hostname", "address": "private"}],
        },
    },
}
CLUSTER: dict[str, Any] = {
    "kind": "Cluster",
    "metadata": {**META, "labels": {}, "annotations": {"private": "x"}},
    "spec": {
        "displayName": "private",
        **{f"{kind}Config": {"private": "x"} for kind in ("aks", "ali", "eks", "gke")},
        "genericEngineConfig": {"private": "x"},
    },
    "status": {
        "version": {"gitVersion": "v1.33.1"},
        "nodeCount": 3,
        "capacity": {"cpu": "12"},
        "requested": {},
        "conditions": [],
    },
}
FEATURE: dict[str, Any] = {
    "kind": "Feature",
    "metadata": META,
    "spec": {"value": True},
    "status": {"default": True, "dynamic": False, "lockedValue": False, "prime": True},
}
PROJECT: dict[str, Any] = {
    "kind": "Project",
    "metadata": {**META, "namespace": "local", "labels": {SYSTEM_LABEL: "true", "other": "x"}},
    "spec": {"displayName": "System"},
}
SETTING: dict[str, Any] = {
    "kind": "Setting",
    "metadata": {**META, "name": "server-version"},
    "value": "v2.15.0",
    "default": "dev",
    "customized": False,
    "source": "env",
}
NAMESPACE: dict[str, Any] = {"kind": "Namespace", "metadata": {**META, "name": "kube-system"}}

KINDS: list[tuple[Resource[Any, Any], dict[str, Any]]] = [
    (NODES, NODE),
    (CLUSTERS, CLUSTER),
    (FEATURES, FEATURE),
    (PROJECTS, PROJECT),
    (SETTINGS, SETTING),
    (KUBE_SYSTEM, NAMESPACE),
]


def decode(resource: Resource[Any, Any], content: dict[str, Any]) -> Any:
    return ObjectDecoder(resource).decode(json.dumps(content).encode()).value


def declared(kind: type[msgspec.Struct], path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Paths of all fields that a struct declares, as they are named in JSON."""
    for field in msgspec.structs.fields(kind):
        here = (*path, field.encode_name)
        yield here
        for option in getattr(field.type, "__args__", ()):
            if isinstance(option, type) and issubclass(option, msgspec.Struct):
                yield from declared(option, here)


FIELDS = [
    pytest.param(resource, content, path, id=f"{resource.plural}-{'.'.join(path)}")
    for resource, content in KINDS
    for path in declared(resource.object_type)
]


def changed(content: dict[str, Any], path: tuple[str, ...], value: object) -> dict[str, Any]:
    result = copy.deepcopy(content)
    parent = result
    for name in path[:-1]:
        parent = parent[name]
    parent[path[-1]] = value
    return result


@pytest.mark.parametrize(("resource", "content", "path"), FIELDS)
def test_null_in_a_declared_field_is_fine_unless_it_names_the_object(
    resource: Resource[Any, Any], content: dict[str, Any], path: tuple[str, ...]
) -> None:
    record = decode(resource, changed(content, path, None))
    names = {("metadata",), ("metadata", "uid"), ("metadata", "name"), ("metadata", "namespace")}
    names.add(("metadata", "resourceVersion"))
    if path in names and (resource.namespaced or path[-1] != "namespace"):
        assert isinstance(record, Unreadable)
        assert record.reason is UnreadableReason.MISSING
    else:
        assert not isinstance(record, Unreadable)


@pytest.mark.parametrize(("resource", "content", "path"), FIELDS)
def test_a_wrong_type_in_a_declared_field_makes_that_object_unreadable(
    resource: Resource[Any, Any], content: dict[str, Any], path: tuple[str, ...]
) -> None:
    if path[-1] in {"taints", "conditions"}:
        wrongs: tuple[object, ...] = ([1], {}, "True")
    else:
        wrongs = ([1], [], {"a": {}} if path[-1] in {"cpu", "memory"} else [None])
    for wrong in wrongs:
        record = decode(resource, changed(content, path, wrong))
        assert isinstance(record, Unreadable)
        assert record.reason is UnreadableReason.TYPE


def test_every_example_shows_every_declared_field_or_may_lack_it() -> None:
    for resource, content in KINDS:
        assert not isinstance(decode(resource, content), Unreadable)


def test_a_node_becomes_its_uid_and_its_shape() -> None:
    record = decode(NODES, NODE)
    assert isinstance(record, NodeRecord)
    assert record.uid == "u-1"
    shape = record.shape
    assert (shape.architecture, shape.operating_system) == ("amd64", "linux")
    assert (shape.container_runtime, shape.kernel_version) == ("containerd://2.0.5", "6.4.0")
    assert shape.roles == ("controlplane", "etcd")
    assert (shape.cpu_nano, shape.memory_nano) == (4 * 10**9, 16384256 * 1024 * 10**9)


@pytest.mark.parametrize(
    ("spec", "roles"),
    [
        ({"etcd": True, "controlPlane": True, "worker": True}, ("controlplane", "etcd", "worker")),
        ({"worker": True}, ("worker",)),
        ({"etcd": True, "worker": True}, ("etcd", "worker")),
        ({"controlPlane": True}, ("controlplane",)),
        ({}, ()),
        (None, ()),
    ],
)
def test_roles_are_a_set_and_not_the_first_that_fits(
    spec: dict[str, bool] | None, roles: tuple[str, ...]
) -> None:
    assert decode(NODES, {**NODE, "spec": spec}).shape.roles == roles


@pytest.mark.parametrize("status", [None, {}, {"internalNodeStatus": None}])
def test_a_node_without_status_is_a_node_that_reports_nothing(status: object) -> None:
    shape = decode(NODES, {**NODE, "status": status}).shape
    assert (shape.architecture, shape.cpu_nano, shape.memory_nano) == ("", None, None)


def test_a_quantity_may_be_a_number() -> None:
    content = changed(NODE, ("status", "internalNodeStatus", "capacity"), {"cpu": 4, "memory": 1e9})
    shape = decode(NODES, content).shape
    assert (shape.cpu_nano, shape.memory_nano) == (4 * 10**9, 10**18)


def test_a_quantity_may_not_be_true() -> None:
    content = changed(NODE, ("status", "internalNodeStatus", "capacity"), {"cpu": True})
    assert isinstance(decode(NODES, content), Unreadable)


def test_alike_nodes_share_their_traits() -> None:
    records = [decode(NODES, NODE) for _ in range(100)]
    assert len({id(record.traits) for record in records}) == 1


def test_absurdly_long_text_of_a_node_is_cut() -> None:
    path = ("status", "internalNodeStatus", "nodeInfo", "kernelVersion")
    record = decode(NODES, changed(NODE, path, "k" * 10**6))
    assert record.shape.kernel_version == "other"
    version = decode(CLUSTERS, changed(CLUSTER, ("status", "version", "gitVersion"), "v" * 10**6))
    assert version.kubernetes_version == "other"


def test_a_cluster_becomes_its_kubernetes_version() -> None:
    assert decode(CLUSTERS, CLUSTER) == ClusterRecord(
        uid="u-1",
        kubernetes_version="v1.33.1",
        traits=ClusterTraits(management="hosted"),
        node_count=3,
        capacity=Amounts(cpu_nano=12 * 10**9),
    )
    bare = decode(CLUSTERS, {"kind": "Cluster", "metadata": META})
    assert bare == ClusterRecord("u-1", "", traits=ClusterTraits(management="imported"))


@pytest.mark.parametrize(
    ("spec", "in_capacity"),
    [
        ({}, True),
        ({"unschedulable": True}, False),
        ({"taints": [{"key": "node-role.kubernetes.io/etcd", "effect": "NoExecute"}]}, False),
        (
            {"taints": [{"key": "node-role.kubernetes.io/control-plane", "effect": "NoSchedule"}]},
            False,
        ),
        (
            {
                "taints": [
                    {"key": "node-role.kubernetes.io/etcd", "effect": "PreferNoSchedule"},
                    None,
                    {"key": "example.com/gpu", "effect": "NoSchedule"},
                ]
            },
            True,
        ),
    ],
)
def test_nodes_that_rancher_leaves_out_of_a_capacity_are_distinguished(
    spec: dict[str, object],
    in_capacity: bool,
) -> None:
    content = {**NODE, "spec": {"etcd": True, "worker": False, "internalNodeSpec": spec}}
    assert decode(NODES, content).traits.in_capacity == in_capacity
    worker = {**NODE, "spec": {"worker": True, "internalNodeSpec": spec}}
    assert decode(NODES, worker).traits.in_capacity == (not spec.get("unschedulable"))


def test_a_feature_becomes_its_values() -> None:
    assert decode(FEATURES, FEATURE) == FeatureRecord("u-1", True, True, False, True)
    bare = decode(FEATURES, {"kind": "Feature", "metadata": META})
    assert bare == FeatureRecord("u-1", None, False, None, False)


@pytest.mark.parametrize(
    ("labels", "system"),
    [({SYSTEM_LABEL: "true"}, True), ({SYSTEM_LABEL: "false"}, False), ({}, False), (None, False)],
)
def test_the_system_project_is_reported_by_its_label(labels: object, system: bool) -> None:
    project = changed(PROJECT, ("metadata", "labels"), labels)
    assert decode(PROJECTS, project) == ProjectRecord(uid="u-1", system=system)


def test_kube_system_becomes_its_uid_and_is_selected_by_name() -> None:
    assert decode(KUBE_SYSTEM, NAMESPACE) == NamespaceRecord(uid="u-1")
    assert (KUBE_SYSTEM.id, KUBE_SYSTEM.name) == ("namespaces", "kube-system")


@pytest.mark.parametrize(
    ("value", "default", "effective"),
    [
        ("v2.15.0", "dev", "v2.15.0"),
        ("", "dev", "dev"),
        (None, "dev", "dev"),
        (None, None, ""),
        ("", "", ""),
        ("é \n", "", "é \n"),
    ],
)
def test_a_setting_is_its_value_or_else_its_default(
    value: str | None, default: str | None, effective: str
) -> None:
    content = {**SETTING, "value": value, "default": default}
    assert decode(SETTINGS, content) == SettingRecord(uid="u-1", value=effective)


def test_a_setting_may_lack_both_texts() -> None:
    content = {"kind": "Setting", "metadata": {**META, "name": "server-url"}}
    assert decode(SETTINGS, content) == SettingRecord(uid="u-1", value="")


@pytest.mark.parametrize("name", ["rancher-private", "cacerts2", "first-login"])
def test_a_setting_that_is_not_listed_stays_unread(name: str) -> None:
    content = {**SETTING, "metadata": {**META, "name": name}, "value": "do-not-keep-me"}
    assert decode(SETTINGS, content) == SettingRecord(uid="u-1", value="")
    undecoded = msgspec.json.decode(json.dumps(content), type=SETTINGS.object_type)
    assert isinstance(undecoded.value, msgspec.Raw)


def test_a_setting_that_is_not_listed_may_hold_anything() -> None:
    content = {**SETTING, "metadata": {**META, "name": "odd"}, "value": {"a": [1]}}
    assert decode(SETTINGS, content) == SettingRecord(uid="u-1", value="")


@pytest.mark.parametrize("name", sorted(SETTINGS_READ))
def test_each_setting_that_is_listed_keeps_its_value(name: str) -> None:
    content = {**SETTING, "metadata": {**META, "name": name}, "value": "kept"}
    assert decode(SETTINGS, content).value == "kept"


def test_a_setting_whose_text_is_not_utf_8_is_unreadable() -> None:
    raw = json.dumps({**SETTING, "value": "X"}).encode().replace(b'"X"', b'"\xff"')
    record = ObjectDecoder(SETTINGS).decode(raw).value
    assert isinstance(record, Unreadable)
    assert record.reason is UnreadableReason.MALFORMED


@pytest.mark.parametrize("resource", [resource for resource, _ in KINDS])
def test_a_projection_refuses_an_object_without_uid(resource: Resource[Any, Any]) -> None:
    with pytest.raises(UnreadableObject) as caught:
        resource.project("any", resource.object_type())
    assert caught.value.reason is UnreadableReason.MISSING


def test_nothing_undeclared_becomes_a_python_object() -> None:
    for resource, content in KINDS:
        decoded = msgspec.json.decode(json.dumps(content), type=resource.object_type)
        assert isinstance(decoded, KubeObject)
        assert "private" not in repr(decoded)
