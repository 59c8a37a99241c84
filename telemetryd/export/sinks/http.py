"""The sinks http and otlp: post each payload to a receiver, whose headers show which one is newer.

A receiver compares (``Telemetryd-Epoch``, ``Telemetryd-Sequence``), as docs/delivery.md says. The
sink otlp posts metrics to an OpenTelemetry receiver, by OTLP/HTTP in JSON; its rules are those of
the OTLP specification, "OTLP/HTTP Response".
"""

import re
from typing import Final

import orjson

from telemetryd.errors import ExportError, OutrankedError, PermanentError, Reason
from telemetryd.export.exporter import ExportContext, Outcome
from telemetryd.export.payloads.payload import beside, render_rfc3339
from telemetryd.export.sinks.transport import (
    BRIEF,
    BodyLimit,
    HttpTransport,
    ReceiverAnswer,
    is_server_error,
    oversize,
    refusal,
)
from telemetryd.model import Payload

_CONFLICT = 409
_WHOLE_NUMBER = re.compile(r"[0-9]{1,19}", re.ASCII)
HEADERS: Final = (
    beside("header Idempotency-Key", "UUID of the installation, and the sequence", "computed"),
    beside("header Telemetryd-Sequence", "Rises with each payload", "counted, from the clock on"),
    beside("header Telemetryd-Epoch", "Term of the leader", "the Lease; 0 without leader election"),
    beside("header Telemetryd-Digest", "SHA-256 of the payload's facts", "computed"),
    beside("header Telemetryd-Collected-At", "When the payload was made", "the clock"),
    beside("header User-Agent", "Version of telemetryd", "a constant"),
)
"""What the headers of each request hold, beside those that HTTP itself needs."""

RETRYABLE: Final = frozenset({502, 503, 504})
"""With 429, all statuses after which a client of OTLP may retry."""

NO_SUCH_PLACE: Final = frozenset({404, 405})

_BAD_REQUEST: Final = 400
_TOO_LARGE: Final = b"body too large"
"""A Collector answers this, with 400, to a body beyond its limit (net/http MaxBytesReader)."""

ANSWER: Final = BodyLimit(4 * 1024 * 1024, 10.0, also=_BAD_REQUEST)
"""The usual limit of OTLP's answers; a receiver may list every rejected point in its message."""

_MOST_DIGITS: Final = 19  # of an int64


class HttpExporter:
    """Posts payloads; any 2xx is a delivery."""

    read: BodyLimit = BRIEF

    def __init__(self, transport: HttpTransport) -> None:
        self._transport = transport

    async def export(self, payload: Payload, context: ExportContext) -> Outcome:
        """Post the payload.

        Raises:
            RetryableError: No answer, or one of 408, 429 and 5xx (OTLP: 429, 502, 503 and 504).
            OutrankedError: 409 with the highest epoch and sequence that the receiver has.
            PermanentError: Any other answer but a success, points that were rejected, an untrusted
                certificate, or a file that can't be used.
        """
        # The same whenever a payload is sent again.
        headers = {
            "Content-Type": payload.content_type,
            "Idempotency-Key": f"{context.installation_id}:{context.sequence}",
            "Telemetryd-Sequence": str(context.sequence),
            "Telemetryd-Epoch": str(context.epoch),
            "Telemetryd-Digest": f"sha256:{payload.digest}",
            "Telemetryd-Collected-At": render_rfc3339(context.collected_at),
        }
        answer = await self._transport.post(
            payload.body, headers, fence=context.fence, read=self.read
        )
        failure = self.error_in(answer)
        if failure is not None:
            raise failure
        return Outcome.WRITTEN

    async def aclose(self) -> None:
        """Nothing is held between exports."""

    def error_in(self, answer: ReceiverAnswer) -> ExportError | None:
        """What the answer means, None for a delivery."""
        if answer.ok:
            return None
        numbers = (answer.epoch, answer.sequence)
        if answer.status == _CONFLICT and all(map(_WHOLE_NUMBER.fullmatch, numbers)):
            return OutrankedError(
                f"the receiver answers 409: it has epoch {answer.epoch}, sequence"
                f" {answer.sequence}",
                epoch=int(answer.epoch),
                sequence=int(answer.sequence),
            )
        return refusal(answer, retryable=is_server_error)


class OtlpExporter(HttpExporter):
    """Posts metrics. A 2xx response that reports rejected points is a failure."""

    read = ANSWER

    def error_in(self, answer: ReceiverAnswer) -> ExportError | None:
        """What the answer means, None for a delivery."""
        said = f"the receiver answers {answer.status}"
        if answer.ok:
            rejected = rejected_points(answer.body)
            if not rejected:
                return None
            return PermanentError(
                Reason.REJECTED,
                f"the receiver has rejected {rejected} data points and taken the others: check "
                "its own log",
            )
        if answer.status in NO_SUCH_PLACE:
            return PermanentError(
                Reason.REJECTED,
                f"{said}: it takes no metrics at endpoint with /v1/metrics added: check endpoint, "
                "and that its receiver of OTLP over HTTP is on",
            )
        if answer.status == _BAD_REQUEST and _TOO_LARGE in answer.body:
            return oversize(said)
        return refusal(answer, retryable=RETRYABLE.__contains__)


def rejected_points(body: bytes) -> int:
    """How many data points an answer's ``partialSuccess`` reports as rejected.

    Returns:
        0 where it reports none, or can't be read, because the status is a success.
    """
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError:
        return 0
    partial = document.get("partialSuccess") if isinstance(document, dict) else None
    count = partial.get("rejectedDataPoints") if isinstance(partial, dict) else None
    # JSON of Protobuf writes 64-bit integers as text; some receivers don't.
    if isinstance(count, str) and count.isascii() and count.isdigit():
        return int(count) if len(count) <= _MOST_DIGITS else 0
    return count if isinstance(count, int) and not isinstance(count, bool) and count > 0 else 0
