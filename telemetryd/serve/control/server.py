"""The server of the control socket: who may command, and how long commands may take.

What a command does is in ``daemon.commands``.
"""

import asyncio
import logging
import os
import socket
import struct
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TypeAlias

import anyio
import anyio.lowlevel
from anyio.abc import TaskGroup

from telemetryd.bounds import document
from telemetryd.errors import TelemetrydError
from telemetryd.serve.control.protocol import (
    MAX_REQUEST_BYTES,
    READING,
    CommandAnswer,
    Request,
    UnknownHereError,
    parse_request,
    render_line,
)

log = logging.getLogger(__name__)

_CREDENTIALS = struct.Struct("3i")
"""Process, user and group: ``struct ucred`` of unix(7)."""
_ROOT = 0
_READ_BYTES = 4096
_ACCEPT_PAUSE_S = 0.5


@dataclass(frozen=True, slots=True)
class ControlLimits:
    """Limits on each client.

    Attributes:
        request_timeout_s: From the connection or the last answer until a whole request is read.
        command_timeout_s: A command that takes longer is cancelled.
        answer_timeout_s: For the client to read the answer.
        connections: At the same time. One more replaces the one that has waited longest without
            a request.
    """

    request_timeout_s: float = 5.0
    command_timeout_s: float = 3660.0  # a configuration may give exporters an hour to end
    answer_timeout_s: float = 10.0
    connections: int = 32


DEFAULT_LIMITS = ControlLimits()


Execute: TypeAlias = Callable[[Request], Awaitable[CommandAnswer]]
"""Carries a command out; a TelemetrydError refuses it and says why."""


@dataclass(eq=False, slots=True)
class _Client:
    """One connection."""

    stream: socket.socket
    scope: anyio.CancelScope = field(default_factory=anyio.CancelScope)
    waiting: bool = True


class ControlServer:
    """Takes commands from a listening socket."""

    def __init__(
        self,
        listener: socket.socket,
        execute: Execute,
        *,
        limits: ControlLimits = DEFAULT_LIMITS,
        users: frozenset[int] | None = None,
    ) -> None:
        """Nothing is accepted before ``run``.

        ``listener`` is non-blocking, and closed by the caller; without ``users``, root and the
        daemon's own user may command.
        """
        self._listener = listener
        self._execute = execute
        self._limits = limits
        self._users = frozenset({_ROOT, os.geteuid()}) if users is None else users
        self._clients: dict[_Client, None] = {}
        self._accepting = True

    async def run(self) -> None:
        """Take commands until cancelled."""
        loop = asyncio.get_running_loop()
        async with anyio.create_task_group() as group:
            while True:
                try:
                    stream, _ = await loop.sock_accept(self._listener)
                except OSError as error:
                    level = logging.WARNING if self._accepting else logging.DEBUG
                    self._accepting = False
                    log.log(level, "control connections can't be accepted error=%r", error.strerror)
                    await anyio.sleep(_ACCEPT_PAUSE_S)
                    continue
                self._accepting = True
                self._admit(stream, group)
                # A flood of connections never lets accept wait, and the daemon has other work.
                await anyio.lowlevel.checkpoint()

    def _admit(self, stream: socket.socket, group: TaskGroup) -> None:
        if len(self._clients) >= self._limits.connections:
            idle = next((client for client in self._clients if client.waiting), None)
            if idle is None:
                with stream, suppress(OSError):
                    stream.send(_refusal("too many commands at a time"))
                return
            del self._clients[idle]
            idle.scope.cancel()
        client = _Client(stream)
        self._clients[client] = None
        group.start_soon(self._serve, client, name="control client")

    async def _serve(self, client: _Client) -> None:
        with client.stream, client.scope:
            try:
                await self._converse(client)
            except OSError as error:
                log.debug("control client left error=%r", error.strerror)
            finally:
                self._clients.pop(client, None)

    async def _converse(self, client: _Client) -> None:
        user = _user_of(client.stream)
        if user not in self._users:
            log.warning("control client refused uid=%d", user)
            await self._send(client, _refusal("only root and the daemon's own user may command"))
            return
        received = bytearray()
        while True:
            client.waiting = True
            line = await self._receive_line(client, received)
            if line is None:
                return
            client.waiting = False
            try:
                request = parse_request(line)
            except UnknownHereError as error:
                await self._send(client, _refusal(str(error)))
                return
            except ValueError as error:
                await self._send(client, _refusal(f"not a request: {error}"))
                return
            answer = await self._answer(request, user)
            if not await self._send(client, answer):
                return

    async def _receive_line(self, client: _Client, received: bytearray) -> bytes | None:
        """The next line, without its end; None where none comes in time, or ever.

        ``received`` has what has come beyond the last line; it is changed.
        """
        loop = asyncio.get_running_loop()
        with anyio.move_on_after(self._limits.request_timeout_s):
            while (end := received.find(b"\n")) < 0:
                if len(received) > MAX_REQUEST_BYTES:
                    break
                chunk = await loop.sock_recv(client.stream, _READ_BYTES)
                if not chunk:
                    return None
                received += chunk
            if 0 <= end <= MAX_REQUEST_BYTES:
                line = bytes(received[:end])
                del received[: end + 1]
                return line
            await self._send(client, _refusal(f"longer than {MAX_REQUEST_BYTES} bytes"))
        return None

    async def _send(self, client: _Client, line: bytes) -> bool:
        """Send within the deadline; whether that was possible."""
        with anyio.move_on_after(self._limits.answer_timeout_s) as deadline:
            await asyncio.get_running_loop().sock_sendall(client.stream, line)
        return not deadline.cancelled_caught

    async def _answer(self, request: Request, user: int) -> bytes:
        """The answer as a line, also where the command is refused or fails."""
        if request.command not in READING - {"support-bundle"}:
            log.info("control command=%s name=%r uid=%d", request.command, request.name, user)
        timeout_s = self._limits.command_timeout_s
        try:
            with anyio.fail_after(timeout_s):
                answer = await self._execute(request)
            return render_line(CommandAnswer(ok=answer.ok, result=document(answer.result)))
        except TelemetrydError as error:
            return _refusal(str(error))
        except TimeoutError:
            return _refusal(f"{request.command} didn't end within {timeout_s:g} s")
        except Exception:
            log.exception("control command failed command=%s", request.command)
            return _refusal("internal error: the log says more")


def _refusal(why: str) -> bytes:
    return render_line(CommandAnswer(ok=False, error=document(why)))


def _user_of(stream: socket.socket) -> int:
    """Id of the user who connected, as the kernel noted it then."""
    packed = stream.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    _, user, _ = _CREDENTIALS.unpack(packed)
    return int(user)
