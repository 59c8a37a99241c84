"""A control server on a real socket, with commands that only note that they were given."""

import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anyio

from telemetryd.config import ControlSocket
from telemetryd.errors import CommandRefused, ManagerError
from telemetryd.serve.control.protocol import MAX_ANSWER_BYTES, CommandAnswer, Request
from telemetryd.serve.control.server import DEFAULT_LIMITS, ControlLimits, ControlServer
from telemetryd.serve.control.socketfile import open_control_socket


@dataclass
class Noted:
    """Commands, and what they were given.

    Attributes:
        hold: ``stop`` waits for it; None for not at all.
        state: What ``status`` shows.
    """

    given: list[tuple[Any, ...]] = field(default_factory=list)
    hold: anyio.Event | None = None
    state: Callable[[], dict[str, Any]] = lambda: {"version": "0"}

    async def execute(self, request: Request) -> CommandAnswer:
        name = request.name
        given = (name, request.verify) if request.command == "cache" else (name,) if name else ()
        self.given.append((request.command, *given))
        ok, result = True, {}
        match request.command:
            case "status":
                result = self.state()
            case "reload":
                ok, result = False, {"changes": [], "problems": ["f.toml: k: is wrong"]}
            case "opt-in":
                result = {"ended": [], "remaining": [], "problems": []}
            case "start":
                raise ManagerError(f"there is no exporter {name!r}")
            case "stop":
                if self.hold is not None:
                    await self.hold.wait()
                result = {"exporter": {"name": name, "state": "stopped", "detail": ""}}
            case "restart":
                result = {"exporter": {"name": name, "state": "idle", "detail": ""}}
            case "trigger":
                result = {"run": f"{name}#1"}
            case "cache":
                raise CommandRefused("nothing is held")
        return CommandAnswer(ok, result=result)


@asynccontextmanager
async def commanded(
    path: Path,
    commands: Noted,
    *,
    limits: ControlLimits = DEFAULT_LIMITS,
    users: frozenset[int] | None = None,
) -> AsyncIterator[None]:
    """The server, until the block is left."""
    place = ControlSocket(str(path), explicit=True)
    async with open_control_socket(place, where="t.toml") as listener:
        assert listener is not None
        server = ControlServer(listener, commands.execute, limits=limits, users=users)
        async with anyio.create_task_group() as group:
            group.start_soon(server.run)
            yield
            group.cancel_scope.cancel()


class Asker:
    """One connection of a client that may be as rude as it likes."""

    def __init__(self, stream: anyio.abc.SocketStream) -> None:
        self.stream = stream
        self._received = b""

    async def send(self, data: bytes) -> None:
        await self.stream.send(data)

    async def answer(self) -> dict[str, Any]:
        """The next answer."""
        while b"\n" not in self._received:
            assert len(self._received) < MAX_ANSWER_BYTES
            self._received += await self.stream.receive()
        line, _, self._received = self._received.partition(b"\n")
        document: dict[str, Any] = json.loads(line)
        return document

    async def ask(self, **request: Any) -> dict[str, Any]:
        await self.send(json.dumps(request).encode() + b"\n")
        return await self.answer()

    async def is_closed(self) -> bool:
        """Whether the server has hung up, once it has."""
        try:
            return not await self.stream.receive()
        except (anyio.EndOfStream, anyio.BrokenResourceError):
            return True


@asynccontextmanager
async def connected(path: Path) -> AsyncIterator[Asker]:
    """A client."""
    async with await anyio.connect_unix(path) as stream:
        yield Asker(stream)
