"""Who may see what: the certificates, and the rules for connections and for each path.

They change while the server runs: at a reload, and when a certificate's file is renewed. An invalid
file changes nothing. ``reviews`` checks tokens.
"""

import ipaddress
import logging
import re
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from typing import Any, Final, TypeVar

import anyio
from aiohttp.web_request import BaseRequest
from aiohttp.web_response import Response

from telemetryd.config import ServerConfig
from telemetryd.errors import ConfigError, KubeError, Problem
from telemetryd.kube.files import PEM_BYTES, read_small_file, show_path, why_unreadable
from telemetryd.kube.pem import Validity, read_validity
from telemetryd.kube.tls import load_pair, why_unloadable
from telemetryd.serve.http.connection import answer_text
from telemetryd.serve.http.reviews import Reviews
from telemetryd.sharedread import SharedRead
from telemetryd.timing import TICK_S, until_tick_s

log = logging.getLogger(__name__)

LOOK_S: Final = 2 * TICK_S
"""Between checks of the files: the kubelet takes up to a minute to write a renewed Secret."""
READ_TIMEOUT_S: Final = 10.0
"""For reading the files: a network file system may hang."""
OPEN_PATHS: Final = frozenset({"/livez", "/healthz", "/readyz"})
"""Open to everyone: they show which checks fail. Reasons need the right to ``REASONS_PATH``."""
REASONS_PATH: Final = "/status.json"
"""Shows the reasons too. The right to ``/readyz`` isn't enough: every user has it."""

T = TypeVar("T")

_STAY = "new certificates are invalid, keeping the old ones reason=%s"
_BEARER = re.compile(r"Bearer +([\x21-\x7e]+) *", re.IGNORECASE)
"""Any printable text. RFC 6750 allows less than real tokens have: those of Rancher have a colon."""

_CERT: Final = "server.tls_cert_file"
_KEY: Final = "server.tls_key_file"
_CLIENT_CA: Final = "server.client_ca_file"


@dataclass(frozen=True, slots=True)
class CertificateFiles:
    """Paths of PEM files, named as in ``ServerConfig``."""

    cert_file: str
    key_file: str
    client_ca_file: str | None

    @classmethod
    def of(cls, config: ServerConfig) -> "CertificateFiles | None":
        """The configured files, None for plain HTTP."""
        if config.tls_cert_file is None or config.tls_key_file is None:
            return None
        return cls(config.tls_cert_file, config.tls_key_file, config.client_ca_file)


@dataclass(frozen=True, slots=True)
class Certificates:
    """Loaded files.

    Attributes:
        context: For new connections.
        seen: Digests of the files' content.
        trust: Digest of the clients' authorities, empty where there are none.
        validity: Of the server's certificate, None where it can't be read.
    """

    context: ssl.SSLContext
    seen: tuple[str, ...]
    trust: str
    validity: Validity | None


def digest_files(files: CertificateFiles, where: str) -> tuple[str, ...]:
    """A digest of each file's content, the authorities' last; blocks.

    Raises:
        ConfigError: With each file that can't be read.
    """
    digests, problems = [], []
    for key, path in _by_key(files):
        try:
            digests.append(sha256(read_small_file(path, PEM_BYTES)).hexdigest())
        except (OSError, ValueError) as error:
            message = (
                f"{show_path(path, error)} can't be read ({why_unreadable(error)}): "
                "name a PEM file that is there"
            )
            problems.append(Problem(where, key, message))
    if problems:
        raise ConfigError(*problems)
    return tuple(digests)


def load_certificates(files: CertificateFiles, where: str, now_s: float) -> Certificates:
    """Load the files into a context, TLS 1.2 or newer, for HTTP/1.1; blocks for some milliseconds.

    While a pair is being replaced its key doesn't match, which is an error. A client's certificate
    is optional here and verified if there is one: ``security`` decides where it is needed.

    Raises:
        ConfigError: A file is missing or isn't PEM, the key isn't the certificate's, or the
            certificate has expired.
    """
    seen = digest_files(files, where)  # first: the next check then notices any later change
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    try:
        load_pair(context, files.cert_file, files.key_file)
    except (OSError, ValueError) as error:
        message = (
            f"{files.cert_file} and {files.key_file} can't be loaded ({why_unloadable(error)}): "
            "give PEM of a certificate and its own key, not encrypted"
        )
        raise ConfigError(Problem(where, _CERT, message)) from error
    validity = read_validity(files.cert_file)
    if validity is not None and now_s > validity.not_after_s:
        message = f"{files.cert_file} {validity.why_not(now_s)}: renew it"
        raise ConfigError(Problem(where, _CERT, message))
    if files.client_ca_file is not None:
        _ask_clients(context, files.client_ca_file, where)
    trust = seen[-1] if files.client_ca_file is not None else ""
    return Certificates(context, seen, trust, validity)


