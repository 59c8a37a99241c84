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
from telemetryd.serve.control.commands import DEFAULT_LIMITS, ControlServer, Limits, Outcome
from telemetryd.serve.control.protocol import MAX_ANSWER_BYTES
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

    def status(self) -> Outcome:
        self.given.append(("status",))
        return Outcome(self.state())

    async def reload(self) -> Outcome:
        self.given.append(("reload",))
        return Outcome({"changes": [], "problems": ["f.toml: k: is wrong"]}, ok=False)

    async def opt_in(self) -> Outcome:
        self.given.append(("opt-in",))
        return Outcome({"ended": [], "remaining": [], "problems": []})

    def start(self, name: str) -> Outcome:
        self.given.append(("start", name))
        raise ManagerError(f"there is no exporter {name!r}")

    async def stop(self, name: str) -> Outcome:
        self.given.append(("stop", name))
        if self.hold is not None:
            await self.hold.wait()
        return Outcome({"exporter": {"name": name, "state": "stopped", "detail": ""}})

    async def restart(self, name: str) -> Outcome:
        self.given.append(("restart", name))
        return Outcome({"exporter": {"name": name, "state": "idle", "detail": ""}})

    def trigger(self, name: str) -> Outcome:
        self.given.append(("trigger", name))
        return Outcome({"run": f"{name}#1"})

    async def cache(self, resource: str, *, verify: bool) -> Outcome:
        self.given.append(("cache", resource, verify))
        raise CommandRefused("nothing is held")


@asynccontextmanager
async def commanded(
    path: Path,
    commands: Noted,
    *,
    limits: Limits = DEFAULT_LIMITS,
    users: frozenset[int] | None = None,
) -> AsyncIterator[None]:
    """The server, until the block is left."""
    place = ControlSocket(str(path), explicit=True)
    async with open_control_socket(place, where="t.toml") as listener:
        assert listener is not None
        server = ControlServer(listener, commands, limits=limits, users=users)
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
