"""The SSL context: built off the event loop, and built again when its files or data change."""

import logging
import ssl
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from hashlib import sha256

import anyio

from telemetryd.errors import ConfigError, Problem
from telemetryd.kube.files import PEM_BYTES, check_regular, read_small_file
from telemetryd.kube.pem import Validity, load_pair_from_memory, no_password, parse_validity, trust
from telemetryd.sharedread import SharedRead

log = logging.getLogger(__name__)

RECHECK_S = 30.0
"""Between checks of the files; they are also checked after a failed handshake and a 401."""

_RETRY_S = 5.0
"""Until the next check of files that can't be used: the other half of a pair may come later."""

_CIPHERS = "@SECLEVEL=1:ECDH+AESGCM:ECDH+CHACHA20:ECDH+AES:DHE+AES:!aNULL:!eNULL:!aDSS:!AESCCM"
"""As Python's own, but with RSA keys of 1024 bits and SHA-1 as a cipher's MAC, which Go allows."""

_CA = "CA can't be loaded ({}): give PEM with at least one certificate"
_PAIR = (
    "client certificate and key can't be loaded ({}): give PEM of a certificate and its own key, "
    "not encrypted"
)


@dataclass(frozen=True, slots=True)
class Origin:
    """The place of a setting, for messages that say where to fix it."""

    where: str
    key: str = ""


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """The files and data of a context; data goes before the file.

    Attributes:
        ca_file: PEM of the authorities that sign the server's certificate; None for the system's.
        cert_file: PEM of the client certificate, None for none.
        key_file: PEM of its key; None where ``cert_file`` holds it too.
        verify: Whether the server's certificate is checked at all (``insecure-skip-tls-verify``).
        ca_origin: Where the CA is configured, for messages; so are the next two.
        cert_origin: Of the client certificate.
        verify_origin: Of ``verify``.
        ca_data: PEM in place of ``ca_file``.
        cert_data: PEM in place of ``cert_file``.
        key_data: PEM in place of ``key_file``.
        like_client_go: Trust what client-go (Go's crypto/tls) trusts, no more and no less.
    """

    ca_file: str | None = None
    cert_file: str | None = None
    key_file: str | None = None
    verify: bool = True
    ca_origin: Origin = Origin("")
    cert_origin: Origin = Origin("")
    verify_origin: Origin = Origin("")
    ca_data: bytes | None = field(default=None, repr=False)
    cert_data: bytes | None = field(default=None, repr=False)
    key_data: bytes | None = field(default=None, repr=False)
    like_client_go: bool = False


def build_context(files: TlsFiles) -> ssl.SSLContext:
    """A context for a client; blocks for some 25 ms.

    Raises:
        ConfigError: A file is missing, unreadable or not PEM, or the key isn't the certificate's.
    """
    return _build(files, _read_material(files))


@dataclass(frozen=True, slots=True)
class _Material:
    """The content of the files and data, in PEM."""

    ca: bytes | None
    cert: bytes | None
    key: bytes | None

    def __repr__(self) -> str:
        return "_Material()"

    def digest(self) -> bytes:
        digest = sha256()
        for part in (self.ca, self.cert, self.key):
            digest.update(b"-" if part is None else b"%d\n%b" % (len(part), part))
        return digest.digest()


def _read_material(files: TlsFiles) -> _Material:
    """Read each file once, so that what is compared is what is used; blocks."""
    with _problem(files.ca_origin, _CA):
        ca = _read(files.ca_data, files.ca_file)
    with _problem(files.cert_origin, _PAIR):
        cert = _read(files.cert_data, files.cert_file)
        key = _read(files.key_data, files.key_file)
    return _Material(ca, cert, cert if key is None else key)


def _read(data: bytes | None, name: str | None) -> bytes | None:
    if data is not None:
        return data
    return read_small_file(name, PEM_BYTES) if name else None


def _build(files: TlsFiles, material: _Material) -> ssl.SSLContext:
    with _problem(files.ca_origin, _CA):
        context = _trusting(files, material.ca)
    if material.cert is not None and material.key is not None:
        with _problem(files.cert_origin, _PAIR):
            load_pair_from_memory(context, material.cert, material.key)
    context.minimum_version = ssl.TLSVersion.TLSv1_2  # whatever the system's OpenSSL would allow
    if not files.verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def _trusting(files: TlsFiles, ca: bytes | None) -> ssl.SSLContext:
    """A context that trusts these authorities, None for the system's.

    From Python 3.13 on certificates are checked strictly (RFC 5280), which refuses a CA without a
    key identifier. client-go doesn't, trusts an intermediate without its root, and knows a server
    by its alternative names alone.

    Raises:
        ValueError: Not text, or no certificate.
    """
    if not files.like_client_go:
        return ssl.create_default_context(cafile=files.ca_file)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    context.hostname_checks_common_name = False
    context.set_ciphers(_CIPHERS)
    if ca is None:
        context.load_default_certs()
    elif not trust(context, ca):
        raise ValueError("no certificate")
    return context


