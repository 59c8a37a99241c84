"""The socket that clients connect to: bound, and each connection taken up as security has it.

A client too many takes the place of the one that has waited longest without a request, so that idle
clients, however many, keep out neither a probe nor a scrape.

Connections are accepted here rather than by asyncio's own server, for a handshake counts among the
connections from its first byte on, and each is made with the certificates in force at that moment.
What is said on a connection doesn't belong here.
"""

import asyncio
import errno
import logging
import socket
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import anyio
import anyio.lowlevel
from anyio.abc import TaskGroup

from telemetryd.errors import ConfigError, Problem
from telemetryd.serve.http.connection import Connection, Limits
from telemetryd.serve.http.security import Security

log = logging.getLogger(__name__)

_BACKLOG = 128
_RESOLVE_TIMEOUT_S = 10.0
_ACCEPT_PAUSE_S = 0.5


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
    """Takes up connections from a listening socket, no more than the limits allow."""

    def __init__(
        self,
        bound: socket.socket,
        security: Security,
        limits: Limits,
        *,
        make: Callable[[Callable[[], bool]], asyncio.Protocol],
        established: Callable[[], Iterable[Connection]],
    ) -> None:
        """Nothing is accepted before ``run``.

        Args:
            bound: Non-blocking; stays the caller's.
            security: Gives the certificates.
            limits: What a client may take.
            make: Makes a connection's protocol, given whether what was asked of the client when
                it connected is what is asked now.
            established: All connections, without those in a handshake.
        """
        self._bound = bound
        self._security = security
        self._limits = limits
        self._make = make
        self._established = established
        self._beginning: dict[anyio.CancelScope, None] = {}
        self._accepting = True

    async def run(self) -> None:
        """Accept until cancelled."""
        loop = asyncio.get_running_loop()
        async with anyio.create_task_group() as group:
            while True:
                try:
                    stream, _ = await loop.sock_accept(self._bound)
                except OSError as error:
                    level = logging.WARNING if self._accepting else logging.DEBUG
                    self._accepting = False
                    log.log(level, "connections can't be accepted error=%r", error.strerror)
                    await anyio.sleep(_ACCEPT_PAUSE_S)
                    continue
                self._accepting = True
                self._admit(stream, group)
                # A flood of connections never lets accept wait, and the daemon has other work.
                await anyio.lowlevel.checkpoint()

    def _admit(self, stream: socket.socket, group: TaskGroup) -> None:
        clients = [client for client in self._established() if client.is_open]
        full = len(self._beginning) + len(clients) >= self._limits.connections
        if full and not self._make_room(clients):
            stream.close()
            return
        scope = anyio.CancelScope()
        self._beginning[scope] = None
        group.start_soon(self._begin, stream, scope, name="http client")

    def _make_room(self, clients: Sequence[Connection]) -> bool:
        """Drop a client that waits, or a handshake, the oldest; whether there was any."""
        waiting = (client for client in clients if client.is_waiting)
        longest = min(waiting, key=lambda client: client.waiting_since_s, default=None)
        if longest is not None:
            longest.abort()
        elif self._beginning:
            scope = next(iter(self._beginning))
            del self._beginning[scope]
            scope.cancel()
        else:
            return False
        return True

    async def _begin(self, stream: socket.socket, scope: anyio.CancelScope) -> None:
        """Make the connection; a handshake that fails costs its client alone."""
        context, demand = self._security.context, self._security.demand
        # For the handshake, and for the farewell at the end.
        timeout_s = self._limits.request_timeout_s if context else None
        try:
            with scope:
                await asyncio.get_running_loop().connect_accepted_socket(
                    lambda: self._make(lambda: self._security.demand == demand),
                    stream,
                    ssl=context,
                    ssl_handshake_timeout=timeout_s,
                    ssl_shutdown_timeout=timeout_s,
                )
        except OSError as error:
            log.debug("connection not established error=%r", str(error))
        finally:
            self._beginning.pop(scope, None)


async def bind(host: str, port: int, where: str) -> socket.socket:
    """A listening socket that doesn't block.

    Args:
        host: Name or IP address, empty for every address of the machine. Of a name's addresses
            one is used, IPv4 first, as Prometheus and its exporters do.
        port: TCP port, 0 for a free one.
        where: Configuration file, for messages.

    Raises:
        ConfigError: The address can't be bound.
    """
    try:
        bound = await _bind(host, port)
    except OSError as error:
        message = _explain(error, _render_address(host, port))
        raise ConfigError(Problem(where, "server.listen", message)) from error
    bound.setblocking(False)
    return bound


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
