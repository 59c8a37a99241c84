"""Who may look: what is asked of a client, on the connection and for each path.

It changes while the server runs: at a reload, and when a certificate's file is renewed. A file
that can't be used changes nothing. How files become a context is ``certificates``'s business, what
the API server says of a token ``reviews``'s.
"""

import ipaddress
import logging
import re
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, TypeVar

import anyio
from aiohttp import web

from telemetryd.config import ServerConfig
from telemetryd.errors import ConfigError, KubeError, Problem
from telemetryd.serve.http.certificates import (
    CertificateFiles,
    Certificates,
    digest_files,
    load_certificates,
)
from telemetryd.serve.http.connection import answer_text
from telemetryd.serve.http.reviews import Reviews
from telemetryd.sharedread import SharedRead

log = logging.getLogger(__name__)

LOOK_S: Final = 10.0
"""Between looks at the files: the kubelet takes up to a minute to bring a renewed Secret."""
READ_TIMEOUT_S: Final = 10.0
"""For reading them: a network file system may hang."""
OPEN_PATHS: Final = frozenset({"/livez", "/healthz", "/readyz"})
"""Shown to everyone: they say which checks fail. The reasons need more, see ``REASONS_PATH``."""
REASONS_PATH: Final = "/status.json"
"""Has the reasons too. Every user may get ``/readyz``, by Kubernetes' system:public-info-viewer."""

T = TypeVar("T")

_STAY = "certificates changed but can't be used, those before stay reason=%s"
_BEARER = re.compile(r"Bearer +([\x21-\x7e]+) *", re.IGNORECASE)
"""Printable text, bounded as every header line is. RFC 6750 allows less than tokens hold: those of
Rancher have a colon, and JWTs are one form among many (EKS, GKE, OpenShift)."""


@dataclass(frozen=True, slots=True)
class Measures:
    """What is asked of clients, ready to be put in force.

    Attributes:
        where: Configuration file, for messages.
        files: None for plain HTTP.
        certificates: Of the files.
        tokens: A bearer token may take a certificate's place, or is needed where none is asked for.
    """

    where: str = ""
    files: CertificateFiles | None = None
    certificates: Certificates | None = None
    tokens: bool = False

    @property
    def asks_certificates(self) -> bool:
        """Whether a client's certificate lets it in."""
        return self.files is not None and self.files.client_ca_file is not None

    @property
    def demand(self) -> tuple[object, ...]:
        """What connections are made under: they end where it changes."""
        trust = self.certificates.trust if self.certificates else None
        return trust, self.tokens


