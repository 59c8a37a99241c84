"""Who else serves SecretRequests: Rancher's own telemetry, or whichever controller wrote a status.

Only reads, and only with the rights that the daemon needs anyway.
"""

from collections.abc import Callable
from typing import Final

import msgspec

from telemetryd.doctor.cluster import REQUEST_S
from telemetryd.doctor.consumer import read_build_type
from telemetryd.doctor.findings import CheckResult, passed, warn
from telemetryd.errors import Forbidden, NotFound, UnreadableObject
from telemetryd.export.payloads.payload import parse_rfc3339
from telemetryd.gather.requests import SECRET_REQUESTS, RequestObject, project_request
from telemetryd.kube import objects
from telemetryd.kube.requests import Requests
from telemetryd.model import SecretRequestRecord

RANCHERS: Final = "Rancher's own telemetry"
FEATURE: Final = "rancher-scc-registration-extension"
"""Of Rancher Prime: its leader serves SecretRequests, and deploys scc-operator."""

GUIDE: Final = "see docs/taking-over.md"
_PRIME: Final = "prime"
_FEATURES_PATH: Final = "/apis/management.cattle.io/v3/features"
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


class _RequestItems(msgspec.Struct, gc=False):
    items: list[msgspec.Raw] | None = None


_FEATURES = msgspec.json.Decoder(_Features)
_REQUESTS = msgspec.json.Decoder(_RequestItems)


async def check_rancher(requests: Requests) -> list[CheckResult]:
    """Whether Rancher itself serves SecretRequests from its next start on.

    Raises:
        KubeError: It can't be asked.
    """
    try:
        # A list of the one object of that name: a role has no ``get``.
        query = {"fieldSelector": f"metadata.name={FEATURE}"}
        body = await requests.request("GET", _FEATURES_PATH, params=query, timeout_s=REQUEST_S)
        feature = objects.parsed(body, _FEATURES.decode, f"GET {_FEATURES_PATH}")
        build = await read_build_type(requests)
    except NotFound:
        return []
    except Forbidden:
        return [warn(RANCHERS, "may not be read, so not checked")]
    if not feature.items:
        return [passed(RANCHERS, f"has no feature {FEATURE}")]
    if build != _PRIME:
        return [passed(RANCHERS, f"only a Prime build has any, and this one is {build or 'none'}")]
    if not feature.items[0].on:
        return [passed(RANCHERS, f"feature {FEATURE} is off, from Rancher's next start on")]
    seen = f"feature {FEATURE} is on: Rancher serves SecretRequests and writes their Secrets"
    return [warn(RANCHERS, seen, f"telemetryd leaves those alone; to take over {GUIDE}")]


async def check_statuses(
    requests: Requests, now: Callable[[], float], *, takeover: bool
) -> list[CheckResult]:
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
    found: list[CheckResult] = []
    for item in objects.parsed(body, _REQUESTS.decode, f"GET {path}").items or ():
        try:
            request = msgspec.json.decode(item, type=RequestObject)
            record = project_request("", request)
        except (msgspec.MsgspecError, UnicodeError, RecursionError, UnreadableObject):
            continue
        name = (request.metadata.name if request.metadata is not None else None) or ""
        found.append(_judge(f"SecretRequest {name}", record, now(), takeover=takeover))
    return found


def _judge(what: str, record: SecretRequestRecord, now_s: float, *, takeover: bool) -> CheckResult:
    if record.other is None:
        return passed(what, "no other controller wrote its status last")
    at_s = parse_rfc3339(record.other.at)
    ago = "" if at_s is None else f" {max(0.0, now_s - at_s):.0f} s ago"
    detail = f"its status was written by {record.other.manager}{ago}"
    if takeover:
        return warn(what, f"{detail}: takeover is set, so telemetryd serves it")
    fix = f"stop that controller, then set takeover = true in [secret_requests]; {GUIDE}"
    return warn(what, f"{detail}, so telemetryd leaves it and its Secret alone", fix)
