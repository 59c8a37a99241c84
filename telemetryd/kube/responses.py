"""From an answer of the API server to the error it means: pure functions, without I/O."""

import email.utils
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC
from typing import Any

import msgspec
import orjson

from telemetryd.bounds import FREE_TEXT_CHARS, free_text
from telemetryd.errors import (
    BadResponse,
    Cause,
    Conflict,
    Denier,
    Forbidden,
    Gone,
    Invalid,
    KubeError,
    NotFound,
    Reason,
    Throttled,
    Unauthorized,
    Unavailable,
)
from telemetryd.redaction import OURS

MAX_RETRY_AFTER_S = 30.0
"""Limit of ``Retry-After``: the cache must converge within 60 s."""

ERROR_BODY_BYTES = 64 * 1024
"""An error's body is read up to here; a Status is far smaller."""

_REDACTED_TIMES = 16
"""A text is searched for credentials in so many times its limit: tokens have some kB."""
_MAX_CAUSES = 32

_SAID_CHARS = 1000
"""Limit of a Status's message: names in it have up to 253 characters each."""

_IS_FORBIDDEN = r'(?:\S+ (?:"[^"]*" )?is )?forbidden: ?'
_DENIERS = (
    (Denier.WEBHOOK, re.compile(r'admission webhook "|.*failed calling webhook "')),
    (Denier.POLICY, re.compile(rf"(?:{_IS_FORBIDDEN})?\w*AdmissionPolicy '|.*' denied request: ")),
    (
        Denier.QUOTA,
        re.compile(rf"{_IS_FORBIDDEN}(?:\w+ quota(?: |:)|status unknown for quota)"),
    ),
    (
        Denier.AUTHORIZER,
        # An apply that creates is authorized once more, which gives the authorizer's reason alone.
        re.compile(rf'{_IS_FORBIDDEN}(?:User "(?:[^"\\]|\\.)*" cannot |RBAC: |$)'),
    ),
    (Denier.ADMISSION, re.compile(_IS_FORBIDDEN)),
)
"""How messages of denials begin (apiserver ``responsewriters``, ``admission`` and its plugins)."""

ANONYMOUS = (
    "the API server sees no credential (system:anonymous): give the user of the kubeconfig a token,"
    " a client certificate or a plugin"
)
"""What 403 means for a request without a user."""

_IS_ANONYMOUS = re.compile(rf'{_IS_FORBIDDEN}User "system:anonymous" cannot ')
_ENCODED = re.compile(r"[A-Za-z0-9+/=]{64,}")
"""What a policy's message may quote of a Secret: its content in base64."""


@dataclass(frozen=True, slots=True)
class StatusBody:
    """A meta/v1 Status, with every field checked.

    Attributes:
        retry_after_s: ``details.retryAfterSeconds``, clamped, None where it has none.
    """

    code: int | None
    reason: str
    message: str
    causes: tuple[Cause, ...]
    retry_after_s: float | None


class _AnyStatus(msgspec.Struct, gc=False):
    kind: Any = None
    type: Any = None
    code: Any = None
    reason: Any = None
    message: Any = None
    details: Any = None


def printable(text: str, limit: int = FREE_TEXT_CHARS) -> str:
    """Foreign text as one line of at most ``limit`` characters, without credentials of ours."""
    # Redacted before it is cut: half a credential can't be recognised.
    return free_text(OURS.redact(text[: limit * _REDACTED_TIMES]), limit)


def _text(value: object, limit: int = FREE_TEXT_CHARS) -> str:
    return printable(value, limit) if isinstance(value, str) else ""


def _clamp(seconds: float, limit_s: float = MAX_RETRY_AFTER_S) -> float | None:
    return min(max(seconds, 0.0), limit_s) if math.isfinite(seconds) else None


def _causes(details: Mapping[str, Any]) -> tuple[Cause, ...]:
    causes = details.get("causes")
    if not isinstance(causes, list):
        return ()
    return tuple(
        Cause(_text(cause.get("reason")), _text(cause.get("message")), _text(cause.get("field")))
        for cause in causes[:_MAX_CAUSES]
        if isinstance(cause, dict)
    )


def parse_status(body: bytes) -> StatusBody | None:
    """The Status that a body holds, None where it holds none."""
    try:
        # How deep orjson goes doesn't depend on the version of Python.
        status = msgspec.convert(orjson.loads(body), _AnyStatus)
    except (msgspec.MsgspecError, orjson.JSONDecodeError):
        return None
    # The second is how Rancher's own proxy refuses what it doesn't pass on.
    if status.kind != "Status" and status.type != "error":
        return None
    details = status.details if isinstance(status.details, dict) else {}
    seconds: object = details.get("retryAfterSeconds")
    is_code = isinstance(status.code, int) and not isinstance(status.code, bool)
    return StatusBody(
        code=status.code if is_code else None,
        reason=_text(status.reason),
        message=_text(status.message, _SAID_CHARS),
        causes=_causes(details),
        retry_after_s=_clamp(float(min(seconds, 3600)))
        if type(seconds) is int and seconds > 0
        else None,
    )


