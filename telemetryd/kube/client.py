"""One connection pool to the API server: raw bytes in and out, every call under a deadline.

Redirects are never followed: a credential must not go to another server.
"""

import asyncio
import os
import socket
import ssl
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, closing, contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple, Unpack

import aiohttp
import anyio

from telemetryd.errors import BadResponse, Reason, Unavailable
from telemetryd.kube.connection import SERVICE_ACCOUNT, resolve
from telemetryd.kube.credentials import service_account_named, service_account_of
from telemetryd.kube.http import (
    CONNECT_TIMEOUT_S,
    HTTP_ERRORS,
    LimitedConnector,
    is_unsent,
    read_head,
    read_whole,
    translate,
)
from telemetryd.kube.login import CurrentLogin, Login
from telemetryd.kube.requests import Call, Fence, FencedBody, Handle, RequestOptions, no_fence
from telemetryd.kube.responses import (
    error_for,
    parse_http_date,
    parse_retry_after,
    parse_status,
    printable,
)
from telemetryd.kube.stream import ByteStream
from telemetryd.limiter import Limiter
from telemetryd.redaction import OURS
from telemetryd.stats import Histogram, KubeStats

if TYPE_CHECKING:
    from telemetryd.config.settings import KubernetesConfig

_READ_BUFFER_BYTES = 512 * 1024
_IDLE_S = 75.0
"""Until a connection that nothing uses is closed, those of an earlier login among them."""

_KEEPALIVE = (
    ("TCP_KEEPIDLE", 20),
    ("TCP_KEEPINTVL", 5),
    ("TCP_KEEPCNT", 3),
    ("TCP_USER_TIMEOUT", 30_000),
)
"""Seconds and probes, and milliseconds: a dead peer is noticed within 35 s."""


def _open_socket(address: Any) -> socket.socket:
    family, kind, protocol, *_ = address
    opened = socket.socket(family, kind, protocol)
    opened.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    for name, value in _KEEPALIVE:
        option = getattr(socket, name, None)
        if option is not None:
            opened.setsockopt(socket.IPPROTO_TCP, option, value)
    return opened


class _Exchange(NamedTuple):
    """An answer, the login and TLS context of its connection, and the credential that was sent."""

    response: aiohttp.ClientResponse
    login: Login
    context: ssl.SSLContext | None
    credential: str | None


