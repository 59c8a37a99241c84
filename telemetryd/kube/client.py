"""One connection pool to the API server: raw bytes in and out, every call under a deadline.

Foreign errors become ours here, by ``foreign``. What the bytes mean doesn't belong here. Proxies
are those of ``proxy``; redirects are never followed, for a credential must not travel.
"""

import asyncio
import math
import os
import socket
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import aiohttp
import anyio

from telemetryd.bounds import free_text
from telemetryd.errors import BadResponse, Reason, Unavailable
from telemetryd.kube.account import service_account_named, service_account_of
from telemetryd.kube.body import Body, ByteStream, read_head, read_whole
from telemetryd.kube.connection import SERVICE_ACCOUNT, resolve
from telemetryd.kube.fence import Fence, FencedBody, no_fence
from telemetryd.kube.foreign import (
    CONNECT_TIMEOUT_S,
    FOREIGN,
    is_unsent,
    translate,
)
from telemetryd.kube.heads import HeadConnector
from telemetryd.kube.proxy import address_of
from telemetryd.kube.rechosen import Connection, Login
from telemetryd.kube.requests import MAX_BODY_BYTES, Handle
from telemetryd.kube.responses import error_for, parse_http_date, parse_retry_after, parse_status
from telemetryd.limiter import Limiter
from telemetryd.stats import Histogram, KubeStats

if TYPE_CHECKING:
    from telemetryd.config.settings import KubernetesConfig

_READ_BUFFER_BYTES = 512 * 1024
_IDLE_S = 30.0
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


@dataclass(frozen=True, slots=True)
class _Call:
    """What is asked, on each attempt."""

    method: str
    path: str
    params: Mapping[str, str] | None = None
    body: bytes | None = None
    content_type: str | None = None
    fence: Fence | None = None

    @property
    def what(self) -> str:
        return f"{self.method} {self.path}"


