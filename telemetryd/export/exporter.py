"""The plug-in API of exporters, which deliver payloads, and the schedule and limits of each."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, fields
from enum import StrEnum
from typing import Any, Final, Protocol

from telemetryd.config import ExporterConfig
from telemetryd.export.payloads.payload import Renderer
from telemetryd.model import Disclosure, Payload


class Outcome(StrEnum):
    """The result of an export."""

    WRITTEN = "written"
    UNCHANGED = "unchanged"


@dataclass(frozen=True, slots=True)
class ExportContext:
    """One attempt, as a sink sees it.

    Attributes:
        name: The exporter's name.
        attempt: 1 for the first of a run.
        epoch: Leadership epoch, which never falls. A receiver compares (epoch, sequence).
        installation_id: UUID of the installation that the payload describes.
        sequence: Rises with each new payload of this exporter. A payload that is sent again keeps
            its sequence.
        collected_at: Unix time in seconds at which the payload was made.
        fence: Call it as the last statement before bytes go out, on each attempt. It raises
            NotLeading, or an ExportError where the payload must not be sent any more. It may be
            called from a worker thread.
    """

    name: str
    attempt: int
    epoch: int
    installation_id: str = ""
    sequence: int = 0
    collected_at: float = 0.0
    fence: Callable[[], None] = field(default=lambda: None, repr=False, compare=False)


class Exporter(Protocol):
    """One sink. It does I/O only: no retries, no schedule, no logs; the manager does those.

    Each call runs in its own task, which is cancelled once at its deadline. A sink that ignores
    that is logged, and not called again before it has returned.
    """

    async def export(self, payload: Payload, context: ExportContext) -> Outcome:
        """Deliver the payload, or find that the destination has it already.

        Raises:
            RetryableError: Another attempt in this run may succeed.
            OutrankedError: The receiver has a payload with a higher epoch and sequence.
            ConflictError: Another writer owns the destination; nothing was written.
            PermanentError: No attempt with this payload can succeed.
        """

    async def aclose(self) -> None:
        """Release resources; called once, after the last export."""


def why_no_exporter(made: object) -> str:
    """What an object lacks of an exporter, in a few words; empty for nothing."""
    missing = [
        f"{name}()" for name in ("export", "aclose") if not callable(getattr(made, name, None))
    ]
    return f"{type(made).__name__} has no {' and no '.join(missing)}" if missing else ""


@dataclass(frozen=True, slots=True)
class BuildContext:
    """What an exporter of another distribution may use.

    Attributes:
        now: Unix time in seconds.
        user_agent: Name and version of telemetryd.
    """

    now: Callable[[], float]
    user_agent: str


class ExporterPlugin(Protocol):
    """The object of an entry point in the group ``telemetryd.exporters``; its name is the type."""

    @property
    def config(self) -> type[ExporterConfig]:
        """The class of the type's tables, as a class attribute or a property.

        It is a frozen dataclass, derived from ``ExporterConfig``, or from ``RemoteExporterConfig``
        where many daemons send to one place, with the type as its class attribute ``type``. Each
        further key is annotated with its kind, and is validated and documented like telemetryd's
        own.
        """

    def build(self, config: Any, context: BuildContext) -> Exporter:
        """Make the exporter of one table, without side effects: a reload may not use it.

        Args:
            config: An instance of the class above.
            context: What else it may use.

        Raises:
            ConfigError: The exporter can't be made.
        """


def _declared(of: str, kind: type, **said: str) -> Iterator[tuple[str, str]]:
    for each in fields(kind):
        yield f"{of}.{each.name}", said[each.name]


GIVEN: Final = (
    *_declared(
        "payload",
        Payload,
        body="The payload, which has the fields that are listed",
        content_type="Its MIME type",
        digest="SHA-256 of its content",
        revision="How many snapshots there were since the start",
        schema_valid="Whether it fits its JSON Schema",
        schema_error="The first mismatch",
    ),
    *_declared(
        "context",
        ExportContext,
        name="The exporter's name",
        attempt="Number of the attempt in this run",
        epoch="Term of the leader",
        installation_id="UUID of the installation",
        sequence="Rises with each payload",
        collected_at="When the payload was made",
        fence="A function that says whether the payload may still leave",
    ),
    *_declared(
        "build",
        BuildContext,
        now="The clock",
        user_agent="Name and version of telemetryd",
    ),
    ("config", "Its own table of the configuration"),
)
"""Everything that an exporter of another distribution gets: key and meaning."""


MAX_JITTER = 0.5
"""Above half an interval a run could leave its own slot."""

MAX_DEFAULT_TIMEOUT_S = 10.0


@dataclass(frozen=True, slots=True)
class ExporterSpec:
    """One exporter's schedule and limits; the defaults are those of the configuration.

    Attributes:
        name: Unique among the exporters of a manager.
        type: The type of sink, for people (``secret``).
        render: Makes the payload of a snapshot; without I/O.
        interval_s: Seconds from one run to the next.
        timeout_s: Seconds an attempt may take; None for the lesser of 10 s and half the interval.
        jitter: Largest delay of a run behind its slot, as a part of the interval, up to 0.5.
        splay_max_s: Largest stable offset of the grid.
        initial_delay_max_s: Largest random delay of the first run after readiness; 0 for sinks on
            this machine or its API server.
        retry_base_s: Upper bound of the first backoff.
        retry_cap_s: Upper bound of every backoff.
        retry_budget_s: Seconds within which a run may begin attempts.
        max_silence_s: After so long an unchanged digest is sent again, unless the sink does that.
        verifies_destination: The sink reads its destination and decides whether to write (a
            Secret): it is called at every slot, also with the same digest.
        destination: Identifies the destination in the files that record deliveries; empty for no
            files.
        spooled: Pending payloads are kept on disk as well.
        enabled: False keeps it registered and never runs it.
        disclosure: What it sends, for status page and reports.

    Raises:
        ValueError: Times that can't be; the message names each.
    """

    name: str
    type: str
    render: Renderer
    interval_s: float = 60.0
    timeout_s: float | None = None
    jitter: float = 0.0
    splay_max_s: float = 0.0
    initial_delay_max_s: float = 0.0
    retry_base_s: float = 1.0
    retry_cap_s: float = 30.0
    retry_budget_s: float = 300.0
    max_silence_s: float = 86_400.0
    verifies_destination: bool = False
    destination: str = ""
    spooled: bool = False
    enabled: bool = True
    disclosure: Disclosure = field(default_factory=lambda: Disclosure(format="scc"))

    def __post_init__(self) -> None:
        finite_s = (self.interval_s, self.attempt_timeout_s, self.retry_base_s, self.retry_cap_s)
        wrong = {
            "name must not be empty": not self.name,
            "interval, timeout and retry times must be finite and above 0": not all(
                value > 0 and math.isfinite(value) for value in finite_s
            ),
            "timeout must be below the interval": self.attempt_timeout_s >= self.interval_s,
            "retry base must not exceed the retry cap": self.retry_base_s > self.retry_cap_s,
            f"jitter must be within 0 and {MAX_JITTER}": not 0 <= self.jitter <= MAX_JITTER,
            "splay, initial delay, retry budget and max silence must not be negative": not all(
                value >= 0
                for value in (
                    self.splay_max_s,
                    self.initial_delay_max_s,
                    self.retry_budget_s,
                    self.max_silence_s,
                )
            ),
        }
        if problems := [message for message, is_wrong in wrong.items() if is_wrong]:
            raise ValueError(f"exporter {self.name!r}: {'; '.join(problems)}")

    @property
    def attempt_timeout_s(self) -> float:
        """Seconds an attempt may take."""
        if self.timeout_s is not None:
            return self.timeout_s
        return min(MAX_DEFAULT_TIMEOUT_S, self.interval_s / 2)
