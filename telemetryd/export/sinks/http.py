"""The http sink: posts each payload to a receiver, whose headers show which one is newer.

The receiver compares (``Telemetryd-Epoch``, ``Telemetryd-Sequence``), as docs/delivery.md says.
"""

import re
from typing import Final

from telemetryd.errors import OutrankedError
from telemetryd.export.exporter import ExportContext, Outcome
from telemetryd.export.payloads.declare import beside
from telemetryd.export.payloads.payload import render_rfc3339
from telemetryd.export.sinks.transport import (
    HttpTransport,
    ReceiverAnswer,
    is_server_error,
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


class HttpExporter:
    """Posts payloads; any 2xx is a delivery."""

    def __init__(self, transport: HttpTransport) -> None:
        self._transport = transport

    async def export(self, payload: Payload, context: ExportContext) -> Outcome:
        """Post the payload.

        Raises:
            RetryableError: No answer, or one of 408, 429 and 5xx.
            OutrankedError: 409 with the highest epoch and sequence that the receiver has.
            PermanentError: Any other answer but a success, an untrusted certificate, or a file
                that can't be used.
        """
        answer = await self._transport.post(
            payload.body, delivery_headers(payload, context), fence=context.fence
        )
        if not answer.ok:
            _raise_if_outranked(answer)
            failure = refusal(answer, retryable=is_server_error)
            raise failure
        return Outcome.WRITTEN

    async def aclose(self) -> None:
        """Nothing is held between exports."""


def _raise_if_outranked(answer: ReceiverAnswer) -> None:
    numbers = (answer.epoch, answer.sequence)
    if answer.status == _CONFLICT and all(map(_WHOLE_NUMBER.fullmatch, numbers)):
        raise OutrankedError(
            f"the receiver answers 409: it has epoch {answer.epoch}, sequence {answer.sequence}",
            epoch=int(answer.epoch),
            sequence=int(answer.sequence),
        )


def delivery_headers(payload: Payload, context: ExportContext) -> dict[str, str]:
    """Headers that identify a payload; the same whenever it is sent again."""
    return {
        "Content-Type": payload.content_type,
        "Idempotency-Key": f"{context.installation_id}:{context.sequence}",
        "Telemetryd-Sequence": str(context.sequence),
        "Telemetryd-Epoch": str(context.epoch),
        "Telemetryd-Digest": f"sha256:{payload.digest}",
        "Telemetryd-Collected-At": render_rfc3339(context.collected_at),
    }
