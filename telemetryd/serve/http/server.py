"""HTTP on ``server.listen``: the paths, and a shutdown that waits for nobody long.

What the answers say is made by ``metrics``, ``status`` and ``page``, limits on a client are kept
by ``connection``, connections are taken up by ``listener``, and who may see something is decided by
``security``. aiohttp's low-level server is enough: a few fixed paths need no router.
"""

import asyncio
import ipaddress
import logging
import re
from base64 import b64encode
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from typing import TypeAlias, cast

import anyio
import anyio.lowlevel
import anyio.to_thread
import orjson
from aiohttp import HttpVersion11, web
from anyio.lowlevel import cancel_shielded_checkpoint

from telemetryd.errors import ManagerError
from telemetryd.model import Payload
from telemetryd.serve.http.connection import Connection, Limits, answer, answer_text
from telemetryd.serve.http.listener import Acceptor, Listening, bind, listening_at, local_names
from telemetryd.serve.http.security import OPEN_PATHS, Security
from telemetryd.serve.metrics.metrics import MetricsRenderer
from telemetryd.serve.page.page import render_page
from telemetryd.serve.page.status import Report, StatusFacts, render_report, render_status
from telemetryd.serve.page.style import PAGE_POLICY

log = logging.getLogger(__name__)

DEFAULT_LIMITS = Limits()
SHUTDOWN_S = 1.0
"""Answers still on their way are given this long."""
MOST_ANSWERS = 8
"""Of pages other than health at a time, until they are sent."""
MOST_WAITING = 64
"""Requests for those pages; more are turned away with 503, so that they leave room for others."""
TAKING_S = 2.0
"""For a client to take an answer that others wait for."""
_REPEATS_AT_A_TIME = 1
"""Further requests on connections, in one turn of the event loop: newcomers come first."""

_HOST = re.compile(r"(?:\[(?P<address>[^\]]*)\]|(?P<name>[^:]+))(?::[0-9]*)?")
_LIVENESS = frozenset({"/livez", "/healthz"})
_METHODS = ("GET", "HEAD")
_PAYLOADS = "/payload/"

_Handler: TypeAlias = Callable[[web.BaseRequest], Awaitable[web.Response]]


@dataclass(frozen=True, slots=True)
class Endpoints:
    """What is served; called on the event loop's thread, and quick.

    Attributes:
        payload_exposed: Whether payloads may be shown, at this moment.
        payload: What an exporter last sent, None where it hasn't sent anything yet; a ManagerError
            where there is no such exporter.
    """

    metrics: MetricsRenderer
    liveness: Callable[[], Report]
    readiness: Callable[[], Report]
    status: Callable[[], StatusFacts]
    payload_exposed: Callable[[], bool]
    payload: Callable[[str], Payload | None]


@asynccontextmanager
async def serve(
    host: str,
    port: int,
    endpoints: Endpoints,
    *,
    security: Security | None = None,
    where: str = "",
    limits: Limits = DEFAULT_LIMITS,
) -> AsyncIterator[Listening]:
    """Serve while the context is open; leaving it takes ``SHUTDOWN_S`` at most.

    Args:
        host: Name or IP address, empty for every address of the machine. Of a name's addresses
            one is used, IPv4 first, as Prometheus and its exporters do.
        port: TCP port, 0 for a free one.
        endpoints: What is served.
        security: Who may see it, its files are watched meanwhile; None for plain HTTP for everyone.
        where: Configuration file, for messages.
        limits: What a client may take.

    Yields:
        Where it listens.

    Raises:
        ConfigError: The address can't be bound, whatever else happens.
        TelemetrydError: It can't be bound now, which may pass.
    """
    security = security or Security()
    loop = asyncio.get_running_loop()
    router = _Router(endpoints, security)
    server = web.Server(router.answer)
    failure: Exception | None = None
    with await bind(host, port, where) as bound:
        router.local_names = local_names(bound, host)
        acceptor = Acceptor(
            bound,
            security,
            limits,
            partial(Connection, server, loop=loop, limits=limits),
        )
        security.changed = partial(_end_connections, server)
        try:
            async with anyio.create_task_group() as group:
                group.start_soon(acceptor.run, name="http")
                group.start_soon(security.watch, name="certificates")
                try:
                    yield listening_at(bound)
                except Exception as error:  # noqa: BLE001 - raised below, as it is
                    failure = error
                finally:
                    group.cancel_scope.cancel()
        finally:
            bound.close()
            await _drain(server)
    if failure is not None:
        raise failure


