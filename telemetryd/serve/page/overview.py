"""The state of the daemon in one sentence, and what to do about problems."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from telemetryd.errors import Reason
from telemetryd.gather.consumer import NEVER, PROBLEMS
from telemetryd.model import (
    ExporterState,
    ExporterStatus,
    InformerStatus,
    RequestState,
    RequestStatus,
    Switch,
)
from telemetryd.serve.page.facts import StatusFacts
from telemetryd.serve.page.notes import Note, Overview, Tone, notes_of_history

AT_REST: Final = frozenset({ExporterState.DISABLED, ExporterState.STANDBY, ExporterState.STOPPED})
"""States in which an exporter does nothing on purpose."""

_LONGEST_IN_SENTENCE: Final = 63
_FAILING: Final = frozenset({ExporterState.BACKOFF, ExporterState.FAILED})

_FIXES: Final[dict[str, str]] = {
    Reason.MISSING_NAMESPACE: "Create the namespace, or name another in the configuration.",
    Reason.NAMESPACE_TERMINATING: "Create the namespace again once it is gone.",
    Reason.FORBIDDEN: "Grant the right that the message names: telemetryd doctor prints the role.",
    Reason.IMMUTABLE: "Delete the immutable Secret: telemetryd creates it again.",
    Reason.WRONG_TYPE: "Delete the Secret of another type, or name another in the configuration.",
    Reason.OVERSIZE: "Use a destination that accepts larger payloads.",
    Reason.FIELD_CONFLICT: "To take the Secret over without waiting, set takeover = true.",
    Reason.NOT_TELEMETRY: "Name another Secret, or delete this one if it isn't needed.",
    Reason.CONFLICT: "To take the Secret over without waiting, set takeover = true.",
    Reason.TIMEOUT: "Find out why the destination is slow, or give the exporter a longer timeout.",
    Reason.CONNECT: "Check the destination's address, certificate and network.",
    Reason.THROTTLED: "Nothing to do: the exporter waits as long as the destination asks.",
    Reason.SERVER: "Check the destination: it answers with a server error.",
    Reason.AUTH: "Renew the credentials.",
    Reason.REJECTED: "Check the exporter's settings: the destination refuses what it is sent.",
    Reason.STORAGE: "Free some space, or let telemetryd write to the folder.",
    Reason.INTERNAL: "Report a bug in telemetryd, with the traceback from its log.",
}

_ENDS: Final = {
    Switch.CONFIG: "set enabled = true in the configuration and reload",
    Switch.ENVIRONMENT: "remove TELEMETRYD_ENABLED from the environment and restart telemetryd",
    Switch.DO_NOT_TRACK: "remove DO_NOT_TRACK from the environment and restart telemetryd",
    Switch.SETTING: "give the Rancher setting telemetry-opt the value in or prompt",
    Switch.MEMORY: "run telemetryd ctl opt-in",
}
"""What ends each switch that turns collection off."""


_SENTENCES: Final = {
    Tone.GOOD: "Healthy: every informer is in sync, and every enabled exporter has delivered.",
    Tone.BUSY: "In progress: not everything has been read and delivered yet.",
}


def judge(facts: StatusFacts) -> Overview:
    """Sum up the status."""
    notes = sorted(_notes(facts), key=lambda note: -note.tone)
    idle = all(exporter.state is ExporterState.DISABLED for exporter in facts.exporters)
    floor = Tone.QUIET if idle or not facts.switches.enabled else Tone.GOOD
    tone = max(floor, notes[0].tone) if notes else floor
    first = notes[0] if notes and tone in {Tone.GAPS, Tone.BAD} else None
    if first is not None:
        more = sum(note.tone is tone for note in notes) - 1
        return Overview(tone, _sentence_of(first, more), first, tuple(notes))
    sentence = _SENTENCES.get(tone) or _quiet_sentence(facts)
    off = _note_of_off(facts) if tone is Tone.QUIET else None
    return Overview(tone, sentence, off, tuple(notes))


def _sentence_of(first: Note, more: int) -> str:
    if not more:
        return first.what
    what = first.what.removesuffix(".")
    if first.tone is Tone.BAD:
        return f"{what}, and {more} more {'thing needs' if more == 1 else 'things need'} attention."
    return f"{what}, and there {'is 1 more gap' if more == 1 else f'are {more} more gaps'}."


def _note_of_off(facts: StatusFacts) -> Note | None:
    """What switches telemetryd on where nothing is sent on purpose."""
    ends = [_ENDS[switch] for switch in facts.switches.off_by]
    if not ends and not facts.exporters:
        ends = ["add a table [[exporters]] to the configuration and reload"]
    elif not ends and all(each.state is ExporterState.DISABLED for each in facts.exporters):
        ends = ["set enabled = true for an exporter in the configuration and reload"]
    fix = f"To send again, {', and '.join(ends)}."
    return Note(Tone.QUIET, _quiet_sentence(facts), fix=fix) if ends else None


def judge_exporter(exporter: ExporterStatus) -> Tone:
    """The tone of one exporter."""
    if exporter.state is ExporterState.CONFLICT:
        return Tone.BAD
    if exporter.state in AT_REST:
        return Tone.QUIET
    if exporter.state in _FAILING or exporter.consecutive_failures:
        return Tone.BAD
    if exporter.schema_valid is False or _reported_problem(exporter):
        return Tone.GAPS
    return Tone.BUSY if exporter.last_success_at is None else Tone.GOOD


def judge_informer(informer: InformerStatus) -> Tone:
    """The tone of one informer."""
    if informer.last_error:
        return Tone.BAD
    if informer.absent:
        return Tone.QUIET
    if not informer.synced:
        return Tone.BUSY
    return Tone.GAPS if informer.unreadable else Tone.GOOD


def judge_request(request: RequestStatus) -> Tone:
    """The tone of one SecretRequest."""
    match request.state:
        case RequestState.SERVED:
            return Tone.GOOD
        case RequestState.FAILING | RequestState.CONFLICT | RequestState.REJECTED:
            return Tone.BAD
        case RequestState.WAITING | RequestState.UNDECIDED:
            return Tone.BUSY
        case RequestState.LEAVING:
            return Tone.QUIET


def _notes(facts: StatusFacts) -> Iterator[Note]:
    if facts.config.problems:
        yield Note(
            Tone.BAD,
            "The last reload was rejected; the previous configuration stays in force.",
            why="; ".join(facts.config.problems),
            fix="Fix the file and run telemetryd ctl reload.",
        )
    if (off := _note_of_off(facts)) is not None:
        yield off
    yield from _notes_of_exporters(facts.exporters)
    yield from _notes_of_waiting(facts.exporters)
    if facts.switches.enabled:
        yield from _notes_of_idle(facts.exporters)
    yield from _notes_of_requests(facts)
    yield from _notes_of_consumer(facts)
    yield from _notes_of_informers(facts.informers)
    yield from notes_of_history(facts.history, kept=facts.switches.enabled)
    if facts.snapshot is not None and not facts.snapshot.complete:
        yield Note(
            Tone.GAPS,
            "The payloads have gaps.",
            why="; ".join(facts.snapshot.incomplete_reasons),
            fix="Unreadable objects are left out: telemetryd ctl cache RESOURCE lists them.",
        )
    if facts.snapshot is not None and facts.snapshot.doubts:
        yield Note(
            Tone.GAPS,
            "The counts may not cover the whole fleet.",
            why="; ".join(facts.snapshot.doubts),
            fix="The payloads are still sent, and the fleet payload says so. If the fleet really "
            "changed like this, do nothing.",
        )


def _notes_of_exporters(exporters: Iterable[ExporterStatus]) -> Iterator[Note]:
    """Their problems; of exporters that fail alike one note."""
    failing: dict[tuple[bool, str, str], list[ExporterStatus]] = {}
    for exporter in exporters:
        if judge_exporter(exporter) is Tone.BAD:
            conflicts = exporter.state is ExporterState.CONFLICT
            why = (conflicts and exporter.detail) or exporter.last_error
            failing.setdefault((conflicts, why, fix_of(exporter)), []).append(exporter)
        else:
            yield from _notes_of_working(exporter)
    for (conflicts, why, fix), alike in failing.items():
        names = listed([each.name for each in alike])
        s, runs = "" if len(alike) == 1 else "s", alike[0].consecutive_failures
        if conflicts:
            what = f"Another writer conflicts with the exporter{s} {names}."
        elif s:
            what = f"The exporters {names} fail."
        else:
            fails = f"has failed {runs} times in a row" if runs > 1 else "fails"
            what = f"The exporter {names} {fails}."
        yield Note(Tone.BAD, what, why, fix)


def _notes_of_working(exporter: ExporterStatus) -> Iterator[Note]:
    tone = judge_exporter(exporter)
    if tone is Tone.GAPS and exporter.schema_valid is not False:
        what = f"The exporter {_shortened(exporter.name)} works, but reports a problem."
        yield Note(tone, what, _reported_problem(exporter))
    elif tone is Tone.GAPS:
        yield Note(
            tone,
            f"The payload of {_shortened(exporter.name)} deviates from its schema; "
            "it is still sent.",
            fix="The schema doesn't accept its version: see the log.",
        )
    elif tone is Tone.BUSY and exporter.state not in {ExporterState.WAITING, ExporterState.STOPPED}:
        yield Note(tone, f"The exporter {_shortened(exporter.name)} has not exported yet.")


def _reported_problem(exporter: ExporterStatus) -> str:
    """The detail of an exporter that works and doesn't fail."""
    at_work = exporter.state in {ExporterState.IDLE, ExporterState.RUNNING}
    return exporter.detail if at_work else ""


