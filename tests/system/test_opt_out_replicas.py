"""An opt-out and an opt-in with replicas that share a Lease, but no state folder."""

import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from telemetryd.daemon.optout import ANNOTATION, ENDED_ANNOTATION
from telemetryd.export.payloads.payload import render_rfc3339
from tests.apiserver.admin import Admin, AdminError
from tests.apiserver.crds import SETTINGS, collection
from tests.apiserver.fixtures import setting
from tests.apiserver.process import ApiServer
from tests.daemon.damage import HttpReceiver, Process
from tests.system.rancher import SECRET, TARGET_NAMESPACE, Rancher
from tests.system.replicas import ELECTION

pytestmark = [pytest.mark.long, pytest.mark.timeout(900)]

CONFIG = """
[[exporters]]
name = "scc"
type = "secret"
interval = "2s"

[[exporters]]
name = "web"
type = "http"
url = "{url}"
interval = "2s"
max_silence = "2s"
splay_max = "0s"
spool = false
"""


class Replicas:
    """Replicas by name; each delivers to a path of its own, so that it shows who sends."""

    def __init__(
        self, folder: Path, rancher: Rancher, kubeconfig: Path, http: HttpReceiver, ends: ExitStack
    ) -> None:
        self._rancher = rancher
        self._kubeconfig = kubeconfig
        self._folder = folder
        self._http = http
        self._ends = ends

    def start(self, name: str) -> Process:
        """A replica, once it knows who leads."""
        file = self._folder / f"{name}.toml"
        file.write_text(ELECTION + CONFIG.format(url=f"{self._http.url}/{name}"))
        process = Process(
            self._folder / name,
            self._kubeconfig,
            ["--config", str(file)],
            environ={"HOSTNAME": name},
        )
        self._ends.callback(process.stop)
        assert process.starts_or_ends() is None, process.log()
        process.until("a leader", lambda: process.status()["leader"]["holder"])
        return process

    def annotations(self) -> dict[str, str]:
        found = self._rancher.secret()
        return {} if found is None else dict(found["metadata"]["annotations"])

    def mark(self, since: float) -> None:
        """As a replica does that has led, and is gone."""
        mark = {ANNOTATION: render_rfc3339(since)}
        self._rancher.admin.patch(
            f"{SECRET}?fieldManager=telemetryd", {"metadata": {"annotations": mark}}
        )

    def opt_out_once(self, *seen_by: Process) -> None:
        """The Setting says out until these know, and is deleted then, as Rancher does."""
        self._rancher.admin.create(collection(SETTINGS), setting("telemetry-opt", "out"))
        for each in seen_by:
            wait_until_off(each, "setting")
        seen_by[0].until("its mark", lambda: ANNOTATION in self.annotations())
        self._rancher.admin.delete(f"{collection(SETTINGS)}/telemetry-opt")
        for each in seen_by:
            wait_until_off(each, "memory")

    def sent_by(self, name: str) -> int:
        return self._http.counts[f"/{name}"]


def off_by(process: Process) -> list[str]:
    found: list[str] = process.status()["collection"]["off_by"]
    return found


def wait_until_off(process: Process, by: str) -> None:
    process.until(f"off by {by}", lambda: off_by(process) == [by])


def leads(process: Process) -> bool:
    return bool(process.status()["leader"]["leading"])


@pytest.fixture
def replicas(apiserver: ApiServer, admin: Admin, tmp_path: Path) -> Iterator[Replicas]:
    rancher = Rancher(admin)
    with HttpReceiver().running() as http, ExitStack() as ends:
        ends.callback(_remove_lease, admin)
        ends.callback(rancher.clear)
        rancher.build(clusters=1, nodes=1)
        yield Replicas(tmp_path, rancher, apiserver.kubeconfig(tmp_path / "kubeconfig"), http, ends)


def _remove_lease(admin: Admin) -> None:
    leases = f"/apis/coordination.k8s.io/v1/namespaces/{TARGET_NAMESPACE}/leases"
    with suppress(AdminError):
        admin.delete(f"{leases}/telemetryd")


def test_standby_that_missed_the_opt_out_sends_nothing_once_it_leads(replicas: Replicas) -> None:
    first = replicas.start("one")
    first.until("a payload", lambda: replicas.sent_by("one") and replicas.annotations())
    second = replicas.start("two")
    second.until("its informers", lambda: second.status()["informers"])
    time.sleep(1)  # its first look at the mark is over
    replicas.mark(time.time())
    assert first.stop() == 0
    second.until("the lead", lambda: leads(second))
    second.until("the mark", lambda: off_by(second) == ["memory"])
    time.sleep(3)
    assert replicas.sent_by("two") == 0
    accepted = second.ask("opt-in")
    assert accepted.ok, accepted.result
    second.until("a payload", lambda: replicas.sent_by("two"))
    second.until("no mark", lambda: ANNOTATION not in replicas.annotations())


def test_opt_in_at_the_leader_ends_what_the_others_remember(replicas: Replicas) -> None:
    first = replicas.start("one")
    first.until("a payload", lambda: replicas.sent_by("one") and replicas.annotations())
    second = replicas.start("two")
    replicas.opt_out_once(first, second)
    sent = replicas.sent_by("one")
    accepted = first.ask("opt-in")
    assert accepted.ok, accepted.result
    first.until("the word for others", lambda: ENDED_ANNOTATION in replicas.annotations())
    assert ANNOTATION not in replicas.annotations()
    first.until("a payload", lambda: replicas.sent_by("one") > sent)
    assert replicas.sent_by("two") == 0
    assert first.stop() == 0
    second.until("a payload of the next leader", lambda: replicas.sent_by("two"))
    assert second.status()["collection"]["restrictions"] == []
    assert ANNOTATION not in replicas.annotations()


def test_opt_out_ended_for_one_replica_holds_for_the_leader(replicas: Replicas) -> None:
    first = replicas.start("one")
    first.until("a payload", lambda: replicas.sent_by("one") and replicas.annotations())
    second = replicas.start("two")
    replicas.opt_out_once(first, second)
    sent = replicas.sent_by("one")
    refused = second.ask("opt-in")
    assert not refused.ok
    (problem,) = refused.result["problems"]
    assert problem.startswith("one_")
    assert "leads: run telemetryd ctl opt-in there" in problem
    assert [each["key"] for each in refused.result["ended"]] == ["telemetry-opt"]
    second.until("its informers", lambda: second.status()["collection"]["enabled"])
    time.sleep(3)
    assert off_by(first) == ["memory"]
    assert (replicas.sent_by("one"), replicas.sent_by("two")) == (sent, 0)
    assert first.stop() == 0
    second.until("a payload of the next leader", lambda: replicas.sent_by("two"))
    second.until("the word for others", lambda: ENDED_ANNOTATION in replicas.annotations())
    third = replicas.start("one")
    third.until("its memory's end", lambda: off_by(third) == [])
