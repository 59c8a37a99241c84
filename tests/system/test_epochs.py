"""What a receiver that follows the documented rule holds in the end, whatever befell the replicas.

It refuses what isn't above the highest (epoch, sequence) it has taken. Two replicas whose clocks
are two minutes apart deliver to it, and are killed again and again. Or one finds its file with the
epoch damaged at each start, and the Lease gone.
"""

import json
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from random import Random

import pytest

from tests.apiserver.admin import Admin
from tests.apiserver.process import ApiServer
from tests.support.daemon import Daemon
from tests.support.receiver import Request, Verdict, receiving_in_threads
from tests.support.waiting import until
from tests.system.rancher import Rancher
from tests.system.replicas import DELIVERY, LEASE, SECRET

pytestmark = pytest.mark.long

ELECTION = """
[leader_election]
enabled = true
lease_duration = "2s"
renew_deadline = "1200ms"
retry_period = "250ms"
"""
SKEW = """
import time
real = time.time
time.time = lambda: real() + {skew_s}
"""
SKEWS_S = (60, -60)
SETTLE_S = 90
"""For a busy machine: two starts, an election and a run."""


class Receiver:
    """The documented rule, and a record of what it refused."""

    def __init__(self) -> None:
        self.highest = (0, 0)
        self.nodes = 0
        self.accepted = 0
        self.refused = 0
        self.refused_newer: list[str] = []
        self.url = ""

    def take(self, pair: tuple[int, int], nodes: int) -> bool:
        """Take a payload whose pair is above all before."""
        if pair <= self.highest:
            self.refused += 1
            if nodes > self.nodes:
                self.refused_newer.append(f"{pair} of {nodes} nodes at {self.highest}")
            return False
        self.highest, self.nodes = pair, nodes
        self.accepted += 1
        return True


@contextmanager
def receiving() -> Iterator[Receiver]:
    """A receiver until left."""
    receiver = Receiver()
    lock = threading.Lock()

    def take(request: Request) -> Verdict:
        nodes = json.loads(request.body)["totals"]["nodes"]
        with lock:
            taken = receiver.take((request.epoch, request.sequence), nodes)
            epoch, sequence = map(str, receiver.highest)
        headers = {"Telemetryd-Epoch": epoch, "Telemetryd-Sequence": sequence}
        return Verdict(204 if taken else 409, headers)

    with receiving_in_threads(take) as receiver.url:
        yield receiver


class Victim:
    """A replica with a clock of its own that is killed and started again."""

    def __init__(
        self,
        folder: Path,
        apiserver: ApiServer,
        receiver: Receiver,
        skew_s: int = 0,
        delivery: str = DELIVERY,
    ) -> None:
        folder.mkdir()
        self.folder = folder
        self.state = folder / "state"
        (folder / "sitecustomize.py").write_text(SKEW.format(skew_s=skew_s))
        self._kubeconfig = apiserver.kubeconfig(folder / "kubeconfig")
        url = f"{receiver.url}/"
        self._config = ELECTION + delivery.format(url=url) + SECRET
        self.daemon = self.start()

    def start(self) -> Daemon:
        """A process whose wall clock is wrong."""
        self.state.mkdir(exist_ok=True)
        self.daemon = Daemon(
            self.folder,
            self._kubeconfig,
            self._config,
            environ={"PYTHONPATH": str(self.folder), "STATE_DIRECTORY": str(self.state)},
        )
        return self.daemon

    def kill(self) -> None:
        self.daemon.process.kill()
        self.daemon.process.wait()

    def leading(self) -> bool:
        code, body = self.daemon.get("/status.json")
        return code == 200 and bool(json.loads(body)["leader"]["leading"])


@pytest.fixture
def rancher(admin: Admin) -> Iterator[Rancher]:
    with Rancher.built(admin, clusters=1, nodes=1) as fleet:
        yield fleet
        admin.delete(LEASE)


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("kills", [6, pytest.param(200, marks=pytest.mark.faults)])
def test_receiver_ends_with_the_newest_payload_and_never_drops_a_newer_one(
    kills: int, apiserver: ApiServer, rancher: Rancher, admin: Admin, tmp_path: Path
) -> None:
    rng = Random(kills)
    with receiving() as receiver, ExitStack() as ends:
        victims = []
        for number, skew_s in enumerate(SKEWS_S):
            victim = Victim(tmp_path / str(number), apiserver, receiver, skew_s)
            ends.callback(victim.kill)
            victims.append(victim)
        until(lambda: receiver.accepted, "a first delivery", deadline_s=SETTLE_S)

        for kill in range(kills):
            rancher.add_node("local", 20_000 + kill)
            before = receiver.accepted
            if kill % 3 == 0:
                until(lambda: receiver.accepted > before, "a delivery", deadline_s=SETTLE_S)  # noqa: B023
            else:
                time.sleep(rng.uniform(0.0, 2.0))
            victim = next((each for each in victims if each.leading()), rng.choice(victims))
            victim.kill()
            if kill == kills // 3:
                shutil.rmtree(victim.state)
            if kill == kills // 2:
                admin.delete(LEASE)
            victim.start()

        newest = 1 + kills
        until(lambda: receiver.nodes == newest, "the newest payload", deadline_s=SETTLE_S)
        assert receiver.refused_newer == []
        assert receiver.highest[0] > kills / 3, "each third kill ended a term at least"


