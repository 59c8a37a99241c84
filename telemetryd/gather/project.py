"""The allow-list: the fields of each kind that are read, and how an object becomes a record.

The parser skips a field that no struct here declares: it never becomes a Python object. Every
declared field may be null.
"""

import sys
from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache
from typing import Final

import msgspec

from telemetryd import bounds
from telemetryd.errors import UnreadableObject, UnreadableReason
from telemetryd.gather import texts
from telemetryd.gather.capacity import decode_raw, read_size
from telemetryd.informer.resource import KubeObject, ObjectMeta, Resource, T
from telemetryd.informer.store import Reader
from telemetryd.model import (
    FeatureRecord,
    Gpus,
    NamespaceRecord,
    NodeRecord,
    NodeTraits,
    ProjectRecord,
    R,
    SettingRecord,
    own_of,
)

LOCAL_CLUSTER: Final = "local"
"""Name of the cluster that hosts Rancher itself."""

KUBE_SYSTEM_NAME: Final = "kube-system"
"""The namespace whose UID identifies the cluster."""

OPT_OUT_SETTING: Final = "telemetry-opt"
"""The setting that switches collection off while its value is ``out``."""

SETTINGS_READ: Final = frozenset(
    {
        "cacerts",
        "install-uuid",
        "server-url",
        "server-version",
        "server-version-type",
        OPT_OUT_SETTING,
    }
)
"""The settings whose value is read; other values never become Python objects."""

CACERTS_CHARS: Final = 512 * 1024
"""Of the setting ``cacerts``: twice a whole system's bundle. A longer one is cut: no PEM."""


class _Taint(msgspec.Struct, gc=False):
    key: str | None = None
    effect: str | None = None


class _InternalNodeSpec(msgspec.Struct, gc=False):
    """``spec.internalNodeSpec``: whether Rancher adds the node to the capacity of its cluster."""

    unschedulable: bool | None = None
    taints: list[_Taint | None] | None = None


class _NodeSpec(msgspec.Struct, gc=False, rename="camel"):
    etcd: bool | None = None
    control_plane: bool | None = None
    worker: bool | None = None
    internal_node_spec: _InternalNodeSpec | None = None


class _NodeInfo(msgspec.Struct, gc=False, rename="camel"):
    """``nodeInfo`` of a node (core/v1 NodeSystemInfo)."""

    architecture: str | None = None
    operating_system: str | None = None
    container_runtime_version: str | None = None
    kernel_version: str | None = None


class InternalNodeStatus(msgspec.Struct, gc=False, rename="camel"):
    """``status.internalNodeStatus``: the core/v1 _NodeStatus of the managed cluster.

    The capacity is decoded as ``Capacity`` when projected, and searched for GPUs, whose keys the
    vendors choose.
    """

    capacity: msgspec.Raw = msgspec.Raw()
    node_info: _NodeInfo | None = None


class _NodeStatus(msgspec.Struct, gc=False, rename="camel"):
    internal_node_status: InternalNodeStatus | None = None


class NodeObject(KubeObject, gc=False):
    """What is read of nodes.management.cattle.io; their namespace is the name of the cluster."""

    spec: _NodeSpec | None = None
    status: _NodeStatus | None = None


class SettingObject(KubeObject, gc=False):
    """What is read of settings.management.cattle.io: raw, because few of them are read at all.

    ``Raw`` accepts every type, also null. The settings that are read are decoded when projected.
    """

    value: msgspec.Raw = msgspec.Raw()
    default: msgspec.Raw = msgspec.Raw()


class _FlagSpec(msgspec.Struct, gc=False):
    value: bool | None = None


class _FlagStatus(msgspec.Struct, gc=False, rename="camel"):
    default: bool | None = None
    locked_value: bool | None = None
    prime: bool | None = None


class FeatureObject(KubeObject, gc=False):
    """What is read of features.management.cattle.io."""

    spec: _FlagSpec | None = None
    status: _FlagStatus | None = None


class _ProjectLabels(
    msgspec.Struct,
    gc=False,
    rename={"system_project": "authz.management.cattle.io/system-project"},
):
    system_project: str | None = None


