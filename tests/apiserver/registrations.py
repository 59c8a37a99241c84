"""Registrations of scc-operator (`scc.cattle.io/v1`), in the states that it brings them to.

Shape and values: scc-operator at cee65c08, `pkg/apis/scc.cattle.io/v1/types.go` and what its
controllers write. Every text that must not be shown holds `SENTINEL`.
"""

from datetime import UTC, datetime
from typing import Any, Final

from tests.apiserver.admin import Admin, Object
from tests.apiserver.crds import REGISTRATIONS, collection
from tests.apiserver.fixtures import SENTINEL

PATH: Final = collection(REGISTRATIONS)
NAME: Final = "scc-registration-5f9c2d"

_TIME = "2026-10-02T08:30:00Z"


def moment(unix_s: float) -> str:
    """A time as Kubernetes writes it."""
    return datetime.fromtimestamp(unix_s, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _conditions(**states: str) -> list[Object]:
    return [
        {
            "type": kind,
            "status": status,
            "reason": f"{SENTINEL}-reason",
            "message": f"{SENTINEL}-message: code {SENTINEL}-code",
            "lastUpdateTime": _TIME,
        }
        for kind, status in states.items()
    ]


def registration(
    name: str = NAME,
    *,
    mode: str = "online",
    activated: bool = True,
    synced_at: float | None = None,
    expires_at: float | None = None,
    conditions: dict[str, str] | None = None,
) -> Object:
    """One of them; activated by default."""
    states = {"RegistrationActivated": str(activated), "Ready": str(activated)}
    status: dict[str, Any] = {
        "conditions": _conditions(**(states if conditions is None else conditions)),
        "registrationProcessedTS": _TIME,
        "sccSystemID": 4711,
        "registeredProduct": f"{SENTINEL}-product",
        "activationStatus": {
            "activated": activated,
            "lastValidatedTS": None if synced_at is None else moment(synced_at),
            "systemURL": f"https://{SENTINEL}-url.example.com/systems/4711",
        },
        "systemCredentialsSecretRef": {"namespace": f"{SENTINEL}-ns", "name": f"{SENTINEL}-creds"},
    }
    if expires_at is not None:
        status["registrationExpiresAt"] = moment(expires_at)
    return {
        "apiVersion": "scc.cattle.io/v1",
        "kind": "Registration",
        "metadata": {
            "name": name,
            "labels": {"scc.cattle.io/scc-hash": f"{SENTINEL}-hash"},
            "finalizers": [],
        },
        "spec": {
            "mode": mode,
            "registrationRequest": {
                "registrationCodeSecretRef": {
                    "namespace": f"{SENTINEL}-ns",
                    "name": f"{SENTINEL}-code",
                },
                "registrationAPIUrl": f"https://{SENTINEL}-user:{SENTINEL}-pass@scc.example.com",
            },
        },
        "status": status,
    }


def failed(now_s: float) -> Object:
    """One whose code SUSE refused."""
    return registration(
        activated=False,
        synced_at=now_s,
        conditions={"Failure": "True", "RegistrationActivated": "False", "Ready": "False"},
    )


def put(admin: Admin, obj: Object) -> None:
    """Makes it, with its status."""
    path = f"{PATH}/{obj['metadata']['name']}"
    admin.create(PATH, {key: value for key, value in obj.items() if key != "status"})
    admin.patch(f"{path}/status", {"status": obj["status"]})
