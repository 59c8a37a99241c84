"""A daemon on files of a later version: one clear line for each, and none is lost."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.embedded import NAMESPACE, SECRETS, FleetServer, serve_fleet
from tests.support.processes import said
from tests.support.waiting import until
from tests.upgrade.record import FOLDER, SCC, WEB, Receiver, put_back, secret_of
from tests.upgrade.running import installed

NEWEST = max(FOLDER.glob("state-*"))
SPOOL = "telemetryd-spool 1 "
EPOCH = "telemetryd-epoch 2 42 and more\n"


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[FleetServer]:
    with serve_fleet(tmp_path, clusters=2, nodes=2) as fleet:
        yield fleet


def raised(content: bytes) -> bytes:
    """A file of the next format, whatever that may be."""
    return content.replace(SPOOL.encode(), SPOOL.replace("1", "2").encode())


LATER: dict[str, Callable[[bytes], bytes]] = {
    "epoch": lambda _: EPOCH.encode(),
    "spool/web/pending": raised,
    "spool/web/state": raised,
}


@pytest.mark.parametrize("name", LATER)
def test_file_of_a_later_version_is_kept_and_named_once_while_the_rest_goes_on(
    name: str, fleet: FleetServer, tmp_path: Path
) -> None:
    receiver = Receiver()
    state = tmp_path / "state"
    put_back(NEWEST / "sending", state)
    file = state / name
    content = LATER[name](file.read_bytes())
    file.write_bytes(content)
    with receiver.running() as environ, installed(state, fleet, WEB + SCC, environ) as daemon:
        until(lambda: len(receiver.requests) > 1, "deliveries", more=daemon.log)
        daemon.until("the Secret", lambda: secret_of(fleet))
    lines = [line for line in daemon.lines() if "later telemetryd" in str(line.get("error"))]
    (line,) = lines
    assert str(file) in said(line)
    assert line["level"] == ("warning" if name == "epoch" else "error")
    assert "has format 2, of a later telemetryd" in line["error"]
    assert "run the later one" in line["error"]
    aside = file if name == "epoch" else file.with_name(f"{file.name}.format-2")
    assert aside.read_bytes() == content, "for the later version to use"


def test_restrictions_of_a_later_version_keep_all_off_until_an_opt_in(
    fleet: FleetServer, tmp_path: Path
) -> None:
    state = tmp_path / "state"
    put_back(NEWEST / "opted-out", state)
    file = state / "restrictions.json"
    document = json.loads(file.read_text())
    content = json.dumps({**document, "version": 2, "restrictions": {"all": True}})
    file.write_text(content)
    with installed(state, fleet, SCC) as daemon:
        collection = daemon.status()["collection"]
        assert collection["off_by"] == ["memory"]
        assert "has format 2, of a later telemetryd" in collection["memory_warning"]
        assert daemon.ctl("reload").returncode == 0
        assert secret_of(fleet) is None
        assert file.read_text() == content
        assert daemon.ctl("opt-in").returncode == 0
        daemon.until("the Secret", lambda: secret_of(fleet))
        (aside,) = state.glob("restrictions.json.damaged-*")
        assert aside.read_text() == content
    errors = [line for line in daemon.lines() if line["level"] == "error"]
    assert len(errors) == 1, errors
    assert str(file) in said(errors[0])


STRANGE = {
    "telemetryd/digest": "v2:sha512:00",
    "telemetryd/epoch": "2:9 of a later version",
    "telemetryd/later": "anything",
}


def annotated(secret: dict[str, Any], notes: dict[str, str]) -> dict[str, Any]:
    annotations = {**secret["metadata"]["annotations"], **notes}
    return {**secret, "metadata": {**secret["metadata"], "annotations": annotations}}


def test_annotations_of_a_later_version_neither_stop_nor_mislead_an_exporter(
    fleet: FleetServer, tmp_path: Path
) -> None:
    recorded = json.loads((NEWEST / "secret.json").read_text())
    fleet.put(annotated(recorded, STRANGE))
    with installed(tmp_path / "state", fleet, SCC) as daemon:
        daemon.until("a run", lambda: daemon.exporter("scc")["last_success_at"])
        assert daemon.exporter("scc")["consecutive_failures"] == 0
        secret = fleet.get(SECRETS, "rancher-scc-telemetry", NAMESPACE)
    assert secret is not None
    assert secret["metadata"]["annotations"]["telemetryd/later"] == "anything"


def test_mark_of_an_opt_out_that_cannot_be_read_still_opts_out(
    fleet: FleetServer, tmp_path: Path
) -> None:
    recorded = json.loads((NEWEST / "marked-secret.json").read_text())
    marked = annotated(recorded, {"telemetryd/opted-out": '{"v":2,"since":"2026"}', **STRANGE})
    fleet.put(marked)
    with installed(tmp_path / "state", fleet, SCC) as daemon:
        daemon.until("it is off", lambda: daemon.status()["collection"]["off_by"])
        daemon.until("remembered", (tmp_path / "state/restrictions.json").exists)
        secret = secret_of(fleet)
    assert secret is not None
    assert secret["metadata"]["annotations"] == marked["metadata"]["annotations"]
