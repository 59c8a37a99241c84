"""A daemon imports no more than its configuration needs, and the rest once it is asked for."""

import http.client
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.daemon import PATIENCE_S, free_port
from tests.support.embedded import NAMESPACE, FleetServer, serve_fleet
from tests.support.waiting import until

PROGRAM = """
import atexit, pathlib, sys
listed = pathlib.Path(sys.argv.pop())
atexit.register(lambda: listed.write_text(" ".join(sys.modules)))
from telemetryd.__main__ import main
main()
"""
"""The daemon, which writes down at its end what it has imported."""

SECRET = f'[[exporters]]\nname = "it"\ntype = "secret"\nnamespace = "{NAMESPACE}"\nsecret = "it"\n'
NO_HISTORY = "[history]\nenabled = false\n"

OF_PAGES = {
    "telemetryd.history.charts",
    "telemetryd.serve.page.page",
    "telemetryd.serve.page.style",
    "telemetryd.serve.page.usage",
}
OF_STATUS = {"telemetryd.serve.page.status"}
OF_METRICS = {"prometheus_client", "telemetryd.serve.metrics.exposition"}
OF_HTTP = {"telemetryd.export.sinks.http", "telemetryd.export.sinks.transport"}
OF_OTLP = OF_HTTP | {"telemetryd.export.payloads.otlp_metrics"}
OF_FILE = {"telemetryd.export.sinks.file"}
OF_FLEET = {"telemetryd.export.payloads.fleet", "telemetryd.export.payloads.fleet_document"}
ON_DEMAND = {
    *(*OF_PAGES, *OF_STATUS, *OF_METRICS, *OF_OTLP, *OF_FILE, *OF_FLEET),
    "asyncpg",
    "difflib",
    "hypothesis",
    "jsonschema",
    "kubernetes_asyncio",
    "sqlite3",
    "telemetryd.config.jsonschema",
    "telemetryd.control.elector",
    "telemetryd.control.lease",
    "telemetryd.daemon.preview",
    "telemetryd.daemon.supportbundle",
    "telemetryd.demo",
    "telemetryd.doctor",
    "telemetryd.history.documents",
    "telemetryd.history.html",
    "telemetryd.informer.verify",
    "telemetryd.kube.execplugin",
    "urllib3",
}
"""What most daemons need nothing of, or not from the start."""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FleetServer]:
    with serve_fleet(tmp_path_factory.mktemp("embedded")) as fleet:
        yield fleet


def imported(folder: Path, server: FleetServer, config: str, *asked: str) -> set[str]:
    """What a daemon has imported that exported once, and then was asked for these paths."""
    port, listed = free_port(), folder / "modules"
    file = folder / "config.toml"
    file.write_text(
        f'state_dir = "{folder}"\n[kubernetes]\nkubeconfig = "{server.kubeconfig}"\n'
        f'[server]\nlisten = "127.0.0.1:{port}"\n{config}'
    )
    server.remove("secrets", "it", NAMESPACE) if server.payload("it") else None
    command = [sys.executable, "-c", PROGRAM, "run", "--config", str(file), str(listed)]
    with (
        (folder / "log").open("wb") as log,
        subprocess.Popen(command, stdout=log, stderr=log) as it,
    ):
        try:
            until(lambda: server.payload("it"))
            for path in asked:
                connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE_S)
                connection.request("GET", path)
                assert connection.getresponse().status == 200, path
                connection.close()
            it.terminate()
            assert it.wait(PATIENCE_S) == 0, (folder / "log").read_text()
        finally:
            it.kill()
    return set(listed.read_text().split())


def test_daemon_with_one_secret_imports_nothing_that_it_does_not_need(
    tmp_path: Path, server: FleetServer
) -> None:
    found = imported(tmp_path, server, SECRET + NO_HISTORY)
    assert not ON_DEMAND & found
    assert {"aiohttp", "telemetryd.export.payloads.scc", "telemetryd.export.sinks.secret"} <= found


@pytest.mark.parametrize(
    ("path", "needed"),
    [
        ("/metrics", OF_METRICS),
        ("/status.json", OF_STATUS),
        ("/", OF_PAGES | OF_STATUS),
        ("/livez", set()),
    ],
)
def test_what_answers_a_request_is_imported_for_it(
    path: str, needed: set[str], tmp_path: Path, server: FleetServer
) -> None:
    assert ON_DEMAND & imported(tmp_path, server, SECRET + NO_HISTORY, path) == needed


@pytest.mark.parametrize(
    ("more", "needed"),
    [
        ('type = "file"\ndirectory = "{folder}"', OF_FILE),
        ('type = "http"\nurl = "http://127.0.0.1:1"', OF_HTTP),
        ('type = "otlp"\nendpoint = "http://127.0.0.1:1"', OF_OTLP),
        ('type = "file"\ndirectory = "{folder}"\nformat = "fleet"', OF_FILE | OF_FLEET),
    ],
)
def test_sinks_and_formats_are_imported_for_exporters_that_have_them(
    more: str, needed: set[str], tmp_path: Path, server: FleetServer
) -> None:
    further = f'[[exporters]]\nname = "more"\n{more.format(folder=tmp_path / "files")}\n'
    assert ON_DEMAND & imported(tmp_path, server, SECRET + further + NO_HISTORY) == needed
