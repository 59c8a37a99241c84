"""What the API server says instead of an object: ``Status`` bodies and the error that carries one.

Wording and structure are those of kube-apiserver (measured on 1.37.2); clients tell cases apart by
code, reason and causes. Deciding which one applies is not done here.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from telemetryd.demo.resources import JsonObject, Resource, Target


@dataclass(frozen=True, slots=True)
class Cause:
    """One entry of ``details.causes``; ``message`` is what stands behind ``field: ``."""

    reason: str
    message: str
    field: str = ""

    def as_json(self) -> JsonObject:
        """As meta/v1 StatusCause."""
        cause = {"reason": self.reason, "message": self.message}
        return cause | {"field": self.field} if self.field else cause


class ApiError(Exception):
    """A request ends with a Status of failure. The server's answer, not an error of telemetryd.

    Attributes:
        code: HTTP status.
        status: The body, a meta/v1 Status.
    """

    def __init__(
        self,
        code: int,
        reason: str,
        message: str,
        *,
        details: JsonObject | None = None,
        continue_token: str = "",
    ) -> None:
        super().__init__(message)
        self.code = code
        self.status: JsonObject = {
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {"continue": continue_token} if continue_token else {},
            "status": "Failure",
            "message": message,
        }
        if reason:
            self.status["reason"] = reason
        if details is not None:
            self.status["details"] = details
        self.status["code"] = code


def _details(resource: Resource, name: str, causes: Sequence[Cause] = ()) -> JsonObject:
    details: JsonObject = {}
    if name:
        details["name"] = name
    if resource.group:
        details["group"] = resource.group
    details["kind"] = resource.plural
    if causes:
        details["causes"] = [cause.as_json() for cause in causes]
    return details


class BadRequest(ApiError):
    """400."""

    def __init__(self, message: str) -> None:
        super().__init__(400, "BadRequest", message)


class Unauthorized(ApiError):
    """401: the token is unknown."""

    def __init__(self) -> None:
        super().__init__(401, "Unauthorized", "Unauthorized")


class Forbidden(ApiError):
    """403 about a resource or an object."""

    def __init__(self, target: Target, why: str, *causes: Cause) -> None:
        name = f' "{target.name}"' if target.name else ""
        super().__init__(
            403,
            "Forbidden",
            f"{target.resource.id}{name} is forbidden: {why}",
            details=_details(target.resource, target.name, causes),
        )


class ForbiddenPath(ApiError):
    """403 about a path that is no resource."""

    def __init__(self, verb: str, path: str) -> None:
        message = f'forbidden: User "system:anonymous" cannot {verb} path "{path}"'
        super().__init__(403, "Forbidden", message, details={})


class NotFound(ApiError):
    """404: no such object."""

    def __init__(self, resource: Resource, name: str) -> None:
        message = f'{resource.id} "{name}" not found'
        super().__init__(404, "NotFound", message, details=_details(resource, name))


class NoSuchResource(ApiError):
    """404 below a built-in group version."""

    def __init__(self) -> None:
        message = "the server could not find the requested resource"
        super().__init__(404, "NotFound", message, details={})


class MethodNotAllowed(ApiError):
    """405."""

    def __init__(self) -> None:
        message = "the server does not allow this method on the requested resource"
        super().__init__(405, "MethodNotAllowed", message, details={})


class AlreadyExists(ApiError):
    """409 on create."""

    def __init__(self, target: Target) -> None:
        super().__init__(
            409,
            "AlreadyExists",
            f'{target.resource.id} "{target.name}" already exists',
            details=_details(target.resource, target.name),
        )


class Conflict(ApiError):
    """409: a precondition doesn't hold."""

    def __init__(self, target: Target, why: str) -> None:
        super().__init__(
            409,
            "Conflict",
            f'Operation cannot be fulfilled on {target.resource.id} "{target.name}": {why}',
            details=_details(target.resource, target.name),
        )


class Modified(Conflict):
    """409: the resourceVersion isn't the current one."""

    def __init__(self, target: Target) -> None:
        super().__init__(
            target,
            "the object has been modified; please apply your changes to the latest version and"
            " try again",
        )


class DeletePrecondition(ApiError):
    """409: DELETE with preconditions that don't hold; the real server names the kind here."""

    def __init__(self, target: Target, what: str, wanted: str, actual: str, hint: str) -> None:
        kind = target.resource.kind
        super().__init__(
            409,
            "Conflict",
            f'Operation cannot be fulfilled on {kind} "{target.name}": the {what} in the'
            f" precondition ({wanted}) does not match the {what} in record ({actual})."
            f" The object might have been {hint}",
            details={"name": target.name, "kind": kind},
        )


class ApplyConflict(ApiError):
    """409: fields that another manager owns."""

    def __init__(self, message: str, causes: Sequence[Cause]) -> None:
        details = {"causes": [cause.as_json() for cause in causes]}
        super().__init__(409, "Conflict", message, details=details)


class Expired(ApiError):
    """410: a resource version or continue token from before the last compaction."""

    def __init__(self, message: str, *, continue_token: str = "") -> None:
        super().__init__(410, "Expired", message, continue_token=continue_token)


class RequestTooLarge(ApiError):
    """413."""

    def __init__(self, limit_bytes: int) -> None:
        message = f"Request entity too large: limit is {limit_bytes}"
        super().__init__(413, "RequestEntityTooLarge", message)


class UnsupportedMediaType(ApiError):
    """415 for a patch."""

    def __init__(self) -> None:
        super().__init__(
            415,
            "UnsupportedMediaType",
            "415: Unsupported Media Type",
            details={},
        )


class _Refused(ApiError):
    """422 in general."""

    def __init__(self, what: str, name: str, details: JsonObject, causes: Sequence[Cause]) -> None:
        unique = list(dict.fromkeys(f"{cause.field}: {cause.message}" for cause in causes))
        listed = unique[0] if len(unique) == 1 else f"[{', '.join(unique)}]"
        named: JsonObject = {"name": name} if name else {}
        super().__init__(
            422,
            "Invalid",
            f'{what} "{name}" is invalid: {listed}',
            details=named | details | {"causes": [cause.as_json() for cause in causes]},
        )


class Invalid(_Refused):
    """422: the object breaks a rule of its kind."""

    def __init__(self, resource: Resource, name: str, causes: Sequence[Cause]) -> None:
        group = {"group": resource.group} if resource.group else {}
        super().__init__(resource.group_kind, name, {**group, "kind": resource.kind}, causes)


class InvalidOptions(_Refused):
    """422: query parameters that don't go together (``ListOptions``, ``PatchOptions``)."""

    def __init__(self, kind: str, causes: Sequence[Cause]) -> None:
        details = {"group": "meta.k8s.io", "kind": kind}
        super().__init__(f"{kind}.meta.k8s.io", "", details, causes)


class InternalError(ApiError):
    """500, as the real server answers some malformed requests."""

    def __init__(self, message: str) -> None:
        super().__init__(500, "", message)


class VersionTooLarge(ApiError):
    """504: the resource version lies in the future."""

    def __init__(self, wanted: int, current: int) -> None:
        cause = Cause("ResourceVersionTooLarge", "Too large resource version")
        super().__init__(
            504,
            "Timeout",
            f"Timeout: Too large resource version: {wanted}, current: {current}",
            details={"causes": [cause.as_json()], "retryAfterSeconds": 1},
        )


def deleted(target: Target, uid: str) -> JsonObject:
    """The Status of success that DELETE answers with once an object is gone."""
    return {
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {},
        "status": "Success",
        "details": {**_details(target.resource, target.name), "uid": uid},
    }
