"""The value of the Authorization header, and how it is renewed. Nothing here logs or shows one."""

import binascii
import logging
import math
import re
from base64 import urlsafe_b64decode
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from typing import Final

import anyio
import msgspec

from telemetryd.errors import ConfigError, Reason, Unavailable
from telemetryd.kube.files import read_small_file, show_path, why_unreadable
from telemetryd.sharedread import SharedRead

log = logging.getLogger(__name__)

REREAD_S = 30.0
"""Between reads of a token file; projected tokens are rotated well before they expire."""

REFRESH_TIMEOUT_S = 30.0
"""How long a caller waits for a plugin or an identity provider."""

_RETRY_S = 10.0
"""Between two grants, where the API server refuses a grant, or it has expired."""

_BACKOFF_BASE_S = 1.0
_BACKOFF_CAP_S = 30.0
_EXPIRY_LEEWAY_S = 60.0
_LEEWAY_SHARE = 0.25
"""Of a grant's lifetime, where that is less."""

_MARGIN_S = 0.2
"""So long before a request's deadline the wait ends, so that the error says what took so long."""

_PREFIX: Final = "system:serviceaccount:"

# RFC 6750 says b64token; it must not be able to break out of its header.
_TOKEN = re.compile(r"[\x21-\x7e]+")


def clean_token(raw: bytes) -> str | None:
    """The token in a file's content, without white space around it; None where there is none."""
    text = raw.decode("ascii", "replace").strip()
    return text if _TOKEN.fullmatch(text) else None


class Credential:
    """A value that doesn't change: a token or password of the kubeconfig, or none."""

    __slots__ = ("_value",)

    def __init__(self, value: str | None) -> None:
        self._value = value

    @property
    def problem(self) -> str:
        """Why the last good value is still in use, empty where nothing is wrong."""
        return ""

    @property
    def pair(self) -> tuple[bytes, bytes] | None:
        """PEM of a client certificate and its key that were granted, None for none."""
        return None

    async def header(self) -> str | None:
        """The value for the next request, None for a request without.

        Raises:
            Unavailable: There should be one, and none can be got now.
        """
        return self._value

    async def renew(self, refused: str | None) -> bool:
        """Get another value, as this one was refused. Whether there is one; never raises."""
        return self._value != refused

    def close(self) -> None:
        """End what runs for it."""


class TokenFile(Credential):
    """A bearer token in a file that is rotated by another program.

    The last good token stays while the file is missing, unreadable, empty or invalid, or while its
    disk hangs.
    """

    __slots__ = ("_path", "_problem", "_read", "_read_at_s")

    def __init__(self, path: str, token: str) -> None:
        super().__init__(f"Bearer {token}")
        self._path = path
        self._problem = ""
        self._read_at_s = anyio.current_time()
        self._read: SharedRead[bytes] = SharedRead("token file", self._take)

    @property
    def problem(self) -> str:
        """Why the last good token is still in use, empty where nothing is wrong."""
        return self._problem

    async def header(self) -> str | None:
        """The token, read again twice a minute."""
        if anyio.current_time() - self._read_at_s >= REREAD_S:
            await self._reread()
        return self._value

    async def renew(self, refused: str | None) -> bool:
        """Read the file now, unless it was read after the refused value was taken."""
        if self._value == refused:
            was_running = self._read.is_running
            await self._reread()
            if was_running and self._value == refused:  # it may have begun before the refusal
                await self._reread()
        return self._value != refused

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
        self._value = f"Bearer {token}"
        self._problem = ""

    def _keep(self, why: str, shown: str) -> None:
        log.log(
            logging.DEBUG if self._problem else logging.WARNING,
            "token file can't be used, the last good token stays file=%s reason=%r",
            shown,
            why,
        )
        self._problem = f"token file {shown} can't be used ({why}), the last good token stays"


@dataclass(frozen=True, slots=True)
class Grant:
    """What a plugin or an identity provider grants.

    Attributes:
        pair: PEM of a client certificate and of its key, None for none.
    """

    header: str | None
    expires_at: float | None
    pair: tuple[bytes, bytes] | None = None

    def __repr__(self) -> str:
        return f"Grant(expires_at={self.expires_at})"


