"""What a process holds, so that growth can be seen."""

import asyncio
import gc
import sys
import threading
import time
import tracemalloc
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final, TypeVar

T = TypeVar("T")

_MOST_REPLAYED: Final = 200
_SETTLE_S: Final = 60.0
"""Idle worker threads end after 10 s, and so does a connection on which nothing whole comes."""
_POLL_S: Final = 0.25
_UNBROKEN_S: Final = 60.0

_SLACK_OTHERS: Final = 4
_SLACK_OBJECTS: Final = 400
_SLACK_BYTES: Final = 192 * 1024
"""What a busy daemon holds more or less of from one moment to the next."""
_OBJECTS_PER_EXAMPLE: Final = 0.5
_BYTES_PER_EXAMPLE: Final = 64.0


@dataclass(frozen=True)
class Counts:
    """What is held at a moment.

    Attributes:
        objects: That the garbage collector follows, after a collection.
        traced_bytes: By tracemalloc, 0 where it doesn't run.
    """

    descriptors: int
    threads: int
    tasks: int
    objects: int
    traced_bytes: int

    def excess(self, earlier: "Counts", examples: int) -> dict[str, int]:
        """What has grown beyond what so many examples may leave, by name."""
        allowed = {
            "descriptors": _SLACK_OTHERS,
            "threads": _SLACK_OTHERS,
            "tasks": _SLACK_OTHERS,
            "objects": _SLACK_OBJECTS + int(_OBJECTS_PER_EXAMPLE * examples),
            "traced_bytes": _SLACK_BYTES + int(_BYTES_PER_EXAMPLE * examples),
        }
        mine, before = asdict(self), asdict(earlier)
        return {
            name: mine[name] - before[name]
            for name, most in allowed.items()
            if mine[name] - before[name] > most
        }


def count() -> Counts:
    """What this process holds now."""
    gc.collect()
    # Another thread must not run meanwhile: a tuple that it is making can't grow while it is held.
    interval_s = sys.getswitchinterval()
    sys.setswitchinterval(_UNBROKEN_S)
    try:
        objects = gc.get_objects()
        number = len(objects)
        tasks = sum(isinstance(each, asyncio.Task) and not each.done() for each in objects)
        del objects
    finally:
        sys.setswitchinterval(interval_s)
    return Counts(
        descriptors=len(list(Path("/proc/self/fd").iterdir())),
        threads=threading.active_count(),
        tasks=tasks,
        objects=number,
        traced_bytes=tracemalloc.get_traced_memory()[0],
    )


def assert_no_growth(run: Callable[[], None], examples: int, look: Callable[[], Counts]) -> None:
    """After a further run of so many examples another process holds as much as before it.

    Whatever is still ending there is waited for. What is made once is no growth: the first write of
    the history comes when a minute is over, wherever the runs are then.
    """
    run()
    for is_last in (False, True):
        earlier = look()
        run()
        try:
            _compare(earlier, examples, look)
        except AssertionError:
            if is_last:
                raise
        else:
            return


def assert_no_growth_here(run: Callable[[T], object], found: Sequence[T]) -> None:
    """After some of the examples have been run once more as much is held as before.

    Hypothesis keeps much of what it has generated in this process, so it has no part in that.
    """
    replayed = found[-_MOST_REPLAYED:]
    tracemalloc.start()
    try:
        for each in replayed:
            run(each)
        earlier = count()
        for each in replayed:
            run(each)
        _compare(earlier, len(replayed), count)
    finally:
        tracemalloc.stop()


def _compare(earlier: Counts, examples: int, look: Callable[[], Counts]) -> None:
    deadline_s = time.monotonic() + _SETTLE_S
    while excess := (later := look()).excess(earlier, examples):
        assert time.monotonic() < deadline_s, f"grown by {excess}: {earlier} to {later}"
        time.sleep(_POLL_S)
