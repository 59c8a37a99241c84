"""What the manager makes of everything a receiver may do, each over a real TLS socket.

All rows are exporters of one manager, at work side by side: then the pauses between their attempts
take a few seconds in all.
"""

import ssl
import time
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from email.utils import formatdate
from pathlib import Path
from random import Random

import anyio
import pytest

from telemetryd.config import HttpExporterConfig
from telemetryd.daemon.exporters import build_http
from telemetryd.export.engine.manager import ExporterManager
from telemetryd.export.exporter import ExporterSpec
from telemetryd.model import ExporterState, ExporterStatus
from tests.export.doubles import Source, render, running
from tests.support.certificates import Authority, server_side
from tests.support.receiver import (
    Answer,
    Receiver,
    Request,
    Writer,
    endless,
    hang,
    receiving,
    reset_after,
    status,
)

pytestmark = pytest.mark.anyio

TIMEOUT_S = 25.0
SHORT_TIMEOUT_S = 6.0
INTERVAL_S = 60.0
HALF = b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf of it"


def throttled(retry_after: str, *headers: str) -> Answer:
    return status(429, f"Retry-After: {retry_after}", *headers)


@dataclass
class Row:
    """What a receiver does first, and what must come of it before its next slot.

    Attributes:
        script: Its answers, one a request; all later ones are 200.
        requests: How many it has had.
        attempts: How many attempts they were, by the manager's count.
        reason: Of the last failure, empty where the run succeeded.
        delay_s: Between the first and the second request, at least.
        next_run_s: Until the next run, in the same form.
        timeout_s: Of an attempt.
        certificate: Which the receiver shows.
    """

    script: tuple[Answer, ...]
    requests: int = 1
    attempts: int | None = None
    reason: str = ""
    delay_s: float = 0.0
    next_run_s: tuple[float, float] = (0.0, INTERVAL_S)
    timeout_s: float = TIMEOUT_S
    certificate: str = "good"
    receiver: Receiver = field(default_factory=Receiver)
    states: set[ExporterState] = field(default_factory=set)


AT = 1_790_000_000
DATED = (f"Date: {formatdate(AT, usegmt=True)}",)

ROWS = {
    "200": Row((status(200),)),
    "202": Row((status(202),)),
    "204": Row((status(204),)),
    "400": Row((status(400),), reason="rejected"),
    "401": Row((status(401),), reason="auth"),
    "403": Row((status(403),), reason="auth"),
    "404": Row((status(404),), reason="rejected"),
    "408": Row((status(408),), requests=2),
    "409": Row((status(409),), reason="rejected"),
    "409-half": Row((status(409, "Telemetryd-Sequence: 7"),), reason="rejected"),
    "413": Row((status(413),), reason="oversize"),
    "429": Row((status(429),), requests=2),
    "429-seconds": Row((throttled("2"),), requests=2, delay_s=2.0),
    "429-date": Row((throttled(formatdate(AT + 2, usegmt=True), *DATED),), requests=2, delay_s=2.0),
    "429-past": Row((throttled(formatdate(AT - 9, usegmt=True), *DATED),), requests=2),
    "429-garbage": Row((throttled("soon, I hope"),), requests=2),
    "429-negative": Row((throttled("-5"),), requests=2),
    "429-long": Row((throttled("3600"),), reason="throttled", next_run_s=(590.0, 661.0)),
    "503-seconds": Row((status(503, "Retry-After: 1"),), requests=2, delay_s=1.0),
    "500": Row((status(500),), requests=2),
    "502": Row((status(502),), requests=2),
    "503": Row((status(503),), requests=2),
    "504": Row((status(504),), requests=2),
    "500-twice": Row((status(500), status(500)), requests=3),
    "hang": Row((hang,), requests=2, timeout_s=SHORT_TIMEOUT_S),
    "reset": Row((reset_after(b""),), requests=2),
    "reset-in-head": Row((reset_after(b"HTTP/1.1 200 OK\r\nContent-"),), requests=2),
    "reset-in-body": Row((reset_after(HALF),), requests=2),
    "redirect": Row(
        (status(302, "Location: https://127.0.0.1:1/elsewhere?token=hunter2"),), reason="rejected"
    ),
    "redirect-307": Row((status(307, "Location: /v1/payloads"),), reason="rejected"),
    "endless": Row((endless,)),
    "expired": Row((), requests=0, reason="connect", certificate="expired"),
    "other-name": Row((), requests=0, reason="connect", certificate="elsewhere"),
    "other-authority": Row((), requests=0, reason="connect", certificate="foreign"),
}


