"""The whole daemon against servers that stream lists, refuse to, or forget to end them."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.apiserver.fixtures import rancher_node
from tests.cli.test_commands import telemetryd
from tests.support.control import running
from tests.support.embedded import serve_fleet

NODES = "nodes.management.cattle.io"
EXPORTER = """
[[exporters]]
name = "scc"
type = "secret"
interval = "1s"
"""

WAYS: list[Any] = [
    pytest.param("auto", {}, "stream", {"initial"}, id="streamed"),
    pytest.param("off", {}, "pages", {"initial"}, id="off", marks=pytest.mark.long),
    pytest.param("auto", {"watch_list": False}, "pages", {"fallback"}, id="refused"),
    pytest.param(
        "auto",
        {"list_end": False, "git_version": "v1.26.4"},
        "pages",
        {"initial"},
        id="old-and-endless",
        marks=pytest.mark.long,
    ),
]


def facts(document: dict[str, Any]) -> dict[str, Any]:
    """What a payload says of the fleet, without its time."""
    return {key: value for key, value in document.items() if key != "timestamp"}


@pytest.mark.parametrize(("watch_list", "options", "method", "reasons"), WAYS)
def test_daemon_holds_and_sends_the_same_however_lists_come(
    tmp_path: Path, watch_list: str, options: dict[str, Any], method: str, reasons: set[str]
) -> None:
    kubernetes = f'page_size = 3\nwatch_list = "{watch_list}"'
    with (
        serve_fleet(tmp_path, **options) as server,
        running(tmp_path, server.kubeconfig, EXPORTER, kubernetes) as commanded,
    ):
        daemon = commanded.daemon
        daemon.wait_for("readiness", daemon.ready, 90)
        found = daemon.wait_for("a payload", lambda: server.payload("rancher-scc-telemetry"), 30)
        assert found is not None
        informers = {each["resource"]: each for each in daemon.status()["informers"]}
        assert informers[NODES]["list_method"] == method
        for reason in ("initial", "fallback"):
            labels = f'reason="{reason}",resource="{NODES}",result="success"'
            made = daemon.metric(f"telemetryd_informer_lists_total{{{labels}}}")
            assert made == (1 if reason in reasons else None)
        assert "listed " in commanded.ctl("status").stdout
        verified = commanded.ctl("cache", NODES, "--verify")
        assert verified.returncode == 0, verified.stdout + verified.stderr
        held = informers[NODES]["objects"]
        server.put(rancher_node("local", "extra"))
        daemon.wait_for("the addition", lambda: daemon.informer(NODES)["objects"] == held + 1, 30)
        server.remove(NODES, "extra", "local")
        daemon.wait_for("the deletion", lambda: daemon.informer(NODES)["objects"] == held, 30)
        shown = telemetryd(
            "payload", "--config", str(daemon.config_file), KUBECONFIG=str(server.kubeconfig)
        )
        assert (shown.returncode, shown.stderr) == (0, "")
        assert facts(json.loads(shown.stdout)) == facts(found)
