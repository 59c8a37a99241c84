"""What is read of each kind of object: the keys that the types declare, and no other."""

from collections.abc import Iterator, Mapping
from typing import Final

import msgspec
from msgspec import inspect

from telemetryd.gather import consumer
from telemetryd.gather.capacity import GPU_KEYS, Capacity
from telemetryd.gather.clusters import CLUSTERS
from telemetryd.gather.plain import CORE_NODES
from telemetryd.gather.project import (
    FEATURES,
    KUBE_SYSTEM,
    NODES,
    PROJECTS,
    SETTINGS,
    SETTINGS_READ,
)
from telemetryd.gather.requests import SECRET_REQUESTS, RequestSpec, SecretRequestStatus


def keys_of(
    object_type: type[msgspec.Struct], parts: Mapping[str, type[msgspec.Struct]] | None = None
) -> tuple[str, ...]:
    """Every key of an object that is read: ``spec.etcd``, ``status.nodeInfo.architecture``."""
    return tuple(dict.fromkeys(_walk(inspect.type_info(object_type), "", parts or {})))


def _node_keys(object_type: type[msgspec.Struct], capacity: str) -> tuple[str, ...]:
    """Those of a node, whose capacity is at this key."""
    gpus = (f"{capacity}.{name}" for name in GPU_KEYS)
    return (*keys_of(object_type, {capacity: Capacity}), *gpus)


def _walk(
    node: inspect.Type, path: str, parts: Mapping[str, type[msgspec.Struct]]
) -> Iterator[str]:
    match node:
        case inspect.UnionType(types=types):
            for each in types:
                if not isinstance(each, inspect.NoneType):
                    yield from _walk(each, path, parts)
        case inspect.ListType(item_type=item):
            yield from _walk(item, f"{path}[]", parts)
        case inspect.StructType(fields=fields) if fields:
            for field in fields:
                inner = f"{path}.{field.encode_name}" if path else field.encode_name
                yield from _walk(field.type, inner, parts)
        case inspect.RawType() if path in parts:
            yield from _walk(inspect.type_info(parts[path]), path, parts)
        case _:
            yield path


KEYS_READ: Final[Mapping[str, tuple[str, ...]]] = {
    CLUSTERS.id: keys_of(CLUSTERS.object_type),
    NODES.id: _node_keys(NODES.object_type, "status.internalNodeStatus.capacity"),
    **{each.id: keys_of(each.object_type) for each in (SETTINGS, FEATURES, PROJECTS, KUBE_SYSTEM)},
    CORE_NODES.id: _node_keys(CORE_NODES.object_type, "status.capacity"),
    SECRET_REQUESTS.id: keys_of(
        SECRET_REQUESTS.object_type, {"spec": RequestSpec, "status": SecretRequestStatus}
    ),
    consumer.RESOURCE_ID: keys_of(consumer.RegistrationObject),
}
"""By resource. Of settings, ``value`` and ``default`` are read of those in ``SETTINGS_READ``."""

READ_OF: Final[Mapping[str, str]] = {
    SETTINGS.id: f"value and default only of {', '.join(sorted(SETTINGS_READ))}",
    KUBE_SYSTEM.id: "only of kube-system",
    consumer.RESOURCE_ID: "for the status alone, where scc-operator serves them",
}
"""By resource, which of its objects that means, where it isn't all."""
