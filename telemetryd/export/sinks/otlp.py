"""The otlp sink: posts metrics to an OpenTelemetry receiver, by OTLP/HTTP in JSON.

The rules are those of the OTLP specification, "OTLP/HTTP Response".
"""

from typing import Final

import orjson

from telemetryd.errors import ExportError, PermanentError, Reason
from telemetryd.export.exporter import ExportContext, Outcome
from telemetryd.export.sinks.http import delivery_headers
from telemetryd.export.sinks.transport import (
    BodyLimit,
    HttpTransport,
    ReceiverAnswer,
    oversize,
    refusal,
)
from telemetryd.model import Payload

RETRYABLE: Final = frozenset({502, 503, 504})
"""With 429, all statuses after which a client of OTLP may retry."""

NO_SUCH_PLACE: Final = frozenset({404, 405})

_BAD_REQUEST: Final = 400
_TOO_LARGE: Final = b"body too large"
"""A Collector answers this, with 400, to a body beyond its limit (net/http MaxBytesReader)."""

ANSWER: Final = BodyLimit(4 * 1024 * 1024, 10.0, also=_BAD_REQUEST)
"""The usual limit of OTLP's answers; a receiver may list every rejected point in its message."""

_MOST_DIGITS: Final = 19  # of an int64


class OtlpExporter:
    """Posts metrics. A 2xx response that reports rejected points is a failure."""

    def __init__(self, transport: HttpTransport) -> None:
        self._transport = transport

    async def export(self, payload: Payload, context: ExportContext) -> Outcome:
        """Post the metrics.

        Raises:
            RetryableError: No answer, or one of 429, 502, 503 and 504.
            PermanentError: Any other answer but a success, points that were rejected, an untrusted
                certificate, or a file that can't be used.
        """
        answer = await self._transport.post(
            payload.body,
            delivery_headers(payload, context),
            fence=context.fence,
            read=ANSWER,
        )
        if not answer.ok:
            failure = _refusal(answer)
            raise failure
        rejected = rejected_points(answer.body)
        if rejected:
            raise PermanentError(
                Reason.REJECTED,
                f"the receiver has rejected {rejected} data points and taken the others: check "
                "its own log",
            )
        return Outcome.WRITTEN

    async def aclose(self) -> None:
        """Nothing is held between exports."""


def _refusal(answer: ReceiverAnswer) -> ExportError:
    said = f"the receiver answers {answer.status}"
    if answer.status in NO_SUCH_PLACE:
        return PermanentError(
            Reason.REJECTED,
            f"{said}: it takes no metrics at endpoint with /v1/metrics added: check endpoint, and "
            "that its receiver of OTLP over HTTP is on",
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
