"""The build commit of Rancher: the only part of the identity that needs an HTTP request.

``GET <server-url>/rancherversion`` is sent without credentials. The last good commit is kept, even
if later requests fail, until the setting ``server-version`` changes. Users who may edit the setting
``server-url`` choose the host, so requests never go to this machine's and the cloud's own
addresses. Names must be resolved, and addresses have many notations, so the check is on the address
of the socket itself.
"""

import logging
import random
import re
import socket
import ssl
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from ipaddress import (
    IPv4Address,
    IPv6Address,
    IPv6Network,
    ip_address,
    ip_network,
)
from typing import Any, Final
from urllib.parse import urlsplit, urlunsplit

import aiohttp
import anyio
import msgspec
import orjson

from telemetryd.config import IdentityConfig
from telemetryd.errors import BadResponse, KubeError, Reason, Unavailable
from telemetryd.gather import texts
from telemetryd.gather.project import setting_value
from telemetryd.informer.store import Reader
from telemetryd.kube.http import LimitedConnector
from telemetryd.model import SettingRecord
from telemetryd.sharedread import SharedRead
from telemetryd.timing import Retry

_NAT64: Final = IPv6Network("64:ff9b::/96")
"""RFC 6052: an IPv4 address in its last 32 bits."""

_THIS_NETWORK: Final = ip_network("0.0.0.0/8")

_METADATA: Final = frozenset(
    map(ip_address, ("fd00:ec2::254", "100.100.100.200", "168.63.129.16", "192.0.0.192"))
)
"""Metadata services of AWS, Alibaba Cloud, Azure and Oracle that aren't link-local."""

_PORTS: Final = {"http": 80, "https": 443}


class GuardedSockets:
    """Makes the sockets of a connector, unless their address must not be used.

    Attributes:
        refused: The last refused address, and why; empty if there was none.
    """

    def __init__(self) -> None:
        self.refused = ""

    def open(self, address: Any) -> socket.socket:
        """A socket for one resolved address, as from ``socket.getaddrinfo``.

        Raises:
            PermissionError: The address must not be used.
        """
        family, kind, protocol, _, place = address
        if why := why_refused(str(place[0])):
            self.refused = f"{place[0]}, {why}"
            raise PermissionError(self.refused)
        return socket.socket(family, kind, protocol)


def why_refused(text: str) -> str:
    """Why an IP address must not be used; empty if it may."""
    address = _unwrapped(ip_address(text))
    if address.is_loopback or address.is_unspecified or address in _THIS_NETWORK:
        return "an address of this machine"
    if address.is_link_local:
        return "a link-local address"
    if address in _METADATA:
        return "a metadata service of a cloud"
    if address.is_multicast:
        return "a multicast address"
    return "a reserved address" if address.is_reserved else ""


def is_same_server(url: str, other: str) -> bool:
    """Whether both URLs name the same host and port."""
    try:
        return bool(url) and _place(url) == _place(other)
    except ValueError:
        return False


def _place(url: str) -> tuple[str | None, int | None]:
    parts = urlsplit(url)
    return parts.hostname, parts.port or _PORTS.get(parts.scheme)


def _unwrapped(address: IPv4Address | IPv6Address) -> IPv4Address | IPv6Address:
    """The IPv4 address that an IPv6 address contains, otherwise the address itself."""
    if isinstance(address, IPv4Address):
        return address
    if address in _NAT64:
        return IPv4Address(int(address) & 0xFFFFFFFF)
    return address.ipv4_mapped or address.sixtofour or address


log = logging.getLogger(__name__)

UNKNOWN: Final = "unknown"
"""Sent if the commit isn't known: the schema requires the key."""

PATH: Final = "/rancherversion"
TIMEOUT_S: Final = 3.0
RETRY_BASE_S: Final = 5.0
RETRY_CAP_S: Final = 300.0
_JITTER: Final = 0.25
MAX_BODY_BYTES: Final = 16 * 1024
"""Of an answer; a real one has some hundred bytes."""

# A short hash, a full one, or Rancher's default `HEAD`.
_COMMIT: Final = re.compile(r"[!-~]{1,128}")


class _RancherVersion(msgspec.Struct, gc=False, rename="pascal"):
    """What is read of the body."""

    git_commit: str | None = None
    version: str | None = None


@dataclass(frozen=True, slots=True)
class _Question:
    """What an answer depends on, by the settings now.

    Attributes:
        trusted: Requests may go to any address of the URL's host: it is the API server's, or in
            the configuration.
    """

    version: str
    url: str
    cacerts: str
    trusted: bool


