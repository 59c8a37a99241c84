"""What becomes of one SecretRequest, and what its conditions must say. Pure.

The rules are those of Rancher's ``pkg/telemetry/controllers/secretrequest``. Of its lookup of the
System project only the label is kept, because anyone may name a project "System". Anyone who
creates projects may set that label too, so the oldest counts, which Rancher made when it started.

Conditions have the shape that Rancher writes (wrangler's ``condition.Cond``) and a transition time.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias, assert_never

from telemetryd.bounds import CONDITION_CHARS, free_text
from telemetryd.config.values import DnsLabel, DnsSubdomain, InvalidValue
from telemetryd.export.payloads.payload import parse_rfc3339, render_rfc3339
from telemetryd.gather.requests import OWN_CONDITIONS
from telemetryd.model import ConditionRecord, SecretRequestRecord, Unreadable

SECRET_TYPE = "scc"  # noqa: S105 - a word of the API
PROJECT_LABEL = "field.cattle.io/projectId"
SYSTEM_PROJECT_LABEL = "authz.management.cattle.io/system-project"

INVALID = "Secret Request is in an invalid state"
"""Upstream's reason of ``Failure``."""

EXPORT_FAILED = "Secret can't be written"
"""Starts the reason of a ``Failure`` that the request itself hasn't caused."""

WAITING = "Waiting"

MESSAGE_HOLD_S = 300.0
"""While a failure keeps its reason, its message is replaced this often at most: some messages have
numbers that change with every attempt."""

Conditions: TypeAlias = Mapping[str, ConditionRecord]
"""The conditions that telemetryd writes, by type."""


@dataclass(frozen=True, slots=True, order=True)
class SecretRef:
    """A Secret by namespace and name."""

    namespace: str
    secret: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.secret}"


@dataclass(frozen=True, slots=True)
class NamespaceFound:
    """The namespace exists; ``project`` is its label, empty without one."""

    project: str


@dataclass(frozen=True, slots=True)
class NamespaceMissing:
    """The API server says that there is no such namespace."""


@dataclass(frozen=True, slots=True)
class NamespaceUnknown:
    """The API server couldn't be asked; ``why`` is for people."""

    why: str


NamespaceFact: TypeAlias = NamespaceFound | NamespaceMissing | NamespaceUnknown


@dataclass(frozen=True, slots=True)
class SystemProjects:
    """The projects that are marked as the local cluster's System project.

    Attributes:
        name: Of the oldest, empty if there is none.
        ignored: The others.
        why_unknown: Why they aren't known now, empty if they are.
    """

    name: str = ""
    ignored: Collection[str] = frozenset()
    why_unknown: str = ""


@dataclass(frozen=True, slots=True)
class Leaving:
    """It is being deleted: it loses its exporter, and its status is left alone."""


@dataclass(frozen=True, slots=True)
class Rejected:
    """The request or its target is invalid; ``message`` has the fix."""

    message: str


@dataclass(frozen=True, slots=True)
class Waiting:
    """Something that will come isn't there yet."""

    message: str


@dataclass(frozen=True, slots=True)
class Undecided:
    """Not known now: the last decision stays in force."""

    why: str


@dataclass(frozen=True, slots=True)
class Accepted:
    """It gets an exporter for this Secret."""

    target: SecretRef


Decision: TypeAlias = Leaving | Rejected | Waiting | Undecided | Accepted


@dataclass(frozen=True, slots=True)
class Seen:
    """The controller works on the request; upstream writes this before it looks at the spec."""


@dataclass(frozen=True, slots=True)
class Served:
    """The request has its exporter.

    Attributes:
        well: The Secret is up to date; None while that isn't known, and the status stays.
        reason: Why it can't be written, one word of the closed list; empty if it can.
        message: The same in full, with the fix.
    """

    well: bool | None
    reason: str = ""
    message: str = ""


Verdict: TypeAlias = Seen | Waiting | Rejected | Served
"""What the conditions must say."""

OPERATOR_REQUEST = "rancher-scc-metrics"
OPERATOR_TARGET = SecretRef("cattle-scc-system", "rancher-scc-metrics")
"""The request of scc-operator, and its Secret. No other request may take that Secret."""

LAST = 4
"""The rank of a request that was rejected when it was last checked."""


def target_of(request: SecretRequestRecord) -> SecretRef | Rejected:
    """The Secret that a request names, or what is wrong with its spec."""
    if request.spec_error:
        return Rejected(f"spec can't be read: {request.spec_error}")
    if request.secret_type != SECRET_TYPE:
        given = f"{request.secret_type!r}" if request.secret_type else "missing"
        return Rejected(f'spec.secretType is {given}: must be "{SECRET_TYPE}"')
    if not request.has_target:
        return Rejected("spec.targetSecretRef is missing: name the Secret's name and namespace")
    for key, value, kind in (
        ("name", request.secret, DnsSubdomain()),
        ("namespace", request.namespace, DnsLabel()),
    ):
        if not value:
            return Rejected(f"spec.targetSecretRef.{key} is empty: name the Secret's {key}")
        try:
            kind.parse(value)
        except InvalidValue as invalid:
            return Rejected(f"spec.targetSecretRef.{key} {invalid}")
    return SecretRef(request.namespace, request.secret)


def asks_for_operator(request: SecretRequestRecord | Unreadable | None) -> bool:
    """Whether this is scc-operator's own request, as it makes it."""
    return (
        isinstance(request, SecretRequestRecord)
        and not request.deleting
        and target_of(request) == OPERATOR_TARGET
    )


