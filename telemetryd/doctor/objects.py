"""Objects of the cluster: namespaces, Secrets and SecretRequests, read, and applied as a dry run.

Nothing is stored. What may not be read or written is a warning here: ``rights`` says which right is
missing.
"""

import re
from collections.abc import Callable
from math import inf
from typing import Final

import msgspec

from telemetryd.control.secretrequest.decision import SecretRef, target_of
from telemetryd.doctor.access import SecretTarget
from telemetryd.doctor.checking import CheckResult, fail, passed, warn
from telemetryd.doctor.cluster import REQUEST_S
from telemetryd.doctor.consumer import GUIDE
from telemetryd.errors import (
    Denier,
    Forbidden,
    Invalid,
    KubeError,
    NotFound,
    Unavailable,
    UnreadableObject,
)
from telemetryd.export.payloads.payload import parse_rfc3339
from telemetryd.export.sinks.secretobject import FoundSecret, parse_secret, render_secret
from telemetryd.gather.requests import SECRET_REQUESTS, RequestObject, project_request
from telemetryd.kube import objects
from telemetryd.kube.requests import Requests
from telemetryd.kube.responses import explain_denial
from telemetryd.model import SecretRequestRecord

REQUESTS: Final = SECRET_REQUESTS.id

_MOST_REQUESTS = 500
_HIDDEN = "may not be read, so not checked"
_ANNOTATIONS = {"scc.cattle.io/part-of": "telemetry"}
_NO_DRY_RUN = re.compile("does not support dry run|dryRun is not supported")


class _NamespaceMeta(msgspec.Struct, gc=False):
    deletionTimestamp: str | None = None  # noqa: N815 - the field's name in JSON


class _NamespaceState(msgspec.Struct, gc=False):
    metadata: _NamespaceMeta | None = None


class _ListPageMeta(msgspec.Struct, gc=False, frozen=True, rename={"continue_token": "continue"}):
    continue_token: str = ""


class _RequestPage(msgspec.Struct, gc=False):
    metadata: _ListPageMeta = _ListPageMeta()
    items: list[msgspec.Raw] | None = None


_NAMESPACE = msgspec.json.Decoder(_NamespaceState)
_REQUESTS = msgspec.json.Decoder(_RequestPage)


async def check_namespace(
    requests: Requests, target: SecretTarget, *, needed: bool
) -> list[CheckResult]:
    """Whether a Secret's namespace exists and isn't being deleted.

    If telemetryd doesn't need to read it, the dry run of the Secret shows that it is missing.

    Raises:
        KubeError: It can't be asked.
    """
    name = target.namespace
    what = f"namespace {name}"
    judge = fail if target.own else warn
    try:
        found = await objects.get(
            requests, f"/api/v1/namespaces/{name}", _NAMESPACE.decode, timeout_s=REQUEST_S
        )
    except Forbidden:
        return [warn(what, _HIDDEN)] if needed else []
    if found is None:
        return [judge(what, f"doesn't exist ({target.of})", f"kubectl create namespace {name}")]
    if found.metadata is not None and found.metadata.deletionTimestamp is not None:
        fix = "wait for its end, which a finalizer in it may hold up, and create it again"
        return [judge(what, f"is being deleted ({target.of})", fix)]
    return [passed(what, "exists")]


async def check_secret(
    requests: Requests, target: SecretTarget, now: Callable[[], float]
) -> list[CheckResult]:
    """Whether the Secret, where it exists, can be written and is ours alone.

    A dry run of the exporter's own apply follows, where the Secret could be ours: it meets what
    reviews of rights don't, such as quotas and admission.

    Raises:
        KubeError: It can't be asked.
    """
    what = str(target)
    path = f"/api/v1/namespaces/{target.namespace}/secrets/{target.name}"
    try:
        secret = await objects.get(requests, path, parse_secret, timeout_s=REQUEST_S)
    except Forbidden:
        return [warn(what, _HIDDEN)]
    if secret is None:
        return [passed(what, "doesn't exist yet"), *await _try_to_apply(requests, target)]
    fix = "delete it, or configure another name"
    if secret.type != "Opaque":
        return [fail(what, f"has type {secret.type!r}, not Opaque", fix)]
    if secret.immutable:
        return [fail(what, "is immutable", fix)]
    if not (secret.made or secret.telemetry) and (secret.payload or not target.own):
        return [fail(what, "holds something else than telemetry, which is never overwritten", fix)]
    return [_judge_writers(target, secret, now()), *await _try_to_apply(requests, target)]


async def _try_to_apply(requests: Requests, target: SecretTarget) -> list[CheckResult]:
    """Apply the Secret with little in it, forced and without storing anything.

    Raises:
        KubeError: It can't be asked.
    """
    what = f"dry run of {target}"
    path = f"/api/v1/namespaces/{target.namespace}/secrets/{target.name}"
    secret = render_secret(target.namespace, target.name, b"{}", _ANNOTATIONS)
    judge = fail if target.own else warn
    try:
        await objects.apply(
            requests, path, secret, over=None, force=True, dry_run=True, timeout_s=REQUEST_S
        )
    except NotFound:
        fix = f"kubectl create namespace {target.namespace}"
        return [judge(what, "not possible before the namespace exists", fix)]
    except (Forbidden, Unavailable) as error:
        return [_judge_denial(what, error, judge)]
    except Invalid as error:
        if _NO_DRY_RUN.search(error.said):
            return [warn(what, f"not supported: {error.said}")]
        fix = "fix what the API server says, or configure another Secret"
        return [judge(what, f"refused: {error.status} {error.said or error.reason}", fix)]
    return [passed(what, "accepted, with its quotas and admission")]


