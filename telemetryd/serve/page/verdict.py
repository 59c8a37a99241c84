"""How all is, in one sentence, and what to do where it isn't well: judged from the status alone.

How that is shown doesn't belong here.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from telemetryd.errors import Reason
from telemetryd.gather.consumer import NEVER, PROBLEMS
from telemetryd.model import (
    ExporterState,
    ExporterStatus,
    InformerStatus,
    RequestState,
    RequestStatus,
)
from telemetryd.serve.page.status import StatusFacts


class Tone(IntEnum):
    """How much something matters; the greatest decides for the whole.

    ``GOOD`` is as it should be, ``QUIET`` is off because somebody wants it so, ``BUSY`` is on its
    way, ``GAPS`` works in part, ``BAD`` needs somebody.
    """

    GOOD = 0
    QUIET = 1
    BUSY = 2
    GAPS = 3
    BAD = 4


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing worth saying.

    Attributes:
        what: A sentence.
        why: What was reported, word for word; empty where ``what`` says it all.
        fix: What to do about it, in sentences; empty where nothing need be done.
    """

    tone: Tone
    what: str
    why: str = ""
    fix: str = ""


@dataclass(frozen=True, slots=True)
class Verdict:
    """How all is.

    Attributes:
        sentence: The whole of it.
        findings: What it rests on, the gravest first; none where all is well.
    """

    tone: Tone
    sentence: str
    findings: tuple[Finding, ...]


AT_REST: Final = frozenset({ExporterState.DISABLED, ExporterState.STANDBY, ExporterState.STOPPED})
"""States in which an exporter isn't meant to do anything."""

_MOST_LISTED: Final = 4
_FAILING: Final = frozenset({ExporterState.BACKOFF, ExporterState.FAILED})

_MENDS: Final[dict[str, str]] = {
    Reason.MISSING_NAMESPACE: "Create the namespace, or name another in the configuration.",
    Reason.NAMESPACE_TERMINATING: "Create the namespace anew once it is gone.",
    Reason.FORBIDDEN: "Grant what the message names.",
    Reason.IMMUTABLE: "Delete the immutable Secret: it is made anew.",
    Reason.WRONG_TYPE: "Delete the Secret of another type, or name another in the configuration.",
    Reason.OVERSIZE: "Send it where there is room for it.",
    Reason.FIELD_CONFLICT: "With takeover = true the exporter would not wait.",
    Reason.NOT_TELEMETRY: "Name another Secret, or delete this one if it isn't needed.",
    Reason.CONFLICT: "With takeover = true the exporter would not wait.",
    Reason.TIMEOUT: "Find out why the destination is slow, or give the exporter a longer timeout.",
    Reason.CONNECT: "Check the destination's address, certificate and network.",
    Reason.THROTTLED: "Nothing: it waits as long as the destination asks for.",
    Reason.SERVER: "Look after the destination: it answers with an error of its own.",
    Reason.AUTH: "Renew the credentials.",
    Reason.REJECTED: "Check the exporter's settings: the destination refuses what it is sent.",
    Reason.STORAGE: "Free some space, or let telemetryd write to the folder.",
    Reason.INTERNAL: "Report it as a fault of telemetryd, with the traceback in its log.",
}


def judge(facts: StatusFacts) -> Verdict:
    """How all is by what the daemon knows of itself."""
    findings = sorted(_find(facts), key=lambda finding: -finding.tone)
    idle = all(exporter.state is ExporterState.DISABLED for exporter in facts.exporters)
    floor = Tone.QUIET if idle or not facts.switches.enabled else Tone.GOOD
    tone = max(floor, findings[0].tone) if findings else floor
    return Verdict(tone, _sentence(facts, tone, findings), tuple(findings))


def judge_exporter(exporter: ExporterStatus) -> Tone:
    """How one exporter is."""
    if exporter.state is ExporterState.CONFLICT:
        return Tone.BAD
    if exporter.state in AT_REST:
        return Tone.QUIET
    if exporter.state in _FAILING or exporter.consecutive_failures:
        return Tone.BAD
    if exporter.schema_valid is False or _reservation(exporter):
        return Tone.GAPS
    return Tone.BUSY if exporter.last_success_at is None else Tone.GOOD


def judge_informer(informer: InformerStatus) -> Tone:
    """How one informer is."""
    if informer.last_error:
        return Tone.BAD
    if informer.absent:
        return Tone.QUIET
    if not informer.synced:
        return Tone.BUSY
    return Tone.GAPS if informer.unreadable else Tone.GOOD


