"""A login that is chosen again from its kubeconfig when the API server refuses it.

Kubeconfigs that hold their token or certificate themselves, as Rancher's do, are replaced as a
whole when it is renewed. How one is read and chosen is the business of who makes this.
"""

import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import anyio

from telemetryd.errors import ConfigError, Unavailable
from telemetryd.kube.credentials import Credential
from telemetryd.kube.tls import TlsFiles
from telemetryd.sharedread import SharedRead

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Login:
    """Where to, and as whom.

    Attributes:
        server: URL of the API server.
        where: File that says as whom.
        credential: For the header.
        files: What TLS is made of now, the client certificate among it.
    """

    server: str
    where: str
    credential: Credential
    files: Callable[[], TlsFiles]

    def __repr__(self) -> str:
        return f"Login({self.server})"


class RechosenCredential:
    """The credential of the login in use; files that have changed are read again on a refusal.

    The login in use stays while the new files hold none that can be used.
    """

    def __init__(
        self,
        login: Login,
        seen: bytes,
        *,
        fingerprint: Callable[[], bytes],
        choose: Callable[[], Awaitable[Login]],
    ) -> None:
        """Start with what has just been chosen.

        Args:
            login: It.
            seen: Fingerprint of the files, taken before.
            fingerprint: Takes it again; blocks.
            choose: Chooses again. Raises ConfigError, or Unavailable where a disk hangs.
        """
        self._login = login
        self._seen = seen
        self._fingerprint = fingerprint
        self._choose = choose
        self._lock = anyio.Lock()
        self._read: SharedRead[bytes] = SharedRead("kubeconfig")
        self._failing = False

    def files(self) -> TlsFiles:
        """What TLS is made of now."""
        return self._login.files()

    async def header(self) -> str | None:
        """The value of the login in use.

        Raises:
            Unavailable: None is to be had for now.
        """
        try:
            return await self._login.credential.header()
        except Unavailable:
            if not await self._choose_again():
                raise
            return await self._login.credential.header()

    async def renew(self, refused: str | None) -> bool:
        """Choose again where the files have changed, else have the credential renew itself."""
        return await self._choose_again() or await self._login.credential.renew(refused)

    async def _choose_again(self) -> bool:
        async with self._lock:
            try:
                seen = await self._read.take_soon(self._fingerprint)
            except TimeoutError:
                self._keep("its disk is slow or hangs")
                return False
            if seen == self._seen:
                return False
            try:
                login = await self._choose()
            except Unavailable as error:
                self._keep(str(error))
                return False
            except ConfigError as error:
                self._seen = seen
                log.warning(
                    "kubeconfig changed but can't be used, the last good login stays: %s", error
                )
                return False
            # Not before: where the request's deadline ends the choice, another one makes it.
            self._seen = seen
            self._login = login
            self._failing = False
            log.info("kubeconfig changed, its login is used file=%s", login.where)
            return True

    def _keep(self, why: str) -> None:
        log.log(
            logging.DEBUG if self._failing else logging.WARNING,
            "kubeconfig can't be read, the last good login stays: %s",
            why,
        )
        self._failing = True
