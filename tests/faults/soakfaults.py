"""The faults of the soak: short ones that need no agreement beforehand and may befall anything.

Each brings its fault and returns; whoever calls heals and judges. What a fault leads to by itself
is ``matrix``'s.
"""

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from random import Random

from tests.apiserver.admin import Admin
from tests.faults import acts
from tests.faults.acts import error, event, refusal
from tests.faults.bench import Bench
from tests.faults.matrix import one_list
from tests.faults.outages import BINDING
from tests.support.daemon import Daemon
from tests.system.replicas import DURATION_S, LEASE, LEASE_NAME

_RESOURCES = ("nodes", "clusters", "settings", "features", "namespaces", "*")


@dataclass(slots=True)
class Soaked:
    """What faults can be brought to: the bench, and the second replica past its proxy."""

    bench: Bench
    other: Daemon
    start_other: Callable[[], Daemon]
    rng: Random

    @property
    def admin(self) -> Admin:
        return self.bench.admin

    def resource(self) -> str:
        return self.rng.choice(_RESOURCES)

    def sleep(self, least_s: float, most_s: float) -> None:
        time.sleep(self.rng.uniform(least_s, most_s))


Fault = Callable[[Soaked], None]


def watches_end(soaked: Soaked) -> None:
    soaked.bench.proxy.hang_up(soaked.resource())


def connections_cut(soaked: Soaked) -> None:
    for _ in range(soaked.rng.randint(1, 4)):
        soaked.bench.proxy.cut()
        soaked.sleep(0.1, 2.0)


def partition(soaked: Soaked) -> None:
    soaked.bench.proxy.close_door()
    try:
        soaked.sleep(1.0, 10.0)
    finally:
        soaked.bench.proxy.open_door()


def history_gone(soaked: Soaked) -> None:
    one_list(soaked.bench)
    soaked.sleep(0.0, 1.0)


def internal_error(soaked: Soaked) -> None:
    soaked.bench.proxy.say(soaked.resource(), error(500, "InternalError"), "end")


def half_a_line(soaked: Soaked) -> None:
    line = event("ADDED", {"metadata": {"name": "ghost", "namespace": "local", "uid": "ghost"}})
    half = line[: soaked.rng.randrange(1, len(line) - 1)]
    soaked.bench.proxy.say(soaked.resource(), half, soaked.rng.choice(["end", "abort"]))


def nonsense(soaked: Soaked) -> None:
    lines = [b"{]\n", b"null\n", b'{"type":"\xff"}\n', event("SPLIT", {}), b"\n"]
    for _ in range(soaked.rng.randint(1, 3)):
        soaked.bench.proxy.say(soaked.resource(), soaked.rng.choice(lines))
        soaked.sleep(0.0, 1.0)


def refusals(soaked: Soaked) -> None:
    proxy = soaked.bench.proxy
    act = soaked.rng.choice(
        [
            refusal(410, "Expired"),
            refusal(429, "TooManyRequests", soaked.rng.choice(["", "1", "3", "soon"])),
            refusal(500, "InternalError"),
            refusal(503, "ServiceUnavailable"),
            refusal(403, "Forbidden"),
            acts.answer(200, acts.HTML, "text/html"),
            acts.truncated_gzip,
            acts.end_at_once,
        ]
    )
    verb = soaked.rng.choice(["list", "watch", "*"])
    proxy.rule(soaked.resource(), verb, act, soaked.rng.choice([1, 3, None]))
    proxy.hang_up()
    soaked.sleep(1.0, 6.0)


def no_answers(soaked: Soaked) -> None:
    proxy = soaked.bench.proxy
    act = soaked.rng.choice([acts.silence, acts.headers_alone, acts.drip])
    proxy.rule(soaked.resource(), soaked.rng.choice(["list", "watch"]), act)
    proxy.hang_up()
    soaked.sleep(1.0, 6.0)


def lines_lost_with_their_watch(soaked: Soaked) -> None:
    soaked.bench.proxy.edit("nodes", lambda _: b"")
    soaked.sleep(1.0, 4.0)
    soaked.bench.proxy.edit("nodes", lambda line: line)
    # What a blackhole swallowed comes only by another watch from where the last line came
    # through, or by a list: here the watch that follows knows no better, so its history goes.
    one_list(soaked.bench)


