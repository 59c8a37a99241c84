"""The API server itself: whether it answers, how old it is, what its clock says, what it serves."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import msgspec

from telemetryd.doctor.access import MANAGEMENT, RANCHER_RESOURCES, TELEMETRY, Needs
from telemetryd.doctor.checking import CheckResult, fail, passed, warn
from telemetryd.errors import (
    BadResponse,
    Forbidden,
    KubeError,
    NotFound,
    Reason,
    Unauthorized,
    Unavailable,
)
from telemetryd.kube.client import KubeClient
from telemetryd.kube.responses import ANONYMOUS, printable

REQUEST_S: Final = 5.0
"""Deadline of one request: shorter than a check's, so that it is the request that complains."""

OLDEST: Final = (1, 31)
"""The oldest Kubernetes that telemetryd is tested with."""

CLOCK_S: Final = 5.0
"""Clocks that differ by more are worth a warning: tokens expire, payloads have a wrong time."""

_CONNECTION = "connection"
_VERSION = "API server version"
_NO_ANSWER: Final = (
    "see that the API server runs, and that the kubeconfig's URL and CA, the proxy and the"
    " firewalls in between let it be reached"
)
_NAMESPACED: Final = frozenset({"nodes", "projects"})
_WATCHABLE: Final = frozenset({"list", "watch"})
_NUMBERS = re.compile(r"v?(\d{1,4})\.(\d{1,4})")


class _VersionAnswer(msgspec.Struct, gc=False):
    gitVersion: str = ""  # noqa: N815 - the field's name in JSON


class _Served(msgspec.Struct, gc=False):
    name: str = ""
    namespaced: bool = False
    verbs: list[str] | None = None


class _ServedList(msgspec.Struct, gc=False):
    resources: list[_Served] | None = None


@dataclass(frozen=True, slots=True)
class Discovery:
    """What of our groups is served, by name; None where a group isn't at all."""

    management: dict[str, _Served] | None
    telemetry: dict[str, _Served] | None


async def check_connection(client: KubeClient) -> tuple[list[CheckResult], bool]:
    """Whether the API server answers, and its version.

    Returns:
        What was found, and whether there is any use in asking more.
    """
    server = client.server
    try:
        body = await client.request("GET", "/version", timeout_s=REQUEST_S)
        text = msgspec.json.decode(body, type=_VersionAnswer).gitVersion
    except Unauthorized as error:
        return [judge_refusal(server, error)], False
    except Forbidden:
        refused = warn(_VERSION, "not allowed to GET /version", "bind system:public-info-viewer")
        return [passed(_CONNECTION, f"{server} answers"), refused], True
    except (NotFound, BadResponse, msgspec.MsgspecError, UnicodeError):
        fix = "name the API server's own URL in the kubeconfig"
        return [fail(_CONNECTION, f"{server} isn't a Kubernetes API server", fix)], False
    except KubeError as error:
        fix = _NO_ANSWER
        if isinstance(error, Unavailable) and error.kind is Reason.AUTH:
            fix = "fix what gives out the credential, or log in again"
        return [fail(_CONNECTION, f"{server}: {error}", fix)], False
    return [passed(_CONNECTION, f"{server} answers"), _judge_version(text)], True


def judge_refusal(server: str, error: Unauthorized) -> CheckResult:
    """Why the API server doesn't accept the credential, or knows no user."""
    if error.status != 401:  # noqa: PLR2004 - HTTP
        return fail(_CONNECTION, f"{server} answers, and knows no user", ANONYMOUS)
    fix = (
        "renew the token or certificate it is asked with, log in again, or give the kubeconfig's"
        " user a credential where it has none"
    )
    return fail(_CONNECTION, f"{server} doesn't accept the credential", fix)


def _judge_version(text: str) -> CheckResult:
    numbers = _NUMBERS.match(text)
    shown = printable(text, 100) or "none"
    if numbers is None:
        return warn(_VERSION, f"{shown} isn't a version of Kubernetes")
    if (int(numbers[1]), int(numbers[2])) < OLDEST:
        oldest = ".".join(map(str, OLDEST))
        what = f"{shown} is older than {oldest}, the oldest that telemetryd is tested with"
        return warn(_VERSION, what, "upgrade Kubernetes")
    return passed(_VERSION, shown)


