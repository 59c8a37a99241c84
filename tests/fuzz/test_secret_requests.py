"""Any SecretRequest: it is served or refused in plain words, and others get their Secrets."""

import json
from collections.abc import Callable
from itertools import count
from typing import Any

import msgspec
import pytest
from hypothesis import given

from telemetryd.control.secretrequest.decision import (
    NamespaceFound,
    Rejected,
    SecretRef,
    Seen,
    Served,
    SystemProjects,
    Waiting,
    decide,
    render_conditions,
    settle,
    target_of,
)
from telemetryd.control.secretrequest.status import _held
from telemetryd.errors import BadResponse
from telemetryd.gather.requests import SECRET_REQUESTS
from telemetryd.informer.decode import ObjectDecoder
from telemetryd.informer.scan import ScanNeeded, scan_identity
from telemetryd.model import SecretRequestRecord
from tests.fuzz.budget import budget, examples, fuzzing, patient
from tests.fuzz.counts import assert_no_growth, assert_no_growth_here
from tests.fuzz.daemon import Probed
from tests.fuzz.request_objects import LINES, PARTS
from tests.support.embedded import FleetServer
from tests.support.waiting import until
from tests.system.scc import NAMESPACE, scc_request

pytestmark = [patient, fuzzing, pytest.mark.filterwarnings("ignore:Generating overly large repr")]

DECODED = 200
PUT = 8
NOW_S = 1_790_000_000.0
LONGEST_MESSAGE = 1000
RESOURCE = SECRET_REQUESTS.id
GIVE_UP_S = 60.0


def judge(line: bytes) -> None:
    """From a line to the conditions that are written: nothing is raised, and words are few."""
    decoder = ObjectDecoder(SECRET_REQUESTS)
    try:
        try:
            record = decoder.decode(line).value
        except ScanNeeded:
            record = decoder.decode(line, scan_identity(line)).value
    except BadResponse:  # of another kind
        return
    if not isinstance(record, SecretRequestRecord):
        assert len(str(record)) <= LONGEST_MESSAGE
        return
    target = target_of(record)
    assert isinstance(target, SecretRef) or 0 < len(target.message) <= LONGEST_MESSAGE
    decision = decide(
        record,
        namespace=NamespaceFound("p-1"),
        projects=SystemProjects("p-1"),
        holder="",
    )
    message = decision.message if isinstance(decision, Rejected) else "why"
    # What isn't read of an object need not be UTF-8.
    status = json.loads(line.decode(errors="replace")).get("status")
    listed = status.get("conditions") if isinstance(status, dict) else None
    existing = listed if isinstance(listed, list) else []
    held = _held(existing)
    for verdict in (
        Seen(),
        Waiting("why"),
        Rejected(message),
        Served(True),
        Served(None, "auth"),
    ):
        wanted = settle(held, verdict, now_s=NOW_S)
        rendered = render_conditions(existing, wanted)
        assert settle(_held(rendered), verdict, now_s=NOW_S) == wanted, "written once, it is right"
        others = [each for each in existing if not _is_ours(each)]
        assert [each for each in rendered if not _is_ours(each)] == others
        msgspec.json.encode(rendered)


def _is_ours(entry: Any) -> bool:
    kind = entry.get("type") if isinstance(entry, dict) else None
    return kind in ("Progressing", "Done", "Failure")


def test_any_line_of_the_api_server_becomes_a_record_or_is_put_aside() -> None:
    found: list[bytes] = []

    @budget(DECODED)
    @given(line=LINES)
    def fuzz(line: bytes) -> None:
        judge(line)
        found.append(line)

    fuzz()
    assert_no_growth_here(judge, found)


def _until(what: str, probe: Callable[[], object], daemon: Probed) -> None:
    until(probe, what, deadline_s=GIVE_UP_S, more=lambda: daemon.daemon.log()[-3000:])


def test_any_request_gets_its_status_and_keeps_no_other_from_its_secret(
    daemon: Probed, fleet: FleetServer
) -> None:
    numbers = count()

    def conditions(name: str) -> dict[str, str]:
        status = (fleet.get(RESOURCE, name) or {}).get("status") or {}
        return {each["type"]: each["status"] for each in status.get("conditions", [])}

    @budget(PUT)
    @given(parts=PARTS)
    def fuzz(parts: dict[str, Any]) -> None:
        number = next(numbers)
        hostile, good = f"a-{number}", f"good-{number}"
        base = scc_request(hostile)
        del base["spec"], base["metadata"]["finalizers"]
        fleet.put({**base, **parts})
        asked = scc_request(good, name=good)
        del asked["metadata"]["finalizers"]
        fleet.put(asked)
        _until(good, lambda: conditions(good).get("Done") == "True", daemon)
        _until(hostile, lambda: _is_answered(fleet.get(RESOURCE, hostile)), daemon)
        assert "Failure" not in conditions(good)
        _until("its Secret", lambda: fleet.get("secrets", good, NAMESPACE) is not None, daemon)
        assert daemon.daemon.get("/")[0] == 200
        assert daemon.daemon.get("/status.json")[0] == 200
        assert daemon.daemon.get("/metrics")[0] == 200
        for name in (hostile, good):
            fleet.remove(RESOURCE, name)
        _until(
            "gone",
            lambda: (
                not any(
                    each["name"].endswith((hostile, good))
                    for each in daemon.ask("status").result["exporters"]
                )
            ),
            daemon,
        )
        daemon.assert_well()

    assert_no_growth(fuzz, examples(PUT), daemon.counts)


def _is_answered(request: dict[str, Any] | None) -> bool:
    """Whether its status says that it was looked after."""
    status = (request or {}).get("status")
    listed = status.get("conditions") if isinstance(status, dict) else None
    ours = [each for each in listed if _is_ours(each)] if isinstance(listed, list) else []
    return any(each.get("type") == "Done" and each.get("status") == "True" for each in ours)
