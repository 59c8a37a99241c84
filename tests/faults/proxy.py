"""A TLS-terminating HTTP proxy before an API server that spoils what a test tells it to spoil.

It has its own CA, counts what the daemon asks it, and runs in a thread of its own. A second port is
the witness's, who meets the same faults and isn't counted. What a fault is, and what has to follow
from it, belongs to ``matrix``.
"""

import asyncio
import ssl
import threading
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias, TypeVar

import aiohttp
import anyio
from aiohttp import web
from anyio.from_thread import BlockingPortal, start_blocking_portal
from yarl import URL

from tests.support.certificates import Authority, Pair

_PASSED_ON = ("Authorization", "Accept", "Content-Type", "User-Agent")
_JSON = "application/json"

COLLECTIONS = frozenset({"clusters", "nodes", "settings", "features", "projects", "namespaces"})
"""What informers list and watch."""


@dataclass(frozen=True, slots=True)
class Ask:
    """One request, as it came."""

    at_s: float
    method: str
    path: str
    query: Mapping[str, str]
    authorization: str = field(repr=False)
    by_witness: bool = False

    @property
    def resource(self) -> str:
        """The plural that the path ends in, for lists and watches."""
        return self.path.rpartition("/")[2]

    @property
    def is_stream(self) -> bool:
        """Whether it asks for a list as a stream, which then goes on as a watch."""
        return "sendInitialEvents" in self.query

    @property
    def is_followed(self) -> bool:
        """Whether its answer goes on, line by line."""
        return "watch" in self.query

    @property
    def verb(self) -> str:
        """`watch`, `list` (in pages or as a stream), `look` for what a stream has missed, or the
        method."""
        if self.is_stream:
            return "list"
        if "watch" in self.query:
            return "watch" if "allowWatchBookmarks" in self.query else "look"
        return "list" if self.method == "GET" and self.resource in COLLECTIONS else self.method


@dataclass(slots=True)
class Exchange:
    """A request and the means to answer it."""

    ask: Ask
    request: web.BaseRequest
    proxy: "FaultProxy"

    async def start(self, content_type: str = _JSON) -> web.StreamResponse:
        """Headers of a good answer whose body follows bit by bit."""
        response = web.StreamResponse(headers={"Content-Type": content_type})
        await response.prepare(self.request)
        return response

    def reset(self) -> None:
        """Ends the connection without a word."""
        if self.request.transport is not None:
            self.request.transport.abort()


T = TypeVar("T")
Act: TypeAlias = Callable[[Exchange], Awaitable[web.StreamResponse]]
Edit: TypeAlias = Callable[[bytes], bytes]


@dataclass(slots=True)
class Rule:
    """What becomes of some requests, instead of being passed on.

    Attributes:
        times: How often for each of the two clients; None for always.
        met: How often the daemon's were met so far.
    """

    resource: str
    verb: str
    act: Act
    times: int | None = None
    met: int = 0
    met_by_witness: int = 0

    def takes(self, ask: Ask) -> bool:
        """Whether the request is one of them."""
        met = self.met_by_witness if ask.by_witness else self.met
        left = self.times is None or met < self.times
        return left and self.verb in {"*", ask.verb} and self.resource in {"*", ask.resource}

    def count(self, ask: Ask) -> None:
        """One more was met."""
        if ask.by_witness:
            self.met_by_witness += 1
        else:
            self.met += 1


@dataclass(eq=False, slots=True)
class _Live:
    """A watch that is being passed on, line by line."""

    ask: Ask
    request: web.BaseRequest
    response: web.StreamResponse
    scope: anyio.CancelScope = field(default_factory=anyio.CancelScope)


