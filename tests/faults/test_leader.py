"""Leadership that changes hands amid another fault."""

import json
import time
from base64 import b64encode
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.apiserver.admin import Admin
from tests.apiserver.process import ApiServer
from tests.faults import acts
from tests.faults.proxy import FaultProxy
from tests.support.daemon import Daemon
from tests.support.sink import Sink, receiving
from tests.system.rancher import SECRET, Rancher, facts, recount
from tests.system.replicas import DEADLINE_S, DELIVERY, ELECTION, SLACK_S
from tests.system.replicas import HAND_OVER_S as PLAIN_HAND_OVER_S
from tests.system.replicas import LEASE_NAME as LEASE

pytestmark = pytest.mark.faults

HAND_OVER_S = PLAIN_HAND_OVER_S + SLACK_S
CONFIG = f"""{ELECTION}
[[exporters]]
name = "scc"
type = "secret"
interval = "1s"
quiet_period = "3s"
retry_base = "200ms"
"""


@pytest.fixture
def rancher(admin: Admin) -> Iterator[Rancher]:
    with Rancher.built(admin, clusters=2, nodes=2) as fleet:
        yield fleet


@pytest.fixture
def proxy(apiserver: ApiServer, tmp_path: Path) -> Iterator[FaultProxy]:
    with FaultProxy(apiserver.url, apiserver.ca_file, tmp_path).running() as running:
        yield running


@pytest.fixture
def sink() -> Iterator[Sink]:
    """What each replica delivers to as well: it must never see two at once."""
    with receiving() as running:
        yield running
        running.check()


@pytest.fixture
def start(
    apiserver: ApiServer, rancher: Rancher, proxy: FaultProxy, sink: Sink, tmp_path: Path
) -> Iterator[Callable[[str], Daemon]]:
    """Starts a replica, `direct` or `behind` the proxy; all that still run must end well."""
    with ExitStack() as ends:

        def made(name: str) -> Daemon:
            folder = tmp_path / name
            folder.mkdir()
            kubeconfig = apiserver.kubeconfig(folder / "kubeconfig")
            if name == "behind":
                document = json.loads(kubeconfig.read_text())
                document["clusters"][0]["cluster"] = proxy.cluster()
                kubeconfig.write_text(json.dumps(document))
            config = CONFIG + DELIVERY.format(url=sink.url(name))
            daemon = Daemon(folder, kubeconfig, config)
            ends.callback(end, daemon)
            return daemon

        yield made
        proxy.heal()


def end(daemon: Daemon) -> None:
    if daemon.process.poll() is None:
        assert daemon.stop() == 0, daemon.log()[-4000:]


def leads(daemon: Daemon) -> bool:
    code, body = daemon.get("/status.json")
    return code == 200 and bool(json.loads(body)["leader"]["leading"])


def is_true(rancher: Rancher) -> bool:
    found = rancher.payload()
    if found is None or "managedSystems" not in found:
        return False
    return facts(found) == recount(rancher.admin)


def test_leader_that_changes_during_a_conflict_leaves_the_secret_true(
    rancher: Rancher, admin: Admin, proxy: FaultProxy, start: Callable[[str], Daemon]
) -> None:
    behind = start("behind")
    behind.wait_for("its leadership", lambda: leads(behind), 30)
    behind.wait_for("the Secret", rancher.secret, 20)
    direct = start("direct")
    direct.wait_for("a standby", lambda: direct.ready() and not leads(direct), 20)

    payload = b64encode(b'{"written":"by another"}').decode()
    admin.patch(SECRET, {"data": {"payload": payload}})
    behind.wait_for("conflict", lambda: behind.exporter()["state"] == "conflict", 30)
    rule = proxy.rule(LEASE, "*", acts.silence)
    behind.wait_for("a renewal that hangs", lambda: rule.met, 30)
    behind.wait_for("its end", lambda: not leads(behind), DEADLINE_S + SLACK_S)
    assert behind.exporter()["state"] == "standby"
    direct.wait_for("the other", lambda: leads(direct), HAND_OVER_S)
    rancher.add_node("local", 9100)
    direct.wait_for("a true Secret", lambda: is_true(rancher), 60)
    proxy.heal()
    behind.wait_for("reach", lambda: not behind.status()["leader"]["last_error"], 20)
    assert not leads(behind)


def test_standby_promoted_before_it_has_listed_writes_nothing_until_it_has(
    rancher: Rancher, proxy: FaultProxy, start: Callable[[str], Daemon]
) -> None:
    first = start("direct")
    first.wait_for("the Secret", rancher.secret, 30)
    rule = proxy.rule("nodes", "list", acts.silence)
    behind = start("behind")
    behind.wait_for("a list that hangs", lambda: rule.met, 20)
    first.process.kill()
    first.process.wait()
    rancher.add_node("local", 9200)
    written = rancher.secret()
    behind.wait_for("its leadership", lambda: leads(behind), HAND_OVER_S + SLACK_S)
    behind.wait_for("waiting", lambda: behind.exporter()["state"] == "waiting", 30)
    time.sleep(2)
    waiting = behind.exporter()
    assert "nodes.management.cattle.io" in waiting["detail"]
    assert rancher.secret() == written
    proxy.heal()
    behind.wait_for("a true Secret", lambda: is_true(rancher), 60)
