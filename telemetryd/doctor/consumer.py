"""Who takes the SCC payload, and who else writes it: SUSE, scc-operator, Rancher itself.

None of it keeps telemetryd from its job, so nothing here is a FAIL.
"""

from typing import Final

import msgspec

from telemetryd.config.values import DnsSubdomain, InvalidValue
from telemetryd.doctor.access import MANAGEMENT
from telemetryd.doctor.checking import CheckResult, passed, warn
from telemetryd.errors import Forbidden, KubeError, NotFound
from telemetryd.gather.consumer import (
    BUILD_SETTING,
    MAX_BYTES,
    MOST,
    NEVER,
    PROBLEMS,
    RESOURCE_ID,
    Registration,
    Registrations,
    build_of,
    explain_build,
    read_registrations,
)
from telemetryd.kube import objects
from telemetryd.kube.requests import Requests

REQUEST_S: Final = 4.0
"""Deadline of one request: two of them are made within a check."""

RANCHERS: Final = "Rancher's own telemetry"
FEATURE: Final = "rancher-scc-registration-extension"
"""Of Rancher Prime: its leader serves SecretRequests, and deploys scc-operator."""

GUIDE: Final = "see docs/taking-over.md"

_PRIME: Final = "prime"
_BUILD: Final = "Rancher build"
_HIDDEN: Final = "may not be read, so not checked"
_SETTINGS_PATH: Final = f"/apis/{MANAGEMENT}/v3/settings"
_FEATURES_PATH: Final = f"/apis/{MANAGEMENT}/v3/features"


class _SettingMeta(msgspec.Struct, gc=False):
    name: str = ""


class _Setting(msgspec.Struct, gc=False):
    metadata: _SettingMeta
    value: str | None = None
    default: str | None = None


class _Settings(msgspec.Struct, gc=False):
    items: list[_Setting] | None = None


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


_SETTINGS: Final = msgspec.json.Decoder(_Settings)
_FEATURES: Final = msgspec.json.Decoder(_Features)


async def read_setting(requests: Requests, name: str) -> str:
    """The value of a setting, or its default; empty where it isn't set.

    Raises:
        KubeError: It can't be read; NotFound where there is no Rancher.
    """
    # A list of the one object of that name: a role has no ``get``.
    query = {"fieldSelector": f"metadata.name={name}"}
    body = await requests.request(
        "GET", _SETTINGS_PATH, params=query, timeout_s=REQUEST_S, max_bytes=MAX_BYTES
    )
    page = objects.parsed(body, _SETTINGS.decode, f"GET {_SETTINGS_PATH}")
    named = (each for each in page.items or () if each.metadata.name == name)
    return next((each.value or each.default or "" for each in named), "")


async def check_build(requests: Requests, product: str) -> list[CheckResult]:
    """Whether anyone expects the telemetry of this Rancher: only a Prime build writes any itself.

    ``product`` is what the payload of another build calls it.
    """
    try:
        build = build_of(await read_setting(requests, BUILD_SETTING))
    except NotFound:
        return []
    except Forbidden:
        return [warn(_BUILD, _HIDDEN)]
    except KubeError as error:
        return [warn(_BUILD, f"not known: {error}")]
    why = explain_build(build, product)
    return [warn(_BUILD, why) if why else passed(_BUILD, str(build))]


async def check_rancher(requests: Requests) -> list[CheckResult]:
    """Whether Rancher itself serves SecretRequests from its next start on.

    Raises:
        KubeError: It can't be asked.
    """
    query = {"fieldSelector": f"metadata.name={FEATURE}"}
    try:
        body = await requests.request("GET", _FEATURES_PATH, params=query, timeout_s=REQUEST_S)
        feature = objects.parsed(body, _FEATURES.decode, f"GET {_FEATURES_PATH}")
        build = await read_setting(requests, BUILD_SETTING)
    except NotFound:
        return []
    except Forbidden:
        return [warn(RANCHERS, _HIDDEN)]
    if not feature.items:
        return [passed(RANCHERS, f"has no feature {FEATURE}")]
    if build != _PRIME:
        return [passed(RANCHERS, f"only a Prime build has any, and this one is {build or 'none'}")]
    if not feature.items[0].on:
        return [passed(RANCHERS, f"feature {FEATURE} is off, from Rancher's next start on")]
    seen = f"feature {FEATURE} is on: Rancher serves SecretRequests and writes their Secrets"
    return [warn(RANCHERS, seen, f"telemetryd leaves those alone; to take over {GUIDE}")]


async def check_registrations(requests: Requests, now_s: float) -> tuple[list[CheckResult], bool]:
    """What scc-operator says of Rancher's registration with SUSE.

    Returns:
        What was found, and whether Registrations are served, so that the right to list them counts.
    """
    try:
        known = await read_registrations(requests, timeout_s=REQUEST_S, now_s=now_s)
    except Forbidden:
        return [warn(RESOURCE_ID, _HIDDEN)], True
    except KubeError as error:
        return [warn(RESOURCE_ID, f"not known: {error}")], False
    if not known.served:
        return [passed(RESOURCE_ID, "not served: no scc-operator runs here")], False
    if known.never:
        return [warn(RESOURCE_ID, *NEVER)], True
    return [*_judge_list(known), *(_judge(each, now_s) for each in known.found)], True


def _judge_list(known: Registrations) -> list[CheckResult]:
    findings = []
    if known.more:
        findings.append(warn(RESOURCE_ID, f"more than {MOST}: only these are checked"))
    if known.unreadable:
        detail = f"{known.unreadable} can't be read: not as scc-operator makes it"
        findings.append(warn(RESOURCE_ID, detail, f"kubectl get {RESOURCE_ID} -o yaml"))
    return findings


def _judge(registration: Registration, now_s: float) -> CheckResult:
    what = f"Registration {registration.name}"
    problem = PROBLEMS.get(registration.state(now_s))
    if problem is None:
        return passed(what, str(registration))
    wrong, fix = problem
    return warn(what, f"{wrong}: {registration}", f"{fix}{_command(registration.name)}")


def _command(name: str) -> str:
    """How to see more of it, where its name is one that a shell can be given."""
    try:
        DnsSubdomain().parse(name)
    except InvalidValue:
        return ""
    return f": kubectl describe {RESOURCE_ID} {name}"
