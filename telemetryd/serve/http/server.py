"""HTTP on ``server.listen``: the paths, and a quick shutdown.

Connections come from ``listener``, ``connection`` has the limits on a client, and ``security``
decides who may see what. aiohttp's low-level server is enough for a few fixed paths.
"""

import asyncio
import logging
from base64 import b64encode
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial
from hashlib import sha256
from typing import TYPE_CHECKING, TypeAlias, cast

import anyio
import anyio.lowlevel
import anyio.to_thread
import orjson
from aiohttp import HttpVersion11
from aiohttp.helpers import RequestKey
from aiohttp.web_request import BaseRequest
from aiohttp.web_response import Response
from aiohttp.web_server import Server
from anyio.lowlevel import cancel_shielded_checkpoint

from telemetryd.errors import ManagerError
from telemetryd.model import Payload
from telemetryd.serve.http.connection import ClientConnection, ConnectionLimits, answer, answer_text
from telemetryd.serve.http.health import HealthReport
from telemetryd.serve.http.listener import (
    Acceptor,
    Listening,
    bind,
    listening_at,
    local_names,
    names_this_machine,
)
from telemetryd.serve.http.security import OPEN_PATHS, Security

if TYPE_CHECKING:
    from telemetryd.serve.metrics.metrics import MetricsRenderer
    from telemetryd.serve.page.facts import HistoryFacts, StatusFacts
    from telemetryd.serve.page.usage import ReadSlots, Usage, UsageReader

log = logging.getLogger(__name__)

DEFAULT_LIMITS = ConnectionLimits()
SHUTDOWN_S = 1.0
"""For answers that are still being sent."""
MOST_ANSWERS = 8
"""At the same time, until they are sent; without health endpoints."""
MOST_WAITING = 64
"""Requests for a slot; more are answered 503, so that they leave room for others."""
TAKING_S = 2.0
"""For a client to read an answer while others wait for the slot."""
_REPEATS_AT_A_TIME = 1
"""Further requests on a connection, in one turn of the event loop: new connections come first."""

_LIVENESS = frozenset({"/livez", "/healthz"})
_METHODS = ("GET", "HEAD")
_PAYLOADS = "/payload/"
_CSV = "text/csv; charset=utf-8"
_HTML = "text/html; charset=utf-8"
_MAY_SEE_HISTORY = RequestKey("may_see_history", bool)
"""Decided by the rules that let the request in."""

_Handler: TypeAlias = Callable[[BaseRequest], Awaitable[Response]]


@dataclass(frozen=True, slots=True)
class Endpoints:
    """What is served; the functions are quick, and called on the event loop's thread.

    Attributes:
        payload_exposed: Whether payloads may be shown now.
        payload: The last payload of an exporter, None where there is none yet; raises ManagerError
            where there is no such exporter.
        history_exposed: Whether everyone who may look may see the history now.
        history: What is known of it.
        slots: Reads it; called only where it is shown.
    """

    metrics: "MetricsRenderer"
    liveness: Callable[[], HealthReport]
    readiness: Callable[[], HealthReport]
    status: Callable[[], "StatusFacts"]
    payload_exposed: Callable[[], bool]
    payload: Callable[[str], Payload | None]
    history_exposed: Callable[[], bool]
    history: Callable[[], "HistoryFacts"]
    slots: "ReadSlots"


@asynccontextmanager
async def serve(
    host: str,
    port: int,
    endpoints: Endpoints,
    *,
    security: Security | None = None,
    where: str = "",
    limits: ConnectionLimits = DEFAULT_LIMITS,
) -> AsyncIterator[Listening]:
    """Serve while the context is open; leaving it takes ``SHUTDOWN_S`` at most.

    Args:
        host: Name or IP address, empty for every address of the machine. Of a name's addresses
            one is used, IPv4 first, as Prometheus and its exporters do.
        port: TCP port, 0 for a free one.
        endpoints: What is served.
        security: Who may see it; its files are watched. None for plain HTTP for everyone.
        where: Configuration file, for messages.
        limits: On each client.

    Yields:
        The address it listens on.

    Raises:
        ConfigError: The address can never be bound.
        TelemetrydError: The address can't be bound now, which may pass.
    """
    security = security or Security()
    router = _Router(endpoints, security)
    server = Server(router.answer)
    failure: Exception | None = None
    with await bind(host, port, where) as bound:
        router.local_names = local_names(bound, host)
        acceptor = Acceptor(bound, security, limits, server)
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


