"""The end of the guarded work, with real processes: what still writes, and when the Lease goes."""

import asyncio
import json
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from aiohttp import web

from tests.apiserver.admin import Admin
from tests.apiserver.process import ApiServer
from tests.faults.proxy import Act, Exchange, FaultProxy, Rule
from tests.support.daemon import TOP_LEVEL, Daemon
from tests.system.replicas import ELECTION, HAND_OVER_S, LEASE, LEASE_NAME, SLACK_S
from tests.system.requests import NO_EXPORTERS, shown, wait_served
from tests.system.scc import EXPORTER, Scc

CARRIED_OUT, RELEASED = "the write is carried out", "the Lease is released"
ANOTHER, THIRD = "another", "third"


class Record:
    """What came to the API server, in order."""

    def __init__(self) -> None:
        self.events: list[str] = []

    def delay(self, delay_s: float) -> Act:
        """Carry out a write only after this time, even when the daemon has hung up."""

        async def carry_out(exchange: Exchange) -> web.StreamResponse:
            await asyncio.sleep(delay_s)
            answer = await exchange.proxy.pass_on(exchange)
            self.events.append(f"{CARRIED_OUT}: {answer.status}")
            return answer

        async def act(exchange: Exchange) -> web.StreamResponse:
            await exchange.request.read()
            return await asyncio.shield(asyncio.ensure_future(carry_out(exchange)))

        return act

    async def note_release(self, exchange: Exchange) -> web.StreamResponse:
        """Pass a write of the Lease on."""
        if not json.loads(await exchange.request.read())["spec"]["holderIdentity"]:
            self.events.append(RELEASED)
        return await exchange.proxy.pass_on(exchange)


@pytest.fixture
def proxy(apiserver: ApiServer, tmp_path: Path) -> Iterator[FaultProxy]:
    with FaultProxy(apiserver.url, apiserver.ca_file, tmp_path).running() as running:
        yield running


@pytest.fixture
def record() -> Record:
    return Record()


@pytest.fixture
def daemon(apiserver: ApiServer, proxy: FaultProxy, scc: Scc, tmp_path: Path) -> Iterator[Daemon]:
    """It leads and serves one SecretRequest."""
    scc.namespace("cattle-telemetry-system")
    kubeconfig = apiserver.kubeconfig(tmp_path / "kubeconfig")
    document = json.loads(kubeconfig.read_text())
    document["clusters"][0]["cluster"] = proxy.cluster()
    kubeconfig.write_text(json.dumps(document))
    top_level = TOP_LEVEL + NO_EXPORTERS + 'drain_timeout = "4s"\n'
    daemon = Daemon(tmp_path, kubeconfig, ELECTION, top_level)
    try:
        scc.ask()
        wait_served(daemon, scc)
        yield daemon
    finally:
        proxy.heal()
        assert daemon.stop() == 0, daemon.log()[-4000:]
        scc.admin.delete(LEASE)


def begin_write(daemon: Daemon, proxy: FaultProxy, scc: Scc, act: Act, name: str = ANOTHER) -> Rule:
    """Let the controller begin a write of a status that the act answers."""
    rule = proxy.rule("status", "PATCH", act, times=1)
    scc.ask(name, name=name)
    daemon.wait_for("a write", lambda: rule.met, 30)
    return rule


@pytest.mark.long
def test_write_that_hangs_ends_with_the_drain_timeout(
    daemon: Daemon, proxy: FaultProxy, scc: Scc, record: Record
) -> None:
    proxy.rule(LEASE_NAME, "PUT", record.note_release)
    begin_write(daemon, proxy, scc, record.delay(3600))
    told_s = time.monotonic()
    assert daemon.stop() == 0
    assert time.monotonic() - told_s > 3.5, "it was waited for"
    assert record.events == [RELEASED]


def test_term_that_ends_cuts_the_controller_off_or_waits_for_its_write(
    daemon: Daemon, proxy: FaultProxy, scc: Scc, admin: Admin, record: Record
) -> None:
    """It is cut off where the Lease is lost; a daemon that is asked to end waits first."""
    begin_write(daemon, proxy, scc, record.delay(6.0))
    admin.patch(LEASE, {"spec": {"holderIdentity": "usurper", "leaseDurationSeconds": 30}})
    daemon.wait_for("standby", lambda: daemon.exporter(EXPORTER)["state"] == "standby", 20)
    assert record.events == [], "the write isn't waited for"
    # What another leader does meanwhile makes the late write a conflict.
    admin.patch(scc.request_path(ANOTHER), {"metadata": {"annotations": {"theirs": "yes"}}})
    stood_by_s = time.monotonic()
    daemon.wait_for("the late write", lambda: record.events, 60)
    assert record.events == [f"{CARRIED_OUT}: 409"]
    assert [ask for ask in proxy.asks(stood_by_s) if ask.method != "GET"] == []
    # It serves again in its next term.
    admin.patch(LEASE, {"spec": {"holderIdentity": "", "leaseDurationSeconds": 1}})
    daemon.wait_for("its next term", lambda: shown(daemon, ANOTHER).get("state") == "served", 60)
    assert daemon.status()["leader"]["epoch"] >= 2

    wait_served(daemon, scc, ANOTHER, ANOTHER)
    record.events.clear()
    proxy.rule(LEASE_NAME, "PUT", record.note_release)
    begin_write(daemon, proxy, scc, record.delay(2.0), THIRD)
    assert daemon.stop() == 0
    assert record.events == [f"{CARRIED_OUT}: 200", RELEASED]
    assert scc.conditions(THIRD) == {"Progressing": "True"}, "nothing more was begun"


@pytest.mark.long
def test_signal_at_a_lost_lease_ends_the_daemon_without_a_release(
    daemon: Daemon, proxy: FaultProxy, scc: Scc, admin: Admin, record: Record
) -> None:
    proxy.rule(LEASE_NAME, "PUT", record.note_release)
    begin_write(daemon, proxy, scc, record.delay(3600))
    admin.patch(LEASE, {"spec": {"holderIdentity": "usurper", "leaseDurationSeconds": 30}})
    daemon.signal(signal.SIGTERM)
    assert daemon.process.wait(HAND_OVER_S + SLACK_S + 20) == 0
    assert record.events == []
    assert admin.get(LEASE)["spec"]["holderIdentity"] == "usurper"
