"""Whether we have the rights that ``access`` names, and YAML that grants the missing ones.

Each block of YAML has a name made out of its rules: applied, it adds to what there is and replaces
no role, not even one of an earlier report.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from itertools import groupby
from typing import Any

import msgspec
import yaml

from telemetryd.doctor.access import REGISTRATIONS, Access
from telemetryd.doctor.checking import CheckResult, fail, passed, warn
from telemetryd.doctor.cluster import REQUEST_S
from telemetryd.errors import BadResponse, Forbidden, NotFound
from telemetryd.kube import objects
from telemetryd.kube.requests import Requests

_API = "rbac.authorization.k8s.io"
_PATH = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"


class _ReviewStatus(msgspec.Struct, gc=False):
    allowed: bool = False


class _Review(msgspec.Struct, gc=False):
    status: _ReviewStatus | None = None


_DECODER = msgspec.json.Decoder(_Review)


async def check_access(requests: Requests, access: Access) -> list[CheckResult]:
    """Ask for one right by a SelfSubjectAccessReview, which stores nothing.

    Raises:
        KubeError: It can't be asked.
    """
    what = f"may {access}"
    judge = warn if access == REGISTRATIONS else fail
    try:
        review = await objects.create(
            requests, _PATH, _render(access), _DECODER.decode, timeout_s=REQUEST_S
        )
    except (Forbidden, NotFound):
        fix = "bind system:basic-user to find out"
        return [warn(what, "not known: the API server takes no SelfSubjectAccessReview", fix)]
    except BadResponse:
        return [warn(what, "not known: the API server's answer isn't one")]
    if review.status is not None and review.status.allowed:
        return [passed(what, "allowed")]
    role = f"a Role in {access.namespace}" if access.namespace else "a ClusterRole"
    return [judge(what, "denied", f"add the rule below by {role}", access)]


def _render(access: Access) -> dict[str, Any]:
    asked = {
        "group": access.group,
        "resource": access.resource,
        "subresource": access.subresource,
        "verb": access.verb,
        "namespace": access.namespace,
        "name": access.name,
    }
    return {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SelfSubjectAccessReview",
        "spec": {"resourceAttributes": {key: value for key, value in asked.items() if value}},
    }


@dataclass(frozen=True, slots=True)
class Account:
    """A ServiceAccount."""

    namespace: str
    name: str


def rules_of(missing: Sequence[Access]) -> list[dict[str, Any]]:
    """The fewest rules that grant just these, in the order of the first of each."""
    verbs: dict[tuple[str, str, str], list[str]] = {}
    for access in missing:
        verbs.setdefault((access.group, access.name, access.resources), []).append(access.verb)
    resources: dict[tuple[str, str, tuple[str, ...]], list[str]] = {}
    for (group, name, resource), granted in verbs.items():
        resources.setdefault((group, name, tuple(granted)), []).append(resource)
    return [
        {
            "apiGroups": [group],
            "resources": named,
            **({"resourceNames": [name]} if name else {}),
            "verbs": list(granted),
        }
        for (group, name, granted), named in resources.items()
    ]


def roles_of(missing: Sequence[Access], account: Account | None) -> list[dict[str, Any]]:
    """One role a namespace, and one for the cluster; with bindings where the account is known."""
    by_namespace = sorted(missing, key=lambda access: access.namespace)
    return [
        made
        for namespace, group in groupby(by_namespace, key=lambda access: access.namespace)
        for made in _make_role(list(group), namespace, account)
    ]


def render_roles(missing: Sequence[Access], account: Account | None) -> str:
    """The same as YAML."""
    note = "# Bind it to the user as whom telemetryd runs.\n" if account is None else ""
    return "".join(f"---\n{note}{_dump(role)}" for role in roles_of(missing, account))


def _make_role(
    missing: Sequence[Access], namespace: str, account: Account | None
) -> list[dict[str, Any]]:
    rules = rules_of(missing)
    digest = sha256(json.dumps(rules).encode()).hexdigest()
    kind = "Role" if namespace else "ClusterRole"
    metadata = {
        "name": f"telemetryd-added-{digest[:8]}",
        **({"namespace": namespace} if namespace else {}),
    }
    role = {"apiVersion": f"{_API}/v1", "kind": kind, "metadata": metadata, "rules": rules}
    if account is None:
        return [role]
    binding = {
        "apiVersion": f"{_API}/v1",
        "kind": f"{kind}Binding",
        "metadata": metadata,
        "roleRef": {"apiGroup": _API, "kind": kind, "name": metadata["name"]},
        "subjects": [
            {"kind": "ServiceAccount", "namespace": account.namespace, "name": account.name}
        ],
    }
    return [role, binding]


class _Dumper(yaml.SafeDumper):
    """YAML without anchors, which are unusual in a manifest."""

    def ignore_aliases(self, _data: object) -> bool:
        """Write a thing that occurs twice as often as it occurs."""
        return True


def _dump(document: dict[str, Any]) -> str:
    dump: Any = yaml.dump
    text: str = dump(document, Dumper=_Dumper, sort_keys=False, default_flow_style=None)
    return text
