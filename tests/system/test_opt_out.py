"""Opting out, while it runs and from the start: nothing leaves, and the API server isn't asked."""

import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

from telemetryd.serve.control.client import ask
from telemetryd.serve.control.protocol import CommandAnswer, Request
from tests.apiserver.admin import Admin
from tests.apiserver.crds import SETTINGS, collection
from tests.apiserver.fixtures import setting
from tests.apiserver.process import ApiServer
from tests.support.control import ctl
from tests.support.daemon import TOP_LEVEL, Daemon
from tests.system.account import RANCHER, Trail, make_account
from tests.system.rancher import Rancher, facts, recount

SETTING = f"{collection(SETTINGS)}/telemetry-opt"
ITS_WATCH = ["settings.management.cattle.io metadata.name=telemetry-opt"]
MARK = "get /api/v1/namespaces/cattle-telemetry-system/secrets/rancher-scc-telemetry"
ALL_WATCHES = sorted(
    [
        *(f"{each}.management.cattle.io" for each in ("clusters", "features", "nodes")),
        "namespaces metadata.name=kube-system",
        "projects.management.cattle.io",
        "settings.management.cattle.io",
        *ITS_WATCH,
    ]
)
OFF, ON = TOP_LEVEL + "enabled = false\n", TOP_LEVEL + "enabled = true\n"
WITHIN_S = 2.0
EXTRA = range(9500, 9510)
"""Numbers of the nodes that tests add."""
QUIET_S = 2.5
"""Several intervals, in which nothing may happen."""


@pytest.fixture(scope="module")
def rancher(admin: Admin) -> Iterator[Rancher]:
    with Rancher.built(admin, clusters=2, nodes=2) as fleet:
        yield fleet


