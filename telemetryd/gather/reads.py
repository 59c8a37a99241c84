"""What is read of each kind of object: the keys that the types declare, and no other."""

from collections.abc import Iterator, Mapping
from typing import Final

import msgspec
from msgspec import inspect

from telemetryd.gather import consumer
from telemetryd.gather.corenode import core_nodes_resource
from telemetryd.gather.project import (
    CLUSTERS,
    FEATURES,
    KUBE_SYSTEM,
    PROJECTS,
    SETTINGS,
    SETTINGS_READ,
    nodes_resource,
)
from telemetryd.gather.requests import SECRET_REQUESTS, RequestSpec, RequestStatus
from telemetryd.gather.shapes import ShapeTable


def keys_of(object_type: type[msgspec.Struct]) -> tuple[str, ...]:
    """Every key of an object that is read: ``spec.etcd``, ``status.nodeInfo.architecture``."""
    return tuple(dict.fromkeys(_walk(inspect.type_info(object_type), "")))


def _keys_of_requests() -> Iterator[str]:
    """Those of SecretRequests, whose parts are decoded one by one."""
    parts = {"spec": RequestSpec, "status": RequestStatus}
    for key in keys_of(SECRET_REQUESTS.object_type):
        yield from _walk(inspect.type_info(parts[key]), key) if key in parts else (key,)


def _walk(node: inspect.Type, path: str) -> Iterator[str]:
    match node:
        case inspect.UnionType(types=types):
            for each in types:
                if not isinstance(each, inspect.NoneType):
                    yield from _walk(each, path)
        case inspect.ListType(item_type=item):
            yield from _walk(item, f"{path}[]")
        case inspect.StructType(fields=fields):
            for field in fields:
                inner = f"{path}.{field.encode_name}" if path else field.encode_name
                yield from _walk(field.type, inner)
        case _:
            yield path


_SHAPES: Final = ShapeTable()

KEYS_READ: Final[Mapping[str, tuple[str, ...]]] = {
    resource.id: keys_of(resource.object_type)
    for resource in (
        CLUSTERS,
        nodes_resource(_SHAPES),
        SETTINGS,
        FEATURES,
        PROJECTS,
        KUBE_SYSTEM,
        core_nodes_resource(_SHAPES),
    )
} | {
    SECRET_REQUESTS.id: tuple(_keys_of_requests()),
    consumer.RESOURCE_ID: keys_of(consumer.RegistrationObject),
}
"""By resource. Of settings, ``value`` and ``default`` are read of those in ``SETTINGS_READ``."""

READ_OF: Final[Mapping[str, str]] = {
    SETTINGS.id: f"value and default only of {', '.join(sorted(SETTINGS_READ))}",
    KUBE_SYSTEM.id: "only of kube-system",
    consumer.RESOURCE_ID: "for the status alone, where scc-operator serves them",
}
"""By resource, which of its objects that means, where it isn't all."""
