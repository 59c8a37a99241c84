"""The conditions of a SecretRequest: what they are to say, and what of that is new. Pure.

Their shapes are those that Rancher writes (wrangler's ``condition.Cond``), with a transition time
added. A condition that has something to say carries reason and message; one that hasn't, neither.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias, assert_never

from telemetryd.bounds import CONDITION_CHARS, free_text
from telemetryd.export.payloads.payload import parse_rfc3339, render_rfc3339
from telemetryd.gather.requests import OWN_CONDITIONS
from telemetryd.model import ConditionRecord

INVALID = "Secret Request is in an invalid state"
"""Upstream's reason of ``Failure``."""

EXPORT_FAILED = "Secret can't be written"
"""Begins the reason of a ``Failure`` that isn't the request's own."""

WAITING = "Waiting"

MESSAGE_HOLD_S = 300.0
"""A failure that goes on under the same reason has its message replaced this often at most: some
carry numbers that change with every attempt."""

Conditions: TypeAlias = Mapping[str, ConditionRecord]


@dataclass(frozen=True, slots=True)
class SeenFirst:
    """It is at work on the request; upstream writes this before it looks at the spec."""


@dataclass(frozen=True, slots=True)
class NotYet:
    """Something is waited for."""

    message: str


@dataclass(frozen=True, slots=True)
class Invalid:
    """The request can't be served as it is."""

    message: str


@dataclass(frozen=True, slots=True)
class Served:
    """The request has its exporter.

    Attributes:
        well: The Secret is as it should be; None while that isn't known, and stays as it was.
        reason: Why it can't be written, one word of the closed list; empty where it can.
        message: The same in full, with the fix.
    """

    well: bool | None
    reason: str = ""
    message: str = ""


Verdict: TypeAlias = SeenFirst | NotYet | Invalid | Served


def settle(held: Conditions, verdict: Verdict, *, now_s: float) -> Conditions:
    """What our conditions must be; equal to ``held`` where nothing is to be written.

    Args:
        held: Our conditions as they are, by type.
        verdict: What they are to say.
        now_s: Unix time in seconds.
    """
    now = render_rfc3339(now_s)
    wanted = dict(held)

    def put(kind: str, *, status: str, reason: str = "", message: str = "") -> None:
        # As they are read back: what is longer would differ each time, and be written each time.
        reason, message = free_text(reason), free_text(message, CONDITION_CHARS)
        old = held.get(kind)
        if old is not None and (old.status, old.reason, old.message) == (status, reason, message):
            return
        moved = old is None or old.status != status
        transition = now if moved else (old.last_transition_time if old else now)
        wanted[kind] = ConditionRecord(kind, status, reason, message, now, transition)

    match verdict:
        case SeenFirst():
            put("Progressing", status="True")
        case NotYet(message):
            put("Progressing", status="True", reason=WAITING, message=message)
            wanted.pop("Done", None)
            wanted.pop("Failure", None)
        case Invalid(message):
            put("Progressing", status="False")
            put("Done", status="True")
            put("Failure", status="True", reason=INVALID, message=message)
        case Served():
            put("Progressing", status="False")
            put("Done", status="True")
            failure = held.get("Failure")
            if verdict.reason:
                reason = f"{EXPORT_FAILED}: {verdict.reason}"
                if not _holds(failure, reason, now_s):
                    put("Failure", status="True", reason=reason, message=verdict.message)
            elif failure is not None and (
                verdict.well or not failure.reason.startswith(EXPORT_FAILED)
            ):
                del wanted["Failure"]
        case _:
            assert_never(verdict)
    return wanted


def _holds(failure: ConditionRecord | None, reason: str, now_s: float) -> bool:
    """Whether a failure of the same reason was told so lately that its words may stay."""
    if failure is None or (failure.status, failure.reason) != ("True", reason):
        return False
    updated_s = parse_rfc3339(failure.last_update_time)
    return updated_s is not None and 0 <= now_s - updated_s < MESSAGE_HOLD_S


def tells_of_service(conditions: Iterable[ConditionRecord]) -> bool:
    """Whether the conditions say that the request was served without a failure."""
    held = {condition.type: condition.status for condition in conditions}
    return held.get("Done") == "True" and "Failure" not in held


def render_conditions(existing: list[Any], own: Conditions) -> list[Any]:
    """The whole list as it must be written: a merge patch replaces a list as a whole.

    Conditions of other types keep their place and all that is in them; so do entries that aren't
    conditions at all.
    """
    rendered: list[Any] = []
    placed: set[str] = set()
    for entry in existing:
        kind = entry.get("type") if isinstance(entry, dict) else None
        if kind not in OWN_CONDITIONS:
            rendered.append(entry)
        elif kind in own and kind not in placed:
            placed.add(kind)
            rendered.append(_render(own[kind]))
    rendered += [_render(own[kind]) for kind in OWN_CONDITIONS if kind in own.keys() - placed]
    return rendered


def _render(condition: ConditionRecord) -> dict[str, str]:
    fields = {
        "type": condition.type,
        "status": condition.status,
        "lastUpdateTime": condition.last_update_time,
        "lastTransitionTime": condition.last_transition_time,
        "reason": condition.reason,
        "message": condition.message,
    }
    return {key: value for key, value in fields.items() if value}