class Security:
    """The measures in force; at first none: plain HTTP for everyone who can reach it.

    Attributes:
        changed: Called when connections that were made before must end, once they are answered.
    """

    def __init__(
        self,
        reviews: Reviews | None = None,
        now: Callable[[], float] = time.time,  # noqa: TID251 - the default for everyone
        *,
        look_s: float = LOOK_S,
    ) -> None:
        """Nothing is read yet.

        Args:
            reviews: Judges tokens; without it ``kubernetes_auth`` lets nobody in.
            now: Unix time in seconds, for validity.
            look_s: Between looks at the files.
        """
        self.changed: Callable[[], None] = _nothing
        self._reviews = reviews
        self._now = now
        self._look_s = look_s
        self._measures = Measures()
        self._told: tuple[object, ...] = ()
        self._digests = SharedRead[tuple[str, ...]]("certificates of the server")
        self._loads = SharedRead[Certificates]("certificates of the server")

    async def prepare(self, config: ServerConfig, where: str) -> Measures:
        """Read what is configured, and put nothing in force.

        Files that are in use already and can't be used for the moment are no reason to refuse what
        else is configured: what they held stays, as it does without a reload.

        Args:
            config: ``[server]``.
            where: Configuration file, for messages.

        Raises:
            ConfigError: A file can't be used.
        """
        files = CertificateFiles.of(config)
        if files is None:
            return Measures(where, tokens=config.kubernetes_auth)
        try:
            certificates = await self._load(files, where)
        except ConfigError as error:
            in_use = self._measures
            if files != in_use.files or in_use.certificates is None:
                raise
            self._tell(_STAY, str(error))
            certificates = in_use.certificates
        return Measures(where, files, certificates, config.kubernetes_auth)

    def apply(self, measures: Measures) -> None:
        """Put it in force for every request from now on."""
        before, self._measures = self._measures, measures
        if before.demand != measures.demand:
            self.changed()

    @property
    def context(self) -> ssl.SSLContext | None:
        """For a connection that begins now; None for plain HTTP."""
        certificates = self._measures.certificates
        return certificates.context if certificates else None

    @property
    def demand(self) -> object:
        """Equal for two connections of which the same is asked."""
        return self._measures.demand

    async def watch(self) -> None:
        """Take renewed files into use, until cancelled."""
        while True:
            await anyio.sleep(self._look_s)
            measures = self._measures
            if measures.files is None or measures.certificates is None:
                continue
            try:
                await self._look(measures, measures.files, measures.certificates)
            except ConfigError as error:
                self._tell(_STAY, str(error))

    async def refusal(self, request: web.BaseRequest) -> web.Response | None:
        """What to answer instead of what was asked for; None where that may be seen."""
        return None if request.path in OPEN_PATHS else await self._refusal(request, request.path)

    async def may_see_reasons(self, request: web.BaseRequest) -> bool:
        """Whether the client may also see why a check of an open path fails."""
        return await self._refusal(request, REASONS_PATH) is None

    async def _refusal(self, request: web.BaseRequest, path: str) -> web.Response | None:
        measures = self._measures
        if not (measures.asks_certificates or measures.tokens):
            return None
        if measures.asks_certificates and self._is_vouched_for(request):
            return None
        if measures.tokens and self._reviews is not None:
            return await self._judge(request, path, self._reviews, measures)
        return answer_text(401, _needed(measures))

    async def _judge(
        self, request: web.BaseRequest, path: str, reviews: Reviews, measures: Measures
    ) -> web.Response | None:
        given = request.headers.getall("Authorization", ())
        found = _BEARER.fullmatch(given[0]) if len(given) == 1 else None
        if found is None:
            return _challenge(_needed(measures))
        try:
            verdict = await reviews.judge(found[1], path, _peer(request.remote or ""))
        except KubeError:
            refused = answer_text(503, "who asks can't be found out now: the log says more\n")
            refused.headers["Retry-After"] = "1"
            return refused
        if verdict.allowed:
            return None
        if verdict.user is None:
            return _challenge("the token isn't valid for this cluster's API server\n")
        log.debug("not shown path=%r user=%r", path, verdict.user)
        return answer_text(
            403, f"{verdict.user!r} isn't allowed to get the nonResourceURL {path!r}\n"
        )

    def _is_vouched_for(self, request: web.BaseRequest) -> bool:
        """Whether the client showed a certificate, which TLS has checked, and it is still valid."""
        shown: dict[str, Any] | None = request.get_extra_info("peercert")
        if not shown:
            return False
        return self._now() <= ssl.cert_time_to_seconds(shown["notAfter"])

    async def _look(
        self, measures: Measures, files: CertificateFiles, certificates: Certificates
    ) -> None:
        """Look at the files once.

        Raises:
            ConfigError: They have changed and can't be used, or are gone.
        """
        read = partial(digest_files, files, measures.where)
        seen = await _read(self._digests, read, measures.where)
        if seen != certificates.seen:
            renewed = await self._load(files, measures.where)
            if self._measures is measures:  # not where a reload came between
                self.apply(Measures(measures.where, files, renewed, measures.tokens))
                log.info("certificates reloaded cert_file=%s", files.cert_file)
                self._told = ()
        elif certificates.validity and (why := certificates.validity.why_not(self._now())):
            self._tell("renew the server's certificate reason=%r file=%s", why, files.cert_file)
        else:
            self._told = ()

    async def _load(self, files: CertificateFiles, where: str) -> Certificates:
        """Load the files.

        Raises:
            ConfigError: They can't be used.
        """
        return await _read(
            self._loads, partial(load_certificates, files, where, self._now()), where
        )

    def _tell(self, message: str, *fields: object) -> None:
        """Warn of a trouble once for as long as it lasts."""
        line = (message, *fields)
        level = logging.DEBUG if line == self._told else logging.WARNING
        self._told = line
        log.log(level, message, *fields)


async def _read(reads: SharedRead[T], read: Callable[[], T], where: str) -> T:
    """What is read, off the event loop, once an earlier read is back.

    Raises:
        ConfigError: It can't be, or not in time.
    """
    try:
        with anyio.fail_after(READ_TIMEOUT_S):
            return await reads.begin(read)
    except TimeoutError as error:
        message = f"can't be read within {READ_TIMEOUT_S:g} s: look after its file system"
        raise ConfigError(Problem(where, "server.tls_cert_file", message)) from error


def _needed(measures: Measures) -> str:
    certificate = "a client certificate that an authority of client_ca_file has signed"
    token = "a bearer token whose user may get this path"  # noqa: S105 - says what is needed
    if not measures.tokens:
        return f"needed: {certificate}\n"
    return f"needed: {token}{f', or {certificate}' if measures.asks_certificates else ''}\n"


def _challenge(text: str) -> web.Response:
    refused = answer_text(401, text)
    refused.headers["WWW-Authenticate"] = 'Bearer realm="telemetryd"'
    return refused


def _peer(address: str) -> str:
    """By what clients take turns: the IPv4 address, or the /64 of an IPv6 address."""
    try:
        found = ipaddress.IPv6Address(address)
    except ValueError:
        return address
    return str(found.ipv4_mapped or ipaddress.ip_network((int(found), 64), strict=False))


def _nothing() -> None:
    """Nobody is connected yet."""