class Table:
    """The rows' receivers and the one manager."""

    def __init__(self, folder: Path) -> None:
        self.source = Source()
        self.manager = ExporterManager(
            self.source, now=time.time, rng=Random(3), spool_dir=str(folder / "spool")
        )
        self.token = folder / "token"
        self.token.write_text("hunter2\n")
        authority = Authority(folder)
        self._ca = str(authority.ca)
        self._pairs = {
            "good": authority.issue("good"),
            "expired": authority.issue("expired", days=-1),
            "elsewhere": authority.issue("elsewhere", address="127.0.0.9"),
            "foreign": Authority(folder, "other").issue("foreign"),
        }
        self._contexts: list[ssl.SSLContext] = []

    async def add(self, name: str, row: Row, stack: AsyncExitStack) -> None:
        context = server_side(self._pairs[row.certificate])
        self._contexts.append(context)
        row.receiver = await stack.enter_async_context(receiving(*row.script, tls=context))
        config = HttpExporterConfig(
            name=name,
            url=row.receiver.url,
            ca_file=self._ca,
            bearer_token_file=str(self.token),
        )
        spec = ExporterSpec(
            name=name,
            type="http",
            render=render,
            interval_s=INTERVAL_S,
            timeout_s=row.timeout_s,
            retry_base_s=0.2,
            retry_cap_s=0.4,
            destination=name,
            spooled=True,
        )
        self.manager.register(spec, build_http(config, now=time.time, environ={}))

    def fix(self) -> None:
        """Every receiver gets a certificate that is right."""
        for context in self._contexts:
            context.load_cert_chain(self._pairs["good"].cert, self._pairs["good"].key)

    async def until_settled(self, rows: dict[str, Row]) -> dict[str, ExporterStatus]:
        """Look on until every run is over."""
        settled = {ExporterState.IDLE, ExporterState.FAILED}
        with anyio.fail_after(55):
            while True:
                statuses = {each.name: each for each in self.manager.statuses()}
                for name, each in statuses.items():
                    rows[name].states.add(each.state)
                tried = all(each.last_attempt_at is not None for each in statuses.values())
                if tried and {each.state for each in statuses.values()} <= settled:
                    return statuses
                await anyio.sleep(0.01)


def judge(row: Row, shown: ExporterStatus, attempts: int) -> list[str]:
    """What isn't as it must be."""
    wrong = []
    if len(row.receiver.requests) != row.requests:
        wrong.append(f"{len(row.receiver.requests)} requests")
    expected = row.attempts if row.attempts is not None else max(row.requests, 1)
    if attempts != expected:
        wrong.append(f"{attempts} attempts")
    state = ExporterState.FAILED if row.reason else ExporterState.IDLE
    if (shown.state, shown.last_error_reason) != (state, row.reason):
        wrong.append(f"{shown.state} by {shown.last_error_reason}: {shown.last_error}")
    if (ExporterState.BACKOFF in row.states) != (expected > 1):
        wrong.append(f"states {row.states}")
    if row.requests > 1:
        first, second = row.receiver.requests[:2]
        if second.at_s - first.at_s < row.delay_s:
            wrong.append(f"delay {second.at_s - first.at_s}")
    if shown.next_run_in_s is None or not (
        row.next_run_s[0] <= shown.next_run_in_s <= row.next_run_s[1]
    ):
        wrong.append(f"next run in {shown.next_run_in_s}")
    # Whatever is sent again in a run is the same thing.
    if len({(request.key, request.body) for request in row.receiver.requests}) > 1:
        wrong.append("another payload under way")
    if any(word in shown.last_error for word in ("hunter2", "elsewhere?", "Location")):
        wrong.append(shown.last_error)
    return wrong


async def test_each_behaviour_of_a_receiver_has_the_attempts_state_and_delay_it_must(
    tmp_path: Path,
) -> None:
    table = Table(tmp_path)
    async with AsyncExitStack() as stack:
        for name, row in ROWS.items():
            await table.add(name, row, stack)
        async with running(table.manager):
            shown = await table.until_settled(ROWS)
            stats = table.manager.stats()
            wrong = {
                name: problems
                for name, row in ROWS.items()
                if (problems := judge(row, shown[name], sum(stats[name].attempts.values())))
            }
            assert wrong == {}
            before = {name: len(row.receiver.requests) for name, row in ROWS.items()}
            table.fix()
            table.source.change()
            for name in ROWS:
                table.manager.trigger(name)
            await anyio.sleep(0.05)
            after = await table.until_settled(ROWS)
    for name, row in ROWS.items():
        assert after[name].state is ExporterState.IDLE, (name, after[name])
        newest = row.receiver.requests[-1]
        assert newest.body.startswith(b"revision 2 "), name
        assert len(row.receiver.requests) == before[name] + 1, name
        sequences = [request.sequence for request in row.receiver.requests]
        assert sequences == sorted(sequences), name
        assert newest.headers["authorization"] == "Bearer hunter2"
        assert newest.headers["telemetryd-digest"] == "sha256:digest-2"


@pytest.mark.parametrize("code", [401, 403])
async def test_refused_credential_that_has_changed_is_tried_again_within_the_attempt(
    tmp_path: Path, code: int
) -> None:
    table = Table(tmp_path)

    async def rotate(request: Request, writer: Writer) -> None:
        table.token.write_text("fresh")
        await status(code)(request, writer)

    row = Row((rotate,), requests=2, attempts=1, delay_s=0.0)
    async with AsyncExitStack() as stack:
        await table.add("it", row, stack)
        async with running(table.manager):
            shown = await table.until_settled({"it": row})
    assert judge(row, shown["it"], 1) == []
    sent = [request.headers["authorization"] for request in row.receiver.requests]
    assert sent == ["Bearer hunter2", "Bearer fresh"]
