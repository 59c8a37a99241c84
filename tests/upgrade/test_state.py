"""A daemon of today on what an earlier version has left: it goes on where that ended."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from telemetryd.history.slots import MINUTE_S
from tests.support.daemon import Daemon
from tests.support.embedded import FleetServer, serve_fleet
from tests.support.waiting import until
from tests.upgrade.record import (
    FOLDER,
    SCC,
    SEQUENCE,
    URL,
    WEB,
    Receiver,
    put_back,
    secret_of,
)
from tests.upgrade.running import Installed, installed

RECORDED = sorted(FOLDER.glob("state-*"))
pytestmark = pytest.mark.parametrize("recorded", RECORDED, ids=[each.name for each in RECORDED])


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[FleetServer]:
    """A fleet of its own for each test: a mark on its Secret stays."""
    with serve_fleet(tmp_path, clusters=2, nodes=2) as fleet:
        yield fleet


def recorded_object(recorded: Path, name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((recorded / name).read_text())
    return found


def pair_on_disk(recorded: Path, name: str) -> tuple[int, int]:
    """Epoch and sequence in a file of the spool."""
    label = json.loads((recorded / "sending/spool/web" / name).read_bytes().split(b"\n")[1])
    return label["epoch"], label["sequence"]


def test_sequence_and_epoch_go_on_above_those_of_the_earlier_version(
    recorded: Path, fleet: FleetServer, tmp_path: Path
) -> None:
    receiver = Receiver()
    state = tmp_path / "state"
    put_back(recorded / "sending", state)
    last, pending = (pair_on_disk(recorded, name) for name in ("state", "pending"))
    assert pending > last > (0, SEQUENCE)
    with receiver.running() as environ, installed(state, fleet, WEB, environ) as daemon:
        first = until(lambda: receiver.requests, "a delivery", more=daemon.log)[0]
        until(lambda: len(receiver.requests) > 1, "another", more=daemon.log)
        assert (first.epoch, first.sequence) >= pending, "the pending one, or one after it"
        epochs = {each.epoch for each in receiver.requests}
        assert epochs == {pending[0]}, "no election, no new term"
    assert str(pending[0]) in (state / "epoch").read_text().split()
    assert f'"sequence":{receiver.requests[-1].sequence}' in (state / "spool/web/state").read_text()
    warned = {line["logger"] for line in daemon.lines() if line["level"] in {"warning", "error"}}
    assert warned <= {"telemetryd.daemon.exporters", "telemetryd.daemon.dryrun"}, daemon.log()


def test_pending_payload_of_the_earlier_version_is_listed_and_copied_as_it_is(
    recorded: Path, fleet: FleetServer, tmp_path: Path
) -> None:
    state = tmp_path / "state"
    put_back(recorded / "sending", state)
    target = Installed(state, fleet, WEB)
    listed = json.loads(target.run("spool", "list", "--json").stdout)
    assert [(each["exporter"], each["epoch"], each["sequence"]) for each in listed] == [
        ("web", *pair_on_disk(recorded, "pending"))
    ]
    done = target.run("spool", "export", str(tmp_path / "copy"))
    assert done.returncode == 0, done.stderr
    (copy,) = (tmp_path / "copy").glob("web-*.json")
    whole = (recorded / "sending/spool/web/pending").read_bytes()
    assert copy.read_bytes() == whole.split(b"\n", 2)[2]


def test_pending_payload_of_the_earlier_version_is_dropped_for_another_receiver(
    recorded: Path, fleet: FleetServer, tmp_path: Path
) -> None:
    receiver = Receiver()
    state = tmp_path / "state"
    put_back(recorded / "sending", state)
    elsewhere = WEB.replace(URL, "http://other.example/payloads")
    with receiver.running() as environ, installed(state, fleet, elsewhere, environ) as daemon:
        first = until(lambda: receiver.requests, "a delivery", more=daemon.log)[0]
        assert first.sequence > pair_on_disk(recorded, "pending")[1]
        assert "pending payload dropped" in daemon.whole_log()


def test_opt_out_and_restrictions_of_the_earlier_version_hold_until_an_opt_in(
    recorded: Path, fleet: FleetServer, tmp_path: Path
) -> None:
    state = tmp_path / "state"
    put_back(recorded / "opted-out", state)
    remembered = recorded_object(recorded / "opted-out", "restrictions.json")["restrictions"]
    with installed(state, fleet, SCC) as daemon:
        collection = daemon.status()["collection"]
        assert collection["off_by"] == ["memory"]
        assert {each["key"] for each in collection["restrictions"]} == {
            each["key"] for each in remembered
        }
        assert not any(each["written"] for each in collection["restrictions"])
        assert secret_of(fleet) is None
        done = daemon.ctl("opt-in")
        assert done.returncode == 0, done.stderr
        until(lambda: secret_of(fleet), "the Secret", more=daemon.log)
        assert daemon.status()["collection"]["restrictions"] == []


def test_mark_on_a_secret_of_the_earlier_version_keeps_a_replica_without_memory_off(
    recorded: Path, fleet: FleetServer, tmp_path: Path
) -> None:
    fleet.put(recorded_object(recorded, "marked-secret.json"))
    with installed(tmp_path / "state", fleet, SCC) as daemon:
        daemon.until("the mark is read", lambda: daemon.status()["collection"]["off_by"])
        assert daemon.status()["collection"]["off_by"] == ["memory"]
        before = secret_of(fleet)
        assert before is not None
        daemon.until("remembered here", (tmp_path / "state/restrictions.json").exists)
        assert secret_of(fleet) == before


def test_secret_of_the_earlier_version_is_taken_for_our_own(
    recorded: Path, fleet: FleetServer, tmp_path: Path
) -> None:
    fleet.put(recorded_object(recorded, "secret.json"))
    written = secret_of(fleet)
    assert written is not None
    with installed(tmp_path / "state", fleet, SCC) as daemon:
        daemon.until("a run", lambda: daemon.exporter("scc")["last_success_at"])
        assert daemon.exporter("scc")["state"] in {"idle", "running"}, "no conflict"
        now = secret_of(fleet)
    assert now is not None
    assert now["metadata"]["uid"] == written["metadata"]["uid"]
    assert {each["manager"] for each in now["metadata"]["managedFields"]} == {"telemetryd"}


def test_history_goes_on_from_that_of_the_earlier_version(
    recorded: Path, fleet: FleetServer, tmp_path: Path
) -> None:
    state = tmp_path / "state"
    put_back(recorded / "sending", state)
    before = minutes_in(state, fleet) if (state / "history.db").exists() else {}
    with installed(state, fleet, SCC) as daemon:
        daemon.until("a look", lambda: daemon.status()["history"]["samples"])
        assert daemon.status()["history"]["trouble"] == ""
    after = minutes_in(state, fleet)
    assert {name: after.get(name) for name in before} == before
    assert any(cells for name, (_, cells) in after.items() if name not in before)


def minutes_in(state: Path, fleet: FleetServer) -> dict[tuple[str, int], tuple[float, Any]]:
    """Known seconds and cells of each minute in an export, by installation and beginning."""
    done = Installed(state, fleet, SCC).run("history", "export")
    assert done.returncode == 0, done.stderr
    slots = [json.loads(line) for line in done.stdout.splitlines()[1:]]
    minutes = [slot for slot in slots if slot["size"] == MINUTE_S]
    return {(m["installation"], m["start"]): (m["known"], m["cells"]) for m in minutes}


def test_earlier_version_leaves_nothing_else_in_its_state_folder(
    recorded: Path, fleet: FleetServer, tmp_path: Path
) -> None:
    """A file that is new in this version needs a place in the record, and on the page on backup."""
    receiver = Receiver()
    state = tmp_path / "state"
    with receiver.running() as environ:
        daemon = Daemon(state := make(state), fleet.kubeconfig, WEB + SCC, environ=environ)
        try:
            daemon.wait_for("a delivery", (state / "spool/web/state").exists, 60)
        finally:
            assert daemon.stop() == 0
    ours = {"config.toml", "telemetryd.log"}
    left = {path.name for path in state.iterdir() if not path.name.startswith(".")} - ours
    known = {path.name for each in (recorded, RECORDED[-1]) for path in each.rglob("*")}
    known |= {"control.sock.lock", "history.lock"}
    assert left <= known, left
    shutil.rmtree(state)


def make(folder: Path) -> Path:
    folder.mkdir()
    return folder
