"""SIGTERM while the API server owes an answer: the end doesn't wait for it."""

import signal
import time
from pathlib import Path

import pytest

from tests.apiserver.admin import Admin
from tests.apiserver.process import ApiServer
from tests.faults import acts
from tests.faults.bench import DRAIN_TIMEOUT_S, Bench, set_up
from tests.faults.matrix import one_list
from tests.faults.proxy import Rule

SLACK_S = 15.0
"""For a busy machine: who waits for an answer does so for 30 s."""


def end_amid(bench: Bench, rule: Rule) -> float:
    """Seconds from SIGTERM to the end, sent once the rule has met a request."""
    bench.until("it hangs", lambda: rule.met)
    begin_s = time.monotonic()
    bench.daemon.signal(signal.SIGTERM)
    assert bench.daemon.process.wait(timeout=60) == 0
    return time.monotonic() - begin_s


@pytest.mark.long
def test_daemon_that_ends_during_a_list_does_not_wait_for_it(
    apiserver: ApiServer, admin: Admin, tmp_path: Path
) -> None:
    with set_up(apiserver, admin, tmp_path) as bench:
        bench.until("nothing unsent", lambda: bench.daemon.exporter()["state"] == "idle")
        rule = bench.proxy.rule("nodes", "list", acts.silence)
        one_list(bench)
        assert end_amid(bench, rule) < SLACK_S


def test_daemon_that_ends_during_a_write_does_so_within_its_drain_timeout(
    apiserver: ApiServer, admin: Admin, tmp_path: Path
) -> None:
    with set_up(apiserver, admin, tmp_path) as bench:
        rule = bench.proxy.rule("rancher-scc-telemetry", "PATCH", acts.silence)
        bench.touch()
        assert end_amid(bench, rule) < DRAIN_TIMEOUT_S + SLACK_S
