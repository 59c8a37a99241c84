"""A resource of the tests' own, objects of it, and waiting for something to become true."""

import json
from collections.abc import Iterable
from typing import Any

import msgspec

from telemetryd.informer.resource import KubeObject, Resource
from telemetryd.model import IdRecord

Json = dict[str, Any]


class Spec(msgspec.Struct, gc=False):
    """What is read of a thing."""

    size: int | None = None


class Thing(KubeObject, gc=False):
    """The tests' kind."""

    spec: Spec | None = None


class ThingRecord(IdRecord, frozen=True, gc=False):
    """What is held of a thing."""

    size: int


def project_thing(key: str, thing: Thing) -> ThingRecord:
    """Object to record; a size of 666 is a defect in the projection."""
    assert thing.metadata
    assert thing.metadata.uid
    size = (thing.spec.size if thing.spec else None) or 0
    if size == 666:
        raise ZeroDivisionError(key)
    return ThingRecord(thing.metadata.uid, size)


THINGS: Resource[Thing, ThingRecord] = Resource(
    group="example.io",
    version="v1",
    plural="things",
    kind="Thing",
    namespaced=True,
    object_type=Thing,
    project=project_thing,
)


def thing(name: str, size: int = 1, *, version: int | str = 1, uid: str | None = None) -> Json:
    """An object in the namespace ``ns``."""
    return {
        "apiVersion": "example.io/v1",
        "kind": "Thing",
        "metadata": {
            "name": name,
            "namespace": "ns",
            "uid": uid or f"uid-{name}",
            "resourceVersion": str(version),
        },
        "spec": {"size": size, "secret": "SENTINEL"},
    }


def record(name: str, size: int = 1, uid: str | None = None) -> ThingRecord:
    """The record of ``thing``."""
    return ThingRecord(uid or f"uid-{name}", size)


def listing(objects: Iterable[Any], version: int | str = 1, token: str = "", **other: Any) -> bytes:
    """A page of a list."""
    meta: Json = {"resourceVersion": str(version)}
    if token:
        meta["continue"] = token
    return json.dumps(
        {
            "kind": "ThingList",
            "apiVersion": "example.io/v1",
            "metadata": meta,
            "items": list(objects),
        }
        | other
    ).encode()


def event(kind: str, body: Any) -> bytes:
    """One line of a watch."""
    return json.dumps({"type": kind, "object": body}).encode() + b"\n"


def bookmark(version: int) -> bytes:
    """A BOOKMARK line."""
    return event("BOOKMARK", {"kind": "Thing", "metadata": {"resourceVersion": str(version)}})


def list_end(version: int) -> bytes:
    """The BOOKMARK line that ends a streamed list."""
    annotations = {"k8s.io/initial-events-end": "true"}
    meta = {"resourceVersion": str(version), "annotations": annotations}
    return event("BOOKMARK", {"kind": "Thing", "metadata": meta})


def status(code: int, reason: str = "", message: str = "", **details: Any) -> Json:
    """A meta/v1 Status."""
    return {
        "kind": "Status",
        "apiVersion": "v1",
        "status": "Failure",
        "code": code,
        "reason": reason,
        "message": message,
        "details": details,
    }


DEPTH = 1_000_000
"""Deeper than the parser goes on any Python: 1,000 on 3.11, 10,000 on 3.12, 500,000 on 3.14."""

DEEP = "[" * DEPTH + "]" * DEPTH


def deep_thing(name: str, version: int = 1) -> bytes:
    """An object whose JSON nests deeper than it can be parsed."""
    return json.dumps(thing(name, version=version))[:-1].encode() + f',"z":{DEEP}}}'.encode()
