"""The consumer of the SCC payload: Rancher Prime's scc-operator, and its Registrations.

Only name, states and times of a Registration (``scc.cattle.io/v1``) are read, but not its messages,
ids, URLs or Secrets.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated, Final

import msgspec

from telemetryd.bounds import identifier
from telemetryd.errors import NotFound
from telemetryd.gather.features import PRIME
from telemetryd.kube import objects
from telemetryd.kube.requests import Requests

GROUP: Final = "scc.cattle.io"
PLURAL: Final = "registrations"
RESOURCE_ID: Final = f"{PLURAL}.{GROUP}"
GROUP_PATH: Final = f"/apis/{GROUP}/v1"
PATH: Final = f"{GROUP_PATH}/{PLURAL}"

MOST: Final = 20
"""Registrations that are read. scc-operator makes one."""

MAX_BYTES: Final = 2 * 1024 * 1024
"""Of the list. A real Registration has some five kilobytes, and no object more than 1.5 MiB."""

OVERDUE_S: Final = 48 * 3600.0
"""scc-operator renews an online registration every 17 to 23 hours."""

_MOST_BRACES: Final = 2000
"""Objects within one Registration; one with more isn't decoded."""

_YEAR_10000: Final = 253_402_300_800


BUILD_SETTING: Final = "server-version-type"
"""The setting that says which build of Rancher runs."""


class RancherBuild(StrEnum):
    """The closed list of builds of Rancher; any other value of its setting is ``other``."""

    PRIME = PRIME
    COMMUNITY = "community"
    DEV = "dev"
    OTHER = "other"


_BUILDS: Final[Mapping[RancherBuild, str]] = {
    RancherBuild.COMMUNITY: "a community build",
    RancherBuild.DEV: "a development build",
    RancherBuild.OTHER: "not a Prime build",
}


def build_of(version_type: str) -> RancherBuild:
    """Which build runs, by the value of its setting, which may be empty."""
    known = {str(build): build for build in RancherBuild}
    return known.get(version_type, RancherBuild.OTHER)


def explain_build(build: RancherBuild, product: str) -> str:
    """Why SUSE doesn't expect the payload of this build; empty for Rancher Prime."""
    if build is RancherBuild.PRIME:
        return ""
    return (
        f"this Rancher is {_BUILDS[build]}, which writes no telemetry itself:"
        f" SUSE does not expect it; product in the payload: {product}"
    )


class RegistrationState(StrEnum):
    """The closed list of states a Registration can be in.

    ``overdue``: activated and online, but not renewed in time.
    """

    ACTIVE = "active"
    INACTIVE = "inactive"
    OVERDUE = "overdue"
    EXPIRED = "expired"
    FAILED = "failed"


PROBLEMS: Final[Mapping[RegistrationState, tuple[str, str]]] = {
    RegistrationState.FAILED: (
        "the registration with SUSE failed",
        "see why, then register again in Rancher",
    ),
    RegistrationState.EXPIRED: (
        "the registration with SUSE has expired",
        "renew the subscription, then register again in Rancher",
    ),
    RegistrationState.INACTIVE: (
        "the registration with SUSE is not activated",
        "finish it in Rancher; an offline one waits for its certificate",
    ),
    RegistrationState.OVERDUE: (
        "the registration with SUSE was not renewed for more than two days",
        "check that scc-operator runs and reaches SUSE Customer Center",
    ),
}
"""The problem in each state except ``active``, and how to fix it."""

NEVER: Final = (
    "Rancher was never registered with SUSE: there is no Registration",
    "register it in Rancher; without a way to the internet, by telemetryd offline-request",
)
"""The same if there is no Registration at all."""


@dataclass(frozen=True, slots=True)
class Registration:
    """One Registration. Times are Unix seconds, None if it has none.

    Attributes:
        activated: SUSE has accepted it.
        failed: scc-operator has given up.
        last_sync_at: When SUSE last confirmed it or, if it failed, refused it.
        expires_at: When the subscription ends.
    """

    name: str
    mode: str
    activated: bool
    failed: bool
    last_sync_at: float | None
    expires_at: float | None

    def state(self, now_s: float) -> RegistrationState:
        """The most severe state that applies at this time."""
        if self.failed:
            return RegistrationState.FAILED
        if self.expires_at is not None and self.expires_at <= now_s:
            return RegistrationState.EXPIRED
        if not self.activated:
            return RegistrationState.INACTIVE
        synced_at = self.last_sync_at
        if self.mode == "online" and synced_at is not None and now_s - synced_at > OVERDUE_S:
            return RegistrationState.OVERDUE
        return RegistrationState.ACTIVE

    def __str__(self) -> str:
        synced = "last attempt" if self.failed else "last sync"
        return ", ".join(
            (
                self.mode,
                "activated" if self.activated else "not activated",
                f"{synced} {_shown(self.last_sync_at)}",
                f"expires {_shown(self.expires_at)}",
            )
        )


