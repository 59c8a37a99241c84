"""The schedule and the limits of an exporter, as it is registered with the manager."""

import math
from dataclasses import dataclass, field

from telemetryd.export.payloads.payload import Renderer
from telemetryd.model import Disclosure

MAX_JITTER = 0.5
"""Above half an interval a run could leave its own slot."""

MAX_DEFAULT_TIMEOUT_S = 10.0


@dataclass(frozen=True, slots=True)
class ExporterSpec:
    """One exporter's schedule and limits; the defaults are those of the configuration.

    Attributes:
        name: Unique among the manager's exporters.
        type: The type of sink, for people (``secret``).
        render: Makes the payload of a snapshot; without I/O.
        interval_s: Seconds between two slots.
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
        spooled: A payload is stored on disk until it is delivered.
        enabled: False keeps it registered and never runs it.
        disclosure: Everything that it sends.
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
