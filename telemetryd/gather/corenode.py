"""The allow-list of plain Kubernetes: the fields of a core node that are read, and its record.

Users choose the keys of labels. Only those of roles are declared, and only their existence is read,
except for the value of ``kubernetes.io/role``, which is the role itself.
"""

from functools import partial
from typing import Final

import msgspec

from telemetryd.gather.project import (
    LOCAL_CLUSTER,
    InternalNodeStatus,
    intern_shape,
    require_uid,
)
from telemetryd.gather.shapes import ShapeTable
from telemetryd.informer.resource import KubeObject, ObjectMeta, Resource
from telemetryd.model import NodeRecord

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


def project_core_node(shapes: ShapeTable, _key: str, node: CoreNodeObject) -> NodeRecord:
    """The record of a core node in the only cluster, its shape interned in the table.

    Raises:
        UnreadableObject: It has no UID.
    """
    uid = require_uid(node.metadata)
    labels = (node.metadata.labels if node.metadata is not None else None) or _NO_LABELS
    role = _named_role(labels.role)
    shape = intern_shape(
        shapes,
        node.status,
        # As in kubectl, the label alone counts, whatever its value.
        control_plane=bool(labels.control_plane or labels.controlplane or labels.master)
        or role in _CONTROL_PLANE,
        etcd=bool(labels.etcd) or role == "etcd",
        worker=bool(labels.worker) or role == "worker",
    )
    return NodeRecord(uid=uid, cluster=LOCAL_CLUSTER, shape=shape)


def _named_role(raw: msgspec.Raw) -> str:
    """The value of ``kubernetes.io/role``; empty if there is no text."""
    if not raw:
        return ""
    try:
        return msgspec.json.decode(raw, type=str)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return ""


def core_nodes_resource(shapes: ShapeTable) -> Resource[CoreNodeObject, NodeRecord]:
    """Core nodes, their shapes interned in the table."""
    return Resource(
        group="",
        version="v1",
        plural="nodes",
        kind="Node",
        namespaced=False,
        object_type=CoreNodeObject,
        project=partial(project_core_node, shapes),
    )
