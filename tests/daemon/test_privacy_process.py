"""A payload that is pending when [privacy] becomes stricter never leaves; the whole daemon."""

import json
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.daemon import Daemon
from tests.support.embedded import serve_fleet
from tests.support.receiver import Request, Verdict, receiving_in_threads

OMIT = '[privacy]\nserver_url = "omit"\ncluster_ids = "omit"\n'


class Receiver:
    """Refuses payloads until ``taking`` is set; keeps what it gets."""

    def __init__(self) -> None:
        self.taking = False
        self.refused: list[dict[str, Any]] = []
        self.taken: list[dict[str, Any]] = []
        self.url = ""

    def take(self, request: Request) -> Verdict:
        taking = self.taking
        (self.taken if taking else self.refused).append(json.loads(request.body))
        return Verdict(200 if taking else 503)

    def config(self, privacy: str = "") -> str:
        return (
            f'{privacy}[[exporters]]\nname = "web"\ntype = "http"\nformat = "fleet"\n'
            f'url = "{self.url}/x"\n'
            'interval = "2s"\nsplay_max = "0s"\n'
        )


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    receiver = Receiver()
    with receiving_in_threads(receiver.take) as receiver.url:
        yield receiver


def tells(document: dict[str, Any]) -> bool:
    """Whether it holds what [privacy] omits."""
    ids = any("id" in cluster for cluster in document["clusters"])
    return ids or document["installation"]["server_url"] != ""


def test_pending_payload_is_dropped_after_a_restart_while_an_informer_is_not_ready(
    tmp_path: Path, receiver: Receiver
) -> None:
    with serve_fleet(tmp_path, clusters=2, nodes=2) as fleet:
        first = Daemon(tmp_path, fleet.kubeconfig, receiver.config())
        try:
            first.wait_for("refused", lambda: receiver.refused, 60)
        finally:
            assert first.stop() == 0
        assert all(map(tells, receiver.refused))
        assert (tmp_path / "spool" / "web" / "pending").exists()
        fleet.stop_serving("features.management.cattle.io")
        receiver.taking = True
        second = Daemon(tmp_path, fleet.kubeconfig, receiver.config(OMIT))
        try:
            dropped = 'telemetryd_exporter_spool_dropped_total{exporter="web",reason="privacy"}'
            second.wait_for("dropped", lambda: second.metric(dropped) == 1, 60)
            assert second.exporter("web")["state"] == "waiting"
        finally:
            assert second.stop() == 0
    assert receiver.taken == []
    assert not (tmp_path / "spool" / "web" / "pending").exists()


@pytest.mark.long
def test_pending_payload_is_replaced_after_a_reload(tmp_path: Path, receiver: Receiver) -> None:
    with serve_fleet(tmp_path, clusters=2, nodes=2) as fleet:
        daemon = Daemon(tmp_path, fleet.kubeconfig, receiver.config())
        try:
            daemon.wait_for("refused", lambda: receiver.refused, 60)
            daemon.configure(receiver.config(OMIT))
            daemon.signal(signal.SIGHUP)
            reloads = 'telemetryd_config_reloads_total{result="success",trigger="signal"}'
            daemon.wait_for("reloaded", lambda: daemon.metric(reloads) == 1, 60)
            receiver.taking = True
            daemon.wait_for("delivered", lambda: receiver.taken, 60)
        finally:
            assert daemon.stop() == 0
    assert not any(map(tells, receiver.taken))
