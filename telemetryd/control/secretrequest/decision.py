"""What becomes of one SecretRequest: pure, by the rules that Rancher checks it by.

The rules are those of ``pkg/telemetry/controllers/secretrequest``; of its lookup of the System
project only the label is kept, for anybody may call a project "System". Anybody who creates
projects may set that label too: of several the oldest counts, which Rancher made at its start.
"""

from collections.abc import Collection
from dataclasses import dataclass
from typing import TypeAlias

from telemetryd.config.values import DnsLabel, DnsSubdomain, InvalidValue
from telemetryd.model import SecretRequestRecord, Unreadable

SECRET_TYPE = "scc"  # noqa: S105 - a word of the API
PROJECT_LABEL = "field.cattle.io/projectId"
SYSTEM_PROJECT_LABEL = "authz.management.cattle.io/system-project"


@dataclass(frozen=True, slots=True, order=True)
class Target:
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
        name: Of the oldest, empty where there is none.
        ignored: The others.
        why_unknown: Why they can't be told now, empty where they can.
    """

    name: str = ""
    ignored: Collection[str] = frozenset()
    why_unknown: str = ""


@dataclass(frozen=True, slots=True)
class Leaving:
    """It is being deleted: it gets no exporter any more, and its status is left alone."""


@dataclass(frozen=True, slots=True)
class Rejected:
    """It is in an invalid state, by its own fault or its target's; ``message`` has the fix."""

    message: str


@dataclass(frozen=True, slots=True)
class Waiting:
    """Something that will come isn't there yet, which is nobody's fault."""

    message: str


@dataclass(frozen=True, slots=True)
class Undecided:
    """It can't be told now: whatever was decided before stays in force."""

    why: str


@dataclass(frozen=True, slots=True)
class Accepted:
    """It is to have an exporter for this Secret."""

    target: Target


OPERATOR_REQUEST = "rancher-scc-metrics"
OPERATOR_TARGET = Target("cattle-scc-system", "rancher-scc-metrics")
"""What scc-operator asks for, and by which request. No other request may keep it from that."""

Decision: TypeAlias = Leaving | Rejected | Waiting | Undecided | Accepted


def target_of(request: SecretRequestRecord) -> Target | Rejected:
    """The Secret that a request names, or what is wrong with its spec: all that needs no look."""
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
    return Target(request.namespace, request.secret)


def asks_for_operator(request: SecretRequestRecord | Unreadable | None) -> bool:
    """Whether this is scc-operator's own request, as it makes it."""
    return (
        isinstance(request, SecretRequestRecord)
        and not request.deleting
        and target_of(request) == OPERATOR_TARGET
    )


LAST = 4
"""The rank of a request that was rejected when it was last looked at."""


def rank_of(
    namespace: NamespaceFact | None, projects: SystemProjects, *, operators: bool, served: bool
) -> int:
    """Whose turn it is, the lowest first: scc-operator's, those served, the valid, the new.

    Args:
        namespace: The target's, as far as it is known.
        projects: That it must be in.
        operators: It is scc-operator's request.
        served: It has an exporter.
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

    Args:
        request: As it is held.
        namespace: The target's.
        projects: That it must be in.
        holder: Who else keeps that Secret already, for people; empty for nobody.
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
    target: Target, project: str, projects: SystemProjects, holder: str
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
