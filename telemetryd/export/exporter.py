"""What an exporter is: a sink that delivers one payload and knows nothing of schedules."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from telemetryd.model import Payload


class Outcome(StrEnum):
    """What an export did."""

    WRITTEN = "written"
    UNCHANGED = "unchanged"


@dataclass(frozen=True, slots=True)
class ExportContext:
    """What the manager tells a sink of one attempt.

    Attributes:
        name: The exporter's name.
        attempt: 1 for the first of a run.
        epoch: Leadership epoch (``leaseTransitions``), 0 without leader election; informative.
        installation_id: Of whom the payload tells.
        sequence: Of the payload: rises with each new one of this exporter, and is the same when
            one is sent again.
        collected_at: Unix time in seconds at which the payload was made.
    """

    name: str
    attempt: int
    epoch: int
    installation_id: str = ""
    sequence: int = 0
    collected_at: float = 0.0


class Exporter(Protocol):
    """One sink. It does I/O only: no retries, no schedule, no logs; the manager does those.

    Each call has a task of its own, which is cancelled once when its time is up. A sink that
    swallows that isn't called again before it has returned, and is named in the log.
    """

    async def export(self, payload: Payload, context: ExportContext) -> Outcome:
        """Deliver the payload, or find that the destination holds it already.

        Raises:
            RetryableError: Another attempt in this run may succeed.
            ConflictError: Another writer owns the destination; nothing was written.
            PermanentError: No attempt with this payload can succeed.
        """

    async def aclose(self) -> None:
        """Release what the exporter holds; called once, after its last export."""
