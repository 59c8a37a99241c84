"""Plain Kubernetes as a fleet of one cluster, the upstream one: its identity, version and nodes.

Users choose the keys of labels. Only those of roles are declared, and only their existence is read,
except for the value of ``kubernetes.io/role``, which is the role itself.
"""

import logging
import random
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final
from uuid import UUID, uuid5

import anyio
import msgspec

from telemetryd.config import IdentityConfig
from telemetryd.errors import BadResponse, KubeError
from telemetryd.gather import texts
from telemetryd.gather.build_info import UNKNOWN, BuildCommit
from telemetryd.gather.identity import (
    Discovered,
    find_withheld,
    kube_system_uuid,
    public_url,
    uuid_of,
)
from telemetryd.gather.project import (
    KUBE_SYSTEM_NAME,
    LOCAL_CLUSTER,
    InternalNodeStatus,
    make_record,
    require_uid,
    roles_of,
)
from telemetryd.gather.texts import provider_of_version
from telemetryd.informer.resource import KubeObject, ObjectMeta, Resource
from telemetryd.informer.store import Reader
from telemetryd.kube.objects import UNPARSABLE, decode_or_none
from telemetryd.kube.requests import Requests
from telemetryd.model import (
    ClusterRecord,
    ClusterTraits,
    Delta,
    NamespaceRecord,
    NodeRecord,
    Record,
)
from telemetryd.timing import Retry

log = logging.getLogger(__name__)

PATH: Final = "/version"
TIMEOUT_S: Final = 10.0
MAX_BODY_BYTES: Final = 16 * 1024
"""Of an answer; a real one has some three hundred bytes."""

