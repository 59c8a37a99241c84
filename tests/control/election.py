"""A Lease in memory with the API server's preconditions, and replicas that stand for it.

What a replica does is on record; what stands between it and the Lease can be changed at any time.
"""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from random import Random
from typing import Any, TypeVar

import anyio
import orjson

from telemetryd.control.elector import Elector
from telemetryd.control.epochs import Epochs
from telemetryd.control.lease import (
    FetchedLease,
    LeaseApi,
    LeaseTiming,
    Term,
    parse_lease,
    render_lease,
)
from telemetryd.errors import Conflict, NotFound, Reason, Unavailable

T = TypeVar("T")

TIMING = LeaseTiming()


@dataclass(slots=True)
class Etcd:
    """The one Lease there is; None where there is none."""

    document: dict[str, Any] | None = None
    revision: int = 0
    writes: int = 0

    def write(self, document: dict[str, Any]) -> FetchedLease:
        """Stores it under a new revision."""
        self.revision += 1
        self.writes += 1
        metadata = {"uid": f"uid-{self.revision}", **document["metadata"]}
        metadata["resourceVersion"] = str(self.revision)
        self.document = {**document, "metadata": metadata}
        return self.read()

    def read(self) -> FetchedLease:
        """It, as the daemon reads it."""
        return parse_lease(orjson.dumps(self.document))

    def meddle(self, **spec: Any) -> None:
        """Changes some of its spec, as somebody with kubectl might."""
        assert self.document is not None
        self.write({**self.document, "spec": {**self.document["spec"], **spec}})

    @property
    def holder(self) -> str:
        """Who holds it, empty for nobody."""
        return self.read().record.holder if self.document is not None else ""


@dataclass(slots=True)
class Line(LeaseApi):
    """What lies between one replica and the Lease.

    Attributes:
        latency_s: Each way.
        broken: No request comes through.
        deaf: Requests come through, answers don't.
        hangs: Nothing is answered, nor refused, before it is over.
    """

    etcd: Etcd
    latency_s: float = 0.01
    broken: bool = False
    deaf: bool = False
    hangs: bool = False

    async def read(self, timeout_s: float) -> FetchedLease | None:
        return await self._carry("GET", timeout_s, self._find)

    async def create(self, term: Term, timeout_s: float) -> FetchedLease:
        def make() -> FetchedLease:
            if self.etcd.document is not None:
                raise Conflict("it exists", status=409, reason="AlreadyExists")
            document = {"kind": "Lease", "metadata": {"name": "telemetryd"}}
            return self.etcd.write(render_lease(document, term, 0.0))

        return await self._carry("POST", timeout_s, make)

    async def replace(self, over: FetchedLease, term: Term, timeout_s: float) -> FetchedLease:
        def write() -> FetchedLease:
            if self.etcd.document is None:
                raise NotFound("it is gone", status=404)
            if self.etcd.read().record.resource_version != over.record.resource_version:
                raise Conflict("it has changed", status=409)
            return self.etcd.write(render_lease(over.document, term, 0.0))

        return await self._carry("PUT", timeout_s, write)

    def _find(self) -> FetchedLease | None:
        return self.etcd.read() if self.etcd.document is not None else None

    async def _carry(self, method: str, timeout_s: float, act: Callable[[], T]) -> T:
        """There, done, and back."""
        try:
            with anyio.fail_after(timeout_s):
                await self._pass()
                answer = act()
                if self.deaf:
                    await anyio.sleep_forever()
                await self._pass()
                return answer
        except TimeoutError as error:
            raise Unavailable(f"{method}: no answer", kind=Reason.TIMEOUT) from error

    async def _pass(self) -> None:
        await anyio.sleep(self.latency_s)
        if self.broken:
            raise Unavailable("no connection", kind=Reason.CONNECT)
        while self.hangs:
            await anyio.sleep(0.1)


@dataclass(slots=True)
class Replica:
    """A candidate, and what it was asked to do.

    Attributes:
        orders: (virtual time, ``lead`` or ``stand by``), in order.
        working: Between the two.
        ends_in_s: How long its work takes to come to an end.
        epochs: What it remembers of them.
        named: The epoch that a Secret names.
    """

    name: str
    line: Line
    rng: Random
    timing: LeaseTiming = TIMING
    ends_in_s: float = 0.0
    orders: list[tuple[float, str]] = field(default_factory=list)
    working: bool = False
    skew_s: float = 0.0
    epochs: Epochs = field(default_factory=Epochs)
    named: int = 0
    elector: Elector = field(init=False)
    life: anyio.CancelScope = field(default_factory=anyio.CancelScope)

    def __post_init__(self) -> None:
        self.elector = Elector(
            self.line,
            prepare=self.prepare,
            lead=self.lead,
            stand_by=self.stand_by,
            name="telemetryd",
            identity=self.name,
            timing=self.timing,
            epochs=self.epochs,
            rng=self.rng,
            clock=lambda: anyio.current_time() + self.skew_s,
        )

    async def run(self) -> None:
        """Stands for election until it is to die."""
        with self.life:
            await self.elector.run()

    async def prepare(self) -> None:
        self.elector.saw(self.named)

    async def lead(self) -> None:
        self.orders.append((anyio.current_time(), "lead"))
        self.working = True

    async def stand_by(self, leader: str) -> None:
        await anyio.sleep(self.ends_in_s if self.working else 0)
        if self.working or not self.orders:
            self.orders.append((anyio.current_time(), "stand by"))
        self.working = False

    @property
    def leading(self) -> bool:
        """Whether a side effect of its may begin now."""
        return self.elector.leading


def replicas(number: int, etcd: Etcd, *, seed: int = 1) -> list[Replica]:
    """So many, each with a line of its own and a clock of its own."""
    return [
        Replica(f"replica-{index}", Line(etcd), Random(seed * 100 + index), skew_s=1000.0 * index)
        for index in range(number)
    ]


@asynccontextmanager
async def standing(*candidates: Replica) -> AsyncIterator[None]:
    """Lets them stand for election until the block is left."""
    async with anyio.create_task_group() as group:
        for candidate in candidates:
            group.start_soon(candidate.run)
        yield
        group.cancel_scope.cancel()


async def until_leading(*candidates: Replica, within_s: float) -> Replica:
    """The one that leads, as soon as one does."""
    deadline = anyio.current_time() + within_s
    while anyio.current_time() <= deadline:
        for candidate in candidates:
            if candidate.leading:
                return candidate
        await anyio.sleep(0.05)
    raise AssertionError(f"no candidate leads after {within_s} s: {[c.orders for c in candidates]}")
