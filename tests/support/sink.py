"""A receiver that records who sent what when, and tells whether two ever wrote at once.

Every sender has a path of its own. What is sent to it doesn't matter here, only its headers do.
"""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise

from tests.support.receiver import Request, Verdict, receiving_in_threads


@dataclass(frozen=True, slots=True)
class Post:
    """One delivery, from its headers to its answer, by the monotonic clock."""

    began_s: float
    ended_s: float
    sender: str
    epoch: int
    sequence: int
    digest: str = ""


class Sink:
    """The record of all deliveries; made by ``receiving``."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._posts: list[Post] = []
        self.address = ""

    def url(self, sender: str) -> str:
        """Where this one delivers to."""
        return f"{self.address}/{sender}"

    def note(self, post: Post) -> None:
        """Takes a delivery into the record."""
        with self._lock:
            self._posts.append(post)

    def posts(self, since_s: float = 0.0) -> list[Post]:
        """Deliveries that began since, in the order in which they began."""
        with self._lock:
            return sorted(
                (post for post in self._posts if post.began_s >= since_s),
                key=lambda post: post.began_s,
            )

    def check(self) -> None:
        """One writer at any instant: no two overlap, and each epoch is one sender's.

        Raises:
            AssertionError: Two of them don't agree with that.
        """
        for before, after in pairwise(self.posts()):
            both = f"{before} and then {after}"
            assert before.epoch <= after.epoch, f"an epoch came back: {both}"
            if before.sender == after.sender:
                # The same one comes again where its answer was too late.
                assert before.sequence <= after.sequence, f"a sequence fell: {both}"
            else:
                assert before.ended_s <= after.began_s, f"two wrote at once: {both}"
                assert before.epoch < after.epoch, f"two wrote under one epoch: {both}"


@contextmanager
def receiving() -> Iterator[Sink]:
    """A sink that takes everything until left."""
    sink = Sink()

    def take(request: Request) -> Verdict:
        sink.note(
            Post(
                request.at_s,
                time.monotonic(),
                request.target.strip("/"),
                request.epoch,
                request.sequence,
                request.headers.get("telemetryd-digest", ""),
            )
        )
        return Verdict(204)

    with receiving_in_threads(take) as sink.address:
        yield sink
