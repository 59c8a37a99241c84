"""A plug-in that keeps the contract, over a destination in memory, for tests to make wrong."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar

import anyio
import anyio.lowlevel

from telemetryd.api import (
    BuildContext,
    Choice,
    ExportContext,
    Exporter,
    ExporterConfig,
    Outcome,
    Payload,
    Reason,
    RetryableError,
)

Behaviour = Callable[["Memory", Payload, ExportContext], Awaitable[Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryConfig(ExporterConfig):
    """Its table.

    Attributes:
        place: Where to, ``down`` for a destination that fails.
    """

    type: ClassVar[str] = "memory"
    place: Annotated[str, Choice(("up", "down"))] = "up"


@dataclass(slots=True)
class Memory:
    """The destination, and a plug-in whose exporters do as the test says.

    Attributes:
        held: What was written.
        down: A table asked for a destination that fails.
    """

    behave: Behaviour
    held: list[bytes] = field(default_factory=list)
    down: bool = False
    config: Any = MemoryConfig

    def build(self, config: Any, context: BuildContext) -> Exporter:
        self.down = config.place == "down"
        return Writer(self)

    def delivered(self) -> list[bytes]:
        return list(self.held)


@dataclass(slots=True)
class Writer:
    """An exporter that does as the test says."""

    memory: Memory

    async def export(self, payload: Payload, context: ExportContext) -> Outcome:
        found: Outcome = await self.memory.behave(self.memory, payload, context)
        return found

    async def aclose(self) -> None:
        await anyio.lowlevel.checkpoint()


async def keep_the_contract(memory: Memory, payload: Payload, context: ExportContext) -> Outcome:
    """Three waits, the fence, and the write."""
    await anyio.lowlevel.checkpoint()
    await anyio.sleep(0)
    if memory.down:
        raise RetryableError(Reason.CONNECT, "nothing listens there: start it")
    context.fence()
    memory.held.append(payload.body)
    await anyio.sleep(0)
    return Outcome.WRITTEN
