"""What goes into the Authorization header, and how it stays fresh.

Secrets live here and nowhere else: nothing here logs or shows one. Where a credential comes from
is ``kubeconfig``'s and ``connection``'s business.
"""

import logging
import math
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import anyio

from telemetryd.errors import ConfigError, Reason, Unavailable
from telemetryd.kube.files import read_small_file, show_path, why_unreadable
from telemetryd.sharedread import SharedRead

log = logging.getLogger(__name__)

REREAD_S = 30.0
"""Between looks at a token file; projected tokens are rotated well before their end."""

REFRESH_TIMEOUT_S = 30.0
"""Deadline of a plugin or an identity provider, on the side of who waits for it."""

_RETRY_S = 10.0
"""Between two grants, where the API server refuses what was granted, or it has no use left."""

_BACKOFF_BASE_S = 1.0
_BACKOFF_CAP_S = 30.0
_EXPIRY_LEEWAY_S = 60.0
_LEEWAY_SHARE = 0.25
"""Of a grant's life, where that is less."""

_MARGIN_S = 0.2
"""A request's deadline is forestalled by this, to say what it was that took so long."""

# RFC 6750 says b64token; what matters is that it can't break out of its header.
_TOKEN = re.compile(r"[\x21-\x7e]+")


def clean_token(raw: bytes) -> str | None:
    """The token that a file's content is, without white space around; None where it isn't one."""
    text = raw.decode("ascii", "replace").strip()
    return text if _TOKEN.fullmatch(text) else None


class Credential(Protocol):
    """Knows the Authorization header's value."""

    @property
    def problem(self) -> str:
        """Why the last good value is still in use, empty where nothing is wrong."""

    async def header(self) -> str | None:
        """The value for the next request, None for a request without.

        Raises:
            Unavailable: There should be one, and none can be got now.
        """

    async def renew(self, refused: str | None) -> bool:
        """This value wasn't accepted: get another. Whether there is one; never raises."""


class FixedCredential:
    """A value that doesn't change: a token or password of the kubeconfig, or none."""

    __slots__ = ("_value", "problem")

    def __init__(self, value: str | None) -> None:
        self.problem = ""
        self._value = value

    async def header(self) -> str | None:
        """The value."""
        return self._value

    async def renew(self, refused: str | None) -> bool:
        """There is no other."""
        return self._value != refused


class TokenFile:
    """A bearer token in a file that someone else rotates.

    The last good token stays while the file is missing, unreadable, empty or garbage, or while its
    disk hangs.
    """

    __slots__ = ("_path", "_read", "_read_at_s", "_token", "problem")

    def __init__(self, path: str, token: str) -> None:
        """Start with a token that has just been read.

        Args:
            path: The file.
            token: What it holds now.
        """
        self._path = path
        self._token = token
        self._read_at_s = anyio.current_time()
        self.problem = ""
        self._read: SharedRead[bytes] = SharedRead("token file", self._take)

    async def header(self) -> str | None:
        """The token, re-read twice a minute."""
        if anyio.current_time() - self._read_at_s >= REREAD_S:
            await self._reread()
        return self._value()

    async def renew(self, refused: str | None) -> bool:
        """Read the file now, unless that has happened since the refused value was taken."""
        if self._value() == refused:
            was_running = self._read.is_running
            await self._reread()
            if was_running and self._value() == refused:  # it may have begun before the refusal
                await self._reread()
        return self._value() != refused

    def _value(self) -> str:
        return f"Bearer {self._token}"

    async def _reread(self) -> None:
        """Read the file; requests that come meanwhile share the read, but do not wait for long."""
        if not self._read.is_running:
            self._read_at_s = anyio.current_time()
        try:
            await self._read.take_soon(partial(read_small_file, self._path))
        except TimeoutError:
            self._keep("its disk is slow or hangs", self._path)
        except (OSError, ValueError) as error:
            self._keep(why_unreadable(error), show_path(self._path, error))

    def _take(self, raw: bytes) -> None:
        token = clean_token(raw)
        if token is None:
            self._keep("not a token" if raw.strip() else "empty", self._path)
            return
        self._token = token
        self.problem = ""

    def _keep(self, why: str, shown: str) -> None:
        log.log(
            logging.DEBUG if self.problem else logging.WARNING,
            "token file can't be used, the last good token stays file=%s reason=%s",
            shown,
            why,
        )
        self.problem = f"token file {shown} can't be used ({why}), the last good token stays"


@dataclass(frozen=True, slots=True)
class Grant:
    """What a plugin or an identity provider handed out.

    Attributes:
        header: Value of the Authorization header, None where it's a certificate instead.
        expires_at: Unix time in seconds, None where it isn't known.
        pair: PEM of a client certificate and of its key, None for none.
    """

    header: str | None
    expires_at: float | None
    pair: tuple[bytes, bytes] | None = None

    def __repr__(self) -> str:
        return f"Grant(expires_at={self.expires_at})"


