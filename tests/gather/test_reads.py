"""Anything at all in any declared field, as it comes over the wire: it costs that object alone.

The fields are those of the structs themselves, so that one that is added is tried too. What a wrong
type means for a kind is ``test_project``'s; here it is that nothing else suffers.
"""

import copy
import json
from collections.abc import Iterator
from typing import Any

import anyio
import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from telemetryd.gather.capacity import Capacity
from telemetryd.gather.clusters import CLUSTERS
from telemetryd.gather.plain import CORE_NODES
from telemetryd.gather.project import (
    FEATURES,
    KUBE_SYSTEM,
    NODES,
    PROJECTS,
    SETTINGS,
)
from telemetryd.gather.requests import SECRET_REQUESTS, RequestSpec, SecretRequestStatus
from telemetryd.informer.apply import Applier, Progress, read_page
from telemetryd.informer.resource import Resource
from telemetryd.informer.store import Relist, Store
from telemetryd.model import Unreadable
from telemetryd.stats import InformerStats
from tests.apiserver import fixtures
from tests.support.sampling import examples

Path = tuple[str, ...]

NODE = fixtures.rancher_node("local", "n", roles=("etcd", "worker"))
REQUEST: dict[str, Any] = {
    "kind": "SecretRequest",
    "apiVersion": "telemetry.cattle.io/v1",
    "metadata": {"name": "n", "creationTimestamp": "2026-07-01T08:30:00Z"},
    "spec": {"secretType": "scc", "targetSecretRef": {"name": "s", "namespace": "ns"}},
    "status": {"conditions": [{"type": "Done", "status": "True"}]},
}
KINDS: list[tuple[Resource[Any, Any], dict[str, Any]]] = [
    (NODES, NODE),
    (CORE_NODES, fixtures.core_node("n")),
    (CLUSTERS, fixtures.rancher_cluster("n")),
    (SETTINGS, fixtures.setting("server-version", "v2.12.3", default="dev")),
    (FEATURES, fixtures.feature("n", value=True, locked=False)),
    (PROJECTS, fixtures.project("n")),
    (KUBE_SYSTEM, fixtures.namespace("n")),
    (SECRET_REQUESTS, REQUEST),
]
UNDER_RAW: dict[str, dict[str, type[msgspec.Struct]]] = {
    "nodes.management.cattle.io": {"status.internalNodeStatus.capacity": Capacity},
    "nodes": {"status.capacity": Capacity},
    SECRET_REQUESTS.id: {"spec": RequestSpec, "status": SecretRequestStatus},
}
"""What is decoded only when projected, by the field that holds it."""

VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=20)
    | st.sampled_from(["4", "16384256Ki", "-1", "1e400", "true", "\x00", "9" * 400]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=8,
)


def declared(kind: Any, path: Path = ()) -> Iterator[Path]:
    """Paths of all fields that a struct declares, those of list entries at index 0."""
    for option in (kind, *getattr(kind, "__args__", ())):
        if isinstance(option, type) and issubclass(option, msgspec.Struct):
            for field in msgspec.structs.fields(option):
                here = (*path, field.encode_name)
                yield here
                yield from declared(field.type, here)
        elif getattr(option, "__origin__", None) is list:
            yield (*path, "0")
            yield from declared(option.__args__[0], (*path, "0"))


def fields() -> Iterator[Any]:
    for resource, content in KINDS:
        paths = list(declared(resource.object_type))
        for name, kind in UNDER_RAW.get(resource.id, {}).items():
            paths += declared(kind, tuple(name.split(".")))
        for path in paths:
            yield pytest.param(
                resource, content, path, id=f"{resource.id}-{'.'.join(path)}".replace("/", "|")
            )


def made(content: dict[str, Any], number: int) -> dict[str, Any]:
    """One of three alike, with what the API server gives an object."""
    result = copy.deepcopy(content)
    name = result["metadata"]["name"] if number == 1 else f"n{number}"
    result["metadata"] |= {"name": name, "uid": f"u{number}", "resourceVersion": f"{number + 1}"}
    return result


def spoil(content: dict[str, Any], path: Path, value: Any) -> None:
    target: Any = content
    for step in path[:-1]:
        if isinstance(target, list):
            target = target[int(step)]
            continue
        target = target.setdefault(step, {})
    if isinstance(target, list):
        target[int(path[-1])] = value
    else:
        target[path[-1]] = value


@pytest.mark.parametrize(("resource", "content", "path"), list(fields()))
@settings(max_examples=examples(10))  # for each of more than a hundred fields
@given(value=VALUES)
def test_anything_in_any_declared_field_costs_its_object_alone(
    resource: Resource[Any, Any], content: dict[str, Any], path: Path, value: Any
) -> None:
    objects = [made(content, number) for number in range(3)]
    spoil(objects[1], path, value)
    if path == ("kind",) and isinstance(value, str) and value != resource.kind:
        return  # another kind is refused as a whole: `test_decode` holds it to that
    anyio.run(listed_and_watched, resource, objects)


async def listed_and_watched(resource: Resource[Any, Any], objects: list[dict[str, Any]]) -> None:
    """All three in one list, and then each as an event: the outer two are read both times."""
    stats = InformerStats(resource.id)
    store: Store[Any] = Store(stats)
    applier = Applier(resource, store, stats, lambda: 0.0)
    relist: Relist[Any] = Relist(store)
    version = f"{resource.group}/{resource.version}" if resource.group else resource.version
    head = {"kind": f"{resource.kind}List", "apiVersion": version}
    body = json.dumps({**head, "metadata": {"resourceVersion": "1"}, "items": objects}).encode()
    page = await read_page(body, resource)
    assert len(page.items) == 3
    await applier.take_page(page, relist)
    await relist.apply("1")
    well = {key: store.get(key) for key in store.keys() if is_outer(key)}  # noqa: SIM118
    assert len(well) == 2
    assert not any(isinstance(each, Unreadable) for each in well.values())
    assert len(store) + store.unreadable >= 3
    for number in (0, 2):
        event = {"type": "MODIFIED", "object": objects[number]}
        assert await applier.apply_lines([json.dumps(event).encode()], Progress(0.0))
    assert {key: store.get(key) for key in well} == well


def is_outer(key: str) -> bool:
    return key.rpartition("/")[2] in {"n0", "n2"}
