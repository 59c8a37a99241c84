"""What the contract tests write, and how they look at what comes back."""

from base64 import b64encode
from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus
from typing import Any

import pytest

from tests.apiserver import crds
from tests.apiserver.admin import Admin, AdminError, Object

NAMESPACES = "/api/v1/namespaces"
SETTINGS = crds.collection(crds.SETTINGS)
REQUESTS = crds.collection(crds.SECRET_REQUESTS)


def nodes_in(namespace: str) -> str:
    """The path of the nodes of a cluster."""
    return crds.collection(crds.NODES, namespace)


def secrets_in(namespace: str) -> str:
    """The path of the Secrets of a namespace."""
    return f"{NAMESPACES}/{namespace}/secrets"


def node(namespace: str, name: str, **spec: Any) -> Object:
    """A small node of Rancher."""
    return {
        "apiVersion": "management.cattle.io/v3",
        "kind": "Node",
        "metadata": {"name": name, "namespace": namespace},
        "spec": spec,
    }


def setting(name: str, value: str = "") -> Object:
    """A setting of Rancher."""
    return {
        "apiVersion": "management.cattle.io/v3",
        "kind": "Setting",
        "metadata": {"name": name},
        "value": value,
    }


def secret(name: str = "s", *, metadata: Object | None = None, **fields: Any) -> Object:
    """A Secret; what is in ``metadata`` is added to its name."""
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": name, **(metadata or {})},
        **fields,
    }


def b64(text: str) -> str:
    """Base64, as the values of Secrets are."""
    return b64encode(text.encode()).decode()


def names(page: Object) -> list[str]:
    """The names of a list's items in the order of the list."""
    return [item["metadata"]["name"] for item in page["items"]]


def revision(obj: Object) -> int:
    """The resourceVersion of an object or a list, as a number."""
    return int(obj["metadata"]["resourceVersion"])


def owners(obj: Object) -> dict[tuple[str, str], Object]:
    """What each manager owns: FieldsV1 by manager and operation."""
    return {
        (entry["manager"], entry["operation"]): entry["fieldsV1"]
        for entry in obj["metadata"].get("managedFields", [])
    }


@contextmanager
def refused(code: int, reason: str = "", text: str = "") -> Iterator[Object]:
    """The block must be refused with such a Status; given is its body, filled when it was.

    Args:
        code: HTTP status, and ``code`` of the Status.
        reason: Of the Status, empty where it has none.
        text: In its message.
    """
    body: Object = {}
    with pytest.raises(AdminError) as caught:
        yield body
    assert isinstance(caught.value.body, dict), caught.value.body
    body.update(caught.value.body)
    assert (body["kind"], body["apiVersion"], body["status"]) == ("Status", "v1", "Failure"), body
    found = (caught.value.status, body["code"], body.get("reason", ""))
    assert found == (code, code, reason), body
    assert text in body["message"], body


def causes(status: Object) -> set[tuple[str, str]]:
    """Reason and field of each cause of a Status; some servers name the same one twice."""
    return {
        (cause.get("reason", ""), cause.get("field", "")) for cause in status["details"]["causes"]
    }


def about(status: Object) -> Object:
    """The ``details`` of a Status without its causes: whom it is about."""
    return {key: value for key, value in status["details"].items() if key != "causes"}


def absent(api: Admin, path: str) -> bool:
    """Whether there is no such object."""
    try:
        api.get(path)
    except AdminError as error:
        if error.status != HTTPStatus.NOT_FOUND:
            raise
        return True
    return False
