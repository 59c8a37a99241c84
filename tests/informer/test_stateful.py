"""Watch and store as a whole against a model of the API server, in any order of anything.

Hypothesis chooses what happens, on virtual time; what it finds it makes small. Whatever the order:
the deltas replay to what is held, at every single one; ``synced`` never reverts; requests stay
bounded; and a minute after all is well the cache is what the API server has.
"""

import asyncio
import sys
from random import Random

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from telemetryd.informer.informer import Informer
from telemetryd.model import Delta, Unreadable
from telemetryd.stats import InformerStats
from tests.informer.modelserver import AWAY, DENIED, ModelServer
from tests.informer.samples import THINGS, Thing, ThingRecord, event, thing
from tests.support.sampling import examples
from tests.support.virtualtime import VirtualTimeLoop

pytestmark = pytest.mark.timeout(400)  # what fails is made small, which takes minutes

WINDOW_S = 30.0
MOST_ROUNDS = 32
"""Lists, watches and probes in a window: one a second, and what a list takes along."""

NAMES = st.sampled_from("abc")
SIZES = st.integers(0, 3) | st.sampled_from(["large", [1], {"a": 1}, True])


class WatchAndStore(RuleBasedStateMachine):
    """One informer and what befalls it."""

    @initialize(
        seed=st.integers(0, 9), names=st.sets(NAMES), streamed=st.booleans(), served=st.booleans()
    )
    def begin(self, seed: int, names: set[str], *, streamed: bool, served: bool) -> None:
        self.loop = VirtualTimeLoop()
        self.server = ModelServer(Random(seed), streaming=served)
        for name in sorted(names):
            self.server.put(name, 1)
        self.informer: Informer[Thing, ThingRecord] = Informer(
            THINGS,
            self.server,
            now=self.loop.time,
            rng=Random(seed),
            stats=InformerStats(THINGS.id),
            page_size=2,
            streamed=streamed,
        )
        self.reader = self.informer.reader
        self.replayed: dict[str, ThingRecord | Unreadable] = {}
        self.wrong: list[str] = []
        self.was_synced = False
        self.reader.subscribe(self.replay)
        self.running = self.loop.create_task(self.informer.run())

    def teardown(self) -> None:
        if not hasattr(self, "loop"):
            return
        if sys.exc_info()[0] is None:  # else a rule or an invariant has failed already
            self.settle()
            self.deltas_replay_to_what_is_held()
        self.running.cancel()
        self.loop.run_until_complete(asyncio.gather(self.running, return_exceptions=True))
        self.loop.close()

    def replay(self, delta: Delta[ThingRecord]) -> None:
        old, new = delta.old, delta.new
        if self.replayed.get(delta.key) != old or old == new:
            self.wrong.append(f"not what was held: {delta}")
        if self.reader.get(delta.key) != new:
            self.wrong.append(f"a delta before it is held: {delta}")
        if old is not None and new is not None and old.uid != new.uid:
            self.wrong.append(f"another uid without a deletion: {delta}")
        if new is None:
            self.replayed.pop(delta.key, None)
        else:
            self.replayed[delta.key] = new

    # -- the cluster

    @rule(name=NAMES, size=SIZES)
    def put(self, name: str, size: object) -> None:
        self.server.put(name, size)

    @rule(name=NAMES)
    def delete(self, name: str) -> None:
        if name in self.server.objects:
            self.server.delete(name)

    @rule(name=NAMES)
    def make_anew(self, name: str) -> None:
        self.delete(name)
        self.server.put(name, 2)

    @rule()
    def compact(self) -> None:
        self.server.compact()

    # -- the way there

    @rule()
    def bookmark(self) -> None:
        self.server.mark()

    @rule(back=st.integers(0, 4))
    def tell_again(self, back: int) -> None:
        self.server.repeat(back)

    @rule()
    def expire(self) -> None:
        self.server.expire()

    @rule()
    def end(self) -> None:
        self.server.cut("end")

    @rule(left=st.integers(1, 200))
    def break_off_within_a_line(self, left: int) -> None:
        ghost = event("ADDED", thing("ghost", version=self.server.version + 1, uid="ghost"))
        self.server.cut(AWAY, ghost[: min(left, len(ghost) - 2)])

    @rule(line=st.sampled_from([b"\n", b"{]\n", b"null\n", b"\xff\n", event("SPLIT", {})]))
    def say_nonsense(self, line: bytes) -> None:
        self.server.say(line)

    @rule()
    def deny(self) -> None:
        self.server.refusal = DENIED
        self.server.cut("denied")

    @rule()
    def go_away(self) -> None:
        self.server.refusal = AWAY
        self.server.cut(AWAY)

    @precondition(lambda self: self.server.refusal is not None)
    @rule()
    def come_back(self) -> None:
        self.server.refusal = None

    # -- time

    @rule(seconds=st.floats(0.01, 5.0) | st.floats(5.0, 200.0))
    def wait(self, seconds: float) -> None:
        self.loop.run_until_complete(asyncio.sleep(seconds))

    @rule()
    def wait_for_the_resync(self) -> None:
        self.wait(4000.0)

    @rule()
    def settle(self) -> None:
        """All is well from now on: within a minute all agrees, and little was asked for it."""
        self.server.refusal = None
        asked = len(self.server.asked)
        self.wait(60.0)
        held = {key: self.reader.get(key) for key in self.reader.keys()}  # noqa: SIM118
        assert held == self.server.expected() == self.replayed
        assert self.reader.synced
        assert self.reader.status().last_error == ""
        assert self.reader.unreadable == sum(isinstance(each, Unreadable) for each in held.values())
        assert len(self.server.asked) - asked <= 20, self.server.asked[asked:]

    # -- at every step

    @invariant()
    def deltas_replay_to_what_is_held(self) -> None:
        if not hasattr(self, "loop"):
            return
        held = {key: self.reader.get(key) for key in self.reader.keys()}  # noqa: SIM118
        assert self.replayed == held
        assert not self.wrong

    @invariant()
    def synced_never_reverts(self) -> None:
        if not hasattr(self, "loop"):
            return
        assert self.reader.synced or not self.was_synced
        self.was_synced = self.reader.synced

    @invariant()
    def requests_are_bounded(self) -> None:
        if not hasattr(self, "loop"):
            return
        rounds = [at_s for at_s, what in self.server.asked if what != "page"]
        for index, at_s in enumerate(rounds[MOST_ROUNDS:], MOST_ROUNDS):
            assert at_s - rounds[index - MOST_ROUNDS] >= WINDOW_S, rounds[index - MOST_ROUNDS :]

    @invariant()
    def informer_runs(self) -> None:
        if hasattr(self, "loop"):
            assert not self.running.done()


TestWatchAndStore = WatchAndStore.TestCase
TestWatchAndStore.settings = settings(max_examples=examples(150), stateful_step_count=40)
