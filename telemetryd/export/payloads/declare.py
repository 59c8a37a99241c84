"""Declarations of what leaves, in the annotations that the JSON Schemas are made of.

A struct of a payload whose field has no declaration can't be listed: that is an error, so that no
field is added without one.
"""

from collections.abc import Iterator
from dataclasses import replace
from typing import Final

import msgspec
from msgspec import Meta, inspect

from telemetryd.model import Field

_DECLARED: Final = "declared"


def sent(
    what: str,
    rancher: str,
    kubernetes: str | None = None,
    *,
    privacy: str = "",
    identity: str = "",
    keeps_key: bool = True,
) -> Meta:
    """The declaration of a field, for its annotation.

    Args:
        what: What it says, without a full stop.
        rancher: Where it comes from with a Rancher.
        kubernetes: Where it comes from on plain Kubernetes; None for the same, empty for nowhere.
        privacy: The ``[privacy]`` key that omits it.
        identity: The ``[identity]`` key that replaces it.
        keeps_key: Without a value the key is there all the same, with an empty one.
    """
    plain = rancher if kubernetes is None else kubernetes
    field = Field("", what, rancher, plain, privacy, identity, keeps_key)
    return Meta(extra={_DECLARED: field})


def beside(key: str, what: str, source: str) -> Field:
    """A field that is sent beside the payload, whatever the source."""
    return Field(key, what, source, source)


def field_at(key: str, declaration: Meta) -> Field:
    """The field at a key that no struct describes, by its declaration.

    Raises:
        TypeError: That is none.
    """
    field = (declaration.extra or {}).get(_DECLARED)
    if not isinstance(field, Field):
        raise TypeError(f"{key}: nothing is declared of it")
    return replace(field, key=key)


def fields_of(document: type[msgspec.Struct]) -> tuple[Field, ...]:
    """Every field of a document that holds a value, in the order of the struct.

    Raises:
        TypeError: One is not declared.
    """
    return tuple(_walk(inspect.type_info(document), "", None))


def node_info(key: str) -> tuple[str, str]:
    """The source of a text of ``nodeInfo``, with a Rancher and without."""
    return f"nodes' status.internalNodeStatus.nodeInfo.{key}", f"nodes' status.nodeInfo.{key}"


def capacity(key: str) -> tuple[str, str]:
    """The source of a capacity, with a Rancher and without."""
    return f"nodes' status.internalNodeStatus.capacity.{key}", f"nodes' status.capacity.{key}"


def _walk(node: inspect.Type, path: str, declared: Field | None) -> Iterator[Field]:
    match node:
        case inspect.Metadata(type=inner, extra=extra):
            yield from _walk(inner, path, (extra or {}).get(_DECLARED, declared))
        case inspect.UnionType(types=types):
            (inner,) = (each for each in types if not _is_nothing(each))
            yield from _walk(inner, path, declared)
        case inspect.ListType(item_type=item):
            yield from _walk(item, f"{path}[]", declared)
        case inspect.StructType(fields=fields):
            for field in fields:
                key = f"{path}.{field.encode_name}" if path else field.encode_name
                yield from _walk(field.type, key, None)
        case _ if declared is not None:
            yield replace(declared, key=path)
        case _:
            raise TypeError(f"{path}: nothing is declared of it")


def _is_nothing(node: inspect.Type) -> bool:
    return isinstance(node, inspect.NoneType)


INSTALL_UUID: Final = sent(
    "UUID of the installation",
    "setting install-uuid",
    "made of the UID of the namespace kube-system (UUIDv5)",
    identity="install_uuid",
)
CLUSTER_UUID: Final = sent(
    "UUID of its own cluster", "UID of the namespace kube-system", identity="cluster_uuid"
)
PRODUCT: Final = sent(
    "Name of the product",
    "settings server-version and server-version-type",
    "a constant",
    identity="product",
)
VERSION: Final = sent(
    "Version of the product", "setting server-version", "API server's /version", identity="version"
)
GIT_HASH: Final = sent(
    "Commit of its build", "Rancher's /rancherversion", "API server's /version", identity="git_hash"
)
SERVER_URL: Final = sent(
    "URL of the server: scheme, host, port and path alone",
    "setting server-url",
    "",
    privacy="server_url",
    identity="server_url",
)
FEATURE_FLAGS: Final = sent(
    "Names of the feature flags that are on", "features.management.cattle.io", ""
)