class RenewedCredential(Credential):
    """A value that an exec plugin or an identity provider grants.

    The last good value stays while no other can be got. Where there is none yet, each request
    fails, and the first one after the next attempt is due makes that attempt.
    """

    __slots__ = (
        "_asked_at_s",
        "_close",
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
        fetch: Callable[[], Awaitable[Grant]],
        now: Callable[[], float],
        who: str,
        *,
        close: Callable[[], None] = lambda: None,
    ) -> None:
        """Start without a value.

        ``fetch`` asks for one. It raises anything, but only the messages of Unavailable and
        ConfigError may be shown.
        """
        super().__init__(None)
        self._close = close
        self._grant: Grant | None = None
        self._fetch = fetch
        self._now = now
        self._who = who
        self._asked_at_s = anyio.current_time()
        self._renew_at = math.inf
        self._failures = 0
        self._why = ""
        self._lock = anyio.Lock()

    async def ask_first(self) -> None:
        """Ask for the first value; after a temporary failure the requests ask again.

        Raises:
            ConfigError: A person must fix something: it can't be asked, or its grant can't be used.
        """
        await self._ask(is_first=True)

    @property
    def problem(self) -> str:
        """Why there is none, or only the last good one."""
        if not self._failures:
            return ""
        kept = "the last good credential stays" if self._grant else "there is none yet"
        return f"no credential from the {self._who}, {kept}: {self._why}"

    @property
    def pair(self) -> tuple[bytes, bytes] | None:
        """PEM of a client certificate and its key that were granted, None for none."""
        return self._grant.pair if self._grant else None

    def take(self, grant: Grant) -> None:
        """Use a grant; it may come after its caller has stopped waiting."""
        if self._failures:
            log.info("credential recovered from=%r", self._who)
        self._grant = grant
        self._failures = 0
        self._renew_at = math.inf
        if grant.expires_at is not None:
            left_s = max(0.0, grant.expires_at - self._now())
            self._renew_at = grant.expires_at - min(_EXPIRY_LEEWAY_S, left_s * _LEEWAY_SHARE)

    async def header(self) -> str | None:
        """The value, renewed before it expires.

        Raises:
            Unavailable: There is none yet.
        """
        if self._grant is None or self._now() >= self._renew_at:
            await self._renew(refused=False)
        if self._grant is None:
            what = f"no credential from the {self._who}: {self._why or 'none yet'}"
            raise Unavailable(what, kind=Reason.AUTH)
        return self._grant.header

    async def renew(self, refused: str | None) -> bool:
        """Ask for another value now, unless that was done a moment ago."""
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
        # A grant that had expired when it came won't be better the next time.
        return self._now() < self._renew_at or (
            self._renew_at >= grant.expires_at and since_s < _RETRY_S
        )

    async def _renew(self, *, refused: bool) -> None:
        """Ask, unless that has just happened; callers that wait for the same question share it."""
        left_s = anyio.current_effective_deadline() - anyio.current_time() - _MARGIN_S
        with anyio.move_on_after(left_s):
            async with self._lock:
                if not self._is_too_soon(refused=refused):
                    await self._ask()

    async def _ask(self, *, is_first: bool = False) -> None:
        left_s = anyio.current_effective_deadline() - anyio.current_time() - _MARGIN_S
        timeout_s = min(REFRESH_TIMEOUT_S, left_s)
        try:
            with anyio.fail_after(timeout_s):
                self.take(await self._fetch())
        except TimeoutError:
            self._fail(f"no answer within {timeout_s:.1f} s")
        except ConfigError as error:
            if is_first:
                raise
            self._fail(str(error))
        except Unavailable as error:
            self._fail(str(error))
        except Exception as error:  # noqa: BLE001 - its message may hold a secret
            self._fail(type(error).__name__)
        finally:
            self._asked_at_s = anyio.current_time()

    def close(self) -> None:
        """End what runs for it."""
        self._close()

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


class _Claims(msgspec.Struct, gc=False):
    sub: str = ""


def service_account_of(header: str | None) -> tuple[str, str] | None:
    """Namespace and name of the ServiceAccount that a token was issued to.

    The token is not verified: the result is only shown, and decides nothing.

    Returns:
        None where it isn't the JSON Web Token of a ServiceAccount.
    """
    scheme, _, token = (header or "").partition(" ")
    parts = token.split(".")
    if scheme.lower() != "bearer" or len(parts) != 3:  # noqa: PLR2004 - RFC 7515: three parts
        return None
    try:
        claims = urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4))
        subject = msgspec.json.decode(claims, type=_Claims).sub
    except (binascii.Error, ValueError, msgspec.MsgspecError):
        return None
    return service_account_named(subject)


def service_account_named(subject: str) -> tuple[str, str] | None:
    """Namespace and name of the ServiceAccount that a user name stands for, None for another."""
    names = subject.removeprefix(_PREFIX).split(":")
    if not subject.startswith(_PREFIX) or len(names) != 2:  # noqa: PLR2004 - namespace and name
        return None
    return names[0], names[1]
