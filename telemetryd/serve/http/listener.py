"""Binds the listening socket and accepts connections.

Connections are accepted here rather than by asyncio's own server: a TLS handshake counts as a
connection from its first byte on, and uses the certificates in force at that moment.
"""

import asyncio
import errno
import ipaddress
import logging
import re
import socket
import ssl
from asyncio import sslproto
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Final, cast

import anyio
import anyio.lowlevel
from aiohttp.web_request import BaseRequest
from aiohttp.web_server import Server

from telemetryd.errors import ConfigError, Problem, TelemetrydError
from telemetryd.serve.http.connection import ClientConnection, ConnectionLimits
from telemetryd.serve.http.security import Security

log = logging.getLogger(__name__)

_HOST = re.compile(r"(?:\[(?P<address>[^\]]*)\]|(?P<name>[^:]+))(?::[0-9]*)?")
_BACKLOG = 4096
"""Clients waiting to be accepted; more of them would retry only after a second."""
_ACCEPTED_AT_A_TIME = 8
_GRACE_ROUNDS = 8
"""Rounds of accepting: on a slow machine the grace time may end before a request could be read."""
_TLS_BUFFER_BYTES = 4096
"""Of encrypted data; asyncio's own buffer takes 256 KiB for each connection."""
_RESOLVE_TIMEOUT_S = 10.0
_ACCEPT_PAUSE_S = 0.5
_FINAL = {errno.EACCES, errno.EAFNOSUPPORT}
"""Errors that only another configuration fixes. Others may pass (a port in use, no such address or
interface yet, no answer of DNS): the service manager or the kubelet restarts the daemon.
"""


@dataclass(frozen=True, slots=True)
class Listening:
    """The address that a server listens on; ``port`` is the real one where 0 was configured."""

    host: str
    port: int

    def __str__(self) -> str:
        return _render_address(self.host, self.port)


class Acceptor:
    """Accepts connections from a listening socket, up to the limit.

    At the limit, a new connection replaces one of the address with the most: the one that was
    served first, else the one that has been without a whole request longest. No connection is
    dropped within its grace time, so a prompt client gets its answer under any load. While all
    are within it, nothing is accepted, and clients wait in the socket's queue.
    """

    def __init__(
        self,
        bound: socket.socket,
        security: Security,
        limits: ConnectionLimits,
        server: Server,
    ) -> None:
        """Nothing is accepted before ``run``.

        ``bound`` is non-blocking, and closed by the caller.
        """
        self._bound = bound
        self._security = security
        self._limits = limits
        self._server = server
        self._peers: dict[str, dict[ClientConnection, None]] = {}
        self._changed = asyncio.Event()
        self._round = 0
        self._accepting = True

    async def run(self) -> None:
        """Accept until cancelled."""
        async with asyncio.TaskGroup() as group:  # cheaper than anyio's, for each newcomer
            while True:
                await anyio.wait_readable(self._bound)
                self._round += 1
                try:
                    accepted = self._accept(group)
                except OSError as error:
                    level = logging.WARNING if self._accepting else logging.DEBUG
                    self._accepting = False
                    log.log(level, "connections can't be accepted error=%r", error.strerror)
                    await anyio.sleep(_ACCEPT_PAUSE_S)
                    continue
                self._accepting = True
                await anyio.lowlevel.checkpoint()
                if not accepted:
                    self._changed.clear()
                    with anyio.move_on_after(self._limits.grace_s / (2 * _GRACE_ROUNDS)):
                        await self._changed.wait()

    def _accept(self, group: asyncio.TaskGroup) -> bool:
        """Accept a few, as the daemon has other work; returns whether there was room for one.

        Raises:
            OSError: None can be accepted.
        """
        for turn in range(_ACCEPTED_AT_A_TIME):
            full = sum(map(len, self._peers.values())) >= self._limits.connections
            dropped = self._choose() if full else None
            if full and dropped is None:
                return turn > 0
            try:
                stream, (peer, *_) = self._bound.accept()
            except (BlockingIOError, ConnectionAbortedError):
                return True
            if dropped is not None:
                self._forget(dropped)
                dropped.abort()
            stream.setblocking(False)
            connection = ClientConnection(
                self._server,
                peer,
                self._limits,
                is_current=partial(self._is_current, self._security.key),
                changed=self._update,
            )
            connection.since_round = self._round
            self._peers.setdefault(peer, {})[connection] = None
            group.create_task(self._begin(stream, connection), name="http client")
        return True

    def _is_current(self, key: object) -> bool:
        """Whether a connection that began under this key may go on."""
        return self._security.key == key

    def _choose(self) -> ClientConnection | None:
        """The connection to drop for another one; None where each is within its grace time."""
        most = max(map(len, self._peers.values()))
        held = [
            connection
            for peer in self._peers.values()
            if len(peer) == most
            for connection in peer
            if connection.carrier is not None
        ]
        before_s = asyncio.get_running_loop().time() - self._limits.grace_s
        before_round = self._round - _GRACE_ROUNDS
        for gives_way in _GIVE_WAY:
            for connection in held:
                had_grace = connection.since_s < before_s and connection.since_round < before_round
                if gives_way(connection, had_grace):
                    return connection
        return None

    def _update(self, connection: ClientConnection) -> None:
        """Called when a connection was served or is lost."""
        self._changed.set()
        if connection.is_lost:
            self._forget(connection)
        elif connection.served == 1 and connection in self._peers.get(connection.peer, ()):
            peer = self._peers[connection.peer]
            del peer[connection]
            peer[connection] = None

    def _forget(self, connection: ClientConnection) -> None:
        peer = self._peers.get(connection.peer, {})
        peer.pop(connection, None)
        if not peer:
            self._peers.pop(connection.peer, None)

    async def _begin(self, stream: socket.socket, connection: ClientConnection) -> None:
        """Establish the connection; a failed handshake affects only its client."""
        loop = asyncio.get_running_loop()
        context = self._security.context
        established: asyncio.Future[None] = loop.create_future()
        protocol: asyncio.BaseProtocol = connection
        if context is None:
            established.set_result(None)
        else:
            protocol = _Tls(connection, context, established, self._limits.request_timeout_s)
        try:
            await loop.connect_accepted_socket(lambda: protocol, stream)
            await established
            connection.since_round = self._round
        except OSError as error:
            log.debug("connection not established error=%r", str(error))
            connection.lose()
        finally:
            if not established.done():
                connection.abort()
            del established  # its error refers to this frame: a cycle until garbage collection


