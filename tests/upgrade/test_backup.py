"""What `docs/backup.md` says of backup, loss and restoration, statement by statement."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.apiserver import fixtures
from tests.daemon.damage import fields_of
from tests.support.embedded import NAMESPACE, SECRETS, FleetServer, serve_fleet
from tests.support.waiting import until
from tests.upgrade.record import EPOCH, SCC, SEQUENCE, WEB, Receiver, secret_of
from tests.upgrade.running import Installed, Running, installed

SETTINGS = "settings.management.cattle.io"
ONCE = WEB.replace('max_silence = "1s"\n', "")
"""Unchanged content isn't sent again."""
OMIT = '[privacy]\nserver_url = "omit"\n'
UNCHANGED = 'telemetryd_exporter_runs_total{exporter="web",result="unchanged"}'
OTHER_UUID = "0b0e1f6c-6e58-4f4c-9a53-0d7c3f1f2a11"


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[FleetServer]:
    with serve_fleet(tmp_path, clusters=2, nodes=2) as fleet:
        yield fleet


def copy_of(state: Path, target: Path) -> None:
    """As `tar` copies it; a socket and hidden files don't matter."""
    shutil.copytree(state, target, ignore=shutil.ignore_patterns(".*", "*.sock", "*.lock"))


def delivered(receiver: Receiver, daemon: Running, count: int = 1) -> None:
    until(lambda: len(receiver.requests) >= count, "deliveries", more=daemon.log)


# -- the state folder


def test_copy_of_a_running_daemons_state_goes_on_where_it_was(
    fleet: FleetServer, tmp_path: Path
) -> None:
    receiver = Receiver()
    receiver.outranks = True
    state = tmp_path / "state"
    with receiver.running() as environ:
        with installed(state, fleet, OMIT + ONCE, environ) as daemon:
            delivered(receiver, daemon, 2)
            daemon.until("noted", (state / "spool/web/state").exists)
            copy_of(state, tmp_path / "copy")
        shutil.rmtree(state)
        copy_of(tmp_path / "copy", state)
        with installed(state, fleet, ONCE, environ) as daemon:
            daemon.until("a run", lambda: daemon.daemon.metric(UNCHANGED))
            held = daemon.status()["collection"]["restrictions"]
            assert {each["key"] for each in held if not each["written"]} == {"privacy.server_url"}
            assert len(receiver.requests) == 2, "what was delivered isn't sent again"
            fleet.put(fixtures.rancher_cluster("c-new"))
            delivered(receiver, daemon, 3)
    pairs = [(each.epoch, each.sequence) for each in receiver.requests[1:]]
    assert pairs == sorted(set(pairs)) > [(EPOCH, SEQUENCE)]


def test_lost_state_sends_once_more_under_the_secrets_epoch(
    fleet: FleetServer, tmp_path: Path
) -> None:
    receiver = Receiver()
    with receiver.running() as environ:
        with installed(tmp_path / "state", fleet, SCC + ONCE, environ) as daemon:
            delivered(receiver, daemon)
            daemon.until("the Secret", lambda: secret_of(fleet))
        secret = secret_of(fleet)
        assert secret is not None
        secret["metadata"]["annotations"]["telemetryd/epoch"] = "41"
        fleet.put(secret)
        with installed(tmp_path / "another", fleet, SCC + WEB, environ) as daemon:
            until(lambda: receiver.requests[-1].epoch == 41, "its epoch", more=daemon.log)
            found = daemon.status()
    before, after = receiver.requests[0], receiver.requests[1]
    assert before.headers["telemetryd-digest"] == after.headers["telemetryd-digest"]
    assert before.sequence < after.sequence, "by the clock"
    assert found["collection"]["restrictions"] == []


