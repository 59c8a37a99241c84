"""Three replicas that share a Lease of the real API server, and all that can come between them.

Each writes into a folder of its own at every run; what is in all folders together is the record of
who acted when, under which epoch.
"""

import json
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tests.apiserver.admin import Admin
from tests.apiserver.process import ApiServer
from tests.system.daemon import Daemon
from tests.system.partition import Partition
from tests.system.rancher import Rancher

NAMESPACE = "cattle-telemetry-system"
LEASE = f"/apis/coordination.k8s.io/v1/namespaces/{NAMESPACE}/leases/telemetryd"
DURATION_S, DEADLINE_S, RETRY_S = 4.0, 2.5, 0.5
HAND_OVER_S = DURATION_S + 2.5 * RETRY_S
SLACK_S = 2.0
"""For a run to follow on a take-over, on a busy machine."""

CONFIG = f"""
[leader_election]
enabled = true
lease_duration = "{DURATION_S:g}s"
renew_deadline = "{DEADLINE_S * 1000:.0f}ms"
retry_period = "{RETRY_S * 1000:.0f}ms"

[[exporters]]
name = "record"
type = "file"
format = "fleet"
interval = "1s"
max_silence = "1s"
keep = 10000
directory = "%s"

[[exporters]]
name = "scc"
type = "secret"
interval = "1s"
retry_base = "200ms"
"""


@dataclass(frozen=True, slots=True, order=True)
class Act:
    """One write: when, by whom, under which epoch."""

    at_s: float
    replica: str
    epoch: int


class Replica:
    """One daemon behind a line of its own."""

    def __init__(self, name: str, folder: Path, apiserver: ApiServer) -> None:
        self.name = name
        self.line = Partition(int(apiserver.url.rpartition(":")[2]))
        self.record = folder / "record"
        self._folder = folder
        kubeconfig = apiserver.kubeconfig(folder / "kubeconfig")
        text = kubeconfig.read_text().replace(apiserver.url, f"https://127.0.0.1:{self.line.port}")
        kubeconfig.write_text(text)
        self._kubeconfig = kubeconfig
        self.daemon = self._start()

    def restart(self) -> None:
        self.daemon = self._start()

    def acts(self) -> Iterator[Act]:
        """All its writes so far."""
        for file in self.record.glob("record-*.json"):
            stamp = file.stem.removeprefix("record-")
            at = datetime.strptime(stamp, "%Y-%m-%dT%H-%M-%S.%fZ").replace(tzinfo=UTC)
            epoch = json.loads(file.read_bytes())["delivery"]["epoch"]
            yield Act(at.timestamp(), self.name, epoch)

    def leading(self) -> bool:
        code, body = self.daemon.get("/status.json")
        return code == 200 and json.loads(body)["leader"]["leading"]

    def state(self) -> str:
        return str(self.daemon.exporter("record")["state"])

    def kill(self) -> None:
        self.daemon.process.kill()
        self.daemon.process.wait()

    def end(self) -> None:
        self.daemon.signal(signal.SIGCONT)
        if self.daemon.process.poll() is None:
            assert self.daemon.stop() == 0, self.daemon.log()[-3000:]
        self.line.close()

    def _start(self) -> Daemon:
        return Daemon(
            self._folder, self._kubeconfig, CONFIG % self.record, environ={"HOSTNAME": self.name}
        )


@pytest.fixture
def crew(apiserver: ApiServer, rancher: Rancher, tmp_path: Path) -> Iterator[list[Replica]]:
    made = []
    for name in ("one", "two", "three"):
        (tmp_path / name).mkdir()
        made.append(Replica(name, tmp_path / name, apiserver))
    try:
        yield made
    finally:
        for replica in made:
            replica.end()


