"""The SSL context: built from files off the loop, and built anew when they change.

Which files, is the connection's business.
"""

import logging
import os
import ssl
from collections.abc import Callable
from dataclasses import dataclass

import anyio
import anyio.to_thread

from telemetryd.errors import ConfigError, Problem

log = logging.getLogger(__name__)

RECHECK_S = 60.0
"""Between looks at the files; they are also looked at after a failed handshake."""

_RETRY_S = 5.0


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a setting comes from, for a message that says where to mend it."""

    where: str
    key: str = ""


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """What a context is made of.

    Attributes:
        ca_file: PEM of who may vouch for the server; None for the system's.
        cert_file: PEM of the client certificate, None for none.
        key_file: PEM of its key; None where ``cert_file`` holds it too.
        verify: Whether the server's certificate is checked at all (``insecure-skip-tls-verify``).
        ca_origin: Where the CA is configured.
        cert_origin: Where the client certificate is configured.
    """

    ca_file: str | None
    cert_file: str | None
    key_file: str | None
    verify: bool
    ca_origin: Origin
    cert_origin: Origin


def build_context(files: TlsFiles) -> ssl.SSLContext:
    """A context for a client; blocks for some 25 ms.

    From Python 3.13 on certificates are checked strictly (RFC 5280): a CA without a key
    identifier is refused there.

    Raises:
        ConfigError: A file is missing, unreadable or not PEM, or the key isn't the certificate's.
    """
    try:
        context = ssl.create_default_context(cafile=files.ca_file)
    except (OSError, ValueError) as error:
        raise ConfigError(
            Problem(
                files.ca_origin.where,
                files.ca_origin.key,
                f"CA can't be loaded ({_why(error)}): give PEM with at least one certificate",
            )
        ) from error
    if files.cert_file:
        try:
            # An encrypted key must not make OpenSSL ask on the terminal.
            context.load_cert_chain(files.cert_file, files.key_file, password=_no_password)
        except (OSError, ValueError) as error:
            raise ConfigError(
                Problem(
                    files.cert_origin.where,
                    files.cert_origin.key,
                    f"client certificate and key can't be loaded ({_why(error)}): "
                    "give PEM of a certificate and its own key, not encrypted",
                )
            ) from error
    if not files.verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def _no_password() -> str:
    raise ValueError("the key is encrypted")


def _why(error: Exception) -> str:
    if isinstance(error, ssl.SSLError):
        return (error.reason or "not PEM").lower().replace("_", " ")
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return "not PEM"


class TlsContext:
    """The context in use; a rotated CA or certificate takes effect on new connections.

    While the new files can't be used the context before stays.
    """

    def __init__(self, files: Callable[[], TlsFiles]) -> None:
        """Build nothing yet.

        Args:
            files: What to build from; asked anew at each look, for a plugin may change it.
        """
        self._files = files
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # trusts nobody
        self._seen: object = None
        self._look_at_s = self._looked_at_s = 0.0
        self._failing = False
        self._lock = anyio.Lock()

    async def load(self) -> None:
        """Build the first context.

        Raises:
            ConfigError: It can't be built.
        """
        self._looked_at_s = anyio.current_time()
        self._look_at_s = self._looked_at_s + RECHECK_S
        files = self._files()
        self._seen = await anyio.to_thread.run_sync(_fingerprint, files)
        self._context = await anyio.to_thread.run_sync(build_context, files)

    async def current(self) -> ssl.SSLContext:
        """The context for a new connection; ``load`` comes first."""
        if anyio.current_time() >= self._look_at_s:
            async with self._lock:
                await self._look()
        return self._context

    def distrust(self) -> None:
        """A handshake or a credential was refused: look at the files soon."""
        self._look_at_s = min(self._look_at_s, self._looked_at_s + _RETRY_S)

    async def _look(self) -> None:
        if anyio.current_time() < self._look_at_s:
            return
        self._looked_at_s = anyio.current_time()
        self._look_at_s = self._looked_at_s + RECHECK_S
        files = self._files()
        seen = await anyio.to_thread.run_sync(_fingerprint, files)
        if seen == self._seen:
            return
        try:
            self._context = await anyio.to_thread.run_sync(build_context, files)
        except ConfigError as error:
            log.log(
                logging.DEBUG if self._failing else logging.WARNING,
                "certificates changed but can't be used, the old ones stay: %s",
                error,
            )
            self._failing = True
            return
        self._seen = seen
        self._failing = False
        log.info("certificates reloaded ca_file=%s", files.ca_file)


def _fingerprint(files: TlsFiles) -> tuple[object, ...]:
    return files, *(_stat(name) for name in (files.ca_file, files.cert_file, files.key_file))


def _stat(name: str | None) -> tuple[int, int, int] | None:
    if name is None:
        return None
    try:
        stat = os.stat(name)  # noqa: PTH116 - a path is only a name here
    except OSError:
        return None
    return stat.st_mtime_ns, stat.st_size, stat.st_ino
