"""Credentials stay fresh, the last good one stays, and whom a bearer token names."""

import json
import logging
import threading
from base64 import urlsafe_b64encode
from pathlib import Path

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from telemetryd.errors import ConfigError, Problem, Reason, Unavailable
from telemetryd.kube.credentials import (
    Credential,
    Grant,
    RenewedCredential,
    TokenFile,
    clean_token,
    service_account_of,
)

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize(
    ("raw", "token"),
    [
        (b"abc\n", "abc"),
        (b"  abc  ", "abc"),
        (b"", None),
        (b" \n", None),
        (b"a b", None),
        (b"a\nb", None),
        (b"a\x00b", None),
        (b"\xff", None),
    ],
)
def test_token_is_stripped_and_must_be_one_word(raw: bytes, token: str | None) -> None:
    assert clean_token(raw) == token


@pytest.mark.parametrize("bad", [b"", b"  \n", b"two words", None])
async def test_last_good_token_stays_while_the_file_is_bad(
    tmp_path: Path, bad: bytes | None, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "token"
    path.write_text("SENTINEL-one\n")
    credential = TokenFile(str(path), "SENTINEL-one")
    if bad is None:
        path.unlink()
    else:
        path.write_bytes(bad)
    for _ in range(3):
        assert not await credential.renew("Bearer SENTINEL-one")
        assert await credential.header() == "Bearer SENTINEL-one"
    path.write_text("two\n")
    assert await credential.renew("Bearer SENTINEL-one")
    assert await credential.header() == "Bearer two"
    warnings = [entry for entry in caplog.records if entry.levelno == logging.WARNING]
    assert len(warnings) == 1
    assert "SENTINEL" not in caplog.text


async def test_token_that_was_renewed_meanwhile_is_not_read_again(tmp_path: Path) -> None:
    credential = TokenFile(str(tmp_path / "no"), "new")
    assert await credential.renew("Bearer old")


async def test_token_file_is_read_again_after_a_minute(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "token"
    path.write_text("two")
    credential = TokenFile(str(path), "one")
    assert await credential.header() == "Bearer one"
    start_s = anyio.current_time()
    monkeypatch.setattr("telemetryd.kube.credentials.anyio.current_time", lambda: start_s + 61)
    assert await credential.header() == "Bearer two"


async def test_token_file_whose_disk_hangs_leaves_the_last_good_token(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    released, reads = threading.Event(), []

    def hang(path: str) -> bytes:
        reads.append(path)
        assert released.wait(60)
        return b"two"

    monkeypatch.setattr("telemetryd.kube.credentials.read_small_file", hang)
    monkeypatch.setattr("telemetryd.kube.credentials.REREAD_S", 0.0)
    monkeypatch.setattr("telemetryd.sharedread.PATIENCE_S", 0.1)
    credential = TokenFile(str(tmp_path / "token"), "one")
    with anyio.fail_after(30):
        for _ in range(50):
            assert await credential.header() == "Bearer one"
            assert not await credential.renew("Bearer one")
        assert len(reads) == 1
        assert [record.levelname for record in caplog.records].count("WARNING") == 1
        released.set()
        while await credential.header() != "Bearer two":
            await anyio.sleep(0.01)


async def test_deadline_of_a_request_holds_while_the_token_file_hangs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    released = threading.Event()
    monkeypatch.setattr(
        "telemetryd.kube.credentials.read_small_file", lambda _: released.wait(60) and b"two"
    )
    monkeypatch.setattr("telemetryd.kube.credentials.REREAD_S", 0.0)
    monkeypatch.setattr("telemetryd.sharedread.PATIENCE_S", 50.0)
    credential = TokenFile(str(tmp_path / "token"), "one")
    try:
        with anyio.fail_after(1.0):  # half of it is for the read
            assert await credential.header() == "Bearer one"
    finally:
        released.set()


async def test_fixed_credential_has_no_other() -> None:
    assert await Credential(None).header() is None
    assert not await Credential("Basic x").renew("Basic x")


async def test_grant_is_renewed_before_it_expires_and_kept_when_that_fails(
    caplog: pytest.LogCaptureFixture,
) -> None:
    asked: list[float] = []

    async def fetch() -> Grant:
        asked.append(now[0])
        if len(asked) == 1:
            raise OSError("SENTINEL")
        return Grant("Bearer two", 5000.0)

    now = [0.0]
    credential = RenewedCredential(fetch, lambda: now[0], "plugin")
    credential.take(Grant("Bearer one", 1000.0))
    assert await credential.header() == "Bearer one"
    credential._asked_at_s -= 60
    now[0] = 950.0
    assert await credential.header() == "Bearer one"
    assert await credential.header() == "Bearer one"
    assert asked == [950.0]
    credential._asked_at_s -= 60
    assert await credential.header() == "Bearer two"
    credential._asked_at_s -= 60
    assert await credential.renew("Bearer two")
    assert asked == [950.0] * 3
    assert "SENTINEL" not in caplog.text
    assert "two" not in repr(Grant("Bearer two", 1.0))


async def test_requests_that_are_refused_together_renew_once() -> None:
    asked: list[None] = []

    async def fetch() -> Grant:
        asked.append(None)
        await anyio.sleep(0.01)
        return Grant("Bearer two", None)

    credential = RenewedCredential(fetch, lambda: 0.0, "plugin")
    credential.take(Grant("Bearer one", None))
    credential._asked_at_s -= 60
    renewed: list[bool] = []

    async def renew() -> None:
        renewed.append(await credential.renew("Bearer one"))

    async with anyio.create_task_group() as tasks:
        for _ in range(5):
            tasks.start_soon(renew)
    assert (renewed, asked) == ([True] * 5, [None])


async def test_no_credential_at_first_is_retried_with_backoff_and_reported_once(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.INFO)
    failures: list[Exception] = [
        Unavailable("it ended with status 1", kind=Reason.AUTH),
        ConfigError(Problem("config", "users", "gone meanwhile")),
        OSError("SENTINEL"),
    ]
    asked_at_s: list[float] = []

    async def fetch() -> Grant:
        asked_at_s.append(clock_s[0])
        if failures:
            raise failures.pop(0)
        return Grant("Bearer one", None)

    clock_s = [1000.0]
    monkeypatch.setattr("telemetryd.kube.credentials.anyio.current_time", lambda: clock_s[0])
    credential = RenewedCredential(fetch, lambda: 0.0, "exec plugin aws")
    await credential.ask_first()
    with pytest.raises(Unavailable, match=r"exec plugin aws: it ended with status 1"):
        await credential.header()
    said = ""
    while not asked_at_s or failures:
        clock_s[0] += 0.5
        with pytest.raises(Unavailable) as caught:
            await credential.header()
        said += str(caught.value)
    clock_s[0] += 30
    assert await credential.header() == "Bearer one"
    assert "gone meanwhile" in said
    assert "SENTINEL" not in said
    assert [at_s - 1000.0 for at_s in asked_at_s] == [0, 1, 3, 33]
    lines = [(entry.levelname, entry.getMessage()) for entry in caplog.records]
    assert [level for level, _ in lines] == ["WARNING", "INFO"]
    assert "exec plugin aws" in lines[0][1]
    assert "recovered" in lines[1][1]


async def test_provider_that_can_not_even_be_asked_is_a_config_error_only_at_first() -> None:
    async def fetch() -> Grant:
        raise ConfigError(Problem("config", "users", "no such plugin"))

    with pytest.raises(ConfigError):
        await RenewedCredential(fetch, lambda: 0.0, "plugin").ask_first()
    later = RenewedCredential(fetch, lambda: 10.0, "plugin")
    later.take(Grant("Bearer one", 0.0))
    later._asked_at_s -= 60
    assert await later.header() == "Bearer one"


async def test_request_whose_deadline_is_shorter_than_the_plugin_still_says_what_was_slow() -> None:
    async def fetch() -> Grant:
        await anyio.sleep_forever()
        raise AssertionError

    credential = RenewedCredential(fetch, lambda: 0.0, "slow plugin")
    credential._asked_at_s -= 60

    async def ask() -> None:
        with anyio.fail_after(0.5), pytest.raises(Unavailable, match="slow plugin"):
            await credential.header()

    async with anyio.create_task_group() as tasks:
        for _ in range(3):
            tasks.start_soon(ask)


def token(claims: object) -> str:
    body = urlsafe_b64encode(json.dumps(claims).encode()).decode().rstrip("=")
    return f"Bearer e30.{body}.c2ln"


def test_token_of_a_service_account_names_it() -> None:
    header = token({"sub": "system:serviceaccount:ns:name", "aud": ["x"]})
    assert service_account_of(header) == ("ns", "name")


@pytest.mark.parametrize(
    "header",
    [
        None,
        "",
        "Bearer abc",
        "Bearer a.b.c",
        "Bearer a.é.c",
        "Basic e30.e30.e30",
        token({"sub": "somebody"}),
        token({"sub": "system:serviceaccount:ns"}),
        token({"sub": "system:serviceaccount:ns:name:more"}),
        token({"sub": 7}),
        token([]),
    ],
)
def test_anything_else_names_no_one(header: str | None) -> None:
    assert service_account_of(header) is None


@given(st.text())
def test_garbage_is_survived(text: str) -> None:
    assert service_account_of(f"Bearer {text}") is None or "." in text
