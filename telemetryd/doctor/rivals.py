"""Who else serves SecretRequests: Rancher's own telemetry, or whichever controller wrote a status.

Only reads, and only with the rights that the daemon needs anyway.
"""

from collections.abc import Callable
from typing import Final, TypeVar

import msgspec

from telemetryd.doctor.cluster import REQUEST_S
from telemetryd.doctor.findings import Finding, passed, warn
from telemetryd.errors import Forbidden, NotFound, UnreadableObject
from telemetryd.export.payloads.payload import parse_rfc3339
from telemetryd.gather.requests import SECRET_REQUESTS, RequestObject, project_request
from telemetryd.kube import objects
from telemetryd.kube.requests import Requests
from telemetryd.model import SecretRequestRecord

T = TypeVar("T")

RANCHERS: Final = "Rancher's own telemetry"
FEATURE: Final = "rancher-scc-registration-extension"
"""Of Rancher Prime: its leader serves SecretRequests, and deploys scc-operator."""

GUIDE: Final = "see docs/taking-over.md"
_TYPE: Final = "server-version-type"
_PRIME: Final = "prime"
_MANAGEMENT: Final = "/apis/management.cattle.io/v3"
_MOST_REQUESTS: Final = 500


class _FeatureSpec(msgspec.Struct, gc=False):
    value: bool | None = None


class _FeatureStatus(msgspec.Struct, gc=False):
    default: bool | None = None
    lockedValue: bool | None = None  # noqa: N815 - the field's name in JSON


class _Feature(msgspec.Struct, gc=False):
    spec: _FeatureSpec = msgspec.field(default_factory=_FeatureSpec)
    status: _FeatureStatus = msgspec.field(default_factory=_FeatureStatus)

    @property
    def on(self) -> bool:
        """As Rancher reads it: locked, set by a person, or the default."""
        values = (self.status.lockedValue, self.spec.value, self.status.default)
        return next((value for value in values if value is not None), False)


class _Features(msgspec.Struct, gc=False):
    items: list[_Feature] | None = None


class _Setting(msgspec.Struct, gc=False):
    value: str = ""
    default: str = ""


class _Settings(msgspec.Struct, gc=False):
    items: list[_Setting] | None = None


class _Requests(msgspec.Struct, gc=False):
    items: list[msgspec.Raw] | None = None


_FEATURES = msgspec.json.Decoder(_Features)
_SETTINGS = msgspec.json.Decoder(_Settings)
_REQUESTS = msgspec.json.Decoder(_Requests)


async def check_rancher(requests: Requests) -> list[Finding]:
    """Whether Rancher itself serves SecretRequests from its next start on.

    Raises:
        KubeError: It can't be asked.
    """
    try:
        feature = await _named(requests, "features", FEATURE, _FEATURES.decode)
        setting = await _named(requests, "settings", _TYPE, _SETTINGS.decode)
    except NotFound:
        return []
    except Forbidden:
        return [warn(RANCHERS, "may not be read, so not checked")]
    if not feature.items:
        return [passed(RANCHERS, f"has no feature {FEATURE}")]
    build = next((each.value or each.default for each in setting.items or ()), "")
    if build != _PRIME:
        return [passed(RANCHERS, f"only a Prime build has any, and this one is {build or 'none'}")]
    if not feature.items[0].on:
        return [passed(RANCHERS, f"feature {FEATURE} is off, from Rancher's next start on")]
    seen = f"feature {FEATURE} is on: Rancher serves SecretRequests and writes their Secrets"
    return [warn(RANCHERS, seen, f"telemetryd leaves those alone; to take over {GUIDE}")]


async def _named(requests: Requests, resource: str, name: str, decode: Callable[[bytes], T]) -> T:
    """The list with the one object of that name, if there is one: a role has no ``get``."""
    path = f"{_MANAGEMENT}/{resource}"
    query = {"fieldSelector": f"metadata.name={name}"}
    body = await requests.request("GET", path, params=query, timeout_s=REQUEST_S)
    return objects.parsed(body, decode, f"GET {path}")


async def check_statuses(
    requests: Requests, now: Callable[[], float], *, takeover: bool
) -> list[Finding]:
    """Which controller wrote the status of each SecretRequest last.

    Args:
        requests: To the API server.
        now: Unix time in seconds.
        takeover: As in ``[secret_requests]``.

    Raises:
        KubeError: It can't be asked.
    """
    path, query = SECRET_REQUESTS.path, {"limit": str(_MOST_REQUESTS)}
    try:
        body = await requests.request("GET", path, params=query, timeout_s=REQUEST_S)
    except (NotFound, Forbidden):
        return []  # the check of their Secrets says so
    found: list[Finding] = []
    for item in objects.parsed(body, _REQUESTS.decode, f"GET {path}").items or ():
        try:
            request = msgspec.json.decode(item, type=RequestObject)
            record = project_request("", request)
        except (msgspec.MsgspecError, UnicodeError, RecursionError, UnreadableObject):
            continue
        name = (request.metadata.name if request.metadata is not None else None) or ""
        found.append(_judge(f"SecretRequest {name}", record, now(), takeover=takeover))
    return found


def _judge(what: str, record: SecretRequestRecord, now_s: float, *, takeover: bool) -> Finding:
    if record.other is None:
        return passed(what, "no other controller wrote its status last")
    at_s = parse_rfc3339(record.other.at)
    ago = "" if at_s is None else f" {max(0.0, now_s - at_s):.0f} s ago"
    detail = f"its status was written by {record.other.manager}{ago}"
    if takeover:
        return warn(what, f"{detail}: takeover is set, so telemetryd serves it")
    fix = f"stop that controller, then set takeover = true in [secret_requests]; {GUIDE}"
    return warn(what, f"{detail}, so telemetryd leaves it and its Secret alone", fix)