class KubeClient:
    """Talks to one API server; made by ``connect``."""

    def __init__(
        self,
        current: CurrentLogin,
        session: aiohttp.ClientSession,
        stats: KubeStats,
        *,
        now: Callable[[], float],
        compression: bool,
    ) -> None:
        self._current = current
        self._session = session
        self.stats = stats
        self._now = now
        self._gzip = compression

    @classmethod
    @asynccontextmanager
    async def connect(
        cls,
        config: "KubernetesConfig",
        stats: KubeStats | None = None,
        *,
        now: Callable[[], float] = time.time,  # noqa: TID251 - the default
        environ: Mapping[str, str] = os.environ,
        service_account: str = SERVICE_ACCOUNT,
    ) -> AsyncIterator["KubeClient"]:
        """A client with its own pool; sends no request yet.

        Args:
            config: Names the kubeconfig and its context, or leaves them to the environment.
            stats: Counts the requests; None for new counters.
            now: Unix time in seconds.
            environ: Has ``KUBECONFIG``, ``HOME`` and the proxies.
            service_account: Folder with the token of a pod.

        Raises:
            ConfigError: It can't be used, each problem with file, key and fix.
        """
        current = await resolve(config, now=now, environ=environ, service_account=service_account)
        connector = LimitedConnector(
            limit=0,  # each watch holds a connection for its whole life
            socket_factory=_open_socket,
            keepalive_timeout=_IDLE_S,
        )
        session = aiohttp.ClientSession(
            connector=connector,
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=None, connect=CONNECT_TIMEOUT_S),
            read_bufsize=_READ_BUFFER_BYTES,
            auto_decompress=False,  # a small answer may inflate to any size: ``body`` bounds it
            trust_env=False,
        )
        with closing(current):
            async with session:
                yield cls(
                    current, session, stats or KubeStats(), now=now, compression=config.compression
                )

    @property
    def server(self) -> str:
        """URL of the API server, without credentials."""
        return self._current.login.server

    @property
    def login_problem(self) -> str:
        """Why the last good login is still in use, empty where nothing is wrong."""
        return self._current.problem

    def __repr__(self) -> str:
        return f"KubeClient({self.server})"

    def requests(self, *, fence: Fence | None = None, limiter: Limiter | None = None) -> Handle:
        """A handle for requests under a fence and a limiter.

        The fence is asked before the bytes of each request that isn't a read.
        """
        return Handle(self, fence=fence, limiter=limiter)

    async def request(self, method: str, path: str, **options: Unpack[RequestOptions]) -> bytes:
        """The body of a successful answer, as ``Requests`` says.

        Raises:
            NotLeading: The fence refuses.
            Unavailable: No answer came in time, or none at all.
            TooLarge: The answer is longer than ``max_bytes``.
            BadResponse: The answer isn't JSON, or encoded as it wasn't asked for.
            KubeError: Another of the tree, by status code.
        """
        call = Call(method, path, **options)
        try:
            with self._timed(call):
                response = (await self._send(call)).response
                async with response:
                    return await read_whole(response, call.what, call.max_bytes, gzip=self._gzip)
        except HTTP_ERRORS as error:
            failure = translate(error, call.what)
            raise failure from error

    async def server_time(self, *, timeout_s: float) -> float | None:
        """Unix time by the API server's clock, in whole seconds; None where it gives none.

        Raises:
            Unavailable: No answer came in time, or none at all.
            KubeError: It is a refusal.
        """
        call = Call("GET", "/version", timeout_s=timeout_s)
        try:
            with anyio.fail_after(timeout_s):
                response = (await self._send(call)).response
        except TimeoutError as error:
            failure = _too_late(call)
            raise failure from error
        response.close()
        return parse_http_date(response.headers.get("Date"))

    async def service_account(self) -> tuple[str, str] | None:
        """Namespace and name of the ServiceAccount of its requests, None for another user.

        Raises:
            Unavailable: There is no credential now.
        """
        login = await self._current.current()
        acts_as = dict(login.headers).get("Impersonate-User")
        if acts_as is not None:
            return service_account_named(acts_as)
        return service_account_of(await login.credential.header())

    @asynccontextmanager
    async def stream(
        self, path: str, params: Mapping[str, str] | None = None, *, open_timeout_s: float
    ) -> AsyncIterator[ByteStream]:
        """A GET whose answer doesn't end.

        ``open_timeout_s`` is the time until the headers of the answer have come.

        Raises:
            Unavailable: No answer came in time (kind TIMEOUT, without a status), or none at all.
            KubeError: It wasn't accepted.
        """
        call = Call("GET", path, timeout_s=open_timeout_s, params=params)
        with self._timed(call):
            answer = await self._send(call)
        response = answer.response
        try:
            stream = ByteStream(response, call.what, gzip=self._gzip)
            with self._current.holding(answer.login, answer.context, stream.end):
                yield stream
        finally:
            # The rest isn't wanted. Waiting for its end, even for the end of TLS, would hold the
            # socket of a peer that doesn't answer any more.
            connection = response.connection
            transport = connection.transport if connection is not None else None
            response.close()
            if isinstance(transport, asyncio.WriteTransport):
                transport.abort()

    async def follow(self) -> None:
        """Keep the login up to date while there are no requests, until cancelled.

        A stream that was opened with a login or certificates no longer in use ends, as if the
        server had ended it.
        """
        await self._current.follow()

    @contextmanager
    def _timed(self, call: Call) -> Iterator[None]:
        started_s = anyio.current_time()
        try:
            with anyio.fail_after(call.timeout_s):
                yield
        except TimeoutError as error:
            self.stats.requests[call.method, "error"] += 1
            failure = _too_late(call)
            raise failure from error
        finally:
            histogram = self.stats.duration.get(call.method)
            if histogram is None:
                histogram = self.stats.duration[call.method] = Histogram()
            histogram.observe(anyio.current_time() - started_s)

    async def _send(self, call: Call) -> _Exchange:
        """The answer, checked for success and JSON.

        Where the login has changed meanwhile, a refused credential or a failed connection leads to
        one more attempt.

        Raises:
            NotLeading: The fence refuses.
            Unavailable: No answer came.
            KubeError: It isn't what was asked for.
        """
        login = await self._current.current()
        try:
            answer = await self._exchange(call, login)
        except Unavailable as failure:
            if not await self._current.check_again(login) or not is_unsent(failure.__cause__):
                raise
            login = self._current.login
            answer = await self._exchange(call, login)
        refused = answer.response.status == 401  # noqa: PLR2004 - HTTP
        if refused and await self._current.renew(login, answer.credential):
            answer.response.close()
            answer = await self._exchange(call, self._current.login)
        try:
            await _check(answer.response, call.what, self._now(), gzip=self._gzip)
        except BaseException:
            answer.response.close()
            raise
        return answer

    async def _exchange(self, call: Call, login: Login) -> _Exchange:
        """The answer; counted unless the fence refuses it.

        Raises:
            NotLeading: The fence refuses.
            Unavailable: No answer came; without a cause, no credential could be got.
        """
        headers = {
            "Accept": "application/json",
            "Accept-Encoding": "gzip" if self._gzip else "identity",
        }
        if call.body is not None:
            headers["Content-Type"] = call.content_type or "application/json"
        used = await login.credential.header()
        if used is not None:
            headers["Authorization"] = used
        sent = None
        if call.body is not None or call.fence is not None:
            sent = FencedBody(call.body or b"", call.fence or no_fence)
        context = await login.context()
        if login.tls is None:  # the proxy reads the request's own headers: there is no tunnel
            headers |= login.proxy.headers
        for secret in (used, *login.proxy.headers.values()):
            if secret is not None:
                OURS.remember(secret)
        try:
            response = await self._session.request(
                call.method,
                login.server + call.path,
                params=call.params,
                headers=[*headers.items(), *login.headers],
                data=sent,
                ssl=context or True,
                server_hostname=login.server_name,
                proxy=login.proxy.url,
                proxy_headers=login.proxy.headers or None,
                allow_redirects=False,
            )
        except HTTP_ERRORS as error:
            if sent is not None and sent.refused is not None:
                raise sent.refused from None
            self.stats.requests[call.method, "error"] += 1
            failure = translate(error, call.what)
            raise failure from error
        self.stats.requests[call.method, str(response.status)] += 1
        return _Exchange(response, login, context, used)


def _too_late(call: Call) -> Unavailable:
    return Unavailable(f"{call.what}: no answer within {call.timeout_s:g} s", kind=Reason.TIMEOUT)


async def _check(response: aiohttp.ClientResponse, what: str, now_s: float, *, gzip: bool) -> None:
    if not 200 <= response.status <= 299:  # noqa: PLR2004 - HTTP
        body = await read_head(response, what, gzip=gzip)
        retry_after_s = parse_retry_after(
            response.headers.get("Retry-After"), _date(response, now_s)
        )
        refusal = error_for(response.status, what, parse_status(body), retry_after_s)
        raise refusal
    if response.content_type != "application/json":
        raise BadResponse(
            f"{what}: {response.status} with {printable(response.content_type, 100)}, not JSON",
            status=response.status,
        )


def _date(response: aiohttp.ClientResponse, now_s: float) -> float:
    """Unix time in seconds by the server's clock where it gives one, else by ours."""
    date_s = parse_http_date(response.headers.get("Date"))
    return now_s if date_s is None else date_s
