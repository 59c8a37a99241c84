"""What an exporter raised, as an error of ours: one line, a reason of the closed list, and by whom.

Exporters of other distributions raise what they like, in groups of groups, with any text and any
reason. What is made of it here is all that status, log, page and metrics get to see.
"""

from typing import Final

from telemetryd.bounds import causes_of, error_text, free_text, message_of
from telemetryd.errors import (
    ConflictError,
    ExportError,
    OutrankedError,
    PermanentError,
    Reason,
    RetryableError,
)
from telemetryd.timing import RETRY_AFTER_CAP_S

ERROR_CHARS: Final = 1000


def export_error(error: BaseException, plugin: str) -> ExportError:
    """What a call of an exporter raised, as an error whose type says whether to try again.

    Args:
        error: As it was raised. A group of one is that one.
        plugin: Name and version of the distribution that brings the exporter, empty for ours.
    """
    causes = causes_of(error)
    cause = causes[0] if len(causes) == 1 else error
    by = f"{plugin}: " if plugin else ""
    if isinstance(cause, ExportError):
        return _of_ours(cause, by)
    said = f"{by}{error_text(cause, ERROR_CHARS)}"
    made: ExportError
    if isinstance(cause, TimeoutError):
        made = RetryableError(Reason.TIMEOUT, said)
    else:
        made = PermanentError(Reason.INTERNAL, said)
    made.__cause__ = error
    return made


def _of_ours(error: ExportError, by: str) -> ExportError:
    """The same error with a reason of the list, and a text and a pause that are bounded."""
    given = getattr(error, "reason", None)
    said = f"{by}{free_text(message_of(error), ERROR_CHARS)}"
    try:
        reason = Reason(given if isinstance(given, str) else "")
    except ValueError:
        reason = Reason.INTERNAL
        said = f"{said} (without a reason that telemetryd knows)"
    made: ExportError
    if isinstance(error, OutrankedError):
        made = OutrankedError(said, epoch=error.epoch, sequence=error.sequence)
    elif isinstance(error, RetryableError):
        made = RetryableError(reason, said, retry_after_s=_seconds(error))
    elif isinstance(error, ConflictError):
        made = ConflictError(reason, said)
    else:
        made = PermanentError(reason, said)
    made.__cause__ = error if reason is Reason.INTERNAL else error.__cause__
    return made


def _seconds(error: RetryableError) -> float | None:
    """How long the destination asks to be left alone; None where that isn't a number."""
    given: object = getattr(error, "retry_after_s", None)
    if isinstance(given, bool) or not isinstance(given, int | float) or given != given:  # noqa: PLR0124
        return None
    return float(min(max(given, 0), RETRY_AFTER_CAP_S))