def _judge_denial(
    what: str, error: KubeError, judge: Callable[[str, str, str], CheckResult]
) -> CheckResult:
    if error.has_cause("NamespaceTerminating"):
        return warn(what, "not possible while the namespace is being deleted")
    if _NO_DRY_RUN.search(error.said):
        return warn(what, f"not supported: {error.said}")
    if error.denier is Denier.AUTHORIZER:
        return warn(what, f"not allowed, see the rights: {error.said}")
    if isinstance(error, Unavailable) and error.denier is not Denier.WEBHOOK:
        raise error
    denied, _, fix = explain_denial(error, "write it", grant="").partition(": ")
    return judge(what, denied, fix)


def _judge_writers(target: SecretTarget, secret: FoundSecret, now_s: float) -> CheckResult:
    what = str(target)
    if not secret.others:
        return passed(what, "ours alone" if secret.ours else "has no payload of another writer")
    who = ", ".join(sorted({other.manager for other in secret.others}))
    written_at = max((other.at for other in secret.others if other.at is not None), default=None)
    detail = f"data.payload was written by {who}{_ago(written_at, now_s)}"
    if target.takeover:
        return warn(what, f"{detail}: takeover is set, so telemetryd overrules it")
    if written_at is not None and now_s - written_at >= target.quiet_period_s:
        return warn(what, f"{detail}: taken over unless it writes within the quiet period")
    if not target.own:
        fix = "stop the other writer, then set takeover = true in [secret_requests]"
        return fail(what, detail, f"{fix}; {GUIDE}")
    return fail(what, detail, "stop the other writer, or configure another Secret")


async def check_requests(
    requests: Requests, now_s: float, *, takeover: bool
) -> tuple[list[CheckResult], list[SecretTarget]]:
    """What existing SecretRequests ask for, and which controller wrote the status of each last.

    Returns:
        What was found, and the Secrets that they ask for.

    Raises:
        KubeError: It can't be asked.
    """
    path, query = SECRET_REQUESTS.path, {"limit": str(_MOST_REQUESTS)}
    try:
        body = await requests.request("GET", path, params=query, timeout_s=REQUEST_S)
    except NotFound:
        return [], []
    except Forbidden:
        return [warn(REQUESTS, _HIDDEN)], []
    page = objects.parsed(body, _REQUESTS.decode, f"GET {path}")
    items = page.items or []
    targets: list[SecretTarget] = []
    findings: list[CheckResult] = []
    statuses: list[CheckResult] = []
    if page.metadata.continue_token:
        findings.append(warn(REQUESTS, f"more than {_MOST_REQUESTS}: only these are checked"))
    for item in items:
        what, record = _read_request(item)
        asked = None if record is None else target_of(record)
        if isinstance(asked, SecretRef):
            targets.append(
                SecretTarget(
                    asked.namespace,
                    asked.secret,
                    what,
                    own=False,
                    takeover=takeover,
                    quiet_period_s=inf,
                )
            )
        else:
            findings.append(warn(REQUESTS, "one is invalid: its conditions say so"))
        if record is not None:
            statuses.append(_judge_status(what, record, now_s, takeover=takeover))
    named = ", ".join(target.of for target in targets) or "none"
    return [passed(REQUESTS, f"{len(items)}: {named}"), *findings, *statuses], targets


def _read_request(item: msgspec.Raw) -> tuple[str, SecretRequestRecord | None]:
    """What it is called, and its record; None for one that can't be read."""
    try:
        request = msgspec.json.decode(item, type=RequestObject)
        record = project_request("", request)
    except (msgspec.MsgspecError, UnicodeError, RecursionError, UnreadableObject):
        return "", None
    name = (request.metadata.name if request.metadata is not None else None) or ""
    return f"SecretRequest {name}", record


def _judge_status(
    what: str, record: SecretRequestRecord, now_s: float, *, takeover: bool
) -> CheckResult:
    if record.other is None:
        return passed(what, "no other controller wrote its status last")
    detail = f"its status was written by {record.other.manager}"
    detail += _ago(parse_rfc3339(record.other.at), now_s)
    if takeover:
        return warn(what, f"{detail}: takeover is set, so telemetryd serves it")
    fix = f"stop that controller, then set takeover = true in [secret_requests]; {GUIDE}"
    return warn(what, f"{detail}, so telemetryd leaves it and its Secret alone", fix)


def _ago(at_s: float | None, now_s: float) -> str:
    return "" if at_s is None else f" {max(0.0, now_s - at_s):.0f} s ago"