@contextmanager
def _problem(origin: Origin, message: str) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError) as error:
        why = message.format(why_unloadable(error))
        raise ConfigError(Problem(origin.where, origin.key, why)) from error


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
    context.load_cert_chain(cert_file, key_file, password=no_password)


def why_unloadable(error: Exception) -> str:
    """In a few words, why PEM couldn't be loaded."""
    if isinstance(error, ssl.SSLError):
        return (error.reason or "not PEM").lower().replace("_", " ")
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return "not PEM"


class TlsContext:
    """The context in use; a rotated CA or certificate takes effect on new connections.

    While the new files can't be used, the old context stays.
    """

    def __init__(
        self,
        files: Callable[[], TlsFiles],
        now: Callable[[], float],
        *,
        recheck_s: float = RECHECK_S,
    ) -> None:
        """Build nothing yet.

        ``files`` is called each time, as a plugin may change them.
        """
        self._files = files
        self._now = now
        self._recheck_s = recheck_s
        self._checked_files: TlsFiles | None = None
        self._verifies = True
        self._validity: Validity | None = None
        self._warned: tuple[Validity, str] | None = None
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # trusts no CA
        self._seen: object = None
        self._check_at_s = 0.0
        self._why = ""
        self._read: SharedRead[_Loaded | None] = SharedRead("certificates", self._settle)

    @property
    def problem(self) -> str:
        """Why the files as they are now can't be used, or what is wrong with the certificate."""
        return self._why or (self._warned[1] if self._warned else "")

    async def load(self) -> None:
        """Build the first context.

        Raises:
            ConfigError: It can't be built.
        """
        await self._read.begin(partial(_load, self._begin_check(), None))

    async def current(self) -> ssl.SSLContext:
        """The context for a new connection; ``load`` comes first."""
        if anyio.current_time() >= self._check_at_s or self._files() != self._checked_files:
            await self._check()
        return self._context

    async def check_again(self) -> bool:
        """Check now, as a handshake or a credential was refused. Whether the context changed."""
        before = self._context
        await self._check()
        return self._context is not before

    def _begin_check(self) -> TlsFiles:
        self._check_at_s = anyio.current_time() + self._recheck_s
        self._checked_files = files = self._files()
        return files

    async def _check(self) -> None:
        """Check the files; connections that are made meanwhile share that, but wait briefly."""
        if not self._read.is_running:
            self._begin_check()
        files = self._checked_files or self._files()
        try:
            await self._read.take_soon(partial(_load, files, self._seen))
        except TimeoutError:
            self._keep("their disk is slow or hangs")
        except ConfigError as error:
            self._keep(str(error))

    def _keep(self, why: str) -> None:
        log.log(
            logging.DEBUG if self._why else logging.WARNING,
            "new certificates are invalid, keeping the old ones reason=%s",
            why,
        )
        self._why = why
        self._check_at_s = min(self._check_at_s, anyio.current_time() + _RETRY_S)

    def _settle(self, loaded: "_Loaded | None") -> None:
        """Use what was read; None where nothing has changed."""
        files = self._checked_files or self._files()
        if loaded is not None:
            is_first = self._seen is None
            self._context, self._validity = loaded.context, loaded.validity
            self._seen = loaded.seen
            if not is_first:
                log.info("certificates reloaded ca_file=%s", loaded.files.ca_file)
            files = loaded.files
        self._why = ""
        self._warn(files)

    def _warn(self, files: TlsFiles) -> None:
        """Warn once of a server that isn't verified, and of each expired client certificate."""
        if not files.verify and self._verifies:
            log.warning(
                "the API server's certificate is NOT checked: any server that answers gets the "
                "credential file=%s key=%s",
                files.verify_origin.where,
                files.verify_origin.key,
            )
        self._verifies = files.verify
        why = self._validity.why_not(self._now()) if self._validity else ""
        warned = (self._validity, why) if self._validity and why else None
        if warned and warned != self._warned:
            log.warning(
                "renew the client certificate reason=%r file=%s key=%s",
                why,
                files.cert_origin.where,
                files.cert_origin.key,
            )
        self._warned = warned


@dataclass(frozen=True, slots=True)
class _Loaded:
    """Files, and the context that was made of them."""

    files: TlsFiles
    seen: object
    context: ssl.SSLContext
    validity: Validity | None


def _load(files: TlsFiles, seen: object) -> _Loaded | None:
    """The files and data with their context, None where they haven't changed; blocks."""
    material = _read_material(files)
    found = (files.verify, material.digest())
    if found == seen:
        return None
    return _Loaded(files, found, _build(files, material), _validity_of(material.cert))


def _validity_of(cert: bytes | None) -> Validity | None:
    try:
        return parse_validity(cert) if cert else None
    except ValueError:
        return None
