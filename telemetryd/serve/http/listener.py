"""The socket that clients connect to: bound, and each connection taken up as security has it.

Connections are accepted here rather than by asyncio's own server, for a handshake counts among the
connections from its first byte on, and each is made with the certificates in force at that moment.
What is said on a connection doesn't belong here.
"""

import asyncio
import errno
import ipaddress
import logging
import socket
import ssl
from asyncio import sslproto
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, cast

import anyio
import anyio.lowlevel

from telemetryd.errors import ConfigError, Problem, TelemetrydError
from telemetryd.serve.http.connection import Connection, Limits
from telemetryd.serve.http.security import Security

log = logging.getLogger(__name__)

_BACKLOG = 4096
"""Clients that wait to be accepted; those beyond would try again only a second later."""
_ACCEPTED_AT_A_TIME = 8
_GRACE_ROUNDS = 8
"""Of accepting: on a slow machine the time of grace may end before a request could be read."""
_TLS_BUFFER_BYTES = 4096
"""Of what is not decrypted yet; asyncio's own takes 256 KiB for each connection."""
_RESOLVE_TIMEOUT_S = 10.0
_ACCEPT_PAUSE_S = 0.5
_FINAL = {errno.EACCES, errno.EAFNOSUPPORT}
"""Why a socket can't be bound, by what only a person changes. A port that another process has, an
address or an interface that isn't there yet, and a name server that doesn't answer may pass: then
the service manager or the kubelet starts the daemon again.
"""


@dataclass(frozen=True, slots=True)
class Listening:
    """A server that accepts connections.

    Attributes:
        host: IP address bound.
        port: The real one where 0 was asked for.
    """

    host: str
    port: int

    def __str__(self) -> str:
        return _render_address(self.host, self.port)


class Acceptor:
    """Takes up connections from a listening socket, no more than the limits allow.

    When it is full, the address with the most connections loses the one that was served first,
    then the one that has been without a whole request longest. A newcomer is never dropped within
    its grace, so that a prompt client is answered however many others come: while all are within
    theirs, nothing is accepted, and clients wait in the socket's queue.
    """

    def __init__(
        self,
        bound: socket.socket,
        security: Security,
        limits: Limits,
        make: Callable[..., Connection],
    ) -> None:
        """Nothing is accepted before ``run``.

        Args:
            bound: Non-blocking; stays the caller's.
            security: Gives the certificates.
            limits: What a client may take.
            make: Makes a connection, with the arguments that are left.
        """
        self._bound = bound
        self._security = security
        self._limits = limits
        self._make = make
        self._peers: dict[str, dict[Connection, None]] = {}
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
        """Accept a few, for the daemon has other work; whether there was room for one.

        Raises:
            OSError: None can be accepted.
        """
        for turn in range(_ACCEPTED_AT_A_TIME):
            full = sum(map(len, self._peers.values())) >= self._limits.connections
            in_the_way = self._choose() if full else None
            if full and in_the_way is None:
                return turn > 0
            try:
                stream, (peer, *_) = self._bound.accept()
            except (BlockingIOError, ConnectionAbortedError):
                return True
            if in_the_way is not None:
                self._forget(in_the_way)
                in_the_way.abort()
            stream.setblocking(False)
            demand = self._security.demand
            connection = self._make(
                lambda demand=demand: self._security.demand == demand,
                peer=peer,
                changed=self._update,
            )
            connection.since_round = self._round
            self._peers.setdefault(peer, {})[connection] = None
            group.create_task(self._begin(stream, connection), name="http client")
        return True

    def _choose(self) -> Connection | None:
        """The connection to drop for another one; None where each is within its grace."""
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

    def _update(self, connection: Connection) -> None:
        """Note that a connection was served, or is lost."""
        self._changed.set()
        if connection.is_lost:
            self._forget(connection)
        elif connection.served == 1 and connection in self._peers.get(connection.peer, ()):
            peer = self._peers[connection.peer]
            del peer[connection]
            peer[connection] = None

    def _forget(self, connection: Connection) -> None:
        peer = self._peers.get(connection.peer, {})
        peer.pop(connection, None)
        if not peer:
            self._peers.pop(connection.peer, None)

    async def _begin(self, stream: socket.socket, connection: Connection) -> None:
        """Make the connection; a handshake that fails costs its client alone."""
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
            del established  # its error has this frame, which would wait for the collector


class _Tls(sslproto.SSLProtocol):
    """asyncio's TLS with small buffers."""

    max_size = _TLS_BUFFER_BYTES

    def __init__(
        self,
        connection: Connection,
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
        """Have the connection closed: asyncio's TLS sends nothing once the client ended its side.

        By itself it stays open where reading is paused, and logs each answer that it drops.
        """
        super().eof_received()

    def connection_lost(self, exc: BaseException | None) -> None:
        super().connection_lost(exc)
        self._connection.lose()


_GIVE_WAY: Final[tuple[Callable[[Connection, bool], bool], ...]] = (
    lambda connection, _: connection.is_served,
    lambda connection, had_grace: had_grace and connection.is_waiting,
    lambda connection, had_grace: (
        not connection.is_in_turn and (had_grace or connection.served > 0)
    ),
)
"""Which connections are dropped for a newcomer, in this order."""


async def bind(host: str, port: int, where: str) -> socket.socket:
    """A listening socket that doesn't block.

    Args:
        host: Name or IP address, empty for every address of the machine. Of a name's addresses
            one is used, IPv4 first, as Prometheus and its exporters do.
        port: TCP port, 0 for a free one.
        where: Configuration file, for messages.

    Raises:
        ConfigError: The address can't be bound, whatever else happens.
        TelemetrydError: It can't be bound now, which may pass.
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
    """What this machine is called where only it can reach the socket; None where others can.

    Besides these names every loopback address is its own.

    Args:
        bound: The socket.
        host: As configured.
    """
    if not ipaddress.ip_address(bound.getsockname()[0].partition("%")[0]).is_loopback:
        return None
    name = socket.gethostname().lower()
    return frozenset({"localhost", name, name.partition(".")[0], host.lower()})


def listening_at(bound: socket.socket) -> Listening:
    """Where a listening socket is; a link-local address with its interface."""
    host, port, *rest = bound.getsockname()
    zone = rest[1] if rest else 0
    return Listening(f"{host}%{socket.if_indextoname(zone)}" if zone else host, port)


async def _bind(host: str, port: int) -> socket.socket:
    if host in {"", "::"}:
        return _bind_all(port)
    with anyio.fail_after(_RESOLVE_TIMEOUT_S):
        # anyio's own leaves out the number of a link-local address's interface.
        found = await asyncio.get_running_loop().getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
    family, *_, address = min(found, key=lambda each: each[0] != socket.AF_INET)
    return socket.create_server(address, family=family, backlog=_BACKLOG)


def _bind_all(port: int) -> socket.socket:
    """Every address, of IPv6 too where the machine has it.

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