def wrong_certificate(soaked: Soaked) -> None:
    soaked.bench.proxy.wrong_certificate(days=soaked.rng.choice([-1, 10]), address="127.0.0.3")
    soaked.sleep(1.0, 4.0)


def token_rotated(soaked: Soaked) -> None:
    bench = soaked.bench
    old = bench.tokens[-1]
    if soaked.rng.random() < 0.5:
        bench.token_file.write_text("")
        soaked.sleep(0.0, 1.0)
    bench.token_file.write_text(f"{bench.new_token()}\n")
    bench.proxy.rule("*", "*", acts.refuse_token(old))
    bench.proxy.hang_up()
    soaked.sleep(1.0, 3.0)


def apiserver_killed(soaked: Soaked) -> None:
    soaked.bench.apiserver.kill_apiserver()
    soaked.sleep(0.0, 5.0)
    soaked.bench.apiserver.start_apiserver()


def apiserver_frozen(soaked: Soaked) -> None:
    soaked.bench.apiserver.pause()
    try:
        soaked.sleep(1.0, 8.0)
    finally:
        soaked.bench.apiserver.resume()


def history_compacted_while_away(soaked: Soaked) -> None:
    soaked.bench.proxy.close_door()
    try:
        soaked.sleep(0.5, 2.0)
        soaked.bench.apiserver.kill_apiserver()
        soaked.bench.apiserver.compact()
        soaked.bench.apiserver.start_apiserver()
    finally:
        soaked.bench.proxy.open_door()


def etcd_killed(soaked: Soaked) -> None:
    soaked.bench.apiserver.kill_etcd()
    soaked.sleep(0.5, 5.0)
    soaked.bench.apiserver.start_etcd()


def rights_taken(soaked: Soaked) -> None:
    binding = soaked.admin.get(BINDING)
    soaked.admin.delete(BINDING)
    try:
        soaked.bench.proxy.hang_up()
        soaked.sleep(1.0, 5.0)
    finally:
        del binding["metadata"]["resourceVersion"], binding["metadata"]["uid"]
        soaked.admin.create(BINDING.rpartition("/")[0], binding)


def lease_hangs(soaked: Soaked) -> None:
    for resource in (LEASE_NAME, "leases"):
        soaked.bench.proxy.rule(resource, "*", acts.silence)
    soaked.sleep(1.0, 2 * DURATION_S)


def lease_stolen_or_deleted(soaked: Soaked) -> None:
    if soaked.rng.random() < 0.5:
        soaked.admin.delete(LEASE)
    else:
        spec = {"holderIdentity": "usurper", "leaseDurationSeconds": 1}
        soaked.admin.patch(LEASE, {"spec": spec})
    soaked.sleep(0.0, 2.0)


def replica_frozen(soaked: Soaked) -> None:
    process = soaked.rng.choice([soaked.bench.daemon, soaked.other]).process
    os.kill(process.pid, signal.SIGSTOP)
    try:
        soaked.sleep(1.0, 2 * DURATION_S)
    finally:
        os.kill(process.pid, signal.SIGCONT)


def replica_killed(soaked: Soaked) -> None:
    if soaked.rng.random() < 0.5:
        soaked.other.process.kill()
        soaked.other.process.wait()
    else:
        assert soaked.other.stop() == 0, soaked.other.log()[-3000:]
    soaked.sleep(0.0, DURATION_S)
    soaked.other = soaked.start_other()


FAULTS: tuple[Fault, ...] = (
    watches_end,
    connections_cut,
    partition,
    history_gone,
    internal_error,
    half_a_line,
    nonsense,
    refusals,
    no_answers,
    lines_lost_with_their_watch,
    wrong_certificate,
    token_rotated,
    apiserver_killed,
    apiserver_frozen,
    history_compacted_while_away,
    etcd_killed,
    rights_taken,
    lease_hangs,
    lease_stolen_or_deleted,
    replica_frozen,
    replica_killed,
)


@contextmanager
def healing(soaked: Soaked) -> Iterator[None]:
    """Whatever happens within, the proxy is well afterwards."""
    try:
        yield
    finally:
        soaked.bench.proxy.heal()
