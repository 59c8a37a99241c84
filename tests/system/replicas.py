"""Replicas that share a Lease, each behind a proxy of its own, and the record of what they do.

Each delivers to one sink all the time while it leads. What befalls them belongs to the tests.
"""

import json
import signal
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import TypeVar

from tests.apiserver.process import ApiServer
from tests.faults.proxy import FaultProxy
from tests.support.daemon import Daemon
from tests.support.sink import Sink
from tests.support.waiting import until
from tests.system.clock import WallClock

T = TypeVar("T")

LEASE_NAME = "telemetryd"
LEASE = "/apis/coordination.k8s.io/v1/namespaces/cattle-telemetry-system/leases/" + LEASE_NAME
DURATION_S, DEADLINE_S, RETRY_S = 4.0, 2.5, 0.5
HAND_OVER_S = DURATION_S + 2.5 * RETRY_S
SLACK_S = 15.0
"""For a busy machine: what is promised is within these times, and far from it otherwise."""


def election(duration_s: float, deadline_s: float, retry_s: float) -> str:
    """The table of the configuration."""
    return f"""
[leader_election]
enabled = true
lease_duration = "{duration_s:g}s"
renew_deadline = "{deadline_s * 1000:.0f}ms"
retry_period = "{retry_s * 1000:.0f}ms"
"""


ELECTION = election(DURATION_S, DEADLINE_S, RETRY_S)


class Term:
    """Of replicas whose leader must keep the Lease however busy the machine is."""

    DURATION_S, DEADLINE_S, RETRY_S = 12.0, 8.0, 1.0
    HAND_OVER_S = DURATION_S + 2.5 * RETRY_S
    PATIENCE_S = 120.0
    """For whatever is waited for: no verdict depends on it."""


DELIVERY = """
[[exporters]]
name = "delivery"
type = "http"
format = "fleet"
interval = "1s"
max_silence = "1s"
splay_max = "0s"
spool = false
retry_base = "200ms"
url = "{url}"
"""
SECRET = """
[[exporters]]
name = "scc"
type = "secret"
interval = "1s"
retry_base = "200ms"
"""


class Replica:
    """One daemon behind a line of its own, living by a clock of its own."""

    def __init__(
        self, name: str, folder: Path, apiserver: ApiServer, line: FaultProxy, sink: Sink
    ) -> None:
        self.name = name
        self.line = line
        self.clock = WallClock(folder)
        self._folder = folder
        self._config = (
            election(Term.DURATION_S, Term.DEADLINE_S, Term.RETRY_S)
            + DELIVERY.format(url=sink.url(name))
            + SECRET
        )
        self._kubeconfig = apiserver.kubeconfig(folder / "kubeconfig")
        document = json.loads(self._kubeconfig.read_text())
        document["clusters"][0]["cluster"] = line.cluster()
        self._kubeconfig.write_text(json.dumps(document))
        self.daemon = self._start()

    def restart(self) -> None:
        """Starts it again once it has ended."""
        self.daemon = self._start()

    def leading(self) -> bool:
        code, body = self.daemon.get("/status.json")
        return code == 200 and json.loads(body)["leader"]["leading"]

    def epoch(self) -> int:
        return int(self.daemon.status()["leader"]["epoch"])

    def state(self) -> str:
        return str(self.daemon.exporter("delivery")["state"])

    def stands_by(self) -> bool:
        return self.state() == "standby"

    def lists(self) -> float | None:
        """Lists of nodes so far."""
        return self.daemon.metric(
            'telemetryd_informer_lists_total{reason="initial",'
            'resource="nodes.management.cattle.io",result="success"}'
        )

    def kill(self) -> None:
        self.daemon.process.kill()
        self.daemon.process.wait()

    def end(self) -> None:
        self.daemon.signal(signal.SIGCONT)
        if self.daemon.process.poll() is None:
            assert self.daemon.stop() == 0, self.daemon.log()[-3000:]

    def _start(self) -> Daemon:
        return Daemon(
            self._folder,
            self._kubeconfig,
            self._config,
            environ={"HOSTNAME": self.name, **self.clock.environ()},
        )


class Crew:
    """Three replicas and their sink."""

    def __init__(self, folder: Path, apiserver: ApiServer, sink: Sink, ends: ExitStack) -> None:
        self.sink = sink
        self.replicas: list[Replica] = []
        for name in ("one", "two", "three"):
            own = folder / name
            own.mkdir()
            proxy = FaultProxy(apiserver.url, apiserver.ca_file, own)
            line = ends.enter_context(proxy.running())
            replica = Replica(name, own, apiserver, line, sink)
            self.replicas.append(replica)
            ends.callback(replica.end)

    def leader(self, *but: Replica) -> Replica:
        """The one that leads, as soon as one does."""
        return self.until(
            "a leader",
            lambda: next((each for each in self.others(*but) if each.leading()), None),
        )

    def successor(self, late: Replica) -> Replica:
        """The next leader, once it has delivered; the late one has not since that leads."""
        following = self.leader(late)
        leads_s = time.monotonic()
        self.until_delivery(following)
        self.assert_silent(late, leads_s)
        return following

    def assert_silent(self, late: Replica, since_s: float) -> None:
        """It has begun no delivery since."""
        assert late.name not in {post.sender for post in self.sink.posts(since_s)}

    def others(self, *but: Replica) -> list[Replica]:
        """All but these."""
        return [replica for replica in self.replicas if replica not in but]

    def settle(self) -> Replica:
        """All is well from now on: one leads and delivers, all others are ready to."""
        for replica in self.replicas:
            replica.line.heal()
            replica.daemon.wait_for("readiness", replica.daemon.ready, Term.PATIENCE_S)
        leader = self.leader()
        self.until_delivery(leader)
        for replica in self.others(leader):
            replica.daemon.wait_for("standby", replica.stands_by, Term.PATIENCE_S)
        return leader

    def until_delivery(self, replica: Replica) -> float:
        """When the replica's next delivery began."""
        since_s = time.monotonic()
        return self.until(
            f"a delivery of {replica.name}",
            lambda: next(
                (p.began_s for p in self.sink.posts(since_s) if p.sender == replica.name), None
            ),
        )

    def until(self, what: str, probe: Callable[[], T | None]) -> T:
        """The first result of the probe that isn't None."""

        def logs() -> str:
            return "\n".join(replica.daemon.log()[-1500:] for replica in self.replicas)

        return until(probe, what, deadline_s=Term.PATIENCE_S, more=logs)