def test_pair_that_is_too_low_is_raised_by_the_receivers_answer(
    fleet: FleetServer, tmp_path: Path
) -> None:
    receiver = Receiver()
    receiver.outranks = True
    with (
        receiver.running() as environ,
        installed(tmp_path / "state", fleet, WEB, environ) as daemon,
    ):
        delivered(receiver, daemon, 2)
        assert daemon.exporter("web")["consecutive_failures"] == 0
    low, high = ((each.epoch, each.sequence) for each in receiver.requests[:2])
    assert low < (EPOCH, SEQUENCE) < high


def test_restriction_that_the_file_has_lost_is_forgotten_with_the_state(
    fleet: FleetServer, tmp_path: Path
) -> None:
    receiver = Receiver()
    state = tmp_path / "state"
    urls = []
    with receiver.running() as environ:
        for config in (OMIT + WEB, WEB, WEB):
            receiver.requests.clear()
            with installed(state, fleet, config, environ) as daemon:
                delivered(receiver, daemon)
            urls.append(json.loads(receiver.requests[-1].body)["installation"]["server_url"])
            if len(urls) == 2:
                shutil.rmtree(state)
    assert urls == ["", "", fleet.url]


# -- the Secret and the opt-out


def test_lost_secret_is_written_again_with_the_same_content(
    fleet: FleetServer, tmp_path: Path
) -> None:
    with installed(tmp_path / "state", fleet, SCC) as daemon:
        before = daemon.until("the Secret", lambda: secret_of(fleet))
        fleet.remove(SECRETS, "rancher-scc-telemetry", NAMESPACE)
        after = daemon.until("another", lambda: secret_of(fleet))
    digest = "telemetryd/digest"
    notes = [each["metadata"]["annotations"][digest] for each in (before, after)]
    assert notes[0] == notes[1]
    assert before["metadata"]["uid"] != after["metadata"]["uid"]


@pytest.mark.parametrize(
    ("loses", "is_off"),
    [
        (set(), True),
        ({"state"}, True),
        ({"secret"}, True),
        ({"setting"}, True),
        ({"setting", "state"}, True),
        ({"setting", "secret"}, True),
        ({"state", "secret"}, True),
        ({"setting", "state", "secret"}, False),
    ],
    ids=lambda value: "+".join(sorted(value)) or "nothing" if isinstance(value, set) else "",
)
def test_opt_out_by_the_setting_is_lost_with_the_last_of_three_places(
    loses: set[str], is_off: bool, fleet: FleetServer, tmp_path: Path
) -> None:
    state = tmp_path / "state"
    with installed(state, fleet, SCC) as daemon:
        daemon.until("the Secret", lambda: secret_of(fleet))
        fleet.put(fixtures.setting("telemetry-opt", "out"))
        daemon.until("the mark", lambda: "opted-out" in json.dumps(secret_of(fleet)))
        file = state / "restrictions.json"
        daemon.until("the memory", lambda: file.exists() and "telemetry-opt" in file.read_text())
    if "state" in loses:
        shutil.rmtree(state)
    if "secret" in loses:
        fleet.remove(SECRETS, "rancher-scc-telemetry", NAMESPACE)
    if "setting" in loses:
        fleet.remove(SETTINGS, "telemetry-opt")
    before = secret_of(fleet)
    with installed(state, fleet, SCC) as daemon:
        if is_off:
            daemon.until("it is off", lambda: daemon.status()["collection"]["off_by"])
            assert not daemon.exporter("scc")["last_success_at"]
            if "secret" in loses:
                assert secret_of(fleet) is None, "none is made to hold a mark"
            else:
                assert secret_of(fleet)["data"] == before["data"]  # type: ignore[index]
        else:
            daemon.until("a run", lambda: daemon.exporter("scc")["last_success_at"])
            assert daemon.status()["collection"]["off_by"] == []


# -- the identity


def payload(fleet: FleetServer, folder: Path, format_: str, config: str = "") -> dict[str, Any]:
    """What would be sent."""
    folder.mkdir(exist_ok=True)
    done = Installed(folder, fleet, config).run("payload", "--format", format_)
    assert done.returncode == 0, done.stderr
    document: dict[str, Any] = json.loads(done.stdout)
    return document


