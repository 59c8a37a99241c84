"""The login in use, made again from its kubeconfig whenever that has changed.

Kubeconfigs are replaced as a whole when something in them is renewed: a token, a certificate, the
CA, a proxy.
"""

import logging
import ssl
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

import anyio

from telemetryd.errors import ConfigError, Unavailable
from telemetryd.kube.address import DIRECT, ProxyAddress
from telemetryd.kube.credentials import Credential
from telemetryd.kube.tls import TlsContext
from telemetryd.sharedread import SharedRead
from telemetryd.timing import TICK_S, until_tick_s

log = logging.getLogger(__name__)

RECHECK_S = 30.0
"""Between checks of the kubeconfig; it is also checked after a refusal and a failed connection."""

_RETRY_S = 5.0
"""Until the next check of a kubeconfig that can't be used: the files it names may come later."""

_FOLLOW_S = 2 * TICK_S
"""Between two checks of whether the login must be renewed, while there are no requests."""


@dataclass(frozen=True, slots=True)
class Login:
    """The API server's address, the way to it, and the user.

    Attributes:
        server: URL of the API server, without a slash at its end and without credentials.
        tls: None for plain HTTP.
        server_name: Name that the server's certificate must have, None for the URL's.
        headers: More headers of each request, such as for impersonation; names may repeat.
    """

    server: str
    where: str
    credential: Credential
    tls: TlsContext | None = None
    server_name: str | None = None
    proxy: ProxyAddress = DIRECT
    headers: tuple[tuple[str, str], ...] = ()
    context_name: str = ""

    def __repr__(self) -> str:
        return f"Login({self.server})"

    @property
    def problem(self) -> str:
        """Why it is in use although it can't be renewed, empty where nothing is wrong."""
        return self.credential.problem or (self.tls.problem if self.tls else "")

    async def context(self) -> ssl.SSLContext | None:
        """The TLS context for a new connection, None for plain HTTP."""
        return await self.tls.current() if self.tls else None


@dataclass(slots=True, eq=False)
class KubeconfigWatch:
    """Checks whether the kubeconfig of a login has changed.

    Attributes:
        log_in: Makes another login, None where the files say the same as before. Raises
            ConfigError, or Unavailable for a temporary failure.
    """

    _seen: bytes
    fingerprint: Callable[[], bytes]
    log_in: Callable[[], Awaitable[Login | None]]
    problem: str = field(default="", init=False)
    check_at_s: float = field(default_factory=lambda: anyio.current_time() + RECHECK_S, init=False)
    _failed: bytes = field(default=b"", init=False)
    _failed_until_s: float = field(default=0.0, init=False)
    _read: SharedRead[bytes] = field(default_factory=lambda: SharedRead("kubeconfig"), init=False)

    async def check(self) -> Login | None:
        """Another login, None where the one in use stays."""
        self.check_at_s = anyio.current_time() + RECHECK_S
        try:
            seen = await self._read.take_soon(self.fingerprint)
        except TimeoutError:
            self._keep("kubeconfig can't be read", "its disk is slow or hangs")
            return None
        if seen == self._seen:
            self.problem = ""
            return None
        if seen == self._failed and anyio.current_time() < self._failed_until_s:
            return None
        try:
            login = await self.log_in()
        except (ConfigError, Unavailable) as error:
            self._keep("kubeconfig changed but can't be used", str(error))
            self._failed, self._failed_until_s = seen, anyio.current_time() + _RETRY_S
            return None
        # Not before: a request's deadline may end this login, and the next request makes it.
        self._seen = seen
        self.problem = ""
        return login

    def _keep(self, what: str, why: str) -> None:
        problem = f"{what}, the last good login stays: {why}"
        level = logging.DEBUG if problem == self.problem else logging.WARNING
        log.log(level, "the last good login stays problem=%r reason=%r", what, why)
        self.problem = problem
        self.check_at_s = anyio.current_time() + _RETRY_S


class CurrentLogin:
    """The login in use, kept up to date."""

    def __init__(self, login: Login, watch: KubeconfigWatch | None = None) -> None:
        self.login = login
        self._watch = watch
        self._lock = anyio.Lock()
        self._held: dict[Callable[[], None], tuple[Login, ssl.SSLContext | None]] = {}

    @property
    def problem(self) -> str:
        """Why the last good login is still in use, empty where nothing is wrong."""
        return (self._watch.problem if self._watch else "") or self.login.problem

    async def current(self) -> Login:
        """The login for the next request; its kubeconfig is checked twice a minute."""
        watch = self._watch
        if watch and anyio.current_time() >= watch.check_at_s and not self._lock.locked():
            await self._check(watch)
        return self.login

    async def check_again(self, used: Login) -> bool:
        """Check now whether the login has changed: a request was refused or didn't get through.

        Returns:
            Whether another attempt would use something else.
        """
        if self._watch:
            await self._check(self._watch)
        if self.login is not used:
            return True
        return used.tls is not None and await used.tls.check_again()

    async def renew(self, used: Login, refused: str | None) -> bool:
        """Get another credential, from the files or by asking for one; whether there is one."""
        return await self.check_again(used) or await used.credential.renew(refused)

    @contextmanager
    def holding(
        self, login: Login, context: ssl.SSLContext | None, end: Callable[[], None]
    ) -> Iterator[None]:
        """While a stream is open: end it once ``follow`` sees another login or TLS context."""
        self._held[end] = login, context
        try:
            yield
        finally:
            del self._held[end]

    async def follow(self) -> None:
        """Keep the login up to date while there are no requests, until cancelled."""
        while True:
            await anyio.sleep(until_tick_s(anyio.current_time(), _FOLLOW_S))
            with suppress(OSError):  # no thread can be started for now
                await self._end_former()

    async def _end_former(self) -> None:
        login = await self.current()
        with suppress(Unavailable):  # ``problem`` says so
            await login.credential.header()
        context = await login.context()
        for end, (held_login, held_context) in list(self._held.items()):
            if held_login is not login or held_context is not context:
                end()

    def close(self) -> None:
        """End what runs for the login."""
        self.login.credential.close()

    async def _check(self, watch: KubeconfigWatch) -> None:
        async with self._lock:
            login = await watch.check()
            if login is not None:
                before, self.login = self.login, login
                before.credential.close()
                log.info("kubeconfig changed, its login is used file=%s", login.where)