class _Tls(sslproto.SSLProtocol):
    """asyncio's TLS with small buffers."""

    max_size = _TLS_BUFFER_BYTES

    def __init__(
        self,
        connection: ClientConnection,
        context: ssl.SSLContext,
        established: asyncio.Future[None],
        timeout_s: float,
    ) -> None:
        super().__init__(
            asyncio.get_running_loop(),
            connection,
            context,
            established,
            server_side=True,
            ssl_handshake_timeout=timeout_s,  # type: ignore[arg-type]  # floats are meant too
            ssl_shutdown_timeout=timeout_s,
        )
        self._connection = connection
        self._set_read_buffer_limits(_TLS_BUFFER_BYTES)  # type: ignore[attr-defined]

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._connection.carrier = cast("asyncio.Transport", transport)
        super().connection_made(transport)

    def eof_received(self) -> None:
        """Close the connection: asyncio's TLS sends nothing after the client has ended its side.

        By itself it stays open while reading is paused, and logs each answer that it drops.
        """
        super().eof_received()

    def connection_lost(self, exc: BaseException | None) -> None:
        super().connection_lost(exc)
        self._connection.lose()


_GIVE_WAY: Final[tuple[Callable[[ClientConnection, bool], bool], ...]] = (
    lambda connection, _: connection.is_served,
    lambda connection, had_grace: had_grace and connection.is_waiting,
    lambda connection, had_grace: not connection.has_slot and (had_grace or connection.served > 0),
)
"""Which connections are dropped for a new one, in this order."""


async def bind(host: str, port: int, where: str) -> socket.socket:
    """A non-blocking listening socket; for the arguments see ``server.serve``.

    Raises:
        ConfigError: The address can never be bound.
        TelemetrydError: The address can't be bound now, which may pass.
    """
    try:
        bound = await _bind(host, port)
    except OSError as error:
        problem = Problem(where, "server.listen", _explain(error, _render_address(host, port)))
        if error.errno in _FINAL:
            raise ConfigError(problem) from error
        raise TelemetrydError(str(problem)) from error
    bound.setblocking(False)
    return bound


def local_names(bound: socket.socket, host: str) -> frozenset[str] | None:
    """Names of this machine, next to loopback addresses; None where others can reach the socket."""
    if not ipaddress.ip_address(bound.getsockname()[0].partition("%")[0]).is_loopback:
        return None
    name = socket.gethostname().lower()
    return frozenset({"localhost", name, name.partition(".")[0], host.lower()})


def listening_at(bound: socket.socket) -> Listening:
    """The address of a listening socket; a link-local one has its interface."""
    host, port, *rest = bound.getsockname()
    zone = rest[1] if rest else 0
    return Listening(f"{host}%{socket.if_indextoname(zone)}" if zone else host, port)


async def _bind(host: str, port: int) -> socket.socket:
    if host in {"", "::"}:
        return _bind_all(port)
    with anyio.fail_after(_RESOLVE_TIMEOUT_S):
        # anyio's function loses the interface of a link-local address.
        found = await asyncio.get_running_loop().getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
    family, *_, address = min(found, key=lambda each: each[0] != socket.AF_INET)
    return socket.create_server(address, family=family, backlog=_BACKLOG)


def _bind_all(port: int) -> socket.socket:
    """Listen on every address, also of IPv6 where the machine has it.

    Raises:
        OSError: The port can't be bound.
    """
    if socket.has_dualstack_ipv6():
        try:
            return socket.create_server(
                ("::", port), family=socket.AF_INET6, backlog=_BACKLOG, dualstack_ipv6=True
            )
        except OSError as error:
            if error.errno not in {errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT}:
                raise
    return socket.create_server(("0.0.0.0", port), backlog=_BACKLOG)  # noqa: S104 - asked for


def _explain(error: OSError, address: str) -> str:
    if isinstance(error, socket.gaierror) and "%" in address:
        return f"can't listen on {address}: this machine has no interface of that name"
    if isinstance(error, TimeoutError | socket.gaierror):
        return f"the host of {address} can't be resolved: name an IP address of this machine"
    match error.errno:
        case errno.EADDRINUSE:
            fix = "the port is taken: stop what listens there or choose another port"
        case errno.EADDRNOTAVAIL:
            fix = "this machine has no such address: use one that it has, or 127.0.0.1"
        case errno.EACCES:
            fix = "no permission: choose a port of 1024 or more"
        case errno.EAFNOSUPPORT:
            fix = "this machine has no IPv6: use an IPv4 address such as 127.0.0.1"
        case _:
            fix = error.strerror or "choose another address"
    return f"can't listen on {address}: {fix}"


def _render_address(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def names_this_machine(request: BaseRequest, names: frozenset[str]) -> bool:
    """Whether a request names this machine, against DNS rebinding.

    A page of another site could read the answers if its own name resolved to a loopback address,
    but it can't choose the Host header. HTTP/1.0 needs none.
    """
    url = request._message.url  # noqa: SLF001 - not public in aiohttp
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
