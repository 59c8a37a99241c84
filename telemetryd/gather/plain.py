"""Plain Kubernetes as a fleet of one cluster, the upstream one: its readers and its identity."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final
from uuid import UUID, uuid5

from telemetryd.config import IdentityConfig
from telemetryd.gather.identity import (
    Discovered,
    checked_uuid,
    find_withheld,
    kube_system_uuid,
    public_url,
)
from telemetryd.gather.project import KUBE_SYSTEM_NAME, LOCAL_CLUSTER
from telemetryd.gather.texts import provider_of_version
from telemetryd.informer.store import Reader
from telemetryd.model import ClusterRecord, ClusterTraits, Delta, NamespaceRecord, NodeRecord

INSTALLATIONS: Final = UUID("5b6ea98a-1d02-4f25-a68f-9a6451012e93")
"""Namespace of install UUIDs, which are made from a kube-system UID (RFC 4122, version 5).

Never change it: it would change the id of every installation of plain Kubernetes.
"""

DEFAULT_PRODUCT: Final = "kubernetes"


@dataclass(frozen=True, slots=True)
class PlainReaders:
    """What a snapshot of plain Kubernetes is made of.

    Attributes:
        server_version: ``gitVersion`` of the API server in the form of ``texts``; None while
            unknown.
    """

    nodes: Reader[NodeRecord]
    kube_system: Reader[NamespaceRecord]
    server_version: Callable[[], str | None]


class PlainIdentity:
    """The identity of a plain cluster: the namespace kube-system and the API server's version.

    An override that is neither None nor empty comes first.
    """

    needs_kube_system: Final = True
    """The cluster's own id depends on it."""

    def __init__(self, readers: PlainReaders, overrides: IdentityConfig) -> None:
        self._readers = readers
        self._overrides = overrides

    def override(self, overrides: IdentityConfig) -> None:
        """Use other overrides."""
        self._overrides = overrides

    def current(self) -> Discovered:
        """The identity now; a server URL is never missing."""
        missing: list[str] = []
        overrides = self._overrides
        found = kube_system_uuid(self._readers.kube_system, missing)
        found_version = self._readers.server_version() or ""
        version = overrides.version or found_version
        server_url = public_url(overrides.server_url or "")
        if not version:
            missing.append("version of the API server")
        return Discovered(
            install_uuid=checked_uuid(
                overrides.install_uuid, "configuration identity.install_uuid", missing
            )
            if overrides.install_uuid
            else install_uuid(found),
            cluster_uuid=checked_uuid(
                overrides.cluster_uuid, "configuration identity.cluster_uuid", missing
            )
            if overrides.cluster_uuid
            else found,
            server_url=server_url,
            version=version,
            product=overrides.product or DEFAULT_PRODUCT,
            missing=tuple(missing),
            withheld=find_withheld(server_url, overrides.server_url or "", found_version),
        )


def install_uuid(kube_system_uid: str) -> str:
    """The install UUID of the cluster with this UID of kube-system; empty for an empty one."""
    return str(uuid5(INSTALLATIONS, kube_system_uid.lower())) if kube_system_uid else ""


class LocalCluster:
    """Makes the deltas of the one cluster, as an informer of clusters would."""

    def __init__(
        self, readers: PlainReaders, apply: Callable[[Delta[ClusterRecord]], None]
    ) -> None:
        """Apply the first delta.

        Args:
            readers: Have its UID and version.
            apply: Called with each delta.
        """
        self._readers = readers
        self._apply = apply
        self._record: ClusterRecord | None = None
        self.refresh()

    def refresh(self) -> None:
        """Apply a delta if the record has changed."""
        record = self._current()
        if record != self._record:
            delta = Delta(LOCAL_CLUSTER, self._record, record)
            self._record = record
            self._apply(delta)

    def _current(self) -> ClusterRecord:
        namespace = self._readers.kube_system.get(KUBE_SYSTEM_NAME)
        version = self._readers.server_version() or ""
        return ClusterRecord(
            uid=namespace.uid if namespace is not None else "",
            kubernetes_version=version,
            traits=ClusterTraits(
                provider=provider_of_version(version),
                driver="local",
                management="local",
                active=True,
            ),
        )