def _ask_clients(context: ssl.SSLContext, client_ca_file: str, where: str) -> None:
    try:
        context.load_verify_locations(client_ca_file)
    except (OSError, ValueError) as error:
        message = (
            f"{client_ca_file} can't be loaded ({why_unloadable(error)}): "
            "give PEM with at least one certificate"
        )
        raise ConfigError(Problem(where, _CLIENT_CA, message)) from error
    context.verify_mode = ssl.CERT_OPTIONAL
    # A resumed session would have a certificate that isn't verified again.
    context.options |= ssl.OP_NO_TICKET
    context.num_tickets = 0


def _by_key(files: CertificateFiles) -> tuple[tuple[str, str], ...]:
    pair = ((_CERT, files.cert_file), (_KEY, files.key_file))
    return pair if files.client_ca_file is None else (*pair, (_CLIENT_CA, files.client_ca_file))


@dataclass(frozen=True, slots=True)
class AccessRules:
    """What clients need, with the certificates loaded.

    Attributes:
        where: Configuration file, for messages.
        files: None for plain HTTP.
        certificates: Loaded from the files.
        tokens: Clients without a certificate need a bearer token.
    """

    where: str = ""
    files: CertificateFiles | None = None
    certificates: Certificates | None = None
    tokens: bool = False

    @property
    def asks_certificates(self) -> bool:
        """Whether a client may show a certificate."""
        return self.files is not None and self.files.client_ca_file is not None

    @property
    def lets_in(self) -> bool:
        """Whether clients must show who they are."""
        return self.asks_certificates or self.tokens

    @property
    def key(self) -> tuple[object, ...]:
        """Connections end when this changes."""
        trust = self.certificates.trust if self.certificates else None
        return trust, self.tokens