DELIVERED_ONCE = DELIVERY.replace('max_silence = "1s"\n', "").replace("spool = false\n", "")
UNCHANGED = 'telemetryd_exporter_runs_total{exporter="delivery",result="unchanged"}'
DAMAGED = "epoch file is damaged, ignoring it"


def with_content(content: bytes) -> Callable[[Path], object]:
    return lambda file: file.write_bytes(content)


def in_its_place(make: Callable[[Path], object]) -> Callable[[Path], object]:
    def replace(file: Path) -> None:
        file.unlink()
        make(file)

    return replace


DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "emptied": (with_content(b""), DAMAGED),
    "cut": (with_content(b"1"), ""),
    "binary": (with_content(b"\xff\x00\x9f7\n"), DAMAGED),
    "negative": (with_content(b"-7\n"), DAMAGED),
    "no int32": (with_content(b"2147483648\n"), DAMAGED),
    "huge": (with_content(b"7" * (3 << 20)), DAMAGED),
    "of another program": (with_content(b'{"version": 2, "epoch": 7}\n'), DAMAGED),
    "removed": (Path.unlink, ""),
    "pipe": (in_its_place(os.mkfifo), DAMAGED),
    "link to itself": (in_its_place(lambda file: file.symlink_to(file.name)), DAMAGED),
    "folder": (in_its_place(Path.mkdir), "cannot keep the leadership epoch"),
}
"""What befalls the file, and what is said of it; empty for nothing."""


@pytest.mark.timeout(1800)
@pytest.mark.parametrize(
    "names",
    [
        ("of another program", "pipe", "folder"),
        pytest.param(tuple(DAMAGES), marks=pytest.mark.faults),
    ],
    ids=["some", "all"],
)
def test_damaged_epoch_file_is_named_once_and_nothing_is_sent_twice_or_lost(
    names: tuple[str, ...], apiserver: ApiServer, rancher: Rancher, admin: Admin, tmp_path: Path
) -> None:
    with receiving() as receiver, ExitStack() as ends:
        victim = Victim(tmp_path / "one", apiserver, receiver, delivery=DELIVERED_ONCE)
        ends.callback(victim.kill)
        file = victim.state / "epoch"
        pending = victim.state / "spool" / "delivery" / "pending"
        until(lambda: receiver.accepted, "a first delivery", deadline_s=SETTLE_S)
        for number, name in enumerate(names):
            damage, said = DAMAGES[name]
            until(
                lambda: is_epoch(file, receiver.highest[0]),
                "the epoch on disk",
                deadline_s=SETTLE_S,
            )
            until(lambda: not pending.exists(), "the delivery on disk", deadline_s=SETTLE_S)
            victim.kill()
            damage(file)
            admin.delete(LEASE)  # nothing but the spool knows the epoch now
            begun = len(victim.daemon.log())
            daemon = victim.start()
            daemon.wait_for(name, lambda: daemon.metric(UNCHANGED), SETTLE_S)  # noqa: B023
            assert receiver.accepted == number + 1, f"{name}: sent twice"
            rancher.add_node("local", 30_000 + number)
            until(lambda: receiver.nodes == number + 2, name, deadline_s=SETTLE_S)  # noqa: B023
            assert (receiver.accepted, receiver.refused) == (number + 2, 0), name
            logged = daemon.whole_log()[begun:].splitlines()
            lines = [line for line in logged if f'"file":"{file}"' in line]
            assert len(lines) == bool(said), (name, lines)
            assert all(said in line for line in lines)
            if file.is_dir():
                file.rmdir()
        assert receiver.refused_newer == []


def is_epoch(file: Path, epoch: int) -> bool:
    return file.is_file() and file.read_text() == f"telemetryd-epoch 1 {epoch}\n"
