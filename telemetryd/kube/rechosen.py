"""The login in use, chosen again from its kubeconfig whenever that has changed.

Kubeconfigs are replaced as a whole when something in them is renewed: a token, a certificate, the
CA, a proxy. How one is read and chosen is the business of who makes this.
"""

import logging
import ssl
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

import anyio

from telemetryd.errors import ConfigError, Unavailable
from telemetryd.kube.credentials import Credential
from telemetryd.kube.tls import TlsContext
from telemetryd.sharedread import SharedRead

log = logging.getLogger(__name__)

RECHECK_S = 30.0
"""Between looks at the kubeconfig; it is also looked at after a refusal and a failed connection."""

_RETRY_S = 5.0
"""Until the next look at a kubeconfig that can't be used: what it names may be on its way."""


_FOLLOW_S = 10.0
"""Between two thoughts of whether a look is due, where no request has them."""


def _nothing() -> None:
    """Nothing has to be closed."""


@dataclass(frozen=True, slots=True)
class Login:
    """Where to, by which way, and as whom.

    Attributes:
        server: URL of the API server, without a slash at its end and without credentials.
        where: File that says as whom.
        credential: For the Authorization header.
        tls: None for plain HTTP.
        server_name: Name that the server's certificate must have, None for the URL's.
        proxy: URL of the proxy, which may hold its own credentials; None for none.
        headers: Of each request beside those of every one, such as for impersonation; names may
            repeat.
        context: Name of the kubeconfig's context, empty in a pod.
        close: Ends what runs for it.
    """

    server: str
    where: str
    credential: Credential
    tls: TlsContext | None = None
    server_name: str | None = None
    proxy: str | None = None
    headers: tuple[tuple[str, str], ...] = ()
    context: str = ""
    close: Callable[[], None] = _nothing

    def __repr__(self) -> str:
        return f"Login({self.server})"

    @property
    def problem(self) -> str:
        """Why it is in use although it can't be renewed, empty where nothing is wrong."""
        return self.credential.problem or (self.tls.problem if self.tls else "")


@dataclass(frozen=True, slots=True)
class Use:
    """A login as a connection was made with it.

    Attributes:
        login: It.
        context: Its certificates, None for plain HTTP.
    """

    login: Login
    context: ssl.SSLContext | None


class Rechoice:
    """Where a login comes from, and whether there is another one."""

    def __init__(
        self,
        seen: bytes,
        *,
        fingerprint: Callable[[], bytes],
        choose: Callable[[], Awaitable[Login | None]],
    ) -> None:
        """Start with what has just been chosen.

        Args:
            seen: Fingerprint of the files, taken before.
            fingerprint: Takes it again; blocks.
            choose: Chooses again, None where the files say the same as before. Raises ConfigError,
                or Unavailable for what may pass by itself.
        """
        self.problem = ""
        self.look_at_s = anyio.current_time() + RECHECK_S
        self._seen = seen
        self._failed = b""
        self._failed_until_s = 0.0
        self._fingerprint = fingerprint
        self._choose = choose
        self._read: SharedRead[bytes] = SharedRead("kubeconfig")

    async def look(self) -> Login | None:
        """Another login, None where the one in use stays."""
        self.look_at_s = anyio.current_time() + RECHECK_S
        try:
            seen = await self._read.take_soon(self._fingerprint)
        except TimeoutError:
            self._keep("kubeconfig can't be read", "its disk is slow or hangs")
            return None
        if seen == self._seen:
            self.problem = ""
            return None
        if seen == self._failed and anyio.current_time() < self._failed_until_s:
            return None
        try:
            login = await self._choose()
        except (ConfigError, Unavailable) as error:
            self._keep("kubeconfig changed but can't be used", str(error))
            self._failed, self._failed_until_s = seen, anyio.current_time() + _RETRY_S
            return None
        # Not before: where the request's deadline ends the choice, another one makes it.
        self._seen = seen
        self.problem = ""
        return login

    def _keep(self, what: str, why: str) -> None:
        problem = f"{what}, the last good login stays: {why}"
        level = logging.DEBUG if problem == self.problem else logging.WARNING
        log.log(level, "the last good login stays problem=%r reason=%r", what, why)
        self.problem = problem
        self.look_at_s = anyio.current_time() + _RETRY_S


class Connection:
    """How to reach the API server: the login in use, kept up to date."""

    def __init__(self, login: Login, rechoice: Rechoice | None = None) -> None:
        """Use a login, for good where there is no choice.

        Args:
            login: The first one.
            rechoice: Says whether there is another.
        """
        self.login = login
        self._rechoice = rechoice
        self._lock = anyio.Lock()
        self._held: dict[Callable[[], None], Use] = {}

    def __repr__(self) -> str:
        return f"Connection({self.server})"

    @property
    def server(self) -> str:
        """URL of the API server, without a slash at its end and without credentials."""
        return self.login.server

    @property
    def problem(self) -> str:
        """Why the last good login is still in use, empty where nothing is wrong."""
        return (self._rechoice.problem if self._rechoice else "") or self.login.problem

    async def current(self) -> Login:
        """The login for the next request; its kubeconfig is looked at twice a minute."""
        rechoice = self._rechoice
        if rechoice and anyio.current_time() >= rechoice.look_at_s and not self._lock.locked():
            await self._look(rechoice)
        return self.login

    async def look_again(self, used: Login) -> bool:
        """A request was refused or didn't get through: look now whether the login has changed.

        Args:
            used: The login that it was made with.

        Returns:
            Whether another attempt would be made with something else.
        """
        if self._rechoice:
            await self._look(self._rechoice)
        if self.login is not used:
            return True
        return used.tls is not None and await used.tls.look_again()

    async def renew(self, used: Login, refused: str | None) -> bool:
        """A credential was refused: whether there is another, in the files or by asking for one.

        Args:
            used: The login of the request.
            refused: Value of its Authorization header.
        """
        return await self.look_again(used) or await used.credential.renew(refused)

    async def use(self, login: Login) -> Use:
        """A login with the certificates for a new connection."""
        return Use(login, await login.tls.current() if login.tls else None)

    @contextmanager
    def holding(self, use: Use, end: Callable[[], None]) -> Iterator[None]:
        """An answer without an end is open: it is ended once ``follow`` sees another login.

        Args:
            use: What its connection was made with.
            end: Ends it.
        """
        self._held[end] = use
        try:
            yield
        finally:
            del self._held[end]

    async def follow(self) -> None:
        """Take up in time what changes while nothing is asked, until cancelled."""
        while True:
            await anyio.sleep(_FOLLOW_S)
            with suppress(OSError):  # no thread can be started for now
                await self._end_former()

    async def _end_former(self) -> None:
        login = await self.current()
        with suppress(Unavailable):  # ``problem`` tells
            await login.credential.header()
        use = await self.use(login)
        for end, held in list(self._held.items()):
            if held.login is not use.login or held.context is not use.context:
                end()

    def close(self) -> None:
        """End what runs for the login."""
        self.login.close()

    async def _look(self, rechoice: Rechoice) -> None:
        async with self._lock:
            login = await rechoice.look()
            if login is not None:
                before, self.login = self.login, login
                before.close()
                log.info("kubeconfig changed, its login is used file=%s", login.where)
