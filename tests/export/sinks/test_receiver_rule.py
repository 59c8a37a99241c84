"""The receiver of docs/delivery.md, run as it stands there, against exporters as they are."""

import gzip
import sys
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from http.server import HTTPServer
from pathlib import Path
from random import Random
from typing import Any

import anyio
import pytest

from telemetryd.config import HttpExporterConfig
from telemetryd.daemon.exporters import build_http
from telemetryd.export.exporter import ExportContext, Outcome
from telemetryd.model import Payload
from tests.docs.markdown import blocks
from tests.export.doubles import INSTALL_UUID, Source, always, failing
from tests.export.outbox.bench import LOST, REFUSED, Bench
from tests.support.receiver import Receiver, Request, Writer, receiving, status

pytestmark = pytest.mark.anyio

ROOT = Path(__file__).parents[3]
PAGE = ROOT / "docs" / "delivery.md"

Pair = tuple[int, int]


@dataclass
class Documented:
    """The receiver of the page, at work in a thread."""

    server: HTTPServer
    held: dict[str, tuple[Pair, bytes]]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_port}/v1/payloads"

    @property
    def pair(self) -> Pair:
        return self.held[INSTALL_UUID][0]

    @property
    def body(self) -> bytes:
        return self.held[INSTALL_UUID][1]


@pytest.fixture
def documented() -> Iterator[Documented]:
    (code,) = [block for block in blocks(PAGE.read_text()) if block.language == "python"]
    namespace: dict[str, Any] = {"__name__": "receiver"}
    exec("\n".join(code.lines), namespace)
    namespace["Receiver"].log_message = lambda *_: None
    server = HTTPServer(("127.0.0.1", 0), namespace["Receiver"])
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield Documented(server, namespace["held"])
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def sending_to(url: str) -> Callable[[Payload, ExportContext], Awaitable[Outcome]]:
    config = HttpExporterConfig(name="it", url=url, compress=False)
    return build_http(config, now=time.time, environ={}).export


@asynccontextmanager
async def leading(
    bench: Bench, url: str, *, epoch: int, ahead_s: float, **changes: Any
) -> AsyncIterator[Bench]:
    """A daemon in a term of its own, by a clock of its own."""
    bench.epoch = epoch
    bench.now = lambda: time.time() + ahead_s
    async with bench.daemon(sending_to(url), timeout_s=20.0, **changes):
        yield bench


def holds_newest(documented: Documented, source: Source) -> bool:
    return documented.body.startswith(b"revision %d " % source.current.revision)


async def test_repeated_request_is_dropped_and_counts_as_delivered(
    bench: Bench, documented: Documented
) -> None:
    export = sending_to(documented.url)

    async def send_twice(payload: Payload, context: ExportContext) -> Outcome:
        await export(payload, context)
        raise LOST

    async with bench.daemon(send_twice, timeout_s=20.0, retry_base_s=0.001):
        await bench.until(lambda: documented.held)
        first = documented.held[INSTALL_UUID]
        bench.sink.behave = export
        await bench.run_over()
        assert bench.stats.runs["success"] == 1
    assert len(set(bench.sequences)) == 1
    assert documented.held == {INSTALL_UUID: first}


async def test_failover_to_a_clock_that_is_behind_delivers_at_once(
    tmp_path: Path, documented: Documented
) -> None:
    former, later = Bench(tmp_path / "a"), Bench(tmp_path / "b")
    async with leading(former, documented.url, epoch=1, ahead_s=60.0):
        await former.run_over()
    later.source.change()
    async with leading(later, documented.url, epoch=2, ahead_s=-60.0):
        await later.run_over()
    assert len(later.sequences) == 1
    assert later.sequences[0] < former.sequences[0]
    assert holds_newest(documented, later.source)


