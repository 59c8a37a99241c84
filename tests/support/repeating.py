"""Work that a test has done beside it."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

_END_S = 60.0


@contextmanager
def repeating(do: Callable[[], object], *, every_s: float) -> Iterator[None]:
    """Do it time and again in a thread until left; what it raised is raised then."""
    over = threading.Event()

    def go_on() -> None:
        while not over.wait(every_s):
            do()

    with ThreadPoolExecutor(1) as pool:
        work = pool.submit(go_on)
        try:
            yield
        finally:
            over.set()
        work.result(_END_S)