class Security:
    """The rules in force; at first none: plain HTTP for everyone who can reach it.

    Attributes:
        changed: Called when existing connections must end, after the answer in progress.
    """

    def __init__(
        self,
        reviews: Reviews | None = None,
        now: Callable[[], float] = time.time,  # noqa: TID251 - the default for everyone
        *,
        look_s: float = LOOK_S,
    ) -> None:
        """Nothing is read yet.

        Without ``reviews`` every token is refused.
        """
        self.changed: Callable[[], None] = lambda: None  # there are no connections yet
        self._reviews = reviews
        self._now = now
        self._look_s = look_s
        self._rules = AccessRules()
        self._warned: tuple[object, ...] = ()
        self._digests = SharedRead[tuple[str, ...]]("certificates of the server")
        self._loads = SharedRead[Certificates]("certificates of the server")

    async def prepare(self, config: ServerConfig, where: str) -> AccessRules:
        """Read the files; nothing changes before ``apply``.

        Files that are in use already and are invalid now don't make the configuration invalid:
        their old content stays in use.

        Raises:
            ConfigError: A file is invalid.
        """
        files = CertificateFiles.of(config)
        if files is None:
            return AccessRules(where, tokens=config.kubernetes_auth)
        try:
            certificates = await self._load(files, where)
        except ConfigError as error:
            in_use = self._rules
            if files != in_use.files or in_use.certificates is None:
                raise
            self._warn_once(_STAY, str(error))
            certificates = in_use.certificates
        return AccessRules(where, files, certificates, config.kubernetes_auth)

    def apply(self, rules: AccessRules) -> None:
        """Use these rules from the next request on."""
        before, self._rules = self._rules, rules
        if before.key != rules.key:
            self.changed()

    @property
    def context(self) -> ssl.SSLContext | None:
        """For new connections; None for plain HTTP."""
        certificates = self._rules.certificates
        return certificates.context if certificates else None

    @property
    def key(self) -> object:
        """Connections made under another key must end."""
        return self._rules.key

    @property
    def lets_in(self) -> bool:
        """Whether a request that isn't refused from now on is from a client that was let in."""
        return self._rules.lets_in

    async def watch(self) -> None:
        """Use renewed files, until cancelled."""
        while True:
            await anyio.sleep(until_tick_s(anyio.current_time(), self._look_s))
            rules = self._rules
            if rules.files is None or rules.certificates is None:
                continue
            try:
                await self._check_files(rules, rules.files, rules.certificates)
            except ConfigError as error:
                self._warn_once(_STAY, str(error))

    async def refusal(self, request: BaseRequest) -> Response | None:
        """The refusal to send; None where the client may see the path."""
        return None if request.path in OPEN_PATHS else await self._refusal(request, request.path)

    async def may_see_reasons(self, request: BaseRequest) -> bool:
        """Whether the client may also see why a check of an open path fails."""
        return await self._refusal(request, REASONS_PATH) is None

    async def _refusal(self, request: BaseRequest, path: str) -> Response | None:
        rules = self._rules
        if not rules.lets_in:
            return None
        if rules.asks_certificates and self._has_valid_certificate(request):
            return None
        if rules.tokens and self._reviews is not None:
            return await self._review(request, path, self._reviews, rules)
        return answer_text(401, _what_is_needed(rules))

    async def _review(
        self, request: BaseRequest, path: str, reviews: Reviews, rules: AccessRules
    ) -> Response | None:
        given = request.headers.getall("Authorization", ())
        found = _BEARER.fullmatch(given[0]) if len(given) == 1 else None
        if found is None:
            return _challenge(_what_is_needed(rules))
        try:
            review = await reviews.judge(found[1], path, _peer(request.remote or ""))
        except KubeError:
            refused = answer_text(503, "the token can't be reviewed now: the log says more\n")
            refused.headers["Retry-After"] = "1"
            return refused
        if review.allowed:
            return None
        if review.user is None:
            return _challenge("the token isn't valid for this cluster's API server\n")
        log.debug("request refused path=%r user=%r", path, review.user)
        return answer_text(
            403, f"{review.user!r} isn't allowed to get the nonResourceURL {path!r}\n"
        )

    def _has_valid_certificate(self, request: BaseRequest) -> bool:
        """Whether the client has a certificate, which TLS has verified, and it is still valid."""
        shown: dict[str, Any] | None = request.get_extra_info("peercert")
        if not shown:
            return False
        return self._now() <= ssl.cert_time_to_seconds(shown["notAfter"])

    async def _check_files(
        self, rules: AccessRules, files: CertificateFiles, certificates: Certificates
    ) -> None:
        """Check the files once.

        Raises:
            ConfigError: They have changed and are invalid, or are gone.
        """
        read = partial(digest_files, files, rules.where)
        seen = await _read(self._digests, read, rules.where)
        if seen != certificates.seen:
            renewed = await self._load(files, rules.where)
            if self._rules is rules:  # no reload in the meantime
                self.apply(AccessRules(rules.where, files, renewed, rules.tokens))
                log.info("certificates reloaded cert_file=%s", files.cert_file)
                self._warned = ()
        elif certificates.validity and (why := certificates.validity.why_not(self._now())):
            message = "renew the server's certificate reason=%r file=%s"
            self._warn_once(message, why, files.cert_file)
        else:
            self._warned = ()

    async def _load(self, files: CertificateFiles, where: str) -> Certificates:
        """Load the files.

        Raises:
            ConfigError: They are invalid.
        """
        return await _read(
            self._loads, partial(load_certificates, files, where, self._now()), where
        )

    def _warn_once(self, message: str, *fields: object) -> None:
        """Warn of a trouble once for as long as it lasts."""
        line = (message, *fields)
        level = logging.DEBUG if line == self._warned else logging.WARNING
        self._warned = line
        log.log(level, message, *fields)


async def _read(reads: SharedRead[T], read: Callable[[], T], where: str) -> T:
    """Read in a thread, after an earlier read has ended.

    Raises:
        ConfigError: It fails, or takes too long.
    """
    try:
        with anyio.fail_after(READ_TIMEOUT_S):
            return await reads.begin(read)
    except TimeoutError as error:
        message = f"can't be read within {READ_TIMEOUT_S:g} s: check the disk or the file server"
        raise ConfigError(Problem(where, "server.tls_cert_file", message)) from error


def _what_is_needed(rules: AccessRules) -> str:
    certificate = "a client certificate that an authority of client_ca_file has signed"
    token = "a bearer token whose user may get this path"  # noqa: S105 - says what is needed
    if not rules.tokens:
        return f"needed: {certificate}\n"
    return f"needed: {token}{f', or {certificate}' if rules.asks_certificates else ''}\n"


def _challenge(text: str) -> Response:
    refused = answer_text(401, text)
    refused.headers["WWW-Authenticate"] = 'Bearer realm="telemetryd"'
    return refused


def _peer(address: str) -> str:
    """What counts as one client: the IPv4 address, or the /64 of an IPv6 address."""
    try:
        found = ipaddress.IPv6Address(address)
    except ValueError:
        return address
    return str(found.ipv4_mapped or ipaddress.ip_network((int(found), 64), strict=False))
