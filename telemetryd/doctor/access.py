"""What telemetryd must be allowed to do: from the configuration and what the cluster serves.

This is the one place that says so; ``deploy/`` grants exactly this.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from telemetryd.config import Config, SecretExporterConfig
from telemetryd.gather import consumer

MANAGEMENT: Final = "management.cattle.io"
TELEMETRY: Final = "telemetry.cattle.io"
COORDINATION: Final = "coordination.k8s.io"
REVIEWS: Final = (
    ("authentication.k8s.io", "tokenreviews"),
    ("authorization.k8s.io", "subjectaccessreviews"),
)
"""What ``kubernetes_auth`` asks of the API server, by group and resource."""
RANCHER_RESOURCES: Final = ("clusters", "nodes", "settings", "features", "projects")
"""What is read of Rancher: the payloads need all but the last, SecretRequests that one too."""

_WATCH: Final = ("list", "watch")
_KUBE_SYSTEM: Final = "kube-system"
_DEFAULT_QUIET_PERIOD_S: Final = 300.0


@dataclass(frozen=True, slots=True, order=True)
class Access:
    """One verb on one kind of object, as RBAC knows it.

    Attributes:
        group: API group, empty for the core group.
        subresource: Empty for the object itself.
        namespace: Where it must be granted; empty for the whole cluster.
        name: The one object it is limited to, empty for all.
    """

    group: str
    resource: str
    subresource: str
    verb: str
    namespace: str = ""
    name: str = ""

    @property
    def resources(self) -> str:
        """As a rule names it: ``secretrequests/status``."""
        return f"{self.resource}/{self.subresource}" if self.subresource else self.resource

    def __str__(self) -> str:
        of_group = f".{self.group}" if self.group else ""
        named = f" {self.name}" if self.name else ""
        inside = f" in {self.namespace}" if self.namespace else ""
        below = f"/{self.subresource}" if self.subresource else ""
        return f"{self.verb} {self.resource}{of_group}{below}{named}{inside}"


REGISTRATIONS: Final = Access(consumer.GROUP, consumer.PLURAL, "", "list")
"""To show the state of scc-operator's registration. Nothing else depends on it."""


@dataclass(frozen=True, slots=True)
class SecretTarget:
    """A Secret that telemetryd writes.

    Attributes:
        of: Whose it is: an exporter's or a SecretRequest's.
        own: The configuration names it: without it the daemon can't do its job.
        takeover: Another writer is overruled at once.
        quiet_period_s: Otherwise, how long its payload must have stayed the same.
    """

    namespace: str
    name: str
    of: str
    own: bool
    takeover: bool = False
    quiet_period_s: float = _DEFAULT_QUIET_PERIOD_S

    def __str__(self) -> str:
        return f"Secret {self.namespace}/{self.name}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What the configuration asks for, before the cluster has been looked at.

    Attributes:
        source: Where the fleet is read: ``rancher``, ``kubernetes``, or ``auto``, which is
            Rancher's objects where they are served.
        secret_requests: Whether SecretRequests are fulfilled; ``auto`` is where they are served
            and the source is Rancher.
        delete_secrets: The Secret of a SecretRequest goes with it.
        secrets: Of the exporters that run.
        marked: Those of exporters that are off. Each may hold the mark of an opt-out, which counts
            all the same, and is removed when the opt-out ends.
        lease: Namespace and name of the Lease; None without leader election.
        reviews: Those who look at what is served are reviewed (``kubernetes_auth``).
    """

    source: str
    secret_requests: bool | str
    delete_secrets: bool
    secrets: tuple[SecretTarget, ...]
    marked: tuple[SecretTarget, ...] = ()
    lease: tuple[str, str] | None = None
    reviews: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Needs:
    """What the plan needs of this cluster.

    Attributes:
        rancher: Rancher's objects are read, else the nodes of Kubernetes.
        secret_requests: SecretRequests are fulfilled.
        registrations: Those of scc-operator are served, and shown.
    """

    plan: Plan
    rancher: bool
    secret_requests: bool
    registrations: bool = False


def plan_of(config: Config) -> Plan:
    """What this configuration asks for."""
    election = config.leader_election
    secrets = [each for each in config.exporters if isinstance(each, SecretExporterConfig)]
    return Plan(
        lease=(election.namespace, election.name) if election.enabled else None,
        reviews=config.server.kubernetes_auth,
        source=config.kubernetes.source,
        secret_requests=config.secret_requests.enabled,
        delete_secrets=config.secret_requests.cleanup == "delete",
        secrets=tuple(_target_of(exporter) for exporter in secrets if exporter.enabled),
        marked=tuple(_target_of(exporter) for exporter in secrets if not exporter.enabled),
    )


def _target_of(exporter: SecretExporterConfig) -> SecretTarget:
    return SecretTarget(
        exporter.namespace,
        exporter.secret,
        f"exporter {exporter.name}",
        own=True,
        takeover=exporter.takeover,
        quiet_period_s=exporter.quiet_period_s,
    )


def needs_of(plan: Plan, *, rancher_served: bool, requests_served: bool) -> Needs:
    """What the plan comes to where these are served or not."""
    rancher = rancher_served if plan.source == "auto" else plan.source == "rancher"
    requests = plan.secret_requests
    if not isinstance(requests, bool):
        requests = rancher and requests_served
    return Needs(plan=plan, rancher=rancher, secret_requests=requests)


def needed_access(needs: Needs, requested: Sequence[SecretTarget] = ()) -> tuple[Access, ...]:
    """Every right that is needed, none twice.

    ``requested`` has the Secrets of existing SecretRequests.
    """
    return tuple(dict.fromkeys(_needed(needs, requested)))


def _needed(needs: Needs, requested: Sequence[SecretTarget]) -> Iterator[Access]:
    *of_payloads, projects = RANCHER_RESOURCES
    if needs.rancher:
        for resource in of_payloads:
            yield from (Access(MANAGEMENT, resource, "", verb) for verb in _WATCH)
    else:
        yield from (Access("", "nodes", "", verb) for verb in _WATCH)
    yield from (Access("", "namespaces", "", verb, name=_KUBE_SYSTEM) for verb in _WATCH)
    if needs.secret_requests:
        yield from (Access(MANAGEMENT, projects, "", verb) for verb in _WATCH)
        yield Access("", "namespaces", "", "get")
        yield from (Access(TELEMETRY, "secretrequests", "", verb) for verb in ("get", *_WATCH))
        yield Access(TELEMETRY, "secretrequests", "status", "patch")
    if needs.registrations:
        yield REGISTRATIONS
    if needs.plan.lease is not None:
        namespace, name = needs.plan.lease
        # Creating can't be limited to a name (authorization, "resourceNames").
        yield Access(COORDINATION, "leases", "", "create", namespace)
        for verb in ("get", "update"):
            yield Access(COORDINATION, "leases", "", verb, namespace, name)
    if needs.plan.reviews:
        yield from (Access(group, resource, "", "create") for group, resource in REVIEWS)
    write = ("get", "create", "patch")
    delete = ("delete",) if needs.plan.delete_secrets else ()
    yield from _of_secrets(needs.plan.secrets, write)
    yield from _of_secrets(needs.plan.marked, ("get", "patch"))
    yield from _of_secrets(requested, (*write, *delete))


def _of_secrets(targets: Sequence[SecretTarget], verbs: Sequence[str]) -> Iterator[Access]:
    for target in targets:
        yield from (
            Access("", "secrets", "", verb, target.namespace, target.name) for verb in verbs
        )