@dataclass(frozen=True, slots=True)
class Registrations:
    """All Registrations.

    Attributes:
        served: The API server has the resource; None if that isn't known yet.
        checked_at: When they were last read, in Unix seconds.
    """

    served: bool | None
    found: tuple[Registration, ...] = ()
    unreadable: int = 0
    more: bool = False
    checked_at: float | None = None
    error: str = ""

    @property
    def never(self) -> bool:
        """There is none, although scc-operator is installed."""
        return self.served is True and not self.found and not self.unreadable


_Time = Annotated[datetime, msgspec.Meta(tz=True)] | None


class _RegistrationMeta(msgspec.Struct, gc=False):
    name: str


class _RegistrationSpec(msgspec.Struct, gc=False):
    mode: str = ""


class _RegistrationCondition(msgspec.Struct, gc=False):
    type: str = ""
    status: str = ""


class _Activation(msgspec.Struct, gc=False, rename={"validated": "lastValidatedTS"}):
    activated: bool = False
    validated: _Time = None


class _RegistrationStatus(
    msgspec.Struct,
    gc=False,
    rename={"activation": "activationStatus", "expires": "registrationExpiresAt"},
):
    activation: _Activation | None = None
    conditions: list[_RegistrationCondition] | None = None
    expires: _Time = None


class RegistrationObject(msgspec.Struct, gc=False):
    """What is read of registrations.scc.cattle.io."""

    metadata: _RegistrationMeta
    spec: _RegistrationSpec | None = None
    status: _RegistrationStatus | None = None


class _PageToken(msgspec.Struct, gc=False, rename={"token": "continue"}):
    token: str = ""


class _RegistrationPage(msgspec.Struct, gc=False):
    metadata: _PageToken | None = None
    items: list[msgspec.Raw] | None = None


_PAGE: Final = msgspec.json.Decoder(_RegistrationPage)
_OBJECT: Final = msgspec.json.Decoder(RegistrationObject)


async def read_registrations(
    requests: Requests, *, timeout_s: float, now_s: float
) -> Registrations:
    """Read them if they are served: discovery first, because it needs no rights.

    Raises:
        Forbidden: The right to list them is missing.
        KubeError: A request failed.
    """
    absent = Registrations(served=False, checked_at=now_s)
    try:
        await requests.request("GET", GROUP_PATH, timeout_s=timeout_s, max_bytes=MAX_BYTES)
        body = await requests.request(
            "GET", PATH, params={"limit": str(MOST)}, timeout_s=timeout_s, max_bytes=MAX_BYTES
        )
    except NotFound:
        return absent
    page = objects.parsed(body, _PAGE.decode, f"GET {PATH}")
    items = page.items or []
    found = [each for item in items[:MOST] if (each := _read(item)) is not None]
    return Registrations(
        served=True,
        found=tuple(sorted(found, key=lambda each: each.name)),
        unreadable=len(items[:MOST]) - len(found),
        more=len(items) > MOST or bool(page.metadata is not None and page.metadata.token),
        checked_at=now_s,
    )


def _read(item: msgspec.Raw) -> Registration | None:
    """One Registration; None if it isn't as scc-operator makes it."""
    if bytes(item).count(b"{") > _MOST_BRACES:
        return None
    read = objects.decode_or_none(_OBJECT, item)
    if read is None:
        return None
    status = read.status or _RegistrationStatus()
    activation = status.activation or _Activation()
    mode = read.spec.mode if read.spec is not None else ""
    return Registration(
        name=identifier(read.metadata.name),
        mode=mode if mode in {"online", "offline"} else "other",
        activated=activation.activated,
        failed=any(
            each.type == "Failure" and each.status == "True" for each in status.conditions or ()
        ),
        last_sync_at=_seconds(activation.validated),
        expires_at=_seconds(status.expires),
    )


def _seconds(moment: datetime | None) -> float | None:
    """Whole Unix seconds; None for no time, or Go's zero time."""
    if moment is None:
        return None
    seconds = float(int(moment.timestamp()))
    return seconds if 0 < seconds < _YEAR_10000 else None


def _shown(at_s: float | None) -> str:
    if at_s is None:
        return "not known"
    return datetime.fromtimestamp(at_s, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