@pytest.fixture(scope="module")
def kubeconfig(
    apiserver: ApiServer, admin: Admin, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    return make_account(apiserver, admin, tmp_path_factory.mktemp("account"), RANCHER)


class Bench:
    """A daemon, a folder that keeps every payload that it ever sends, and its trail."""

    def __init__(
        self, daemon: Daemon, rancher: Rancher, apiserver: ApiServer, sent: Path, config: str
    ) -> None:
        self.daemon = daemon
        self.rancher = rancher
        self.apiserver = apiserver
        self.admin = rancher.admin
        self._sent = sent
        self._config = config
        self._logged = 0

    def sent(self) -> int:
        """Payloads sent so far, to the folder and the Secret's changes."""
        return len(self._files())

    def is_up_to_date(self) -> bool:
        """Whether the last payload of each exporter shows the fleet as it is."""
        last = [json.loads(file.read_text()) for file in self._files()[-1:]]
        shown = [facts(payload) for payload in (*last, self.rancher.payload()) if payload]
        return shown == [recount(self.admin)] * 2

    def _files(self) -> list[Path]:
        return sorted(each for each in self._sent.glob("folder-*") if not each.is_symlink())

    def log(self) -> str:
        """What it has logged since the test began."""
        return self.daemon.whole_log()[self._logged :]

    def reload(self, top_level: str = TOP_LEVEL) -> None:
        self.daemon.configure(self._config, top_level)
        answer = self.ask(Request("reload"))
        assert answer.ok, answer

    def ask(self, request: Request) -> CommandAnswer:
        """What a command of `ctl` asks."""
        return ask([str(self.daemon.config_file.with_name("control.sock"))], request, timeout_s=30)

    @property
    def environ(self) -> dict[str, str]:
        folder = str(self.daemon.config_file.parent)
        return {"RUNTIME_DIRECTORY": folder, "STATE_DIRECTORY": folder}

    def settle(self) -> None:
        """Opts in, whatever was said before; the setting and what tests added go."""
        self.opt("in")
        self.reload(ON)
        self.daemon.wait_for("no mark", lambda: not is_marked(self.rancher), 15)
        self.opt(None)
        self.reload()
        for name in node_names(self.admin) & {f"sentinel-m-{number}" for number in EXTRA}:
            self.rancher.delete_node("local", int(name.rpartition("-")[2]))
        self.daemon.wait_for("on", lambda: self.daemon.status()["collection"]["enabled"], 30)
        self.daemon.wait_for("all sent", self.is_up_to_date, 30)
        self.wait_until_on(0)
        self._logged = len(self.daemon.whole_log())

    def opt(self, value: str | None) -> None:
        """Gives the setting a value; None deletes it."""
        if value is None:
            self.admin.delete(SETTING)
        elif is_set(self.admin):
            self.admin.patch(SETTING, {"value": value})
        else:
            self.admin.create(collection(SETTINGS), setting("telemetry-opt", value))

    def is_off(self, reason: str) -> bool:
        status = self.daemon.status()
        return status["collection"]["off_by"] == [reason] and all(
            each["state"] == "disabled" for each in status["exporters"]
        )

    def change_fleet(self, number: int) -> None:
        """What the next payload would show."""
        self.rancher.add_node("local", number, cpu="16", arch="arm64")

    def wait_until_off(self, reason: str) -> None:
        self.daemon.wait_for(f"off by {reason}", lambda: self.is_off(reason), WITHIN_S)

    def wait_until_on(self, more_than: int) -> None:
        """Until it sends again and watches all again."""
        self.daemon.wait_for("a payload", lambda: self.sent() > more_than, 30)
        assert self.daemon.status()["collection"] == {
            "enabled": True,
            "off_by": [],
            "detail": "",
            "source": "rancher",
            "restrictions": [],
            "memory_warning": "",
        }
        self.wait_for_watches(ALL_WATCHES)

    def wait_for_watches(self, expected: list[str]) -> None:
        trail = Trail.from_now(self.apiserver)
        try:
            self.daemon.wait_for("the watches", lambda: trail.open_watches() == expected, 30)
        except AssertionError as error:
            raise AssertionError(f"watched are {trail.open_watches()}") from error

    def assert_silence(self, number: int, watches: list[str]) -> None:
        """Nothing is sent and nothing asked for, whatever happens to the fleet."""
        self.wait_for_watches(watches)
        if watches == ITS_WATCH:
            self.daemon.wait_for("the mark", lambda: is_marked(self.rancher), 15)
        trail, sent, secret = Trail.from_now(self.apiserver), self.sent(), self.rancher.secret()
        self.change_fleet(number)
        time.sleep(QUIET_S)
        asked = [MARK] if watches == ITS_WATCH else []  # once more where the Setting changed
        assert trail.requests() in ([], asked)
        assert trail.open_watches() == watches
        assert (self.sent(), self.rancher.secret()) == (sent, secret)


@contextmanager
def running(
    folder: Path,
    kubeconfig: Path,
    rancher: Rancher,
    apiserver: ApiServer,
    top_level: str = TOP_LEVEL,
    environ: Mapping[str, str] | None = None,
) -> Iterator[Bench]:
    """A daemon that must end well."""
    sent = folder / "sent"
    config = (
        f'[[exporters]]\nname = "folder"\ntype = "file"\ndirectory = "{sent}"\ninterval = "1s"\n'
        '[[exporters]]\nname = "scc"\ntype = "secret"\ninterval = "1s"\nquiet_period = "1s"\n'
    )
    daemon = Daemon(folder, kubeconfig, config, top_level, environ=environ or {})
    try:
        daemon.wait_for("listening", lambda: daemon.get("/livez")[0] == 200, 15)
        yield Bench(daemon, rancher, apiserver, sent, config)
    finally:
        status = daemon.stop()
    assert status == 0, daemon.log()[-4000:]


@pytest.fixture(scope="module")
def shared_bench(
    tmp_path_factory: pytest.TempPathFactory,
    kubeconfig: Path,
    rancher: Rancher,
    apiserver: ApiServer,
) -> Iterator[Bench]:
    folder = tmp_path_factory.mktemp("daemon")
    with running(folder, kubeconfig, rancher, apiserver) as bench:
        yield bench
        # The mark on the Secret would keep other tests' daemons off.
        bench.settle()


@pytest.fixture
def bench(shared_bench: Bench) -> Bench:
    """A daemon that has sent something, and collects."""
    shared_bench.settle()
    return shared_bench


def is_marked(rancher: Rancher) -> bool:
    """Whether the Secret bears the opt-out's mark."""
    secret = rancher.secret() or {"metadata": {}}
    return "telemetryd/opted-out" in secret["metadata"].get("annotations", {})


def is_set(admin: Admin) -> bool:
    """Whether the setting exists."""
    names = {each["metadata"]["name"] for each in admin.list(collection(SETTINGS))}
    return "telemetry-opt" in names


def node_names(admin: Admin) -> set[str]:
    nodes = admin.list("/apis/management.cattle.io/v3/namespaces/local/nodes")
    return {node["metadata"]["name"] for node in nodes}


def test_setting_out_stops_all_but_its_own_watch_and_another_value_resumes(bench: Bench) -> None:
    daemon = bench.daemon
    bench.opt("prompt")
    bench.opt("out")
    bench.wait_until_off("setting")
    bench.assert_silence(9500, ITS_WATCH)

    document = daemon.status()
    assert [each["resource"] for each in document["informers"]] == ["settings.management.cattle.io"]
    assert document["snapshot"] is None
    assert {each["detail"] for each in document["exporters"]} == {
        "switched off by the Rancher setting telemetry-opt"
    }
    metrics = daemon.get("/metrics")[1]
    assert 'telemetryd_collection_allowed{by="setting"} 0.0' in metrics
    assert 'telemetryd_collection_allowed{by="config"} 1.0' in metrics
    assert 'telemetryd_exporter_enabled{exporter="scc"} 0.0' in metrics
    assert 'telemetryd_exporter_state{exporter="scc",state="disabled"} 1.0' in metrics
    for gone in ('resource="nodes.management.cattle.io"', "telemetryd_fleet_"):
        assert gone not in metrics
    assert daemon.ready(), "nothing is required"
    shown = ctl("status", config=daemon.config_file, **bench.environ).stdout
    assert "collection is switched off by the Rancher setting telemetry-opt" in shown
    refused = ctl("trigger", "scc", config=daemon.config_file, **bench.environ)
    assert refused.returncode == 1
    assert "switched off by the Rancher setting telemetry-opt" in refused.stderr
    for request in (Request("start", "scc"), Request("cache", "nodes.management.cattle.io")):
        answer = bench.ask(request)
        assert not answer.ok
        assert "switched off by the Rancher setting telemetry-opt" in answer.error
    assert 'nothing is collected or exported","by":"setting"' in bench.log()

    sent = bench.sent()
    bench.opt("in")
    bench.wait_until_on(sent)
    assert daemon.exporter("scc")["enabled"]


@pytest.mark.parametrize("value", ["out", "prompt"])
def test_deleted_out_keeps_it_off_until_an_opt_in_or_another_value(
    bench: Bench, value: str
) -> None:
    bench.opt("out")
    bench.wait_until_off("setting")
    sent = bench.sent()
    bench.opt(None)
    bench.assert_silence(9501, ITS_WATCH)
    assert bench.is_off("memory")
    assert '"setting":"deleted"' in bench.log()
    bench.reload()
    assert bench.is_off("memory")
    if value == "out":
        result = ctl("opt-in", config=bench.daemon.config_file, **bench.environ)
        assert result.returncode == 0, result.stderr
        assert "ended: the Rancher setting telemetry-opt is out" in result.stdout
    else:
        bench.opt(value)
    bench.wait_until_on(sent)


def test_reload_while_the_setting_says_out_keeps_it_off(bench: Bench) -> None:
    bench.opt("out")
    bench.wait_until_off("setting")
    bench.reload()
    bench.assert_silence(9502, ITS_WATCH)
    assert bench.is_off("setting")


def test_reload_with_enabled_false_stops_every_request_and_with_true_resumes(bench: Bench) -> None:
    bench.reload(OFF)
    bench.wait_until_off("config")
    bench.assert_silence(9503, [])
    assert bench.daemon.status()["informers"] == []
    assert bench.daemon.metric('telemetryd_collection_allowed{by="config"}') == 0
    sent = bench.sent()
    bench.reload(TOP_LEVEL)
    bench.assert_silence(9504, [])
    assert bench.is_off("memory")
    bench.reload(ON)
    bench.wait_until_on(sent)


def test_setting_that_said_out_before_the_start_is_read_before_the_fleet(
    bench: Bench, tmp_path: Path, kubeconfig: Path
) -> None:
    bench.opt("out")
    bench.wait_until_off("setting")
    trail = Trail.from_now(bench.apiserver)
    folder = tmp_path / "second"
    folder.mkdir()
    with running(folder, kubeconfig, bench.rancher, bench.apiserver) as second:
        second.wait_until_off("setting")
        asked = {request.partition("?")[0] for request in trail.requests()}
        assert asked <= {
            "get /apis",
            MARK,
            MARK.replace("get", "patch"),
            "list /apis/management.cattle.io/v3/settings",
            "watch /apis/management.cattle.io/v3/settings",
        }
        assert second.sent() == 0


@pytest.mark.long
@pytest.mark.parametrize(
    ("environ", "reason"),
    [({"TELEMETRYD_ENABLED": "false"}, "environment"), ({"DO_NOT_TRACK": "1"}, "do_not_track")],
)
def test_environment_switches_it_off_from_the_start_and_no_reload_changes_that(
    tmp_path: Path,
    kubeconfig: Path,
    rancher: Rancher,
    apiserver: ApiServer,
    bench: Bench,
    environ: dict[str, str],
    reason: str,
) -> None:
    bench.reload(OFF)  # it has the same account, whose requests are counted here
    bench.wait_until_off("config")
    bench.wait_for_watches([])
    trail = Trail.from_now(apiserver)
    with running(tmp_path, kubeconfig, rancher, apiserver, ON, environ) as second:
        second.wait_until_off(reason)
        second.reload(OFF)
        second.reload(ON)
        time.sleep(QUIET_S)
        assert second.is_off(reason)
        assert second.daemon.metric(f'telemetryd_collection_allowed{{by="{reason}"}}') == 0
        assert second.daemon.ready()
        assert second.sent() == 0
    assert set(trail.requests()) <= {MARK}, "the epoch that the Secret tells of"
