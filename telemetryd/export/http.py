"""The http sink: posts each payload to a receiver, which can tell by its headers what is new.

The receiver drops what has an ``Idempotency-Key`` it has seen, and ignores what has a lower
``Telemetryd-Sequence`` than it has. How bytes get there is ``transport``'s affair; what is kept for
another attempt, the manager's.
"""

from telemetryd.export.exporter import ExportContext, Outcome
from telemetryd.export.payload import render_rfc3339
from telemetryd.export.transport import HttpTransport, is_server_error, refusal
from telemetryd.model import Payload


class HttpExporter:
    """Posts payloads; any 2xx is a delivery."""

    def __init__(self, transport: HttpTransport) -> None:
        self._transport = transport

    async def export(self, payload: Payload, context: ExportContext) -> Outcome:
        """Post the payload.

        Raises:
            RetryableError: No answer, or one of 408, 429 and 5xx.
            PermanentError: Any other answer but a success, an untrusted certificate, or a file
                that can't be used.
        """
        answer = await self._transport.post(
            payload.body, delivery_headers(payload, context), fence=context.fence
        )
        if not answer.ok:
            failure = refusal(answer, retryable=is_server_error)
            raise failure
        return Outcome.WRITTEN

    async def aclose(self) -> None:
        """Nothing is held between exports."""


def delivery_headers(payload: Payload, context: ExportContext) -> dict[str, str]:
    """What tells a receiver which payload this is; the same whenever it is sent again."""
    return {
        "Content-Type": payload.content_type,
        "Idempotency-Key": f"{context.installation_id}:{context.sequence}",
        "Telemetryd-Sequence": str(context.sequence),
        "Telemetryd-Epoch": str(context.epoch),
        "Telemetryd-Digest": f"sha256:{payload.digest}",
        "Telemetryd-Collected-At": render_rfc3339(context.collected_at),
    }