@pytest.mark.parametrize("epoch", [0, 3, 7])
async def test_lost_state_and_a_clock_set_back_are_overcome_within_the_run(
    bench: Bench, documented: Documented, epoch: int
) -> None:
    async with leading(bench, documented.url, epoch=3, ahead_s=3600.0):
        await bench.run_over()
    highest = documented.pair
    for path in bench.spool.path.iterdir():
        path.unlink()
    bench.source.change()
    async with leading(bench, documented.url, epoch=epoch, ahead_s=-3600.0, retry_budget_s=0.0):
        await bench.run_over()
        assert bench.stats.runs["success"] == 1
        assert bench.stats.runs["failure"] == 0
        assert len(bench.sequences) == (1 if epoch > 3 else 2)
        assert bench.seen_epochs == ([] if epoch > 3 else [3])
    assert documented.pair > highest
    assert holds_newest(documented, bench.source)
    bench.source.change()
    async with leading(bench, documented.url, epoch=epoch, ahead_s=-7200.0):
        await bench.run_over()
    assert len(bench.sequences) == 1, "what was learnt is kept on disk"
    assert holds_newest(documented, bench.source)


async def test_pending_payload_that_the_receiver_outranks_gives_way(
    bench: Bench, documented: Documented
) -> None:
    async with bench.daemon(always(REFUSED)):
        await bench.run_over()
    held = ((0, 2**60), b"newer")
    documented.held[INSTALL_UUID] = held
    current, bench.source = bench.source.current, Source(ready=False)
    async with bench.daemon(sending_to(documented.url), interval_s=2.0, timeout_s=1.9):
        await bench.until(lambda: bench.stats.runs["superseded"])
        assert documented.held[INSTALL_UUID] == held
        assert bench.stats.runs["failure"] == 0
        bench.source.current = current
        bench.source.wait_for()
        await bench.until(lambda: bench.stats.runs["success"])
    assert documented.pair == (0, 2**60 + 1)
    assert holds_newest(documented, bench.source)


async def test_frozen_leader_never_overtakes(bench: Bench, documented: Documented) -> None:
    """It was stopped with its request under way; the Lease has a new holder since."""
    documented.held[INSTALL_UUID] = ((2, 1), b"newer")
    export = sending_to(documented.url)

    async def freeze(payload: Payload, context: ExportContext) -> Outcome:
        try:
            return await export(payload, context)
        finally:
            bench.leads = False

    async with bench.daemon(freeze, timeout_s=20.0):
        await bench.until(lambda: bench.stats.skipped_ticks["held"])
        assert len(bench.sequences) == 1
    assert documented.held == {INSTALL_UUID: ((2, 1), b"newer")}


async def test_replicas_with_skewed_clocks_a_recreated_lease_and_lost_state_never_go_back(
    tmp_path: Path, documented: Documented
) -> None:
    """Under each leader the receiver ends each term with the newest content."""
    rng, source = Random(5), Source()
    replicas = [Bench(tmp_path / "a", source=source), Bench(tmp_path / "b", source=source)]
    transitions, pairs = 0, []
    for term in range(24):
        replica = rng.choice(replicas)
        ahead_s = 60.0 if replica is replicas[0] else -60.0
        if term in {8, 17}:
            transitions = 0  # somebody deletes the Lease
        if term == 12:
            for path in replica.spool.path.iterdir():
                path.unlink()
        transitions += 1
        source.change()
        async with leading(replica, documented.url, epoch=transitions, ahead_s=ahead_s):
            await replica.run_over()
            assert replica.stats.runs["success"] == 1
        assert holds_newest(documented, source)
        pairs.append(documented.pair)
    assert pairs == sorted(set(pairs))


@dataclass
class Insisting:
    """Answers 409 to everything, with a pair that is above the one that it gets."""

    epoch: int = 0
    sequence: int = 1

    async def answer(self, request: Request, writer: Writer) -> None:
        pair = (int(request.headers["telemetryd-epoch"]), request.sequence)
        await status(
            409,
            f"Telemetryd-Epoch: {pair[0] + self.epoch}",
            f"Telemetryd-Sequence: {pair[1] + self.sequence}",
        )(request, writer)