_VERSION: Final = re.compile(r"[!-~]{1,256}")
_COMMIT: Final = re.compile(r"[!-~]{1,128}")
_JITTER: Final = 0.25

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

    def discover(self, overrides: IdentityConfig) -> Discovered:
        """The identity now; a server URL is never missing.

        An override that is neither None nor empty comes first.
        """
        missing: list[str] = []
        found = kube_system_uuid(self.kube_system, missing)
        found_version = self.server_version() or ""
        server_url = public_url(overrides.server_url or "")
        version = overrides.version or found_version
        if not version:
            missing.append("version of the API server")
        return Discovered(
            install_uuid=uuid_of(overrides, "install_uuid", lambda: install_uuid(found), missing),
            cluster_uuid=uuid_of(overrides, "cluster_uuid", lambda: found, missing),
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


@dataclass(frozen=True, slots=True)
class VersionTiming:
    """When to request it; each pause is shortened by up to a quarter.

    Attributes:
        refresh_s: After a good answer.
        retry_base_s: After the first bad one; doubles with each further one.
    """

    refresh_s: float = 300.0
    retry_base_s: float = 1.0
    retry_cap_s: float = 60.0


DEFAULT_TIMING: Final = VersionTiming()


class _VersionInfo(msgspec.Struct, gc=False, rename="camel"):
    """What is read of version.Info (k8s.io/apimachinery)."""

    git_version: str | None = None
    git_commit: str | None = None


@dataclass(eq=False, kw_only=True)
class ServerVersion(BuildCommit):
    """Keeps the API server's version and build commit.

    ``GET /version`` is allowed to every user. It is requested regularly and after each loss of
    contact, because a cluster may be upgraded meanwhile; the last good answer is kept.

    Attributes:
        nodes: When its informer recovers, the version is requested again.
    """

    client: Requests = field(kw_only=False)
    nodes: Reader[Record]
    rng: random.Random
    timing: VersionTiming = DEFAULT_TIMING
    _known: _VersionInfo | None = field(default=None, init=False)
    _in_trouble: bool = field(default=False, init=False)
    _ask_now: anyio.Event = field(default_factory=anyio.Event, init=False)

    def __post_init__(self) -> None:
        self.nodes.on_change(self._nodes_changed)

    @property
    def version(self) -> str | None:
        """``gitVersion`` in the form of ``texts``, None before the first good answer."""
        return self._known.git_version if self._known is not None else None

    def git_hash(self) -> str | None:
        """The build commit; ``unknown`` if the answer has none, None before the first."""
        if self.overrides.git_hash is not None:
            return self.overrides.git_hash
        return None if self._known is None else self._known.git_commit

    async def run(self) -> None:
        """Request it until cancelled."""
        timing = self.timing
        retry = Retry(timing.retry_base_s, timing.retry_cap_s, self.rng, jitter=_JITTER)
        while True:
            self._ask_now = anyio.Event()
            try:
                self._settle(await self._ask())
                retry.succeeded()
                pause_s = timing.refresh_s * self.rng.uniform(1 - _JITTER, 1.0)
            except KubeError as error:
                level = logging.DEBUG if retry.failures else logging.WARNING
                log.log(level, "cannot get the version of the API server error=%r", str(error))
                pause_s = retry.failed(anyio.current_time())
            with anyio.move_on_after(pause_s):
                await self._ask_now.wait()

    async def _ask(self) -> _VersionInfo:
        """One request.

        Raises:
            BadResponse: The answer has no version.
        """
        body = await self.client.request("GET", PATH, timeout_s=TIMEOUT_S, max_bytes=MAX_BODY_BYTES)
        try:
            answer = msgspec.json.decode(body, type=_VersionInfo)
        except UNPARSABLE as error:
            raise BadResponse(f"GET {PATH}: not a version", status=200) from error
        if answer.git_version is None or not _VERSION.fullmatch(answer.git_version):
            raise BadResponse(f"GET {PATH}: names no gitVersion", status=200)
        if answer.git_commit is None or not _COMMIT.fullmatch(answer.git_commit):
            answer.git_commit = UNKNOWN
        answer.git_version = texts.kubernetes_version(answer.git_version)
        answer.git_commit = texts.build_commit(answer.git_commit)
        return answer

    def _settle(self, answer: _VersionInfo) -> None:
        if answer != self._known:
            self._known = answer
            log.info("version of the API server known version=%s", answer.git_version)
            self._announce()

    def _nodes_changed(self) -> None:
        in_trouble = bool(self.nodes.status().last_error)
        if self._in_trouble and not in_trouble:
            self._ask_now.set()
        self._in_trouble = in_trouble


_ROLE: Final = "node-role.kubernetes.io/"
_CONTROL_PLANE: Final = frozenset({"control-plane", "controlplane", "master"})


class _NodeLabels(
    msgspec.Struct,
    gc=False,
    rename={
        "control_plane": f"{_ROLE}control-plane",
        "controlplane": f"{_ROLE}controlplane",
        "master": f"{_ROLE}master",
        "etcd": f"{_ROLE}etcd",
        "worker": f"{_ROLE}worker",
        "role": "kubernetes.io/role",
    },
):
    """The labels of roles; ``Raw`` accepts every value, also null.

    kubeadm leaves them empty; RKE, RKE2 and k3s write ``true``. ``master`` is from before 1.24,
    ``controlplane`` from RKE, ``kubernetes.io/role`` from kops and kube-up.
    """

    control_plane: msgspec.Raw = msgspec.Raw()
    controlplane: msgspec.Raw = msgspec.Raw()
    master: msgspec.Raw = msgspec.Raw()
    etcd: msgspec.Raw = msgspec.Raw()
    worker: msgspec.Raw = msgspec.Raw()
    role: msgspec.Raw = msgspec.Raw()


class _NodeMeta(ObjectMeta, gc=False):
    labels: _NodeLabels | None = None


class CoreNodeObject(KubeObject, gc=False):
    """What is read of core/v1 nodes."""

    metadata: _NodeMeta | None = None
    status: InternalNodeStatus | None = None


_NO_LABELS: Final = _NodeLabels()
_TEXT: Final = msgspec.json.Decoder(str)


def project_core_node(_key: str, node: CoreNodeObject) -> NodeRecord:
    """The record of a core node.

    Raises:
        UnreadableObject: It has no UID.
    """
    uid = require_uid(node.metadata)
    labels = (node.metadata.labels if node.metadata is not None else None) or _NO_LABELS
    role = decode_or_none(_TEXT, labels.role) if labels.role else None
    roles = roles_of(
        # As in kubectl, the label alone counts, whatever its value.
        control_plane=bool(labels.control_plane or labels.controlplane or labels.master)
        or role in _CONTROL_PLANE,
        etcd=bool(labels.etcd) or role == "etcd",
        worker=bool(labels.worker) or role == "worker",
    )
    return make_record(uid, node.status, roles)


CORE_NODES: Final = Resource(
    group="",
    version="v1",
    plural="nodes",
    kind="Node",
    namespaced=False,
    object_type=CoreNodeObject,
    project=project_core_node,
)
