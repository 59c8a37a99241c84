"""From an answer of the API server to the error it means.

Pure functions over status codes, headers and bodies; no I/O and no idea of who asked.
"""

import email.utils
import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC
from typing import Any

import msgspec

from telemetryd.errors import (
    BadResponse,
    Cause,
    Conflict,
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

MAX_RETRY_AFTER_S = 30.0
"""What an API server asks for is honoured up to here: the cache must converge within 60 s."""

ERROR_BODY_BYTES = 64 * 1024
"""An error's body is read up to here; a Status is far smaller."""

_MESSAGE_CHARS = 300
_MAX_CAUSES = 32


@dataclass(frozen=True, slots=True)
class StatusBody:
    """A meta/v1 Status, of which nothing is taken on trust.

    Attributes:
        code: HTTP status code, None where it has none.
        retry_after_s: ``details.retryAfterSeconds``, clamped, None where it has none.
    """

    code: int | None
    reason: str
    message: str
    causes: tuple[Cause, ...]
    retry_after_s: float | None


class _Status(msgspec.Struct, gc=False):
    kind: Any = None
    code: Any = None
    reason: Any = None
    message: Any = None
    details: Any = None


_STATUS = msgspec.json.Decoder(_Status)


def printable(text: str, limit: int = _MESSAGE_CHARS) -> str:
    """One line of at most ``limit`` characters, fit for a log."""
    cut = text[: limit + 1]
    line = "".join(char if char.isprintable() else " " for char in cut)
    return line if len(text) <= limit else f"{line[:limit]}…"


def _text(value: object) -> str:
    return printable(value) if isinstance(value, str) else ""


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
        status = _STATUS.decode(body)
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        return None
    if status.kind != "Status":
        return None
    details = status.details if isinstance(status.details, dict) else {}
    seconds: object = details.get("retryAfterSeconds")
    is_code = isinstance(status.code, int) and not isinstance(status.code, bool)
    return StatusBody(
        code=status.code if is_code else None,
        reason=_text(status.reason),
        message=_text(status.message),
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

    Args:
        value: The header: seconds or an HTTP date.
        now_s: Unix time in seconds against which a date counts.
        limit_s: What is asked for is honoured up to here; below 1000.

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
    """The error that a status code means.

    Args:
        code: HTTP status, or the code of an ERROR event.
        what: What was asked, for the message; nothing secret.
        status: The Status that came with it, if any.
        retry_after_s: Of the header; the Status's own counts where there is none.
    """
    reason = status.reason if status else ""
    causes = status.causes if status else ()
    if retry_after_s is None and status:
        retry_after_s = status.retry_after_s
    said = (status.message or status.reason) if status else ""
    message = f"{what}: {code} {said}".rstrip()
    if code == 429:  # noqa: PLR2004 - the status codes are their own names here
        return Throttled(
            message, retry_after_s=retry_after_s, status=code, reason=reason, causes=causes
        )
    if code >= 500 or code == 408:  # noqa: PLR2004
        return Unavailable(
            message,
            kind=_unavailable_kind(code),
            retry_after_s=retry_after_s,
            status=code,
            reason=reason,
            causes=causes,
        )
    kinds: dict[int, type[KubeError]] = {
        401: Unauthorized,
        403: Forbidden,
        404: NotFound,
        409: Conflict,
        410: Gone,
    }
    default: type[KubeError] = Invalid if code >= 400 else BadResponse  # noqa: PLR2004
    return kinds.get(code, default)(message, status=code, reason=reason, causes=causes)


def error_of_event(raw: bytes, what: str) -> KubeError:
    """The error that a watch's ERROR event means; one without a code counts as a 500.

    Args:
        raw: The event's ``object``.
        what: What was watched, for the message.
    """
    status = parse_status(raw)
    code = status.code if status else None
    if code is None or not 400 <= code <= 599:  # noqa: PLR2004 - only these are errors
        code = 500
    return error_for(code, what, status)