class _ProjectMeta(ObjectMeta, gc=False):
    labels: _ProjectLabels | None = None
    creationTimestamp: str | None = None  # noqa: N815 - the field's name in JSON


class ProjectObject(KubeObject, gc=False):
    """What is read of projects.management.cattle.io."""

    metadata: _ProjectMeta | None = None


_TEXT: Final = msgspec.json.Decoder(str | None)
_NO_SPEC: Final = _NodeSpec()
_NO_INFO: Final = _NodeInfo()
_CONTROL_PLANE_TAINTS: Final = frozenset(
    f"node-role.kubernetes.io/{role}" for role in ("controlplane", "control-plane", "etcd")
)
_KEPT: Final = 4096
"""Parts of nodes that are shared, of each kind; a real fleet has a thousand kernels."""

_ROLES: Final = tuple(
    tuple(
        role for bit, role in ((1, "controlplane"), (2, "etcd"), (4, "worker")) if combination & bit
    )
    for combination in range(8)
)


def project_node(_key: str, node: NodeObject) -> NodeRecord:
    """The record of a node.

    Raises:
        UnreadableObject: It has no UID or no namespace.
    """
    metadata = node.metadata
    uid = require_uid(metadata)
    namespace = metadata.namespace if metadata is not None else None
    if not namespace:
        raise UnreadableObject(UnreadableReason.MISSING, "a node without namespace has no cluster")
    spec = node.spec or _NO_SPEC
    return make_record(
        uid,
        node.status.internal_node_status if node.status is not None else None,
        roles_of(control_plane=spec.control_plane, etcd=spec.etcd, worker=spec.worker),
        in_capacity=_is_in_capacity(spec),
    )


def _is_in_capacity(spec: _NodeSpec) -> bool:
    """As in Rancher's ``status.capacity`` (``pkg/controllers/management/clusterstats``)."""
    internal = spec.internal_node_spec
    if internal is None:
        return True
    if internal.unschedulable:
        return False
    return bool(spec.worker) or not any(
        taint is not None
        and taint.key in _CONTROL_PLANE_TAINTS
        and taint.effect in {"NoSchedule", "NoExecute"}
        for taint in internal.taints or ()
    )


def roles_of(
    *, control_plane: bool | None, etcd: bool | None, worker: bool | None
) -> tuple[str, ...]:
    """The roles of a node, sorted."""
    return _ROLES[(1 if control_plane else 0) + (2 if etcd else 0) + (4 if worker else 0)]


def make_record(
    uid: str,
    status: InternalNodeStatus | None,
    roles: tuple[str, ...],
    *,
    in_capacity: bool = True,
) -> NodeRecord:
    """The record of a node with this status; what it has in common with others is shared.

    Raises:
        UnreadableObject: Its capacity can't be read.
    """
    info = (status.node_info if status is not None else None) or _NO_INFO
    cpu_nano, memory_nano, gpus = read_size(status.capacity if status is not None else b"")
    return NodeRecord(
        own_of(uid, memory_nano),
        _traits(
            bounds.version(info.architecture),
            bounds.version(info.operating_system),
            roles,
            cpu_nano,
            gpus,
            in_capacity,
        ),
        _container_runtime(bounds.version(info.container_runtime_version)),
        _kernel_version(bounds.version(info.kernel_version)),
    )


@lru_cache(_KEPT)
def _traits(  # noqa: PLR0917 - with names they would be looked up in twice the time
    architecture: str,
    operating_system: str,
    roles: tuple[str, ...],
    cpu_nano: int | None,
    gpus: Gpus,
    in_capacity: bool,  # noqa: FBT001 - as above
) -> NodeTraits:
    return NodeTraits(
        texts.architecture(architecture),
        texts.operating_system(operating_system),
        roles,
        cpu_nano,
        gpus,
        in_capacity,
    )


@lru_cache(_KEPT)
def _container_runtime(text: str) -> str:
    return sys.intern(texts.container_runtime(text))


@lru_cache(_KEPT)
def _kernel_version(text: str) -> str:
    return sys.intern(texts.kernel_version(text))


