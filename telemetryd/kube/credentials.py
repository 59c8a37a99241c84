"""What goes into the Authorization header, and how it stays fresh.

Secrets live here and nowhere else: nothing here logs or shows one. Where a credential comes from
is ``kubeconfig``'s and ``connection``'s business.
"""

import logging
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import anyio
import anyio.to_thread

log = logging.getLogger(__name__)

REREAD_S = 60.0
"""Between looks at a token file, as client-go does; projected tokens are rotated well before."""

REFRESH_TIMEOUT_S = 30.0
"""Deadline of a plugin or an identity provider."""

_RETRY_S = 10.0
_EXPIRY_LEEWAY_S = 60.0
_MAX_TOKEN_BYTES = 1024 * 1024
# RFC 6750 says b64token; what matters is that it can't break out of its header.
_TOKEN = re.compile(r"[\x21-\x7e]+")


def clean_token(raw: bytes) -> str | None:
    """The token that a file's content is, without white space around; None where it isn't one."""
    text = raw.decode("ascii", "replace").strip()
    return text if _TOKEN.fullmatch(text) else None


class Credential(Protocol):
    """Knows the Authorization header's value."""

    async def header(self) -> str | None:
        """The value for the next request, None for a request without; never raises."""

    async def renew(self, refused: str | None) -> bool:
        """This value wasn't accepted: get another. Whether there is one; never raises."""


class FixedCredential:
    """A value that doesn't change: a token or password of the kubeconfig, or none."""

    __slots__ = ("_value",)

    def __init__(self, value: str | None) -> None:
        self._value = value

    async def header(self) -> str | None:
        """The value."""
        return self._value

    async def renew(self, refused: str | None) -> bool:
        """There is no other."""
        return self._value != refused


class TokenFile:
    """A bearer token in a file that someone else rotates.

    The last good token stays while the file is missing, unreadable, empty or garbage.
    """

    __slots__ = ("_failing", "_lock", "_path", "_read_at_s", "_token")

    def __init__(self, path: str, token: str) -> None:
        """Start with a token that has just been read.

        Args:
            path: The file.
            token: What it holds now.
        """
        self._path = path
        self._token = token
        self._read_at_s = anyio.current_time()
        self._failing = False
        self._lock = anyio.Lock()

    async def header(self) -> str | None:
        """The token, re-read once a minute."""
        if anyio.current_time() - self._read_at_s >= REREAD_S:
            await self._read()
        return self._value()

    async def renew(self, refused: str | None) -> bool:
        """Read the file now, unless that has happened since the refused value was taken."""
        if self._value() == refused:
            await self._read()
        return self._value() != refused

    def _value(self) -> str:
        return f"Bearer {self._token}"

    async def _read(self) -> None:
        async with self._lock:
            self._read_at_s = anyio.current_time()
            try:
                raw = await anyio.to_thread.run_sync(read_small_file, self._path)
            except OSError as error:
                self._keep(error.strerror or "unreadable")
                return
            token = clean_token(raw)
            if token is None:
                self._keep("not a token" if raw.strip() else "empty")
                return
            self._token = token
            self._failing = False

    def _keep(self, why: str) -> None:
        log.log(
            logging.DEBUG if self._failing else logging.WARNING,
            "token file can't be used, the last good token stays file=%s reason=%s",
            self._path,
            why,
        )
        self._failing = True


def read_small_file(path: str) -> bytes:
    """A file's content, up to a size that no token or kubeconfig reaches; blocks."""
    with Path(path).open("rb") as file:
        return file.read(_MAX_TOKEN_BYTES)


@dataclass(frozen=True, slots=True)
class Grant:
    """What a plugin or an identity provider handed out.

    Attributes:
        header: Value of the Authorization header, None where it's a certificate instead.
        expires_at: Unix time in seconds, None where it isn't known.
    """

    header: str | None
    expires_at: float | None

    def __repr__(self) -> str:
        return f"Grant(expires_at={self.expires_at})"


class RenewedCredential:
    """A value that has to be asked for: exec plugin, OIDC, or the cloud's own way.

    The last good value stays while no other can be had.
    """

    __slots__ = ("_failing", "_fetch", "_fetched_at_s", "_grant", "_lock", "_now")

    def __init__(
        self, grant: Grant, fetch: Callable[[bool], Awaitable[Grant]], now: Callable[[], float]
    ) -> None:
        """Start with what has just been handed out.

        Args:
            grant: It.
            fetch: Asks for another; True where the present one was refused. Raises anything.
            now: Unix time in seconds, for expiry.
        """
        self._grant = grant
        self._fetch = fetch
        self._now = now
        self._fetched_at_s = anyio.current_time()
        self._failing = False
        self._lock = anyio.Lock()

    async def header(self) -> str | None:
        """The value, renewed a minute before it expires."""
        if self._is_expiring():
            await self._renew(refused=False)
        return self._grant.header

    async def renew(self, refused: str | None) -> bool:
        """Ask for another value now, but not again and again."""
        before = self._grant
        if before.header == refused:
            await self._renew(refused=True)
        return self._grant is not before or self._grant.header != refused

    def _is_expiring(self) -> bool:
        expires_at = self._grant.expires_at
        return expires_at is not None and self._now() >= expires_at - _EXPIRY_LEEWAY_S

    def _is_fresh(self) -> bool:
        return anyio.current_time() - self._fetched_at_s < _RETRY_S

    async def _renew(self, *, refused: bool) -> None:
        async with self._lock:
            if self._is_fresh():
                return
            try:
                with anyio.fail_after(REFRESH_TIMEOUT_S):
                    self._grant = await self._fetch(refused)
                self._failing = False
            except Exception as error:  # noqa: BLE001 - foreign code, and its message may tell
                log.log(
                    logging.DEBUG if self._failing else logging.WARNING,
                    "credential can't be renewed, the last good one stays reason=%s",
                    type(error).__name__,
                )
                self._failing = True
            finally:
                self._fetched_at_s = anyio.current_time()