@dataclass(frozen=True, slots=True)
class _Known:
    """A good answer, and the ``server-version`` at that time.

    Attributes:
        confirmed: The answer has no other version than the setting.
    """

    version: str
    commit: str
    confirmed: bool


@dataclass(eq=False, kw_only=True)
class BuildCommit:
    """Keeps a build commit, which the configuration may replace.

    Attributes:
        overrides: With ``git_hash`` no request is needed.
    """

    overrides: IdentityConfig
    _handlers: list[Callable[[], None]] = field(default_factory=list, init=False)

    def override(self, overrides: IdentityConfig) -> None:
        """Use other overrides; the answer so far is kept."""
        self.overrides = overrides
        self._announce()

    def on_change(self, handler: Callable[[], None]) -> None:
        """Call the handler whenever the answer is settled or may have changed."""
        self._handlers.append(handler)

    def _announce(self) -> None:
        for handler in self._handlers:
            handler()


@dataclass(eq=False, kw_only=True)
class RancherCommit(BuildCommit):
    """Keeps the build commit of the Rancher that the settings name.

    Attributes:
        settings: Has ``server-url``, ``server-version`` and ``cacerts``.
        api_server: URL of the API server, whose host Rancher may share and which is trusted.
    """

    settings: Reader[SettingRecord]
    api_server: Callable[[], str]
    rng: random.Random
    timeout_s: float = TIMEOUT_S
    retry_base_s: float = RETRY_BASE_S
    retry_cap_s: float = RETRY_CAP_S
    _known: _Known | None = field(default=None, init=False)
    _settled: bool = field(default=False, init=False)
    _settings_changed: anyio.Event = field(default_factory=anyio.Event, init=False)
    _contexts: SharedRead[ssl.SSLContext] = field(
        default_factory=lambda: SharedRead("authorities of Rancher"), init=False
    )

    def __post_init__(self) -> None:
        self.settings.on_change(self._wake)

    def git_hash(self) -> str | None:
        """The commit; ``unknown`` if no request succeeds, None before the first has ended."""
        if self.overrides.git_hash is not None:
            return self.overrides.git_hash
        if not self._settled:
            return None
        known = self._known
        if known is not None and known.version == setting_value(self.settings, "server-version"):
            return known.commit
        return UNKNOWN

    def override(self, overrides: IdentityConfig) -> None:
        """Use other overrides; the answer so far is kept."""
        super().override(overrides)
        self._wake()

    async def run(self) -> None:
        """Request the commit until it is known, and for each new version; ends when cancelled."""
        asked: _Question | None = None
        retry = Retry(self.retry_base_s, self.retry_cap_s, self.rng, jitter=_JITTER)
        while True:
            question = self._question()
            if question is None or self._is_answered(question):
                await self._wait_for_settings(None)
                continue
            if question != asked:
                asked = question
                retry.succeeded()
            answered = await self._try(question, first_failure=retry.failures == 0)
            if not answered:
                await self._wait_for_other(question, retry.failed(anyio.current_time()))

    def _wake(self) -> None:
        self._settings_changed.set()

    async def _wait_for_settings(self, timeout_s: float | None) -> None:
        with anyio.move_on_after(timeout_s):
            await self._settings_changed.wait()
        if self._settings_changed.is_set():
            self._settings_changed = anyio.Event()

    async def _wait_for_other(self, question: _Question, pause_s: float) -> None:
        """Pause, but end early if the question changes."""
        deadline = anyio.current_time() + pause_s
        while (left := deadline - anyio.current_time()) > 0 and self._question() == question:
            await self._wait_for_settings(left)

    def _question(self) -> _Question | None:
        url = self.overrides.server_url or setting_value(self.settings, "server-url")
        version = setting_value(self.settings, "server-version")
        if self.overrides.git_hash is not None or not self.settings.synced or not url:
            return None
        trusted = bool(self.overrides.server_url) or is_same_server(url, self.api_server())
        return _Question(version, url, setting_value(self.settings, "cacerts").strip(), trusted)

    def _is_answered(self, question: _Question) -> bool:
        known = self._known
        return known is not None and known.confirmed and known.version == question.version

    async def _try(self, question: _Question, *, first_failure: bool) -> bool:
        """Make one request and keep a good answer; returns whether it is final."""
        try:
            answer = await self._ask(question)
        except KubeError as error:
            level = logging.WARNING if first_failure else logging.DEBUG
            log.log(level, "cannot get the git commit path=%s reason=%s", PATH, str(error))
            self._settle(self._known)
            return False
        # During a rollout of Rancher an old replica may answer: use it, but ask again.
        confirmed = answer.version is None or answer.version == question.version
        commit = texts.build_commit(answer.git_commit or UNKNOWN)
        known = _Known(question.version, commit, confirmed)
        if known != self._known:
            version = texts.product_version(known.version)
            log.info("git commit known commit=%s version=%s", commit, version)
        self._settle(known)
        return confirmed

    def _settle(self, known: _Known | None) -> None:
        if self._settled and known == self._known:
            return
        self._settled = True
        self._known = known
        self._announce()

    async def _ask(self, question: _Question) -> _RancherVersion:
        """One request.

        Raises:
            Unavailable: No answer in time, or not a 200.
            BadResponse: The answer has no commit.
        """
        try:
            with anyio.fail_after(self.timeout_s):
                # The system's authorities take tens of milliseconds to read, and a disk may hang.
                make = partial(_ssl_context, question.cacerts)
                body = await _fetch(question, await self._contexts.begin(make))
        except TimeoutError as error:
            raise Unavailable("no answer in time", kind=Reason.TIMEOUT) from error
        except (aiohttp.ClientError, OSError, ValueError) as error:
            # OSError holds ssl.SSLError; a ValueError is a URL or a bundle that isn't one.
            raise Unavailable(f"{type(error).__name__}", kind=Reason.CONNECT) from error
        try:
            # The depth that orjson accepts doesn't depend on the version of Python.
            answer = msgspec.convert(orjson.loads(body), _RancherVersion)
        except (msgspec.MsgspecError, orjson.JSONDecodeError) as error:
            raise BadResponse("the answer isn't the JSON of a Rancher", status=200) from error
        if answer.git_commit is None or not _COMMIT.fullmatch(answer.git_commit):
            raise BadResponse("the answer names no GitCommit", status=200)
        return answer