def project_setting(key: str, setting: SettingObject) -> SettingRecord:
    """The record of a setting: ``value``, or ``default`` if that is empty; "" if it is never read.

    Raises:
        UnreadableObject: It has no UID, or it is read and ``value`` or ``default`` isn't a text.
    """
    uid = require_uid(setting.metadata)
    if key not in SETTINGS_READ:
        return SettingRecord(uid=uid, value="")
    value, default = _text("value", setting.value), _text("default", setting.default)
    text = value or default
    value = text[:CACERTS_CHARS] if key == "cacerts" else bounds.url(text)
    return SettingRecord(uid=uid, value=value)


def project_opt_out(key: str, setting: SettingObject) -> SettingRecord:
    """The record of the opt-out setting: a default permits nothing, as no one wrote it.

    Raises:
        UnreadableObject: As in ``project_setting``.
    """
    record = project_setting(key, setting)
    written = _text("value", setting.value)
    return record if written or record.value == "out" else SettingRecord(uid=record.uid, value="")


def project_feature(_key: str, feature: FeatureObject) -> FeatureRecord:
    """The record of a feature flag.

    Raises:
        UnreadableObject: It has no UID.
    """
    status = feature.status or _FlagStatus()
    return FeatureRecord(
        uid=require_uid(feature.metadata),
        value=feature.spec.value if feature.spec is not None else None,
        default=bool(status.default),
        locked=status.locked_value,
        prime=bool(status.prime),
    )


def project_project(_key: str, project: ProjectObject) -> ProjectRecord:
    """The record of a project.

    Raises:
        UnreadableObject: It has no UID.
    """
    uid = require_uid(project.metadata)
    metadata = project.metadata or _ProjectMeta()
    if metadata.labels is None or metadata.labels.system_project != "true":
        return ProjectRecord(uid, system=False)
    return ProjectRecord(uid, system=True, created_at=metadata.creationTimestamp or "")


def project_namespace(_key: str, namespace: KubeObject) -> NamespaceRecord:
    """The record of a namespace.

    Raises:
        UnreadableObject: It has no UID.
    """
    return NamespaceRecord(uid=require_uid(namespace.metadata))


def require_uid(metadata: ObjectMeta | None) -> str:
    """The object's UID.

    Raises:
        UnreadableObject: It has none.
    """
    if metadata is None or not metadata.uid:
        raise UnreadableObject(UnreadableReason.MISSING, "metadata.uid is missing")
    return metadata.uid


def setting_value(settings: Reader[SettingRecord], name: str) -> str:
    """The effective value of a setting; empty if it is missing or can't be read."""
    record = settings.get(name)
    return record.value if isinstance(record, SettingRecord) else ""


def _text(field: str, raw: msgspec.Raw) -> str:
    return (decode_raw(field, raw, _TEXT) or "") if raw else ""


def management_resource(
    plural: str,
    kind: str,
    object_type: type[T],
    project: Callable[[str, T], R],
    *,
    namespaced: bool = False,
) -> Resource[T, R]:
    """A kind of Rancher's management API; the arguments are those of ``Resource``."""
    return Resource(
        group="management.cattle.io",
        version="v3",
        plural=plural,
        kind=kind,
        namespaced=namespaced,
        object_type=object_type,
        project=project,
    )


NODES: Final = management_resource("nodes", "Node", NodeObject, project_node, namespaced=True)
SETTINGS: Final = management_resource("settings", "Setting", SettingObject, project_setting)
FEATURES: Final = management_resource("features", "Feature", FeatureObject, project_feature)
PROJECTS: Final = management_resource(
    "projects", "Project", ProjectObject, project_project, namespaced=True
)
OPT_OUT: Final = replace(SETTINGS, name=OPT_OUT_SETTING, project=project_opt_out)
"""Only the setting that switches collection off."""

KUBE_SYSTEM: Final = Resource(
    group="",
    version="v1",
    plural="namespaces",
    kind="Namespace",
    namespaced=False,
    object_type=KubeObject,
    project=project_namespace,
    name=KUBE_SYSTEM_NAME,
)