def parse_http_date(value: str | None) -> float | None:
    """An HTTP date in Unix seconds, None where it is missing or garbage."""
    if value is None:
        return None
    try:
        date = email.utils.parsedate_to_datetime(value)
        return (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp()
    except (ValueError, TypeError, OverflowError):
        return None


def parse_retry_after(
    value: str | None, now_s: float, *, limit_s: float = MAX_RETRY_AFTER_S
) -> float | None:
    """Seconds that a ``Retry-After`` header asks for (RFC 9110, 10.2.3), clamped.

    Of the header, or of the HTTP date in it against ``now_s``.

    Returns:
        Seconds between 0 and the limit; None where the header is missing or garbage.
    """
    if value is None:
        return None
    text = value.strip()
    if text.isascii() and text.isdigit():
        return limit_s if len(text) > len("999") else _clamp(float(text), limit_s)
    when_s = parse_http_date(text)
    return None if when_s is None else _clamp(when_s - now_s, limit_s)


def _unavailable_kind(code: int) -> Reason:
    return Reason.TIMEOUT if code in {408, 504} else Reason.SERVER


def error_for(
    code: int, what: str, status: StatusBody | None = None, retry_after_s: float | None = None
) -> KubeError:
    """The error that a status code means."""
    said = status.message if status else ""
    denier = _denier(said)
    if denier is not Denier.UNKNOWN:
        said = _ENCODED.sub("…", said)
    if retry_after_s is None and status:
        retry_after_s = status.retry_after_s
    message = f"{what}: {code} {said or (status.reason if status else '')}".rstrip()
    kind = _kind(code, denier, said)
    if kind is Unauthorized and code != 401:  # noqa: PLR2004 - HTTP
        message += f": {ANONYMOUS}"
    more: dict[str, Any] = {"status": code}
    if status is not None:
        more |= {"reason": status.reason, "causes": status.causes}
    if kind is Throttled:
        more["retry_after_s"] = retry_after_s
    elif kind is Unavailable:
        more |= {"kind": _unavailable_kind(code), "retry_after_s": retry_after_s}
    error = kind(message, **more)
    error.denier, error.said = denier, said
    return error


def _denier(said: str) -> Denier:
    matching = (denier for denier, pattern in _DENIERS if pattern.match(said))
    return next(matching, Denier.UNKNOWN)


def _kind(code: int, denier: Denier, said: str) -> type[KubeError]:
    if code == 429:  # noqa: PLR2004 - the status codes are their own names here
        return Throttled
    if code >= 500 or code == 408:  # noqa: PLR2004
        return Unavailable
    if code < 400:  # noqa: PLR2004
        return BadResponse
    if denier in {Denier.POLICY, Denier.WEBHOOK}:
        return Forbidden  # these choose any code
    if code == 403 and _IS_ANONYMOUS.match(said):  # noqa: PLR2004
        return Unauthorized
    kinds = {401: Unauthorized, 403: Forbidden, 404: NotFound, 409: Conflict, 410: Gone}
    return kinds.get(code, Invalid)


_FIXES = {
    Denier.QUOTA: ("a quota denies", "raise the ResourceQuota of the namespace"),
    Denier.POLICY: ("an admission policy denies", "change the policy, or exempt telemetryd"),
    Denier.WEBHOOK: ("an admission webhook denies", "change the webhook, or exempt telemetryd"),
    Denier.ADMISSION: ("admission control denies", "see which admission plugin of it says so"),
    Denier.UNKNOWN: (
        "the server denies, without a reason of Kubernetes,",
        "check for a proxy or gateway in front of the API server",
    ),
}


def explain_denial(error: KubeError, doing: str, *, grant: str) -> str:
    """A denied request, with the fix and the API server's message.

    ``grant`` is the fix where a right is missing, and only there.
    """
    if error.denier is Denier.AUTHORIZER:
        text = f"not allowed to {doing}: {grant}"
    elif error.denier is Denier.WEBHOOK and isinstance(error, Unavailable):
        text = f"can't {doing} while a webhook fails: check the webhook's service"
    else:
        denies, fix = _FIXES[error.denier]
        text = f"{denies} to {doing}: {fix}"
    said = f"{error.status or ''} {error.said or error.reason}".strip()
    return f"{text} (the API server says: {said})" if said else text


def error_of_event(raw: bytes, what: str) -> KubeError:
    """The error that a watch's ERROR event means; one without a code counts as a 500."""
    status = parse_status(raw)
    code = status.code if status else None
    if code is None or not 400 <= code <= 599:  # noqa: PLR2004 - only these are errors
        code = 500
    return error_for(code, what, status)
