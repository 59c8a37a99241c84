"""The SSL context: built from files off the loop, and built anew when they change.

Which files, is the connection's business.
"""

import logging
import os
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import anyio

from telemetryd.errors import ConfigError, Problem
from telemetryd.kube.files import check_regular
from telemetryd.kube.validity import Validity, read_validity
from telemetryd.sharedread import SharedRead

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
        verify_origin: Where it is configured whether to verify.
    """

    ca_file: str | None
    cert_file: str | None
    key_file: str | None
    verify: bool
    ca_origin: Origin
    cert_origin: Origin
    verify_origin: Origin = Origin("")


def build_context(files: TlsFiles) -> ssl.SSLContext:
    """A context for a client; blocks for some 25 ms.

    From Python 3.13 on certificates are checked strictly (RFC 5280): a CA without a key
    identifier is refused there.

    Raises:
        ConfigError: A file is missing, unreadable or not PEM, or the key isn't the certificate's.
    """
    try:
        if files.ca_file:
            check_regular(files.ca_file)
        context = ssl.create_default_context(cafile=files.ca_file)
    except (OSError, ValueError) as error:
        raise ConfigError(
            Problem(
                files.ca_origin.where,
                files.ca_origin.key,
                f"CA can't be loaded ({why_unloadable(error)}): "
                "give PEM with at least one certificate",
            )
        ) from error
    if files.cert_file:
        try:
            load_pair(context, files.cert_file, files.key_file)
        except (OSError, ValueError) as error:
            raise ConfigError(
                Problem(
                    files.cert_origin.where,
                    files.cert_origin.key,
                    f"client certificate and key can't be loaded ({why_unloadable(error)}): "
                    "give PEM of a certificate and its own key, not encrypted",
                )
            ) from error
    context.minimum_version = ssl.TLSVersion.TLSv1_2  # whatever the system's OpenSSL would allow
    if not files.verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def load_pair(context: ssl.SSLContext, cert_file: str, key_file: str | None) -> None:
    """Have a context show a certificate; blocks.

    Raises:
        OSError: A file can't be read, or OpenSSL makes nothing of it.
        ValueError: The key is encrypted.
    """
    for name in (cert_file, key_file):
        if name:
            check_regular(name)
    # An encrypted key must not make OpenSSL ask on the terminal.
    context.load_cert_chain(cert_file, key_file, password=_no_password)


def _no_password() -> str:
    raise ValueError("the key is encrypted")


def why_unloadable(error: Exception) -> str:
    """In a few words, why PEM couldn't be loaded."""
    if isinstance(error, ssl.SSLError):
        return (error.reason or "not PEM").lower().replace("_", " ")
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return "not PEM"


class TlsContext:
    """The context in use; a rotated CA or certificate takes effect on new connections.

    While the new files can't be used the context before stays.
    """

    def __init__(
        self,
        files: Callable[[], TlsFiles],
        now: Callable[[], float],
        *,
        recheck_s: float = RECHECK_S,
    ) -> None:
        """Build nothing yet.

        Args:
            files: What to build from; asked anew each time, for a plugin may change it.
            now: Unix time in seconds, for validity.
            recheck_s: Between looks at the files; 0 for one at each use.
        """
        self._files = files
        self._now = now
        self._recheck_s = recheck_s
        self._looked_files: TlsFiles | None = None
        self._verifies = True
        self._validity: Validity | None = None
        self._told: tuple[Validity, str] | None = None
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # trusts nobody
        self._seen: object = None
        self._look_at_s = self._looked_at_s = 0.0
        self._failing = False
        self._read: SharedRead[_Loaded | None] = SharedRead("certificates", self._settle)

    async def load(self) -> None:
        """Build the first context.

        Raises:
            ConfigError: It can't be built.
        """
        await self._read.begin(partial(_load, self._begin_look(), None))

    async def current(self) -> ssl.SSLContext:
        """The context for a new connection; ``load`` comes first."""
        if self._is_due():
            await self._look()
        return self._context

    def distrust(self) -> None:
        """A handshake or a credential was refused: look at the files soon."""
        self._look_at_s = min(self._look_at_s, self._looked_at_s + _RETRY_S)

    def _is_due(self) -> bool:
        return anyio.current_time() >= self._look_at_s or self._files() != self._looked_files

    def _begin_look(self) -> TlsFiles:
        self._looked_at_s = anyio.current_time()
        self._look_at_s = self._looked_at_s + self._recheck_s
        self._looked_files = files = self._files()
        return files

    async def _look(self) -> None:
        """Look at the files; connections that are made meanwhile share that, but wait briefly."""
        if not self._read.is_running:
            self._begin_look()
        files = self._looked_files or self._files()
        try:
            await self._read.take_soon(partial(_load, files, self._seen))
        except TimeoutError:
            self._keep("their disk is slow or hangs")
        except ConfigError as error:
            self._keep(error)

    def _keep(self, why: object) -> None:
        log.log(
            logging.DEBUG if self._failing else logging.WARNING,
            "certificates changed but can't be used, the old ones stay: %s",
            why,
        )
        self._failing = True

    def _settle(self, loaded: "_Loaded | None") -> None:
        """Take what was read into use; None where nothing has changed."""
        files = self._looked_files or self._files()
        if loaded is not None:
            is_first = self._seen is None
            self._context, self._validity = loaded.context, loaded.validity
            self._seen = loaded.seen
            if not is_first:
                log.info("certificates reloaded ca_file=%s", loaded.files.ca_file)
            files = loaded.files
        self._failing = False
        self._tell(files)

    def _tell(self, files: TlsFiles) -> None:
        """Say once what will be regretted, of each client certificate too: the server may not."""
        if not files.verify and self._verifies:
            log.warning(
                "the API server's certificate is NOT checked: whoever answers gets the credential"
                " file=%s key=%s",
                files.verify_origin.where,
                files.verify_origin.key,
            )
        self._verifies = files.verify
        why = self._validity.why_not(self._now()) if self._validity else ""
        told = (self._validity, why) if self._validity and why else None
        if told and told != self._told:
            log.warning(
                "the client certificate %s: renew it file=%s key=%s",
                why,
                files.cert_origin.where,
                files.cert_origin.key,
            )
        self._told = told


@dataclass(frozen=True, slots=True)
class _Loaded:
    """Files, and what was made of them."""

    files: TlsFiles
    seen: object
    context: ssl.SSLContext
    validity: Validity | None


def _load(files: TlsFiles, seen: object) -> _Loaded | None:
    """What files hold, None where they are as they were; blocks.

    Raises:
        ConfigError: They can't be used.
    """
    found = _fingerprint(files)
    if found == seen:
        return None
    context = build_context(files)
    return _Loaded(
        files, found, context, read_validity(files.cert_file) if files.cert_file else None
    )


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
