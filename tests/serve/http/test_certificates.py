"""Certificates of a running server: renewed, broken, taken away; and handshakes that go wrong."""

import logging
import shutil
import ssl
import time
import warnings
from pathlib import Path

import aiohttp
import pytest
from anyio.streams.tls import TLSAttribute

from telemetryd.errors import ConfigError
from telemetryd.serve.http.connection import ConnectionLimits
from telemetryd.serve.http.reviews import Reviews
from telemetryd.serve.http.security import Security
from tests.serve.guarded import (
    SecretVolume,
    connect,
    der,
    guarded,
    shown_certificate,
    tls,
    until_shown,
)
from tests.serve.http.test_reviews import ApiServer
from tests.support.certificates import Authority, Pair
from tests.support.waiting import until_async

pytestmark = pytest.mark.anyio

DAY_S = 86400.0


async def test_tls_below_1_2_is_refused_whatever_the_client_would_take(
    authority: Authority, pair: Pair
) -> None:
    async with guarded(authority, tls(pair)) as served:
        old = served.trusting()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            old.minimum_version = old.maximum_version = ssl.TLSVersion.TLSv1_1
        old.set_ciphers("DEFAULT@SECLEVEL=0")
        with pytest.raises(aiohttp.ClientError):
            await served.get("/livez", old)


async def test_http_1_1_is_what_is_agreed_on(authority: Authority, pair: Pair) -> None:
    async with guarded(authority, tls(pair)) as served:
        context = served.trusting()
        context.set_alpn_protocols(["h2", "http/1.1"])
        async with connect(served.port, context) as held:
            assert held.stream.extra(TLSAttribute.alpn_protocol) == "http/1.1"