def rank_of(
    namespace: NamespaceFact | None, projects: SystemProjects, *, operators: bool, served: bool
) -> int:
    """The order of requests, lowest first: scc-operator's, served, valid, new, rejected.

    ``namespace`` is None before the first check; ``operators`` is for the request of scc-operator.
    """
    if operators or served:
        return 0 if operators else 1
    if isinstance(namespace, NamespaceFound) and namespace.project == projects.name:
        return 2
    return 3 if namespace is None else LAST


def decide(
    request: SecretRequestRecord,
    *,
    namespace: NamespaceFact,
    projects: SystemProjects,
    holder: str,
) -> Decision:
    """What becomes of the request.

    ``holder`` is who else writes that Secret already, for people; empty for no one.
    """
    if request.deleting:
        return Leaving()
    target = target_of(request)
    if isinstance(target, Rejected):
        return target
    match namespace:
        case NamespaceUnknown():
            return Undecided(namespace.why)
        case NamespaceMissing():
            return Rejected(
                f"namespace {target.namespace} doesn't exist: create it in the System project"
            )
        case NamespaceFound():
            return _decide_by_project(target, namespace.project, projects, holder)


def _decide_by_project(
    target: SecretRef, project: str, projects: SystemProjects, holder: str
) -> Decision:
    if projects.why_unknown:
        return Undecided(projects.why_unknown)
    if not projects.name:
        return Waiting(
            f"waiting for the System project: no project of the local cluster has the label"
            f" {SYSTEM_PROJECT_LABEL}=true yet"
        )
    if project != projects.name:
        wanted = projects.name
        has = f"is {project!r}" if project else "is missing"
        if project in projects.ignored:
            has += ", which has the mark of the System project but is newer than it"
        return Rejected(
            f"namespace {target.namespace} isn't in the System project: its label {PROJECT_LABEL}"
            f" {has}, must be {wanted}"
        )
    if holder:
        return Rejected(
            f"Secret {target} is kept by {holder} already: name another Secret, or remove that one"
        )
    return Accepted(target)


def settle(held: Conditions, verdict: Verdict, *, now_s: float) -> Conditions:
    """What our conditions must be; equal to ``held`` if nothing must be written."""
    now = render_rfc3339(now_s)
    wanted = dict(held)

    def put(kind: str, *, status: str, reason: str = "", message: str = "") -> None:
        # As they are read back: a longer text would differ each time, and be written each time.
        reason, message = free_text(reason), free_text(message, CONDITION_CHARS)
        old = held.get(kind)
        if old is not None and (old.status, old.reason, old.message) == (status, reason, message):
            return
        transition = old.last_transition_time if old and old.status == status else now
        wanted[kind] = ConditionRecord(kind, status, reason, message, now, transition)

    match verdict:
        case Seen():
            put("Progressing", status="True")
        case Waiting(message):
            put("Progressing", status="True", reason=WAITING, message=message)
            wanted.pop("Done", None)
            wanted.pop("Failure", None)
        case Rejected(message):
            put("Progressing", status="False")
            put("Done", status="True")
            put("Failure", status="True", reason=INVALID, message=message)
        case Served():
            put("Progressing", status="False")
            put("Done", status="True")
            failure = held.get("Failure")
            if verdict.reason:
                reason = f"{EXPORT_FAILED}: {verdict.reason}"
                if not _is_recent(failure, reason, now_s):
                    put("Failure", status="True", reason=reason, message=verdict.message)
            elif failure is not None and (
                verdict.well or not failure.reason.startswith(EXPORT_FAILED)
            ):
                del wanted["Failure"]
        case _:
            assert_never(verdict)
    return wanted


def _is_recent(failure: ConditionRecord | None, reason: str, now_s: float) -> bool:
    """Whether a failure of this reason was written so recently that its message may stay."""
    if failure is None or (failure.status, failure.reason) != ("True", reason):
        return False
    updated_s = parse_rfc3339(failure.last_update_time)
    return updated_s is not None and 0 <= now_s - updated_s < MESSAGE_HOLD_S


def says_served(conditions: Iterable[ConditionRecord]) -> bool:
    """Whether the conditions say that the request was served without a failure."""
    held = {condition.type: condition.status for condition in conditions}
    return held.get("Done") == "True" and "Failure" not in held


def render_conditions(existing: list[Any], own: Conditions) -> list[Any]:
    """The whole list as it must be written: a merge patch replaces a list as a whole.

    Conditions of other types, and entries that aren't conditions, keep their place and content.
    """
    rendered: list[Any] = []
    placed: set[str] = set()
    for entry in existing:
        kind = entry.get("type") if isinstance(entry, dict) else None
        if kind not in OWN_CONDITIONS:
            rendered.append(entry)
        elif kind in own and kind not in placed:
            placed.add(kind)
            rendered.append(_render(own[kind]))
    rendered += [_render(own[kind]) for kind in OWN_CONDITIONS if kind in own.keys() - placed]
    return rendered


def _render(condition: ConditionRecord) -> dict[str, str]:
    fields = {
        "type": condition.type,
        "status": condition.status,
        "lastUpdateTime": condition.last_update_time,
        "lastTransitionTime": condition.last_transition_time,
        "reason": condition.reason,
        "message": condition.message,
    }
    return {key: value for key, value in fields.items() if value}
