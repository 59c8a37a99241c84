"""Credentials stay fresh, and the last good one stays when no other can be had."""

import logging
from pathlib import Path

import anyio
import pytest

from telemetryd.kube.credentials import (
    FixedCredential,
    Grant,
    RenewedCredential,
    TokenFile,
    clean_token,
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


async def test_fixed_credential_has_no_other() -> None:
    assert await FixedCredential(None).header() is None
    assert not await FixedCredential("Basic x").renew("Basic x")


async def test_grant_is_renewed_before_it_expires_and_kept_when_that_fails(
    caplog: pytest.LogCaptureFixture,
) -> None:
    asked: list[bool] = []

    async def fetch(refused: bool) -> Grant:
        asked.append(refused)
        if len(asked) == 1:
            raise OSError("SENTINEL")
        return Grant("Bearer two", 5000.0)

    now = [0.0]
    credential = RenewedCredential(Grant("Bearer one", 1000.0), fetch, lambda: now[0])
    assert await credential.header() == "Bearer one"
    credential._fetched_at_s -= 60
    now[0] = 950.0
    assert await credential.header() == "Bearer one"
    assert await credential.header() == "Bearer one"
    assert asked == [False]
    credential._fetched_at_s -= 60
    assert await credential.header() == "Bearer two"
    credential._fetched_at_s -= 60
    assert await credential.renew("Bearer two")
    assert asked == [False, False, True]
    assert "SENTINEL" not in caplog.text
    assert "two" not in repr(Grant("Bearer two", 1.0))


async def test_requests_that_are_refused_together_renew_once() -> None:
    asked: list[bool] = []

    async def fetch(refused: bool) -> Grant:
        asked.append(refused)
        await anyio.sleep(0.01)
        return Grant("Bearer two", None)

    credential = RenewedCredential(Grant("Bearer one", None), fetch, lambda: 0.0)
    credential._fetched_at_s -= 60
    renewed: list[bool] = []

    async def renew() -> None:
        renewed.append(await credential.renew("Bearer one"))

    async with anyio.create_task_group() as tasks:
        for _ in range(5):
            tasks.start_soon(renew)
    assert (renewed, asked) == ([True] * 5, [True])