def _connections(server: Server) -> Iterator[ClientConnection]:
    return (each for each in server.connections if isinstance(each, ClientConnection))


def _end_connections(server: Server) -> None:
    for connection in _connections(server):
        connection.end()


async def _drain(server: Server) -> None:
    async def shut_down() -> None:
        with anyio.move_on_after(SHUTDOWN_S):
            await server.shutdown(SHUTDOWN_S / 2)  # for the handler, and again for its task

    server.pre_shutdown()
    with anyio.CancelScope(shield=True):
        # In a task of its own: aiohttp's deadlines may swallow the cancellation of ours, which then
        # comes once more, to whatever the task awaits next.
        async with anyio.create_task_group() as group:
            group.start_soon(shut_down, name="http shutdown")
    for connection in _connections(server):
        connection.abort()
    await cancel_shielded_checkpoint()  # transports close in the loop's next turn


class _Router:
    """Answers requests."""

    def __init__(self, endpoints: Endpoints, security: Security) -> None:
        self._endpoints = endpoints
        self._security = security
        self.local_names: frozenset[str] | None = None
        self._answering: dict[ClientConnection, None] = {}
        self._slots = anyio.Semaphore(MOST_ANSWERS)
        self._repeats = anyio.Semaphore(_REPEATS_AT_A_TIME, fast_acquire=True)
        self._one_page_at_a_time = anyio.CapacityLimiter(1)
        self._usage: UsageReader | None = None
        self._failing: set[str] = set()
        self._paths: dict[str, _Handler] = {
            "/": self._page,
            "/metrics": self._metrics,
            "/livez": partial(self._health, endpoints.liveness),
            "/healthz": partial(self._health, endpoints.liveness),
            "/readyz": partial(self._health, endpoints.readiness),
            "/status.json": self._status,
            "/history": partial(self._history, _HTML),
            "/history.json": partial(self._history, "application/json"),
            "/history.csv": partial(self._history, _CSV),
        }

    async def answer(self, request: BaseRequest) -> Response:
        """Answer any request; an unexpected error is a 500 without details."""
        connection = cast("ClientConnection", request.protocol)
        if connection.served:
            async with self._repeats:
                await anyio.lowlevel.checkpoint()
        if request._version.major != 1:  # noqa: SLF001 - reading `version` would fix it
            request._version = HttpVersion11  # noqa: SLF001
            unsupported = answer_text(505, "HTTP version not supported: use HTTP/1.1\n")
            unsupported.force_close()
            return unsupported
        is_open = self.local_names is None or request.path in _LIVENESS
        if not is_open and not names_this_machine(request, self.local_names or frozenset()):
            return answer_text(421, "misdirected request: ask for localhost\n")
        request[_MAY_SEE_HISTORY] = (
            self.local_names is not None
            or self._security.lets_in
            or self._endpoints.history_exposed()
        )
        try:
            refused = await self._security.refusal(request)
        except Exception:
            log.exception("authorization of a request failed")
            return answer_text(500, "internal error: the log says more\n")
        if refused is not None:
            return refused
        connection.expect_answer()
        return await self._answer(request, connection)

    async def _answer(self, request: BaseRequest, connection: ClientConnection) -> Response:
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
            if self._slots.statistics().tasks_waiting >= MOST_WAITING:
                refused = answer_text(503, "too many requests at a time\n")
                refused.headers["Retry-After"] = "1"
                return refused
            await self._take_slot(connection)
        try:
            response = await handler(request)
        except Exception:
            level = logging.DEBUG if path in self._failing else logging.ERROR
            self._failing.add(path)
            log.log(level, "request failed path=%s", path, exc_info=True)
            return answer_text(500, "internal error: the log says more\n")
        self._failing.discard(path)
        return response

    async def _take_slot(self, connection: ClientConnection) -> None:
        """Wait for a slot, which the connection has until its answer is sent.

        After a long wait, a client that doesn't read its answer loses its connection.
        """
        loop = asyncio.get_running_loop()

        def make_room() -> None:
            slow_s = loop.time() - TAKING_S
            for other in self._answering:
                if other.sending_since_s is not None and other.sending_since_s < slow_s:
                    other.abort()
                    return

        timer = loop.call_later(TAKING_S, make_room)
        try:
            await self._slots.acquire()
        finally:
            timer.cancel()
        self._answering[connection] = None
        connection.when_answered(partial(self._free_slot, connection))

    def _free_slot(self, connection: ClientConnection) -> None:
        del self._answering[connection]
        self._slots.release()

    async def _metrics(self, request: BaseRequest) -> Response:
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

    async def _health(self, check: Callable[[], HealthReport], request: BaseRequest) -> Response:
        """``ok``; all checks where one failed or with ``?verbose``, as Kubernetes does."""
        report = check()
        if report.ok and "verbose" not in request.query:
            return answer_text(200, "ok\n")
        reasons = report.ok or await self._security.may_see_reasons(request)
        text = report.render(request.path.removeprefix("/"), reasons=reasons)
        return answer_text(200 if report.ok else 503, text)

    async def _status(self, _request: BaseRequest) -> Response:
        # In a thread: a thousand exporters take a while. In one, to leave threads for others.
        body = await anyio.to_thread.run_sync(
            _status_body, self._endpoints.status(), limiter=self._one_page_at_a_time
        )
        return answer(200, body, "application/json")

    async def _page(self, request: BaseRequest) -> Response:
        nodes = await self._past().nodes() if request[_MAY_SEE_HISTORY] else ()
        facts = self._endpoints.status()
        facts = replace(facts, nodes=nodes) if nodes else facts
        body, policy = await anyio.to_thread.run_sync(
            _page_body, facts, limiter=self._one_page_at_a_time
        )
        response = answer(200, body, _HTML)
        response.headers["Content-Security-Policy"] = policy
        return response

    def _past(self) -> "UsageReader":
        if self._usage is None:
            from telemetryd.serve.page.usage import UsageReader  # noqa: PLC0415 - when asked for

            self._usage = UsageReader(self._endpoints.history, self._endpoints.slots)
        return self._usage

    async def _history(self, content_type: str, request: BaseRequest) -> Response:
        if not request[_MAY_SEE_HISTORY]:
            return answer_text(
                403,
                "history isn't shown: set expose_history = true in [server] and reload, or let "
                "clients in by certificate or token\n",
            )
        usage = await self._past().usage()
        facts = self._endpoints.history()
        if content_type == _CSV and (why := usage.trouble or facts.off):
            return answer_text(503, f"no history: {why}\n")  # CSV has no place to say it
        body, policy = await anyio.to_thread.run_sync(
            _history_body, content_type, usage, facts, limiter=self._one_page_at_a_time
        )
        response = answer(200, body, content_type)
        if policy:
            response.headers["Content-Security-Policy"] = policy
        return response

    async def _payload(self, request: BaseRequest) -> Response:
        if not self._endpoints.payload_exposed():
            return answer_text(
                403, "payloads aren't shown: set expose_payload = true in [server] and reload\n"
            )
        try:
            payload = self._endpoints.payload(request.path.removeprefix(_PAYLOADS))
        except ManagerError as error:
            return answer_text(404, f"{error}\n")
        if payload is None:
            return answer_text(404, "no payload yet: the exporter has had nothing to send\n")
        response = answer(200, payload.body, payload.content_type)
        # Weak: the digest covers the content without its timestamp.
        response.headers["ETag"] = f'W/"{payload.digest}"'
        checksum = b64encode(sha256(payload.body).digest()).decode()
        response.headers["Repr-Digest"] = f"sha-256=:{checksum}:"  # RFC 9530
        return response


# What makes pages is imported when one is asked for, in the thread that makes it.


def _page_body(facts: "StatusFacts") -> tuple[bytes, str]:
    """The page, and its Content-Security-Policy."""
    from telemetryd.serve.page.page import render_page  # noqa: PLC0415 - when asked for
    from telemetryd.serve.page.style import PAGE_POLICY  # noqa: PLC0415

    return render_page(facts).encode(), PAGE_POLICY


def _history_body(content_type: str, usage: "Usage", facts: "HistoryFacts") -> tuple[bytes, str]:
    """The history in that form, and its Content-Security-Policy; empty where it is no page."""
    from telemetryd.serve.page import history  # noqa: PLC0415 - when asked for
    from telemetryd.serve.page.style import PAGE_POLICY  # noqa: PLC0415

    if content_type == _HTML:
        return history.render_history(usage, facts), PAGE_POLICY
    render = history.render_csv if content_type == _CSV else history.render_json
    return render(usage, facts), ""


def _status_body(facts: "StatusFacts") -> bytes:
    from telemetryd.serve.page.status import render_status  # noqa: PLC0415 - when asked for

    options = orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE
    return orjson.dumps(render_status(facts), option=options)
