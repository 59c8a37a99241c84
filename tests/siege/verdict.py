"""What was seen in each phase, the promises, and the table; nothing is measured here."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from tests.siege.probes import Asked, milliseconds

MOST_RATIO: Final = 5.0
"""Medians of the siege over those of the quiet phase of the same run."""
MOST_MEMORY_MIB: Final = 100.0
RECOVERS_WITHIN_S: Final = 30.0
MOST_REQUESTS_A_SECOND: Final = 40.0
"""To the API server, of every kind, on average over a phase."""
MOST_GROWTH_MIB: Final = 20.0
"""Of what is resident after the siege, over before."""


@dataclass(frozen=True, slots=True)
class Exports:
    """One exporter in one phase.

    Attributes:
        slots: That lay wholly within the time looked at.
        runs: That ended in it, by the daemon's own metric.
        skipped: Slots without a run, by its own metric.
        posts: That the receiver has got; None where there is none to ask.
        failures: Runs that failed.
    """

    slots: int
    runs: int
    skipped: int
    posts: int | None = None
    failures: int = 0

    @property
    def has_kept_slots(self) -> bool:
        """One run may be under way at either end."""
        runs = self.runs if self.posts is None else min(self.runs, self.posts)
        return not self.skipped and not self.failures and runs >= self.slots - 1


@dataclass(frozen=True, slots=True)
class Phase:
    """One phase of the run.

    Attributes:
        requests: To the API server, by its audit log.
        rss_mib: The most that was resident.
        cores: CPU of the daemon over wall time.
        waited: Share of the time for which the daemon could run, but other processes held the
            cores.
    """

    name: str
    seconds: float
    asked: Mapping[str, Sequence[Asked]]
    exports: Mapping[str, Exports]
    requests: int
    rss_mib: float
    connections: int
    cores: float
    waited: float


@dataclass(slots=True)
class Siege:
    """A whole run.

    Attributes:
        after: What is not as before after the siege, and for how long it was not.
        peak_mib: The most that was ever resident, by the kernel.
        kills: Of the kernel, for the limit.
        died: The daemon's exit status where it ended by itself.
        history: What is wrong with the history of this time.
        restart: What failed of a start with all the requests there; empty where nothing did.
        notes: For the report.
    """

    quiet: Phase
    siege: Phase
    recovery: Phase | None = None
    after: Sequence[str] = ()
    recovered_s: float = 0.0
    peak_mib: float = 0.0
    kills: int = 0
    died: int | None = None
    history: Sequence[str] = ()
    restart: str = ""
    limit_mib: float = 128.0
    notes: list[str] = field(default_factory=list)

    def broken(self, most_ratio: float = MOST_RATIO) -> Iterator[str]:
        """Each promise that was broken, and how.

        Args:
            most_ratio: So many times as long as without attackers may an answer take.
        """
        if self.died is not None:
            yield f"the daemon ended with {self.died}"
        if self.kills:
            yield f"the kernel killed {self.kills} processes for the memory limit"
        if self.peak_mib >= MOST_MEMORY_MIB:
            yield f"memory: {self.peak_mib:.0f} MiB at its peak, {MOST_MEMORY_MIB:.0f} at most"
        for phase in (self.quiet, self.siege, self.recovery):
            if phase is not None:
                yield from _broken_in(phase)
        for name, asked in self.siege.asked.items():
            before, during = ratio_of(self.quiet.asked.get(name, ())), ratio_of(asked)
            if before and during > most_ratio * before:
                yield (
                    f"{name}: the median takes {during:.1f} ms, {during / before:.1f} times as long"
                    f" as without attackers; {most_ratio:g} at most"
                )
        yield from (f"history: {each}" for each in self.history)
        yield from (f"after {RECOVERS_WITHIN_S:.0f} s not as before: {each}" for each in self.after)
        if self.restart:
            yield f"start with all requests there: {self.restart}"


def ratio_of(asked: Sequence[Asked]) -> float:
    """Median in ms."""
    return milliseconds(asked)[0]


def _broken_in(phase: Phase) -> Iterator[str]:
    for name, asked in phase.asked.items():
        lost = [each for each in asked if not each.is_answered]
        if lost or not asked:
            why = sorted({each.error or f"status {each.status}" for each in lost})
            said = f" ({'; '.join(why[:3])})" if why else ""
            yield f"{phase.name}: {name}: {len(asked) - len(lost)} of {len(asked)} answered{said}"
    if not phase.exports:
        yield f"{phase.name}: no export could be looked at: fewer than two scrapes"
    for name, exports in phase.exports.items():
        if not exports.has_kept_slots:
            posts = "" if exports.posts is None else f", {exports.posts} received"
            yield (
                f"{phase.name}: exporter {name}: {exports.slots} slots, {exports.runs} runs"
                f"{posts}, {exports.skipped} skipped, {exports.failures} failed"
            )
    rate = phase.requests / phase.seconds if phase.seconds else 0.0
    if rate > MOST_REQUESTS_A_SECOND:
        yield (
            f"{phase.name}: {rate:.0f} requests a second to the API server, "
            f"{MOST_REQUESTS_A_SECOND:.0f} at most"
        )


def render(siege: Siege) -> str:
    """The tables, for people."""
    rows = [["phase", "asked for", "answered", "median ms", "p99 ms", "max ms", "times quiet"]]
    phases = [each for each in (siege.quiet, siege.siege, siege.recovery) if each is not None]
    for phase in phases:
        for name, asked in phase.asked.items():
            middle, late, last = milliseconds(asked)
            before = ratio_of(siege.quiet.asked.get(name, ()))
            answered = sum(each.is_answered for each in asked)
            rows.append(
                [
                    phase.name,
                    name,
                    f"{answered}/{len(asked)}",
                    f"{middle:.1f}",
                    f"{late:.1f}",
                    f"{last:.1f}",
                    f"{middle / before:.1f}" if before and middle else "-",
                ]
            )
    totals = [
        [
            "phase",
            "seconds",
            "exports",
            "API requests/s",
            "RSS MiB",
            "connections",
            "cores",
            "waits",
        ]
    ]
    for phase in phases:
        exports = ", ".join(
            f"{name} {each.runs if each.posts is None else each.posts}/{each.slots}"
            for name, each in phase.exports.items()
        )
        totals.append(
            [
                phase.name,
                f"{phase.seconds:.0f}",
                exports,
                f"{phase.requests / max(phase.seconds, 0.001):.1f}",
                f"{phase.rss_mib:.0f}",
                str(phase.connections),
                f"{phase.cores:.2f}",
                f"{phase.waited:.0%}",
            ]
        )
    return "\n".join([table(rows), "", table(totals), "", *siege.notes])


def table(rows: Sequence[Sequence[str]]) -> str:
    """Columns in line; the first row is the head."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
    return "\n".join([lines[0], "  ".join("-" * width for width in widths), *lines[1:]])
