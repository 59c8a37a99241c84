"""What a collection costs as a fleet of different nodes grows tenfold: what its payload grows by.

The fleet is the benchmark's real one, whose nodes have each a memory size of their own. Operations
and bytes are counted, not timed.
"""

import gc
import sys
import tracemalloc
from collections.abc import Callable
from types import FrameType
from typing import Any

import orjson
import pytest

from benchmarks.inprocess import fill, gatherer_of, two_states
from benchmarks.realfleet import RealFleet
from telemetryd.export.payloads.formats import PAYLOAD_FORMATS
from telemetryd.gather.project import NODES
from telemetryd.model import Delivery

pytestmark = pytest.mark.anyio

FEW = 500
MANY = 10 * FEW


class Collected:
    """A collection after one node has become another machine, in a fleet of so many nodes.

    Attributes:
        operations: Bytecode operations of it.
        most_bytes: Allocated at most in another one.
        rows: Of nodes that are alike, in its payload.
    """

    operations: int
    most_bytes: int
    rows: int

    @classmethod
    async def of(cls, nodes: int) -> "Collected":
        """Fill the stores, and collect."""
        fleet, resource = RealFleet(nodes), NODES
        store = await fill(resource, (o for o in fleet.objects() if o.plural == "nodes"))
        gatherer = await gatherer_of(fleet, store)
        render = PAYLOAD_FORMATS["scc"].renderer()
        states = two_states(fleet, resource)
        assert len(store) == fleet.nodes

        def collect() -> bytes:
            return render(gatherer.snapshot(), Delivery(at=0.0)).body

        def change(turn: int) -> None:
            store.upsert(*states[turn % 2])
            store.flush()

        bodies = []
        for turn in range(4):  # what is made once is made by the first
            change(turn)
            bodies.append(collect())
        assert len(set(bodies)) == 2
        collected = cls()
        change(0)
        collected.operations = operations(collect)
        change(1)
        collected.most_bytes = most_bytes(collect)
        collected.rows = len(orjson.loads(bodies[0])["managedSystems"])
        return collected


def operations(work: Callable[[], object]) -> int:
    """Bytecode operations that it takes, whatever the machine."""
    count = 0

    def trace(frame: FrameType, event: str, _argument: object) -> Any:
        nonlocal count
        frame.f_trace_opcodes = True
        frame.f_trace_lines = False
        count += event == "opcode"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        work()
    finally:
        sys.settrace(before)
    return count


def most_bytes(work: Callable[[], object]) -> int:
    """What it allocates at most, which is what it builds and copies."""
    gc.collect()
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


async def test_collection_grows_with_the_rows_of_its_payload_and_not_with_different_nodes() -> None:
    few, many = await Collected.of(FEW), await Collected.of(MANY)
    assert many.rows < 5 * few.rows  # of ten times the nodes
    growth = many.rows / few.rows
    assert many.operations <= 1.25 * growth * few.operations
    assert many.most_bytes <= 1.25 * growth * few.most_bytes