def differing(one: dict[str, Any], other: dict[str, Any]) -> set[str]:
    """Paths whose values differ; a time, and what is of one delivery, aside."""
    volatile = {"timestamp", "delivery"}
    return {
        path
        for path in fields_of(one) | fields_of(other)
        if path.split(".")[1] not in volatile and values(one, path) != values(other, path)
    }


def values(document: Any, path: str) -> list[str]:
    """Sorted: the order of rows may follow an id."""
    found = [document]
    for step in path.removeprefix("$.").split("."):
        name = step.partition("[")[0]
        found = [each[name] for each in found if name in each]
        for _ in range(step.count("[]")):
            found = [item for each in found for item in each]
    return sorted(map(json.dumps, found))


def test_another_install_uuid_changes_these_fields_and_the_old_one_brings_them_back(
    fleet: FleetServer, tmp_path: Path
) -> None:
    kept = fleet.get(SETTINGS, "install-uuid")
    assert kept is not None
    before = {each: payload(fleet, tmp_path / "a", each) for each in ("scc", "fleet")}
    fleet.put(fixtures.setting("install-uuid", OTHER_UUID))
    other = {each: payload(fleet, tmp_path / "a", each) for each in ("scc", "fleet")}
    assert differing(before["scc"], other["scc"]) == {"$.subscription.installuuid"}
    assert differing(before["fleet"], other["fleet"]) == {
        "$.clusters[].id",
        "$.installation.install_uuid",
    }
    fleet.put(fixtures.setting("install-uuid", kept["value"] or kept["default"]))
    again = {each: payload(fleet, tmp_path / "a", each) for each in ("scc", "fleet")}
    assert differing(before["scc"], again["scc"]) == set()
    assert differing(before["fleet"], again["fleet"]) == set()
    by_key = f'[identity]\ninstall_uuid = "{OTHER_UUID}"\n'
    assert differing(other["fleet"], payload(fleet, tmp_path / "a", "fleet", by_key)) == set()


def test_without_an_install_uuid_the_exporter_waits(fleet: FleetServer, tmp_path: Path) -> None:
    fleet.remove(SETTINGS, "install-uuid")
    with installed(tmp_path / "state", fleet, SCC) as daemon:
        daemon.until("it waits", lambda: "install-uuid" in daemon.exporter("scc")["detail"])
        assert daemon.exporter("scc")["state"] == "waiting"
        assert secret_of(fleet) is None


def test_new_plain_cluster_keeps_its_identity_by_configuration_but_for_the_clusters_id(
    fleet: FleetServer, tmp_path: Path
) -> None:
    plain = 'source = "kubernetes"\n'
    before = payload(fleet, tmp_path / "a", "fleet", plain)
    system = fleet.get("namespaces", "kube-system")
    assert system is not None
    fleet.put({**system, "metadata": {**system["metadata"], "uid": OTHER_UUID}})
    other = payload(fleet, tmp_path / "a", "fleet", plain)
    identity = {"$.installation.cluster_uuid", "$.installation.install_uuid"}
    assert differing(before, other) == {*identity, "$.clusters[].id"}
    known = before["installation"]
    kept = "".join(f'{key} = "{known[key]}"\n' for key in ("install_uuid", "cluster_uuid"))
    restored = payload(fleet, tmp_path / "a", "fleet", f"{plain}[identity]\n{kept}")
    assert differing(before, restored) == {"$.clusters[].id"}


def test_configuration_that_is_gone_is_no_start(fleet: FleetServer, tmp_path: Path) -> None:
    (tmp_path / "state").mkdir()
    where = Installed(tmp_path / "state", fleet, SCC)
    where.file.unlink()
    done = where.run("run")
    assert done.returncode == 78
    assert str(where.file) in done.stderr
