"""`/payload/{exporter}` and `/` of the whole daemon, beside what it really writes."""

import signal
from base64 import b64decode
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.daemon import Daemon
from tests.support.embedded import NAMESPACE, SECRETS, FleetServer, serve_fleet

EXPOSED = "expose_payload = true\n"
EXPORTERS = """
[[exporters]]
name = "scc"
type = "secret"
interval = "1s"
[[exporters]]
name = "never"
type = "secret"
secret = "never"
enabled = false
"""


@pytest.fixture
def server(tmp_path: Path) -> Iterator[FleetServer]:
    with serve_fleet(tmp_path) as fleet:
        yield fleet


@pytest.fixture
def daemon(tmp_path: Path, server: FleetServer) -> Iterator[Daemon]:
    daemon = Daemon(tmp_path, server.kubeconfig, EXPORTERS)
    try:
        yield daemon
    finally:
        assert daemon.stop() == 0


def written(server: FleetServer) -> str:
    secret = server.get(SECRETS, "rancher-scc-telemetry", NAMESPACE)
    return b64decode(secret["data"]["payload"]).decode() if secret else ""


def test_payload_is_shown_byte_for_byte_from_the_reload_that_allows_it(
    daemon: Daemon, server: FleetServer
) -> None:
    series = 'telemetryd_exporter_runs_total{exporter="scc",result="unchanged"}'
    daemon.wait_for("runs without a write", lambda: (daemon.metric(series) or 0) >= 2, 20)
    refused = "payloads aren't shown: set expose_payload = true in [server] and reload\n"
    assert daemon.get("/payload/scc") == (403, refused)
    assert 'href="payload/' not in daemon.get("/")[1]

    daemon.configure(EXPOSED + EXPORTERS)
    daemon.signal(signal.SIGHUP)
    daemon.wait_for("shown", lambda: daemon.get("/payload/scc")[0] == 200, 30)
    # More than a second after the write: what is rendered by now has another timestamp.
    assert daemon.get("/payload/scc")[1] == written(server) != ""
    assert 'href="payload/scc"' in daemon.get("/")[1]
    assert daemon.get("/payload/never")[0] == 404
    unknown = "there is no exporter 'other'; there are: never, scc\n"
    assert daemon.get("/payload/other") == (404, unknown)

    before = written(server)
    url = server.get("settings.management.cattle.io", "server-url")
    assert url is not None
    server.put({**url, "value": "https://elsewhere.invalid"})
    daemon.wait_for("the new payload", lambda: written(server) != before, 30)
    daemon.wait_for("it is shown", lambda: daemon.get("/payload/scc")[1] == written(server), 30)

    daemon.configure(EXPORTERS)
    daemon.signal(signal.SIGHUP)
    daemon.wait_for("hidden again", lambda: daemon.get("/payload/scc")[0] == 403, 30)