class FaultProxy:
    """Passes requests on to one API server, or does with them what a rule says.

    Args:
        url: Of the API server.
        ca_file: What it is known by.
        folder: For certificates.
    """

    def __init__(self, url: str, ca_file: Path, folder: Path) -> None:
        self._target = url
        self._upstream = ssl.create_default_context(cafile=ca_file)
        self._authority = Authority(folder, "proxy-ca")
        self._good = self._authority.issue("proxy")
        self._tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._certify(self._good)
        self._lock = threading.Lock()
        self._asks: list[Ask] = []
        self._rules: list[Rule] = []
        self._live: set[_Live] = set()
        self._edits: dict[str, Edit] = {}
        self._portal: BlockingPortal
        self._runner: web.ServerRunner
        self._session: aiohttp.ClientSession
        self.ca = self._authority.ca
        self.port = 0
        self.witness_port = 0

    @contextmanager
    def running(self) -> Iterator["FaultProxy"]:
        """Serves until left."""
        with start_blocking_portal() as self._portal:
            self._portal.call(self._start)
            try:
                yield self
            finally:
                self._portal.call(self._stop)

    def cluster(self, *, witness: bool = False) -> dict[str, str]:
        """It, as a kubeconfig names a cluster; the witness has a port of its own."""
        port = self.witness_port if witness else self.port
        return {
            "server": f"https://127.0.0.1:{port}",
            "certificate-authority": str(self.ca),
        }

    def call(self, work: Callable[[], Awaitable[T]]) -> T:
        """Does the work on the proxy's own event loop."""
        return self._portal.call(work)

    # -- what is asked

    def asks(self, since_s: float = 0.0, resource: str = "*", verb: str = "*") -> list[Ask]:
        """Requests of the daemon that came since, in order."""
        with self._lock:
            return [
                ask
                for ask in self._asks
                if ask.at_s >= since_s
                and resource in {"*", ask.resource}
                and verb in {"*", ask.verb}
            ]

    def watches(self, resource: str, *, witness: bool = False) -> int:
        """Watches of the resource that are open, the daemon's or the witness's."""
        return self._portal.call(
            lambda: sum(live.ask.by_witness is witness for live in self._of(resource))
        )

    # -- faults

    def rule(self, resource: str, verb: str, act: Act, times: int | None = None) -> Rule:
        """From now on, these requests are answered so; the first rule that takes one counts."""
        made = Rule(resource, verb, act, times)
        self._portal.call(self._rules.append, made)
        return made

    def edit(self, resource: str, change: Edit) -> None:
        """From now on, each line of the resource's watches is changed; empty takes it away."""
        self._portal.call(self._edits.__setitem__, resource, change)

    def say(self, resource: str, data: bytes, then: str = "") -> None:
        """Writes into the resource's open watches; then may be `end` or `abort`."""
        self._portal.call(self._say, resource, data, then)

    def hang_up(self, resource: str = "*") -> None:
        """Ends the resource's open watches cleanly."""
        self.say(resource, b"", "end")

    def cut(self) -> None:
        """Ends every connection without a word."""
        self._portal.call(self._break)

    def close_door(self) -> None:
        """Ends every connection and refuses new ones."""
        self._portal.call(self._close_door)

    def open_door(self) -> None:
        """Listens again, on the same port."""
        self._portal.call(self._open_door)

    def wrong_certificate(self, *, address: str = "127.0.0.1", days: int = 10) -> None:
        """Shows another certificate from now on, and ends every connection."""
        self._certify(self._authority.issue("wrong", address=address, days=days))
        self._portal.call(self._break)

    def change_authority(self, authority: Authority) -> None:
        """Shows a certificate of this one from now on, and ends every connection."""
        self._authority, self.ca = authority, authority.ca
        self._good = authority.issue("proxy")
        self._certify(self._good)
        self._portal.call(self._break)

    def heal(self) -> None:
        """Passes everything on again, and ends what a rule still holds."""
        self._certify(self._good)
        self._portal.call(self._heal)

    # -- inside

    def _certify(self, pair: Pair) -> None:
        self._tls.load_cert_chain(pair.cert, pair.key)

    def _of(self, resource: str) -> list[_Live]:
        return [live for live in self._live if resource in {"*", live.ask.resource}]

    async def _start(self) -> None:
        connector = aiohttp.TCPConnector(ssl=self._upstream, limit=0)
        self._session = aiohttp.ClientSession(
            connector=connector, auto_decompress=False, timeout=aiohttp.ClientTimeout(total=None)
        )
        server = web.Server(self._handle, access_log=None, handler_cancellation=True)
        self._runner = web.ServerRunner(server, shutdown_timeout=0.01)
        await self._runner.setup()
        await self._open_door()

    async def _stop(self) -> None:
        await self._runner.cleanup()
        await self._session.close()
        await anyio.sleep(
            0.25
        )  # as aiohttp says: TLS connections take some turns of the loop to close

    async def _open_door(self) -> None:
        for port in (self.port, self.witness_port):
            await web.TCPSite(self._runner, "127.0.0.1", port, ssl_context=self._tls).start()
        self.port, self.witness_port = (address[1] for address in self._runner.addresses)

    async def _close_door(self) -> None:
        for site in list(self._runner.sites):
            await site.stop()
        await self._break()

    async def _break(self) -> None:
        server = self._runner.server
        assert server is not None
        for connection in list(server.connections):
            if connection.transport is not None:
                connection.transport.abort()
        await asyncio.sleep(0)

    async def _heal(self) -> None:
        held = any(rule.met and rule.times is None for rule in self._rules)
        self._rules.clear()
        self._edits.clear()
        if held:
            await self._break()

    async def _say(self, resource: str, data: bytes, then: str) -> None:
        for live in self._of(resource):
            with suppress(ConnectionError):
                await live.response.write(data)
            if then == "abort" and live.request.transport is not None:
                live.request.transport.abort()
            if then:
                live.scope.cancel()

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        authorization = request.headers.get("Authorization", "")
        query = dict(request.query)
        transport = request.transport
        name = transport.get_extra_info("sockname") if transport is not None else None
        by_witness = name is not None and name[1] == self.witness_port
        ask = Ask(time.monotonic(), request.method, request.path, query, authorization, by_witness)
        if not by_witness:
            with self._lock:
                self._asks.append(ask)
        exchange = Exchange(ask, request, self)
        for rule in self._rules:
            if rule.takes(ask):
                rule.count(ask)
                return await rule.act(exchange)
        return await self.pass_on(exchange)

    async def pass_on(self, exchange: Exchange, change: Edit | None = None) -> web.StreamResponse:
        """The API server's own answer, its body changed on the way if it is no stream.

        A write that came whole is passed on even if its sender leaves meanwhile: what is sent late
        must get there.
        """
        await exchange.request.read()
        passing = self._pass_on(exchange, change)
        return await (passing if exchange.ask.method == "GET" else asyncio.shield(passing))

    async def _pass_on(self, exchange: Exchange, change: Edit | None) -> web.StreamResponse:
        request = exchange.request
        headers = {name: request.headers[name] for name in _PASSED_ON if name in request.headers}
        url = f"{self._target}{request.raw_path}"
        try:
            async with self._session.request(
                request.method,
                URL(url, encoded=True),
                headers=headers | {"Accept-Encoding": "identity"},
                data=await request.read() or None,
            ) as answer:
                kind = {"Content-Type": answer.headers.get("Content-Type", _JSON)}
                if not exchange.ask.is_followed or answer.status != 200:
                    body = await answer.read()
                    body = change(body) if change else body
                    return web.Response(status=answer.status, body=body, headers=kind)
                response = web.StreamResponse(headers=kind)
                await response.prepare(request)
                await self._relay(_Live(exchange.ask, request, response), answer)
                return response
        except aiohttp.ClientError:
            exchange.reset()
            return web.Response(status=502)

    async def _relay(self, live: _Live, answer: aiohttp.ClientResponse) -> None:
        if live.ask.verb != "look":
            self._live.add(live)
        try:
            with live.scope:
                rest = b""
                async for chunk in answer.content.iter_any():
                    *lines, rest = (rest + chunk).split(b"\n")
                    for line in lines:
                        change = self._edits.get(live.ask.resource) if live in self._live else None
                        passed = change(line + b"\n") if change else line + b"\n"
                        if passed:
                            await live.response.write(passed)
        finally:
            self._live.discard(live)