@pytest.mark.parametrize("ahead", [Insisting(0, 0), Insisting(0, 1), Insisting(1, -5)])
async def test_receiver_that_always_answers_409_gets_four_requests_a_run(
    bench: Bench, ahead: Insisting
) -> None:
    async with (
        receiving(default=ahead.answer) as receiver,
        leading(bench, receiver.url, epoch=4, ahead_s=0.0),
    ):
        await bench.run_over()
        assert bench.stats.runs["failure"] == 1
        assert bench.status.last_error_reason == "rejected"
        assert sum(bench.stats.attempts.values()) == len(receiver.requests) == 4
        sent = _pairs(receiver)
        assert sent == sorted(set(sent))


def _pairs(receiver: Receiver) -> list[Pair]:
    return [
        (int(request.headers["telemetryd-epoch"]), request.sequence)
        for request in receiver.requests
    ]


@pytest.mark.parametrize(
    ("epoch", "sequence"),
    [
        (None, None),
        ("4", None),
        (None, "9000000000000"),
        ("", ""),
        ("-1", "9000000000000"),
        ("4", "-9000000000000"),
        ("four", "9000000000000"),
        ("4", "9e12"),
        ("4.0", "9000000000000"),
        ("4", "0x7fffffffffffff"),
        ("4", "\N{FULLWIDTH DIGIT NINE}000000000000"),
        ("4", "1"),
        ("3", "1"),
        ("4", str(2**63 - 1)),
        ("4", str(2**63)),
        ("4", "9" * 5000),
        ("2000000", "9000000000000"),
        (str(2**31 - 1), "9000000000000"),
        (str(2**63), "9000000000000"),
    ],
)
async def test_409_without_a_pair_that_makes_sense_is_a_rejection(
    bench: Bench, epoch: str | None, sequence: str | None
) -> None:
    headers = [
        f"{name}: {value}".encode().decode("latin-1")
        for name, value in (("Telemetryd-Epoch", epoch), ("Telemetryd-Sequence", sequence))
        if value is not None
    ]
    async with (
        receiving(status(409, *headers)) as receiver,
        leading(bench, receiver.url, epoch=4, ahead_s=0.0),
    ):
        await bench.run_over()
        assert bench.stats.runs["failure"] == 1
        assert bench.status.last_error_reason == "rejected"
        assert len(receiver.requests) == 1
        assert bench.seen_epochs == []
        await bench.run_again()
        assert bench.stats.runs["success"] == 1
    first, second = _pairs(receiver)
    assert first == second, "nothing was learnt from it"


async def test_shutdown_goes_above_what_the_receiver_has(
    bench: Bench, documented: Documented
) -> None:
    async with leading(bench, documented.url, epoch=1, ahead_s=0.0):
        await bench.run_over()
        bench.sink.behave = failing(REFUSED)
        bench.source.change()
        await bench.run_again()
        documented.held[INSTALL_UUID] = ((5, 2**60), b"of another")
        bench.sink.behave = sending_to(documented.url)
        bench.source.change()
    assert holds_newest(documented, bench.source)


@pytest.mark.parametrize("times", [20, pytest.param(60, marks=pytest.mark.long)])
async def test_exporters_killed_over_and_over_leave_the_documented_receiver_with_the_newest(
    tmp_path: Path, documented: Documented, times: int
) -> None:
    command = [sys.executable, "-m", "tests.export.outboxkiller", "random"]
    done = await anyio.run_process(
        [*command, str(tmp_path), documented.url, str(times)], cwd=ROOT, check=False
    )
    assert done.returncode == 0, done.stderr.decode()
    newest = int(done.stdout.split(b'"newest": ')[1].split(b",")[0])
    assert gzip.decompress(documented.body).startswith(b"revision %d " % newest)