def fix_of(exporter: ExporterStatus) -> str:
    """What to do about the last error of an exporter; empty if that isn't known."""
    plugin = exporter.disclosure.plugin
    if plugin and exporter.last_error_reason == Reason.INTERNAL:
        return f"Report it to the authors of {plugin}, with the traceback from telemetryd's log."
    return _FIXES.get(exporter.last_error_reason, "")


def _notes_of_waiting(exporters: Iterable[ExporterStatus]) -> Iterator[Note]:
    for detail, names in _by_detail(exporters, ExporterState.WAITING):
        verb = "waits" if len(names) == 1 else "wait"
        yield Note(Tone.BUSY, f"{listed(names)} {verb} for {detail or 'the first snapshot'}.")


def _notes_of_idle(exporters: tuple[ExporterStatus, ...]) -> Iterator[Note]:
    disabled = _by_detail(exporters, ExporterState.DISABLED)
    for detail, names in disabled:
        # What is disabled one by one is meant so, and what all of them have the sentence says.
        if detail and len(names) < len(exporters):
            yield Note(Tone.QUIET, f"{listed(names)}: {detail}.")
    for detail, _ in _by_detail(exporters, ExporterState.STANDBY):
        yield Note(Tone.QUIET, f"{detail or 'Another replica leads'}.")
    for detail, names in _by_detail(exporters, ExporterState.STOPPED):
        stopped = " ".join(("is" if len(names) == 1 else "are", "stopped", detail)).strip()
        yield Note(
            Tone.QUIET,
            f"{listed(names)} {stopped}.",
            fix=f"telemetryd ctl start {names[0]} starts it again." if detail else "",
        )


