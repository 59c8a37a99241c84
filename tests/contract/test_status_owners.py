"""What a real API server records of who wrote a status, and what is made of it."""

import json
import time
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

from telemetryd.gather.requests import other_of
from tests.apiserver.admin import Admin, Object
from tests.apiserver.crds import collection, crd, create_crd, delete_crd

UPSTREAM: Object = {
    "type": "object",
    "properties": {
        "status": {
            "type": "object",
            "properties": {
                "lastSyncTS": {"type": "string", "format": "date-time"},
                "conditions": {
                    "type": "array",
                    "x-kubernetes-list-type": "map",
                    "x-kubernetes-list-map-keys": ["type"],
                    "items": {
                        "type": "object",
                        "required": ["type", "status"],
                        "properties": {
                            key: {"type": "string"}
                            for key in ("type", "status", "lastUpdateTime", "lastTransitionTime")
                        },
                    },
                },
            },
        }
    },
}
"""Of Rancher's CRD, as far as it concerns the status: conditions are a map by type."""

NAME = "r"


@pytest.fixture(params=["Mapped", "Plain"])
def requests(request: pytest.FixtureRequest, admin: Admin) -> Iterator[str]:
    """The collection of a CRD whose conditions are a map, or a list without a schema."""
    definition = crd("owners.example", "v1", request.param, status=True)
    if request.param == "Mapped":
        definition["spec"]["versions"][0]["schema"] = {"openAPIV3Schema": UPSTREAM}
    create_crd(admin, definition)
    yield collection(definition)
    delete_crd(admin, definition)


class Request:
    """One object, written by several."""

    def __init__(self, admin: Admin, path: str) -> None:
        self.admin = admin
        self.path = path

    def write(self, manager: str, sync: int, **conditions: str) -> None:
        """A status as a whole, later than the one before."""
        time.sleep(1.1)
        listed = [
            {"type": kind, "status": status, "lastTransitionTime": "2026-01-01T00:00:00Z"}
            for kind, status in conditions.items()
        ]
        status = {"conditions": listed, "lastSyncTS": f"2026-01-01T00:00:{sync:02}Z"}
        patch = {"status": status}
        self.admin.patch(f"{self.path}/status?fieldManager={manager}", patch)

    def other(self) -> Any:
        """Who else wrote it last."""
        found = self.admin.get(self.path)
        raw = [
            msgspec.Raw(json.dumps(part).encode())
            for part in (found["metadata"].get("managedFields"), found.get("status"))
        ]
        other = other_of(raw[0], raw[1])
        return None if other is None else other.manager


def test_last_writer_of_a_status_is_recognised_on_a_real_server(
    admin: Admin, requests: str
) -> None:
    kind = "Mapped" if "mapped" in requests else "Plain"
    metadata = {"name": NAME, "labels": {"a": "b"}}  # only then it has owners
    made = {"apiVersion": "owners.example/v1", "kind": kind, "metadata": metadata}
    admin.create(f"{requests}?fieldManager=rancher-scc-operator", made)
    request = Request(admin, f"{requests}/{NAME}")
    assert request.other() is None
    request.write("telemetryd", 1, Progressing="True")
    assert request.other() is None
    request.write("rancher", 2, Progressing="False", Done="True")
    assert request.other() == "rancher"
    request.write("telemetryd", 3, Progressing="False", Done="True")
    assert request.other() is None, "the time of the last write is ours"
    request.write("rancher", 3, Progressing="False", Done="True", Failure="True")
    assert request.other() == "rancher", "though it didn't write that time"
    request.write("telemetryd", 4, Progressing="False", Done="True")
    request.write("kubectl", 4, Progressing="False", Done="True", Ready="True")
    # Of a list that isn't a map each writer owns all or nothing.
    assert request.other() == (None if kind == "Mapped" else "kubectl")
    admin.patch(f"{request.path}?fieldManager=kubectl", {"metadata": {"labels": {"a": "c"}}})
    admin.patch(request.path, {"metadata": {"managedFields": [{}]}})
    assert request.other() is None, "without owners the content tells, which could be ours"