async def test_renewed_certificate_is_shown_without_an_end_of_connections(
    authority: Authority, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    first, second = authority.issue("first"), authority.issue("second")
    volume = SecretVolume(tmp_path / "volume", first)
    async with (
        guarded(authority, tls(volume.pair)) as served,
        connect(served.port, served.trusting()) as held,
    ):
        assert await shown_certificate(served.port) == der(first)
        assert await held.ask() == 200
        volume.swap(second)
        await until_shown(served.port, second)
        assert await held.ask() == 200, "an open connection goes on"
        assert (await served.get("/metrics", served.trusting())).status == 200
    assert caplog.text.count("certificates reloaded") == 1


async def test_half_replaced_pair_is_not_taken_and_reported_of_once(
    authority: Authority, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first, second = authority.issue("first"), authority.issue("second")
    place = Pair(tmp_path / "tls.crt", tmp_path / "tls.key")
    replace(first.cert, place.cert)
    replace(first.key, place.key)
    async with guarded(authority, tls(place)) as served:
        replace(second.cert, place.cert)
        await until_async(lambda: "keeping the old ones" in caplog.text, "it is noticed")
        looks = len(caplog.records)
        caplog.set_level("DEBUG")
        await until_async(lambda: len(caplog.records) > looks + 3, "it is looked at again")
        assert await shown_certificate(served.port) == der(first)
        assert (await served.get("/metrics", served.trusting())).status == 200
        replace(second.key, place.key)
        await until_shown(served.port, second)
    warned = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert len(warned) == 1
    assert "server.tls_cert_file" in warned[0].getMessage()
    assert "key values mismatch" in warned[0].getMessage()


@pytest.mark.parametrize("broken", ["gone", "not PEM", "expired"])
async def test_files_that_break_leave_what_is_in_force(
    authority: Authority,
    pair: Pair,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    broken: str,
) -> None:
    place = Pair(tmp_path / "tls.crt", tmp_path / "tls.key")
    replace(pair.cert, place.cert)
    replace(pair.key, place.key)
    async with guarded(authority, tls(place)) as served:
        match broken:
            case "gone":
                place.cert.unlink()
            case "not PEM":
                place.cert.write_text("no certificate")
            case "expired":
                late = authority.issue("late", days=-1)
                replace(late.key, place.key)
                replace(late.cert, place.cert)
        await until_async(lambda: "keeping the old ones" in caplog.text, "it is logged")
        assert (await served.get("/metrics", served.trusting())).status == 200
        renewed = authority.issue("renewed")
        replace(renewed.key, place.key)
        replace(renewed.cert, place.cert)
        await until_shown(served.port, renewed)


async def test_certificate_that_expires_while_it_is_shown_is_reported_once(
    authority: Authority, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    ahead_s = 0.0
    pair = authority.issue("short", days=1)
    async with guarded(authority, tls(pair), now=lambda: time.time() + ahead_s):
        ahead_s = DAY_S + 60
        await until_async(lambda: "has expired" in caplog.text, "it is logged")
        looks = len(caplog.records)
        caplog.set_level("DEBUG")
        await until_async(lambda: len(caplog.records) > looks + 3, "it is looked at again")
    warned = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert ["has expired" in record.getMessage() for record in warned] == [True]


async def test_authority_that_is_taken_away_lets_its_clients_in_no_more(
    authority: Authority, pair: Pair, clients: Authority, tmp_path: Path
) -> None:
    others = Authority(tmp_path, "other-ca")
    bundle = tmp_path / "bundle.crt"
    bundle.write_bytes(clients.ca.read_bytes())
    old, new = clients.issue("old"), others.issue("new")
    async with guarded(authority, tls(pair, client_ca=bundle)) as served:
        async with connect(served.port, served.trusting(old)) as idle:
            assert await idle.ask() == 200
            with pytest.raises((aiohttp.ClientError, OSError)):
                await served.get("/metrics", served.trusting(new))
            replace(others.ca, bundle)
            assert await idle.end() == b""
        with pytest.raises((aiohttp.ClientError, OSError)):
            await served.get("/metrics", served.trusting(old))
        assert (await served.get("/metrics", served.trusting(new))).status == 200


async def test_handshake_begun_under_another_authority_comes_to_nothing(
    authority: Authority, pair: Pair, clients: Authority, tmp_path: Path
) -> None:
    others = Authority(tmp_path, "other-ca")
    async with guarded(authority, tls(pair, client_ca=clients.ca)) as served:
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        tunnel = served.trusting(clients.issue("old")).wrap_bio(
            incoming, outgoing, server_hostname="127.0.0.1"
        )
        async with connect(served.port) as held:
            with pytest.raises(ssl.SSLWantReadError):
                tunnel.do_handshake()
            await held.stream.send(outgoing.read())
            incoming.write(await held.stream.receive())  # the server's part: it has begun
            await served.change(tls(pair, client_ca=others.ca))
            tunnel.do_handshake()
            tunnel.write(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
            await held.stream.send(outgoing.read())
            incoming.write(await held.end())
            with pytest.raises(ssl.SSLError):
                tunnel.read()


async def test_file_that_is_broken_for_the_moment_keeps_no_other_change_out(
    authority: Authority, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pair, renewed = authority.issue("server"), authority.issue("renewed")
    place = Pair(tmp_path / "tls.crt", tmp_path / "tls.key")
    replace(pair.cert, place.cert)
    replace(pair.key, place.key)
    async with guarded(authority, tls(place), reviews=Reviews(ApiServer())) as served:
        replace(renewed.cert, place.cert)
        await served.change(tls(place, tokens=True))
        assert "keeping the old ones" in caplog.text
        assert (await served.get("/metrics", served.trusting())).status == 401
        replace(renewed.key, place.key)
        await until_shown(served.port, renewed)
        assert (await served.get("/metrics", served.trusting())).status == 401


async def test_change_that_can_not_be_made_changes_nothing(
    authority: Authority, pair: Pair, tmp_path: Path
) -> None:
    async with guarded(authority, tls(pair)) as served:
        with pytest.raises(ConfigError) as refused:
            await served.change(tls(Pair(tmp_path / "none.crt", pair.key)))
        (problem,) = refused.value.problems
        assert problem.key == "server.tls_cert_file"
        assert "the file can't be read (No such file or directory)" in problem.message
        assert (await served.get("/metrics", served.trusting())).status == 200


@pytest.mark.parametrize(
    ("which", "key", "expected"),
    [
        ("mismatch", "server.tls_cert_file", "key values mismatch"),
        ("expired", "server.tls_cert_file", "has expired on "),
        ("no PEM", "server.tls_cert_file", "can't be loaded"),
        ("a folder", "server.tls_key_file", "Is a directory"),
        ("no authority", "server.client_ca_file", "no certificate or crl found"),
    ],
)
async def test_unusable_files_are_reported_by_key_file_and_fix(
    authority: Authority, pair: Pair, tmp_path: Path, which: str, key: str, expected: str
) -> None:
    empty = tmp_path / "empty"
    empty.touch()
    config = {
        "mismatch": lambda: tls(Pair(pair.cert, authority.issue("other").key)),
        "expired": lambda: tls(authority.issue("late", days=-1)),
        "no PEM": lambda: tls(Pair(empty, pair.key)),
        "a folder": lambda: tls(Pair(pair.cert, tmp_path)),
        "no authority": lambda: tls(pair, client_ca=empty),
    }[which]()
    with pytest.raises(ConfigError) as refused:
        await Security().prepare(config, "c.toml")
    (problem,) = refused.value.problems
    assert (problem.where, problem.key) == ("c.toml", key)
    assert expected in problem.message
    assert str(tmp_path) in problem.message
    assert ": " in problem.message, "a fix"


async def test_all_files_that_are_missing_are_reported_at_once(tmp_path: Path) -> None:
    missing = Pair(tmp_path / "a", tmp_path / "b")
    with pytest.raises(ConfigError) as refused:
        await Security().prepare(tls(missing, client_ca=tmp_path / "c"), "c.toml")
    assert [problem.key for problem in refused.value.problems] == [
        "server.tls_cert_file",
        "server.tls_key_file",
        "server.client_ca_file",
    ]


async def test_handshakes_count_among_the_connections_and_end_at_their_deadline(
    authority: Authority, pair: Pair
) -> None:
    limits = ConnectionLimits(connections=2, request_timeout_s=1.0)
    async with guarded(authority, tls(pair), limits=limits) as served:
        async with connect(served.port) as first, connect(served.port) as second:
            async with connect(served.port, served.trusting()) as third:
                assert await first.end() == b"", "the oldest gives way"
                assert await third.ask() == 200
            assert await second.end() == b"", "its deadline ends it"
        assert (await served.get("/livez", served.trusting())).status == 200


async def test_client_that_speaks_no_tls_costs_itself_alone(
    authority: Authority, pair: Pair
) -> None:
    async with guarded(authority, tls(pair), limits=ConnectionLimits(connections=1)) as served:
        async with connect(served.port) as plain:
            await plain.stream.send(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            assert b"HTTP" not in await plain.end()
        assert (await served.get("/livez", served.trusting())).status == 200


def replace(source: Path, place: Path) -> None:
    """Put a copy there by a rename."""
    new = place.with_suffix(".new")
    shutil.copy(source, new)
    new.rename(place)