def judge_request(request: RequestStatus) -> Tone:
    """How one SecretRequest is."""
    match request.state:
        case RequestState.SERVED:
            return Tone.GOOD
        case RequestState.FAILING | RequestState.CONFLICT | RequestState.REJECTED:
            return Tone.BAD
        case RequestState.WAITING | RequestState.UNDECIDED:
            return Tone.BUSY
        case RequestState.LEAVING:
            return Tone.QUIET


def _find(facts: StatusFacts) -> Iterator[Finding]:
    if facts.config.problems:
        yield Finding(
            Tone.BAD,
            "The last reload was rejected; the former configuration stays in force.",
            why="; ".join(facts.config.problems),
            fix="Fix the file and run telemetryd ctl reload.",
        )
    for exporter in facts.exporters:
        yield from _find_of_exporter(exporter)
    yield from _find_waiting(facts.exporters)
    if facts.switches.enabled:
        yield from _find_at_rest(facts.exporters)
    yield from _find_unserved(facts)
    yield from _find_of_consumer(facts)
    yield from _find_unread(facts.informers)
    if facts.snapshot is not None and not facts.snapshot.complete:
        yield Finding(
            Tone.GAPS,
            "What is sent has gaps.",
            why="; ".join(facts.snapshot.incomplete_reasons),
            fix="What can't be read is left out: telemetryd ctl cache RESOURCE names it.",
        )
    if facts.snapshot is not None and facts.snapshot.doubts:
        yield Finding(
            Tone.GAPS,
            "What is counted may not be the whole fleet.",
            why="; ".join(facts.snapshot.doubts),
            fix="It is sent all the same, and the fleet payload says so. If the fleet has changed "
            "like this, nothing need be done.",
        )


def _find_of_exporter(exporter: ExporterStatus) -> Iterator[Finding]:
    tone = judge_exporter(exporter)
    if exporter.state is ExporterState.CONFLICT:
        what = f"Another writer is in the way of the exporter {exporter.name}."
        yield Finding(tone, what, exporter.detail or exporter.last_error, _fix(exporter))
    elif tone is Tone.BAD:
        runs = exporter.consecutive_failures
        fails = f"has failed {runs} times in a row" if runs > 1 else "fails"
        what = f"The exporter {exporter.name} {fails}."
        yield Finding(tone, what, exporter.last_error, _fix(exporter))
    elif tone is Tone.GAPS and exporter.schema_valid is not False:
        what = f"The exporter {exporter.name} works, with a reservation."
        yield Finding(tone, what, _reservation(exporter))
    elif tone is Tone.GAPS:
        yield Finding(
            tone,
            f"The payload of {exporter.name} deviates from its schema; it is sent all the same.",
            fix="Its version is none that the schema knows: the log shows it.",
        )
    elif tone is Tone.BUSY and exporter.state not in {ExporterState.WAITING, ExporterState.STOPPED}:
        yield Finding(tone, f"The first export of {exporter.name} is still to come.")


def _reservation(exporter: ExporterStatus) -> str:
    """What is said of an exporter that is at work and doesn't fail."""
    at_work = exporter.state in {ExporterState.IDLE, ExporterState.RUNNING}
    return exporter.detail if at_work else ""


def _fix(exporter: ExporterStatus) -> str:
    plugin = exporter.disclosure.plugin
    if plugin and exporter.last_error_reason == Reason.INTERNAL:
        return f"Report it to those who make {plugin}, with the traceback in telemetryd's log."
    return _MENDS.get(exporter.last_error_reason, "")


def _find_waiting(exporters: Iterable[ExporterStatus]) -> Iterator[Finding]:
    for detail, names in _by_detail(exporters, ExporterState.WAITING):
        verb = "waits" if len(names) == 1 else "wait"
        yield Finding(Tone.BUSY, f"{_listed(names)} {verb} for {detail or 'the first snapshot'}.")