def _notes_of_requests(facts: StatusFacts) -> Iterator[Note]:
    failing = {
        exporter.name for exporter in facts.exporters if judge_exporter(exporter) is Tone.BAD
    }
    for request in facts.requests:
        tone = judge_request(request)
        # What its exporter says needn't be said again.
        if tone is Tone.BAD and f"secretrequest/{request.name}" not in failing:
            what = f"The SecretRequest {_shortened(request.name)} is {request.state}."
            yield Note(tone, what, request.detail, "Its owner sees the same in its conditions.")


def _notes_of_consumer(facts: StatusFacts) -> Iterator[Note]:
    if facts.not_expected:
        yield Note(Tone.GOOD, _as_sentence(facts.not_expected))
    known = facts.registrations
    if known is None:
        return
    if known.never:
        wrong, fix = NEVER
        yield Note(Tone.GAPS, _as_sentence(wrong), fix=_as_sentence(fix))
    for each in known.found:
        if (problem := PROBLEMS.get(each.state(facts.now))) is not None:
            wrong, fix = problem
            yield Note(Tone.GAPS, _as_sentence(wrong), str(each), _as_sentence(fix))


def _notes_of_informers(informers: Iterable[InformerStatus]) -> Iterator[Note]:
    troubled: dict[tuple[bool, str], list[str]] = {}
    for informer in informers:
        if judge_informer(informer) in {Tone.BAD, Tone.BUSY}:
            key = (informer.synced, informer.last_error)
            troubled.setdefault(key, []).append(informer.resource)
    for (synced, error), names in troubled.items():
        if not error:
            yield Note(Tone.BUSY, f"The first list is in progress: {listed(names)}.")
            continue
        what = "The cache may be out of date" if synced else "Nothing has been read yet"
        yield Note(
            Tone.BAD,
            f"{what}: {listed(names)}.",
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


def listed(names: Sequence[str], most: int = 4) -> str:
    """The names as a part of a sentence; of too many the first ones and the number of the rest."""
    names = [_shortened(name) for name in names]
    if len(names) > most:
        names = [*names[: most - 1], f"{len(names) - most + 1} more"]
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _shortened(name: str) -> str:
    """A name as a part of a sentence; the tables have all of it."""
    return name if len(name) <= _LONGEST_IN_SENTENCE else f"{name[: _LONGEST_IN_SENTENCE - 1]}…"


def _as_sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:].rstrip('.')}."


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
    return "Every running exporter is well; some exporters are off."