def _connections(server: web.Server) -> Iterator[Connection]:
    return (each for each in server.connections if isinstance(each, Connection))


def _end_connections(server: web.Server) -> None:
    for connection in _connections(server):
        connection.end()


async def _drain(server: web.Server) -> None:
    server.pre_shutdown()
    with anyio.move_on_after(SHUTDOWN_S, shield=True):
        await server.shutdown(SHUTDOWN_S / 2)  # for the handler, and again for its task
    for connection in _connections(server):
        connection.abort()
    await cancel_shielded_checkpoint()  # transports close in the loop's next turn


class _Router:
    """Answers requests: one method per path, and one for all that payloads have."""

    def __init__(self, endpoints: Endpoints, security: Security) -> None:
        self._endpoints = endpoints
        self._security = security
        self.local_names: frozenset[str] | None = None
        self._in_turn: dict[Connection, None] = {}
        self._turns = anyio.Semaphore(MOST_ANSWERS)
        self._repeats = anyio.Semaphore(_REPEATS_AT_A_TIME, fast_acquire=True)
        self._one_page_at_a_time = anyio.CapacityLimiter(1)
        self._failing: set[str] = set()
        self._paths: dict[str, _Handler] = {
            "/": self._page,
            "/metrics": self._metrics,
            "/livez": self._livez,
            "/healthz": self._livez,
            "/readyz": self._readyz,
            "/status.json": self._status,
        }

    async def answer(self, request: web.BaseRequest) -> web.Response:
        """Answer any request; an unexpected error is a 500 that says nothing of it."""
        connection = cast("Connection", request.protocol)
        if connection.served:
            async with self._repeats:
                await anyio.lowlevel.checkpoint()
        if request._version.major != 1:  # noqa: SLF001 - `version` couldn't be replaced once read
            request._version = HttpVersion11  # noqa: SLF001
            unsupported = answer_text(505, "HTTP version not supported: use HTTP/1.1\n")
            unsupported.force_close()
            return unsupported
        is_open = self.local_names is None or request.path in _LIVENESS
        if not is_open and not _asks_for(request, self.local_names or frozenset()):
            return answer_text(421, "misdirected request: ask for localhost\n")
        try:
            refused = await self._security.refusal(request)
        except Exception:
            log.exception("request failed before it was decided who may see it")
            return answer_text(500, "internal error: the log says more\n")
        if refused is not None:
            return refused
        connection.expect_answer()
        return await self._answer(request, connection)

    async def _answer(self, request: web.BaseRequest, connection: Connection) -> web.Response:
        path = _PAYLOADS if request.path.startswith(_PAYLOADS) else request.path
        handler = self._payload if path == _PAYLOADS else self._paths.get(path)
        if handler is None:
            listed = ", ".join((*self._paths, f"{_PAYLOADS}{{exporter}}"))
            return answer_text(404, f"not found: there are {listed}\n")
        if request.method not in _METHODS:
            refused = answer_text(405, "method not allowed: use GET or HEAD\n")
            refused.headers["Allow"] = ", ".join(_METHODS)
            return refused
        if path not in OPEN_PATHS:
            if self._turns.statistics().tasks_waiting >= MOST_WAITING:
                refused = answer_text(503, "too many requests at a time\n")
                refused.headers["Retry-After"] = "1"
                return refused
            await self._turn(connection)
        try:
            response = await handler(request)
        except Exception:
            level = logging.DEBUG if path in self._failing else logging.ERROR
            self._failing.add(path)
            log.log(level, "request failed path=%s", path, exc_info=True)
            return answer_text(500, "internal error: the log says more\n")
        self._failing.discard(path)
        return response

    async def _turn(self, connection: Connection) -> None:
        """Wait for a turn, which lasts until the answer is sent.

        Who has waited for long ends the connection of a client that doesn't take its answer.
        """
        loop = asyncio.get_running_loop()

        def make_room() -> None:
            slow_s = loop.time() - TAKING_S
            for other in self._in_turn:
                if other.sending_since_s is not None and other.sending_since_s < slow_s:
                    other.abort()
                    return

        timer = loop.call_later(TAKING_S, make_room)
        try:
            await self._turns.acquire()
        finally:
            timer.cancel()
        self._in_turn[connection] = None
        connection.when_answered(partial(self._end_turn, connection))

    def _end_turn(self, connection: Connection) -> None:
        del self._in_turn[connection]
        self._turns.release()

    async def _metrics(self, request: web.BaseRequest) -> web.Response:
        exposition = await self._endpoints.metrics.render(
            accept=",".join(request.headers.getall("Accept", ())),
            accept_encoding=",".join(request.headers.getall("Accept-Encoding", ())),
            names=request.query.getall("name[]", ()),
        )
        response = answer(200, exposition.body, exposition.content_type)
        response.headers["Vary"] = "Accept, Accept-Encoding"
        if exposition.content_encoding:
            response.headers["Content-Encoding"] = exposition.content_encoding
        return response

    async def _livez(self, request: web.BaseRequest) -> web.Response:
        return await self._health(request, self._endpoints.liveness())

    async def _readyz(self, request: web.BaseRequest) -> web.Response:
        return await self._health(request, self._endpoints.readiness())

    async def _health(self, request: web.BaseRequest, report: Report) -> web.Response:
        """``ok``, or every check where one failed or ``?verbose`` asks, as Kubernetes does."""
        if report.ok and "verbose" not in request.query:
            return answer_text(200, "ok\n")
        reasons = report.ok or await self._security.may_see_reasons(request)
        text = render_report(report, request.path.removeprefix("/"), reasons=reasons)
        return answer_text(200 if report.ok else 503, text)

    async def _status(self, _request: web.BaseRequest) -> web.Response:
        document = render_status(self._endpoints.status())
        body = orjson.dumps(document, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)
        return answer(200, body, "application/json")

    async def _page(self, _request: web.BaseRequest) -> web.Response:
        # On a thread, for a thousand exporters take a while; on one, as others need theirs.
        text = await anyio.to_thread.run_sync(
            render_page, self._endpoints.status(), limiter=self._one_page_at_a_time
        )
        response = answer(200, text.encode(), "text/html; charset=utf-8")
        response.headers["Content-Security-Policy"] = PAGE_POLICY
        return response

    async def _payload(self, request: web.BaseRequest) -> web.Response:
        if not self._endpoints.payload_exposed():
            return answer_text(
                403, "payloads aren't shown: set expose_payload = true in [server] and reload\n"
            )
        try:
            payload = self._endpoints.payload(request.path.removeprefix(_PAYLOADS))
        except ManagerError as error:
            return answer_text(404, f"{error}: / lists them\n")
        if payload is None:
            return answer_text(404, "no payload yet: the exporter has had nothing to send\n")
        response = answer(200, payload.body, payload.content_type)
        # The digest leaves the timestamp out: equal content, not equal bytes, hence weak.
        response.headers["ETag"] = f'W/"{payload.digest}"'
        checksum = b64encode(sha256(payload.body).digest()).decode()
        response.headers["Repr-Digest"] = f"sha-256=:{checksum}:"  # RFC 9530
        return response


def _asks_for(request: web.BaseRequest, names: frozenset[str]) -> bool:
    """Whether a request is meant for this machine, and not for a name that only leads here.

    A page of another site reads what is shown here where its name's address becomes a loopback one
    (DNS rebinding); it can't choose the header. HTTP/1.0 needs none.
    """
    url = request._message.url  # noqa: SLF001 - aiohttp shows no other
    if url.absolute and not _is_local(url.raw_host or "", names):
        return False
    found = [_HOST.fullmatch(host) for host in request.headers.getall("Host", ())]
    return all(each and _is_local(each["address"] or each["name"], names) for each in found)


def _is_local(host: str, names: frozenset[str]) -> bool:
    name = host.lower().removesuffix(".")
    if name in names:
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False