class RenewedCredential:
    """A value that has to be asked for: exec plugin, OIDC, or the cloud's own way.

    The last good value stays while no other can be had. Where there is none yet, each request
    fails, and those that come when the next attempt is due make it.
    """

    __slots__ = (
        "_asked_at_s",
        "_failures",
        "_fetch",
        "_grant",
        "_lock",
        "_now",
        "_renew_at",
        "_who",
        "_why",
    )

    def __init__(
        self,
        grant: Grant | None,
        fetch: Callable[[bool], Awaitable[Grant]],
        now: Callable[[], float],
        who: str,
    ) -> None:
        """Start with what has just been handed out, if anything.

        Args:
            grant: It.
            fetch: Asks for another; True where the present one was refused. Raises anything, but
                the messages of Unavailable and ConfigError alone are fit to be seen.
            now: Unix time in seconds, for expiry.
            who: Is asked, for messages.
        """
        self._grant: Grant | None = None
        self._fetch = fetch
        self._now = now
        self._who = who
        self._asked_at_s = anyio.current_time()
        self._renew_at = math.inf
        self._failures = 0
        self._why = ""
        self._lock = anyio.Lock()
        if grant is not None:
            self.take(grant)

    async def ask_first(self) -> None:
        """Ask for the first value; what may pass by itself is waited for by the requests.

        Raises:
            ConfigError: It can't even be asked, or what it grants can't be used.
        """
        await self._ask(refused=False, is_first=True)

    @property
    def problem(self) -> str:
        """Why there is none, or only the last good one."""
        if not self._failures:
            return ""
        kept = "the last good credential stays" if self._grant else "there is none yet"
        return f"no credential from the {self._who}, {kept}: {self._why}"

    @property
    def pair(self) -> tuple[bytes, bytes] | None:
        """PEM of the client certificate and key that are granted, None for none."""
        return self._grant.pair if self._grant else None

    def take(self, grant: Grant) -> None:
        """Use what was handed out; it may come after its question has been given up."""
        if self._failures:
            log.info("credential recovered from=%s", self._who)
        self._grant = grant
        self._failures = 0
        self._renew_at = math.inf
        if grant.expires_at is not None:
            left_s = max(0.0, grant.expires_at - self._now())
            self._renew_at = grant.expires_at - min(_EXPIRY_LEEWAY_S, left_s * _LEEWAY_SHARE)

    async def header(self) -> str | None:
        """The value, renewed before it expires.

        Raises:
            Unavailable: None was ever handed out.
        """
        if self._grant is None or self._now() >= self._renew_at:
            await self._renew(refused=False)
        if self._grant is None:
            what = f"no credential from the {self._who}: {self._why or 'none yet'}"
            raise Unavailable(what, kind=Reason.AUTH)
        return self._grant.header

    async def renew(self, refused: str | None) -> bool:
        """Ask for another value now, but not again and again."""
        before = self._grant
        if before is None or before.header == refused:
            await self._renew(refused=True)
        after = self._grant
        return after is not None and (after is not before or after.header != refused)

    def _is_too_soon(self, *, refused: bool) -> bool:
        since_s: float = anyio.current_time() - self._asked_at_s
        if self._failures:
            wait_s: float = min(_BACKOFF_BASE_S * 2 ** min(self._failures - 1, 10), _BACKOFF_CAP_S)
            return since_s < wait_s
        grant = self._grant
        if grant is None or grant.expires_at is None or refused:
            return since_s < _RETRY_S
        # One that was of no use when it came is no better the next time.
        return self._now() < self._renew_at or (
            self._renew_at >= grant.expires_at and since_s < _RETRY_S
        )

    async def _renew(self, *, refused: bool) -> None:
        """Ask, unless that has just happened; whoever waits for another's question is told too."""
        left_s = anyio.current_effective_deadline() - anyio.current_time() - _MARGIN_S
        with anyio.move_on_after(left_s):
            async with self._lock:
                if not self._is_too_soon(refused=refused):
                    await self._ask(refused=refused)

    async def _ask(self, *, refused: bool, is_first: bool = False) -> None:
        """Ask once.

        Raises:
            ConfigError: On the first time, as of ``ask_first``.
        """
        left_s = anyio.current_effective_deadline() - anyio.current_time() - _MARGIN_S
        timeout_s = min(REFRESH_TIMEOUT_S, left_s)
        try:
            with anyio.fail_after(timeout_s):
                self.take(await self._fetch(refused))
        except TimeoutError:
            self._fail(f"no answer within {timeout_s:.1f} s")
        except ConfigError as error:
            if is_first:
                raise
            self._fail(str(error))
        except Unavailable as error:
            self._fail(str(error))
        except Exception as error:  # noqa: BLE001 - foreign code, and its message may tell
            self._fail(type(error).__name__)
        finally:
            self._asked_at_s = anyio.current_time()

    def _fail(self, why: str) -> None:
        log.log(
            logging.DEBUG if self._failures else logging.WARNING,
            "no new credential: the last good one stays from=%s reason=%s"
            if self._grant
            else "no credential: requests fail until there is one from=%s reason=%s",
            self._who,
            why,
        )
        self._failures += 1
        self._why = why