async def _fetch(question: _Question, context: ssl.SSLContext) -> bytes:
    """The body of a 200, without redirects, cookies, credentials or proxies of the environment.

    Raises:
        Unavailable: Another status, or an address that must not be used.
        BadResponse: The body is too large.
        ClientConnectorError: There is no connection.
    """
    guard = GuardedSockets()
    connector = LimitedConnector(
        ssl=context,
        limit=1,
        force_close=True,
        socket_factory=None if question.trusted else guard.open,
    )
    try:
        return await _fetch_over(connector, question)
    except aiohttp.ClientConnectorError as error:
        if not guard.refused:
            raise
        raise Unavailable(
            f"the setting server-url leads to {guard.refused}: not asked, set identity.git_hash or"
            " identity.server_url in the configuration",
            kind=Reason.CONNECT,
        ) from error


async def _fetch_over(connector: LimitedConnector, question: _Question) -> bytes:
    async with (
        aiohttp.ClientSession(
            connector=connector,
            cookie_jar=aiohttp.DummyCookieJar(),
            headers={"Accept": "application/json", "Accept-Encoding": "identity"},
            timeout=aiohttp.ClientTimeout(total=None),  # the caller's deadline holds
            auto_decompress=False,
        ) as session,
        session.get(_url(question.url), allow_redirects=False) as response,
    ):
        if response.status != 200:  # noqa: PLR2004
            raise Unavailable(f"HTTP {response.status}", kind=Reason.SERVER, status=response.status)
        body = bytearray()
        async for chunk in response.content.iter_any():
            body += chunk
            if len(body) > MAX_BODY_BYTES:
                raise BadResponse("the answer is too large", status=200)
        return bytes(body)


def _url(server_url: str) -> str:
    """The URL to request.

    Raises:
        ValueError: The setting isn't an HTTP URL.
    """
    parts = urlsplit(server_url)
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise ValueError("not an HTTP URL")
    host = parts.netloc.rpartition("@")[2]
    return urlunsplit((parts.scheme, host, parts.path.rstrip("/") + PATH, "", ""))


def _ssl_context(cacerts: str) -> ssl.SSLContext:
    """Trusts only the bundle if there is one, otherwise the system's authorities; blocks.

    Raises:
        ValueError: The bundle isn't PEM.
    """
    if not cacerts.isascii():
        raise ValueError("cacerts isn't PEM")
    return ssl.create_default_context(cadata=cacerts or None)