def _find_at_rest(exporters: tuple[ExporterStatus, ...]) -> Iterator[Finding]:
    disabled = _by_detail(exporters, ExporterState.DISABLED)
    for detail, names in disabled:
        # What is disabled one by one is meant so, and what all of them have the sentence says.
        if detail and len(names) < len(exporters):
            yield Finding(Tone.QUIET, f"{_listed(names)}: {detail}.")
    for detail, _ in _by_detail(exporters, ExporterState.STANDBY):
        yield Finding(Tone.QUIET, _as_sentence(detail or "another replica leads"))
    for detail, names in _by_detail(exporters, ExporterState.STOPPED):
        stopped = " ".join(("is" if len(names) == 1 else "are", "stopped", detail)).strip()
        yield Finding(
            Tone.QUIET,
            f"{_listed(names)} {stopped}.",
            fix=f"telemetryd ctl start {names[0]} starts it again." if detail else "",
        )


def _find_unserved(facts: StatusFacts) -> Iterator[Finding]:
    failing = {
        exporter.name for exporter in facts.exporters if judge_exporter(exporter) is Tone.BAD
    }
    for request in facts.requests:
        tone = judge_request(request)
        # What its exporter says needn't be said again.
        if tone is Tone.BAD and f"secretrequest/{request.name}" not in failing:
            what = f"The SecretRequest {request.name} is {request.state}."
            yield Finding(tone, what, request.detail, "Its conditions say the same to its owner.")


def _find_of_consumer(facts: StatusFacts) -> Iterator[Finding]:
    if facts.not_expected:
        yield Finding(Tone.GOOD, _as_sentence(facts.not_expected))
    known = facts.registrations
    if known is None:
        return
    if known.never:
        wrong, fix = NEVER
        yield Finding(Tone.GAPS, _as_sentence(wrong), fix=_as_sentence(fix))
    for each in known.found:
        if (problem := PROBLEMS.get(each.state(facts.now))) is not None:
            wrong, fix = problem
            yield Finding(Tone.GAPS, _as_sentence(wrong), str(each), _as_sentence(fix))


def _find_unread(informers: Iterable[InformerStatus]) -> Iterator[Finding]:
    troubled: dict[tuple[bool, str], list[str]] = {}
    for informer in informers:
        if judge_informer(informer) in {Tone.BAD, Tone.BUSY}:
            key = (informer.synced, informer.last_error)
            troubled.setdefault(key, []).append(informer.resource)
    for (synced, error), names in troubled.items():
        if not error:
            yield Finding(Tone.BUSY, f"A first list is under way: {_listed(names)}.")
            continue
        what = "What is held may be out of date" if synced else "Nothing could be read yet"
        yield Finding(
            Tone.BAD,
            f"{what}: {_listed(names)}.",
            why=error,
            fix="Check the connection to the API server, and the right to get, list and watch.",
        )


def _by_detail(
    exporters: Iterable[ExporterStatus], state: ExporterState
) -> list[tuple[str, list[str]]]:
    found: dict[str, list[str]] = {}
    for exporter in exporters:
        if exporter.state is state:
            found.setdefault(exporter.detail, []).append(exporter.name)
    return list(found.items())


def _listed(names: list[str]) -> str:
    if len(names) > _MOST_LISTED:
        names = [*names[: _MOST_LISTED - 1], f"{len(names) - _MOST_LISTED + 1} more"]
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _as_sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:].rstrip('.')}."


def _sentence(facts: StatusFacts, tone: Tone, findings: list[Finding]) -> str:
    gravest = [finding for finding in findings if finding.tone is tone]
    match tone:
        case Tone.GOOD:
            return "All is well: every cache is in sync, and every enabled exporter has delivered."
        case Tone.QUIET:
            return _quiet_sentence(facts)
        case Tone.BUSY:
            return "On the way: not everything has been read and delivered yet."
        case Tone.GAPS if len(gravest) > 1:
            return f"Delivering, with gaps: {len(gravest)} things are worth a look."
        case Tone.BAD if len(gravest) > 1:
            return f"{len(gravest)} things need attention."
    return gravest[0].what


def _quiet_sentence(facts: StatusFacts) -> str:
    if not facts.switches.enabled:
        return f"Nothing is sent: {facts.switches.detail}."
    states = {exporter.state for exporter in facts.exporters}
    details = {exporter.detail for exporter in facts.exporters}
    if not states:
        return "Nothing is sent: no exporter is configured."
    if states == {ExporterState.DISABLED}:
        why = details.pop() if len(details) == 1 else ""
        return f"Nothing is sent: {why or 'every exporter is disabled'}."
    if states <= {ExporterState.DISABLED, ExporterState.STANDBY}:
        return "Standing by: another replica sends."
    if states <= AT_REST:
        return "Nothing is sent: no exporter runs."
    return "All that runs is well; some exporters are at rest."
