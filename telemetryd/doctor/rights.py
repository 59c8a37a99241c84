"""Whether we are allowed what is needed: asked of the API server, right by right, by name.

What is needed is ``access``'s business.
"""

from typing import Any

import msgspec

from telemetryd.doctor.access import REGISTRATIONS, Access
from telemetryd.doctor.cluster import REQUEST_S
from telemetryd.doctor.findings import CheckResult, fail, passed, warn
from telemetryd.errors import BadResponse, Forbidden, NotFound
from telemetryd.kube import objects
from telemetryd.kube.requests import Requests

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
