"""What the API server says instead of an object: ``Status`` bodies and the error that carries one.

Wording and structure are those of kube-apiserver (measured on 1.37.2); clients distinguish cases by
code, reason and causes.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from tests.apiserver.double.resources import JsonObject, RequestTarget, ServedResource


@dataclass(frozen=True, slots=True)
class StatusCause:
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
        code: HTTP status, of each class.
        reason: Of the Status.
        status: The body, a meta/v1 Status.
    """

    code = 500
    reason = ""

    def __init__(
        self, message: str, details: JsonObject | None = None, *, continue_token: str = ""
    ) -> None:
        super().__init__(message)
        self.status: JsonObject = {
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {"continue": continue_token} if continue_token else {},
            "status": "Failure",
            "message": message,
        }
        if self.reason:
            self.status["reason"] = self.reason
        if details is not None:
            self.status["details"] = details
        self.status["code"] = self.code


def _details(resource: ServedResource, name: str, causes: Sequence[StatusCause] = ()) -> JsonObject:
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

    code, reason = 400, "BadRequest"


class UnknownToken(ApiError):
    """401."""

    code, reason = 401, "Unauthorized"

    def __init__(self) -> None:
        super().__init__("Unauthorized")


class ForbiddenTarget(ApiError):
    """403 about a resource or an object."""

    code, reason = 403, "Forbidden"

    def __init__(self, target: RequestTarget, why: str, *causes: StatusCause) -> None:
        name = f' "{target.name}"' if target.name else ""
        message = f"{target.resource.id}{name} is forbidden: {why}"
        super().__init__(message, _details(target.resource, target.name, causes))


class ForbiddenPath(ApiError):
    """403 for a request without a token; the real server says it of paths that are no resource."""

    code, reason = 403, "Forbidden"

    def __init__(self, verb: str, path: str) -> None:
        super().__init__(f'forbidden: User "system:anonymous" cannot {verb} path "{path}"', {})


class NoSuchObject(ApiError):
    """404: no such object."""

    code, reason = 404, "NotFound"

    def __init__(self, resource: ServedResource, name: str) -> None:
        super().__init__(f'{resource.id} "{name}" not found', _details(resource, name))


class NoSuchResource(ApiError):
    """404 below a built-in group version."""

    code, reason = 404, "NotFound"

    def __init__(self) -> None:
        super().__init__("the server could not find the requested resource", {})


class MethodNotAllowed(ApiError):
    """405."""

    code, reason = 405, "MethodNotAllowed"

    def __init__(self) -> None:
        super().__init__("the server does not allow this method on the requested resource", {})


class AlreadyExists(ApiError):
    """409 on create."""

    code, reason = 409, "AlreadyExists"

    def __init__(self, target: RequestTarget) -> None:
        message = f'{target.resource.id} "{target.name}" already exists'
        super().__init__(message, _details(target.resource, target.name))


class WriteConflict(ApiError):
    """409: a precondition doesn't hold."""

    code, reason = 409, "Conflict"

    def __init__(self, target: RequestTarget, why: str) -> None:
        message = f'Operation cannot be fulfilled on {target.resource.id} "{target.name}": {why}'
        super().__init__(message, _details(target.resource, target.name))


class Modified(WriteConflict):
    """409: the resourceVersion isn't the current one."""

    def __init__(self, target: RequestTarget) -> None:
        super().__init__(
            target,
            "the object has been modified; please apply your changes to the latest version and"
            " try again",
        )


class DeletePrecondition(ApiError):
    """409: DELETE with preconditions that don't hold; the real server names the kind here."""

    code, reason = 409, "Conflict"

    def __init__(
        self, target: RequestTarget, what: str, wanted: str, actual: str, hint: str
    ) -> None:
        kind = target.resource.kind
        super().__init__(
            f'Operation cannot be fulfilled on {kind} "{target.name}": the {what} in the'
            f" precondition ({wanted}) does not match the {what} in record ({actual})."
            f" The object might have been {hint}",
            {"name": target.name, "kind": kind},
        )


class ApplyConflict(ApiError):
    """409: fields that another manager owns."""

    code, reason = 409, "Conflict"

    def __init__(self, message: str, causes: Sequence[StatusCause]) -> None:
        super().__init__(message, {"causes": [cause.as_json() for cause in causes]})


class Expired(ApiError):
    """410: a resource version or continue token from before the last compaction."""

    code, reason = 410, "Expired"


class RequestTooLarge(ApiError):
    """413."""

    code, reason = 413, "RequestEntityTooLarge"


class UnsupportedMediaType(ApiError):
    """415 for a patch."""

    code, reason = 415, "UnsupportedMediaType"

    def __init__(self) -> None:
        super().__init__("415: Unsupported Media Type", {})


class _Refused(ApiError):
    """422 in general."""

    code, reason = 422, "Invalid"

    def __init__(
        self, what: str, name: str, details: JsonObject, causes: Sequence[StatusCause]
    ) -> None:
        unique = list(dict.fromkeys(f"{cause.field}: {cause.message}" for cause in causes))
        listed = unique[0] if len(unique) == 1 else f"[{', '.join(unique)}]"
        named: JsonObject = {"name": name} if name else {}
        super().__init__(
            f'{what} "{name}" is invalid: {listed}',
            named | details | {"causes": [cause.as_json() for cause in causes]},
        )


class InvalidObject(_Refused):
    """422: the object breaks a rule of its kind."""

    def __init__(self, resource: ServedResource, name: str, causes: Sequence[StatusCause]) -> None:
        group = {"group": resource.group} if resource.group else {}
        super().__init__(resource.group_kind, name, {**group, "kind": resource.kind}, causes)


class InvalidOptions(_Refused):
    """422: query parameters that don't go together (``ListOptions``, ``PatchOptions``)."""

    def __init__(self, kind: str, causes: Sequence[StatusCause]) -> None:
        details = {"group": "meta.k8s.io", "kind": kind}
        super().__init__(f"{kind}.meta.k8s.io", "", details, causes)


class InternalError(ApiError):
    """500, as the real server answers some malformed requests."""


class VersionTooLarge(ApiError):
    """504: the resource version lies in the future."""

    code, reason = 504, "Timeout"

    def __init__(self, wanted: int, current: int) -> None:
        cause = StatusCause("ResourceVersionTooLarge", "Too large resource version")
        super().__init__(
            f"Timeout: Too large resource version: {wanted}, current: {current}",
            {"causes": [cause.as_json()], "retryAfterSeconds": 1},
        )


def deleted(target: RequestTarget, uid: str) -> JsonObject:
    """The Status of success that DELETE answers with once an object is gone."""
    return {
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {},
        "status": "Success",
        "details": {**_details(target.resource, target.name), "uid": uid},
    }