class KubeClient:
    """Talks to one API server; made by ``connect``."""

    def __init__(
        self,
        connection: Connection,
        session: aiohttp.ClientSession,
        stats: KubeStats,
        *,
        now: Callable[[], float],
        compression: bool,
    ) -> None:
        """Use ``connect``, which opens and closes what is needed."""
        self._connection = connection
        self._session = session
        self._stats = stats
        self._now = now
        self._gzip = compression

    @classmethod
    @asynccontextmanager
    async def connect(
        cls,
        config: "KubernetesConfig",
        stats: KubeStats,
        *,
        now: Callable[[], float] = time.time,  # noqa: TID251 - the default for everyone
        environ: Mapping[str, str] = os.environ,
        service_account: str = SERVICE_ACCOUNT,
    ) -> AsyncIterator["KubeClient"]:
        """A client with a pool of its own; nothing is asked of the API server yet.

        Args:
            config: Which API server.
            stats: Counters of requests, moved here.
            now: Unix time in seconds, for expiry and dates of the API server.
            environ: Environment variables.
            service_account: Folder with a pod's token and CA.

        Raises:
            ConfigError: It can't be used, each problem with file, key and fix.
        """
        connection = await resolve(
            config, now=now, environ=environ, service_account=service_account
        )
        connector = HeadConnector(
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
        with closing(connection):
            async with session:
                yield cls(connection, session, stats, now=now, compression=config.compression)

    @property
    def server(self) -> str:
        """URL of the API server, without credentials."""
        return self._connection.server

    @property
    def login_problem(self) -> str:
        """Why the last good login is still in use, empty where nothing is wrong."""
        return self._connection.problem

    def __repr__(self) -> str:
        return f"KubeClient({self.server})"

    def requests(self, *, fence: Fence | None = None, limiter: Limiter | None = None) -> Handle:
        """A handle for requests under a fence and a limiter.

        Args:
            fence: Asked before the bytes of each request that isn't a read.
            limiter: Lets a few at a time through.
        """
        return Handle(self, fence=fence, limiter=limiter)

    async def request(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, str] | None = None,
        body: bytes | None = None,
        content_type: str | None = None,
        timeout_s: float,
        max_bytes: int = MAX_BODY_BYTES,
        fence: Fence | None = None,
    ) -> bytes:
        """The body of a successful answer.

        Args:
            method: HTTP method.
            path: From the server's root, with a slash.
            params: Query.
            body: What is sent.
            content_type: Of the body; JSON where not given.
            timeout_s: Deadline of the whole.
            max_bytes: A longer answer is refused.
            fence: Asked on each attempt, as the last thing before its bytes leave.

        Raises:
            NotLeading: The fence refuses.
            Unavailable: No answer came in time, or none at all.
            TooLarge: The answer is longer than that.
            BadResponse: The answer isn't JSON, or encoded as it wasn't asked for.
            KubeError: Another of the tree, by status code.
        """
        call = _Call(method, path, params, body, content_type, fence)
        what = call.what
        started_s = anyio.current_time()
        try:
            with anyio.fail_after(timeout_s):
                response = await self._send(call)
                async with response:
                    return await read_whole(response, what, max_bytes, gzip=self._gzip)
        except TimeoutError as error:
            self._stats.requests[method, "error"] += 1
            message = f"{what}: no answer within {timeout_s:g} s"
            raise Unavailable(message, kind=Reason.TIMEOUT) from error
        except FOREIGN as error:
            failure = translate(error, what)
            raise failure from error
        finally:
            self._observe(method, started_s)

    async def server_time(self, *, timeout_s: float) -> float | None:
        """Unix time by the API server's clock, in whole seconds; None where it doesn't tell.

        Args:
            timeout_s: Deadline.

        Raises:
            Unavailable: No answer came in time, or none at all.
            KubeError: It is a refusal.
        """
        try:
            with anyio.fail_after(timeout_s):
                response = await self._send(_Call("GET", "/version"))
        except TimeoutError as error:
            message = f"GET /version: no answer within {timeout_s:g} s"
            raise Unavailable(message, kind=Reason.TIMEOUT) from error
        response.close()
        told = _date(response, math.nan)
        return None if math.isnan(told) else told

    async def service_account(self) -> tuple[str, str] | None:
        """Namespace and name of the ServiceAccount as which it asks, None where it is none.

        Raises:
            Unavailable: No credential is to be had for now.
        """
        login = await self._connection.current()
        acts_as = dict(login.headers).get("Impersonate-User")
        if acts_as is not None:
            return service_account_named(acts_as)
        return service_account_of(await login.credential.header())

    @asynccontextmanager
    async def stream(
        self, path: str, params: Mapping[str, str] | None = None, *, open_timeout_s: float
    ) -> AsyncIterator[ByteStream]:
        """A GET whose answer doesn't end.

        Args:
            path: From the server's root, with a slash.
            params: Query.
            open_timeout_s: Until the headers of the answer are there.

        Raises:
            Unavailable: No answer came in time (kind TIMEOUT, without a status), or none at all.
            KubeError: It wasn't accepted.
        """
        what = f"GET {path}"
        started_s = anyio.current_time()
        try:
            with anyio.fail_after(open_timeout_s):
                response = await self._send(_Call("GET", path, params))
        except TimeoutError as error:
            self._stats.requests["GET", "error"] += 1
            message = f"{what}: no answer within {open_timeout_s:g} s"
            raise Unavailable(message, kind=Reason.TIMEOUT) from error
        finally:
            self._observe("GET", started_s)
        try:
            yield ByteStream(Body(response, what, gzip=self._gzip), what)
        finally:
            # The rest of it isn't wanted, and waiting for its end, even for TLS's farewell, would
            # hold the socket of a peer that has gone silent.
            connection = response.connection
            transport = connection.transport if connection is not None else None
            response.close()
            if isinstance(transport, asyncio.WriteTransport):
                transport.abort()

    async def _send(self, call: _Call) -> aiohttp.ClientResponse:
        """The answer, checked for success and JSON.

        Where the login has changed meanwhile, a refused credential and a connection that doesn't
        come about lead to one more attempt.

        Raises:
            NotLeading: The fence refuses.
            Unavailable: No answer came.
            KubeError: It isn't what was asked for.
        """
        connection = self._connection
        login = await connection.current()
        try:
            used, response = await self._exchange(call, login)
        except Unavailable as failure:
            if not await connection.look_again(login) or not is_unsent(failure.__cause__):
                raise
            login = connection.login
            used, response = await self._exchange(call, login)
        if response.status == 401 and await connection.renew(login, used):  # noqa: PLR2004 - HTTP
            response.close()
            used, response = await self._exchange(call, connection.login)
        try:
            await _check(response, call.what, self._now(), gzip=self._gzip)
        except BaseException:
            response.close()
            raise
        return response

    async def _exchange(
        self, call: _Call, login: Login
    ) -> tuple[str | None, aiohttp.ClientResponse]:
        """The credential that was sent, and the answer; counted unless the fence refuses it.

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
        context = await login.tls.current() if login.tls else True
        proxy, for_proxy = address_of(login.proxy)
        if login.tls is None:  # the proxy reads the request's own headers: there is no tunnel
            headers |= for_proxy
        try:
            response = await self._session.request(
                call.method,
                login.server + call.path,
                params=call.params,
                headers=[*headers.items(), *login.headers],
                data=sent,
                ssl=context,
                server_hostname=login.server_name,
                proxy=proxy,
                proxy_headers=for_proxy or None,
                allow_redirects=False,
            )
        except FOREIGN as error:
            if sent is not None and sent.refused is not None:
                raise sent.refused from None
            self._stats.requests[call.method, "error"] += 1
            failure = translate(error, call.what)
            raise failure from error
        self._stats.requests[call.method, str(response.status)] += 1
        return used, response

    def _observe(self, method: str, started_s: float) -> None:
        histogram = self._stats.duration.get(method)
        if histogram is None:
            histogram = self._stats.duration[method] = Histogram()
        histogram.observe(anyio.current_time() - started_s)


async def _check(response: aiohttp.ClientResponse, what: str, now_s: float, *, gzip: bool) -> None:
    """Refuse whatever isn't a success with JSON.

    Raises:
        KubeError: By status code.
        BadResponse: A success that isn't JSON.
    """
    if not 200 <= response.status <= 299:  # noqa: PLR2004 - HTTP
        body = await read_head(response, what, gzip=gzip)
        retry_after_s = parse_retry_after(
            response.headers.get("Retry-After"), _date(response, now_s)
        )
        refusal = error_for(response.status, what, parse_status(body), retry_after_s)
        raise refusal
    if response.content_type != "application/json":
        raise BadResponse(
            f"{what}: {response.status} with {free_text(response.content_type, 100)}, not JSON",
            status=response.status,
        )


def _date(response: aiohttp.ClientResponse, now_s: float) -> float:
    """Unix time in seconds by the server's clock where it tells, else by ours."""
    told = parse_http_date(response.headers.get("Date"))
    return now_s if told is None else told
