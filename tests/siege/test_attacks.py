"""The attackers do what their names say, against a server with every default."""

import asyncio
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.siege.attacks import ATTACKERS, ATTACKS, KINDS, attacking, read_answer
from tests.siege.cage import Cage
from tests.siege.peers import Peer, plain
from tests.siege.probes import Prober, Series, Server
from tests.support.certificates import Authority

UNLIMITED = Cage("none", None, 2**40)


@pytest.fixture
def running(tmp_path: Path) -> "Iterator[tuple[subprocess.Popen[bytes], Server]]":
    authority = Authority(tmp_path)
    peer: Peer = plain(authority, authority.issue("peer"))
    with peer.start(UNLIMITED) as started:
        yield started


WANTED = (
    *(f"{kind} begun" for kind in ATTACKS if kind != "control"),
    *("handshakes held", "headers held", "slow sent", "garbage sent", "busy answered 200"),
)


def test_every_kind_comes_to_the_server_and_is_counted(
    running: "tuple[subprocess.Popen[bytes], Server]",
) -> None:
    _, server = running
    assert set(ATTACKS) == set(KINDS)
    counts: dict[str, int] = {}
    for seconds in (8, 60):  # a busy machine needs longer
        with attacking(server, {kind: 3 for kind in ATTACKS if kind != "control"}) as attackers:
            time.sleep(seconds)
        counts = attackers.counts
        if all(counts.get(each, 0) >= 3 for each in WANTED):
            break
    assert all(counts.get(each, 0) >= 3 for each in WANTED), counts
    assert server.ask("/livez", source=ATTACKERS).is_answered


def test_prober_asks_each_series_and_notes_what_is_not_answered(
    running: "tuple[subprocess.Popen[bytes], Server]",
) -> None:
    _, server = running
    lonely = Server(1, server.context)
    series = [
        Series("there", lambda: server.ask("/livez")),
        Series("nowhere", lambda: server.ask("/none")),
        Series("absent", lambda: lonely.ask("/livez")),
    ]
    begin_s = time.monotonic()
    with Prober(series).running() as prober:
        while not all(asked := prober.between(begin_s, time.monotonic()).values()):
            assert time.monotonic() < begin_s + 60, asked
            time.sleep(0.1)
    found = prober.between(begin_s, time.monotonic())
    assert all(each.is_answered and each.text == "ok" for each in found["there"])
    assert all(each.status == 404 for each in found["nowhere"])
    assert all(not each.status and "refused" in each.error for each in found["absent"])


@pytest.mark.anyio
@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 503 Busy\r\nContent-Length: 4\r\n\r\nbusy",
        b"HTTP/1.1 503 Busy\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nbusy\r\n2\r\n..\r\n0\r\n\r\n",
        b"HTTP/1.1 503 Busy\r\n\r\n",
    ],
)
async def test_answer_is_read_to_its_end_and_no_further(answer: bytes) -> None:
    reader = asyncio.StreamReader()
    reader.feed_data(answer + b"HTTP/1.1 200 OK\r\n\r\n")
    assert await read_answer(reader) == 503
    assert await read_answer(reader) == 200