async def check_clock(client: KubeClient, now: Callable[[], float]) -> list[CheckResult]:
    """How far this machine's clock is from the API server's, which has whole seconds.

    Raises:
        KubeError: It can't be asked.
    """
    asked_at = now()
    theirs = await client.server_time(timeout_s=REQUEST_S)
    ours = (asked_at + now()) / 2
    if theirs is None:
        return [warn("clock", "the API server tells no time")]
    ahead_s = ours - (theirs + 0.5)
    if abs(ahead_s) <= CLOCK_S:
        return [passed("clock", f"within {CLOCK_S:g} s of the API server's")]
    way = "ahead of" if ahead_s > 0 else "behind"
    fix = "have both machines' clocks set by NTP"
    return [warn("clock", f"{abs(ahead_s):.0f} s {way} the API server's", fix)]


async def discover(client: KubeClient) -> Discovery:
    """Ask what is served.

    Raises:
        KubeError: It can't be asked.
        BadResponse: What came isn't an answer to that.
    """
    return Discovery(
        await _served(client, f"/apis/{MANAGEMENT}/v3"),
        await _served(client, f"/apis/{TELEMETRY}/v1"),
    )


async def _served(client: KubeClient, path: str) -> dict[str, _Served] | None:
    try:
        body = await client.request("GET", path, timeout_s=REQUEST_S)
    except NotFound:
        return None
    try:
        resources = msgspec.json.decode(body, type=_ServedList).resources or []
    except (msgspec.MsgspecError, UnicodeError) as error:
        raise BadResponse(f"GET {path}: not discovery") from error
    return {resource.name: resource for resource in resources}


def judge_discovery(found: Discovery, needs: Needs) -> list[CheckResult]:
    """Whether what is needed is served as it is expected."""
    findings = _judge_rancher(found.management) if needs.rancher else []
    if not needs.rancher:
        served = "served" if found.management is not None else "not served"
        findings = [passed(f"{MANAGEMENT}/v3", f"{served}, and not needed")]
    return [*findings, *_judge_requests(found.telemetry, needs)]


def _judge_rancher(served: dict[str, _Served] | None) -> list[CheckResult]:
    group = f"{MANAGEMENT}/v3"
    if served is None:
        fix = (
            "install Rancher here, use the kubeconfig of the cluster that hosts it, or set "
            'kubernetes.source to "auto" or "kubernetes"'
        )
        return [fail(group, "not served", fix)]
    there = [name for name in RANCHER_RESOURCES if name in served]
    findings = [passed(group, f"serves {', '.join(there)}")] if there else []
    for name in RANCHER_RESOURCES:
        if name not in served:
            findings.append(_absent(name))
        elif not _is_as_expected(served[name]):
            fix = "let Rancher install its own CRD"
            findings.append(fail(f"{name}.{MANAGEMENT}", "isn't the CRD of Rancher", fix))
    return findings


def _absent(name: str) -> CheckResult:
    what = f"{name}.{MANAGEMENT}"
    if name == "projects":
        return warn(what, "not served: no SecretRequest's namespace can be verified")
    fix = "let Rancher finish its start, with its feature multi-cluster-management on"
    return fail(what, "no such CRD: exporters wait for it", fix)


def _is_as_expected(resource: _Served) -> bool:
    scope = resource.namespaced == (resource.name in _NAMESPACED)
    return scope and set(resource.verbs or ()) >= _WATCHABLE


def _judge_requests(served: dict[str, _Served] | None, needs: Needs) -> Sequence[CheckResult]:
    group = f"{TELEMETRY}/v1"
    there = served is not None and "secretrequests" in served
    if not needs.secret_requests:
        return [passed(group, f"{'served' if there else 'not served'}, and not needed")]
    if served is None or not there:
        return [warn(group, "secretrequests not served: watched for, Rancher installs its CRD")]
    if "secretrequests/status" not in served:
        fix = "let Rancher install its own CRD"
        return [fail(group, "secretrequests without status: conditions can't be written", fix)]
    return [passed(group, "serves secretrequests with status")]