def leader_of(crew: list[Replica], *, within_s: float, but: Replica | None = None) -> Replica:
    """The one that leads and has written, as soon as one does."""
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        for replica in crew:
            if replica is not but and replica.leading():
                return replica
        time.sleep(0.05)
    logs = "\n".join(replica.daemon.log()[-1500:] for replica in crew)
    raise AssertionError(f"nobody leads after {within_s} s\n{logs}")


def test_never_two_writers_whatever_befalls_the_leader(crew: list[Replica], admin: Admin) -> None:
    first = leader_of(crew, within_s=40)
    time.sleep(2)
    standbys = [replica for replica in crew if replica is not first]
    for replica in standbys:
        replica.daemon.wait_for("a ready standby", replica.daemon.ready, 20)
        assert replica.state() == "standby"
        assert str(replica.daemon.exporter("scc")["detail"]).startswith(f"{first.name}_")
        assert replica.daemon.metric('telemetryd_leader{name="telemetryd"}') == 0
    assert first.daemon.metric('telemetryd_leader{name="telemetryd"}') == 1
    lists = {replica.name: _lists(replica) for replica in standbys}

    # Frozen past its term, then let go in the middle of whatever it was about to do.
    first.daemon.signal(signal.SIGSTOP)
    second = leader_of(crew, within_s=HAND_OVER_S + SLACK_S, but=first)
    assert _lists(second) == lists[second.name], "it takes over with what it holds"
    time.sleep(1)
    first.daemon.signal(signal.SIGCONT)
    first.daemon.wait_for("standby", lambda: first.state() == "standby", 10)

    # Cut off from the API server, and back.
    second.line.cut()
    cut_s = time.time()
    third = leader_of(crew, within_s=HAND_OVER_S + SLACK_S, but=second)
    time.sleep(1)
    second.line.heal()
    second.daemon.wait_for("standby", lambda: second.state() == "standby", 10)
    assert not [act for act in second.acts() if act.at_s > cut_s + DEADLINE_S + 0.5]

    # The Lease taken out of its hands, deleted, and altered while it renews.
    for _ in range(5):
        admin.patch(LEASE, {"metadata": {"annotations": {"theirs": str(time.time())}}})
        time.sleep(0.1)
    admin.delete(LEASE)
    time.sleep(1.5)
    assert third.leading()
    epoch = third.daemon.status()["leader"]["epoch"]
    admin.patch(LEASE, {"spec": {"holderIdentity": "usurper", "leaseDurationSeconds": 1}})
    third.daemon.wait_for("its end", lambda: not third.leading(), 3)

    # Killed without a word; started again.
    fourth = leader_of(crew, within_s=HAND_OVER_S + SLACK_S)
    assert fourth.daemon.status()["leader"]["epoch"] > epoch
    fourth.kill()
    fifth = leader_of([r for r in crew if r is not fourth], within_s=HAND_OVER_S + SLACK_S)
    fourth.restart()

    # Told to go: it releases the Lease when its work has ended.
    time.sleep(1)
    assert fifth.daemon.stop() == 0
    assert "lease released" in fifth.daemon.log()
    last = leader_of([r for r in crew if r is not fifth], within_s=3)
    last.daemon.wait_for("its own acts", lambda: len({act.epoch for act in last.acts()}) >= 1, 5)
    fifth.restart()
    time.sleep(1)

    acts = sorted(act for replica in crew for act in replica.acts())
    assert len(acts) > 10
    assert [act.epoch for act in acts] == sorted(act.epoch for act in acts), acts
    for epoch in {act.epoch for act in acts}:
        assert len({act.replica for act in acts if act.epoch == epoch}) == 1, epoch
    assert len({act.epoch for act in acts}) >= 5


def _lists(replica: Replica) -> float:
    """First lists: in pages after all where the server doesn't stream them."""
    labels = 'resource="nodes.management.cattle.io",result="success"'
    series = (
        f'telemetryd_informer_lists_total{{reason="{reason}",{labels}}}'
        for reason in ("initial", "fallback")
    )
    return sum(replica.daemon.metric(each) or 0.0 for each in series)
