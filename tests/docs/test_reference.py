"""The generated references are up to date, and the metrics' are those of a real daemon."""

import re
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

from telemetryd.serve.metrics.families import FAMILIES
from tests.docs.generate import BLOCKS, DOCS, PAGES, render_page
from tests.docs.values import FILES
from tests.support.daemon import Daemon, free_port
from tests.support.embedded import FleetServer, serve_fleet
from tests.support.receiver import Verdict, receiving_in_threads

_ROW = re.compile(r"^\| `(\w+)` \| (\w+) \| ([^|]*) \|", re.MULTILINE)
_LABEL = re.compile(r"(?:^|; )`(\w+)`(?=[:;]|$)")

EXPORTERS = """
[entitlement]
limit = 40

[[exporters]]
name = "scc"
type = "secret"
interval = "1s"
retry_base = "100ms"

[[exporters]]
name = "down"
type = "http"
url = "http://127.0.0.1:{closed}"
interval = "2s"
timeout = "500ms"
retry_base = "100ms"
splay_max = "0s"

[[exporters]]
name = "busy"
type = "http"
url = "{throttling}"
interval = "1s"
splay_max = "0s"
"""

KUBECONFIG = """
apiVersion: v1
kind: Config
current-context: none
contexts: [{{name: none, context: {{cluster: none, user: none}}}}]
clusters: [{{name: none, cluster: {{server: "http://127.0.0.1:{port}"}}}}]
users: [{{name: none, user: {{token: none}}}}]
"""


def throttling_receiver() -> "AbstractContextManager[str]":
    """The URL of one that always wants to be left alone for a while."""
    return receiving_in_threads(lambda _: Verdict(429, {"Retry-After": "2"}))


def exposed(daemon: Daemon) -> dict[str, Metric]:
    """Every family of a scrape, by the name it is asked for; none while nothing is served."""
    return {
        family.name + ("_total" if family.type == "counter" else ""): family
        for family in text_string_to_metric_families(daemon.get("/metrics")[1])
    }


@pytest.fixture(scope="module")
def scrape(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Metric]]:
    """What a daemon shows to which everything has happened that is counted."""
    folder = tmp_path_factory.mktemp("daemon")
    corrupt = folder / "spool" / "down" / "pending"
    corrupt.parent.mkdir(parents=True)
    corrupt.write_text("no payload")
    with serve_fleet(folder, churn_per_s=20) as fleet, throttling_receiver() as throttling:
        tables = EXPORTERS.format(closed=free_port(), throttling=throttling)
        daemon = Daemon(folder, fleet.kubeconfig, tables)
        try:
            daemon.wait_for("ready", daemon.ready, 60)
            daemon.wait_for("an export", lambda: daemon.exporter()["last_success_at"], 60)
            _spoil(fleet)
            wanted = {family.exposed_name for family in FAMILIES}
            daemon.wait_for("every metric", lambda: wanted <= set(exposed(daemon)), 120)
            yield exposed(daemon)
        finally:
            assert daemon.stop() == 0


def _spoil(fleet: FleetServer) -> None:
    """Let an object be unreadable, and watches end."""
    node = {"metadata": {"name": "odd", "namespace": "local"}, "spec": {"etcd": "perhaps"}}
    fleet.put({"apiVersion": "management.cattle.io/v3", "kind": "Node", **node})
    fleet.drop_watches()


def documented() -> dict[str, tuple[str, frozenset[str]]]:
    """Type and labels of each metric of the page, by its name."""
    rows = _ROW.findall((DOCS / "metrics.md").read_text())
    return {name: (kind, frozenset(_LABEL.findall(labels))) for name, kind, labels in rows}


def labels_of(family: Metric) -> frozenset[str]:
    """Every label of a scraped family but that of its buckets."""
    found = {frozenset(sample.labels) - {"le", "quantile"} for sample in family.samples}
    assert len(found) == 1, family.name
    return found.pop()


@pytest.mark.parametrize("name", [*PAGES, *BLOCKS])
def test_generated_page_is_up_to_date(name: str) -> None:
    assert (DOCS / name).read_text() == render_page(name), "run make docs"


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_generated_file_of_the_chart_is_up_to_date(path: Path) -> None:
    assert path.read_text() == FILES[path](), "run make docs"


def test_every_documented_metric_exists_and_every_existing_one_is_documented(
    scrape: dict[str, Metric],
) -> None:
    in_text = {"info": "gauge"}  # the text format has no type of its own for it
    assert {name: (family.type, labels_of(family)) for name, family in scrape.items()} == {
        name: (in_text.get(kind, kind), labels) for name, (kind, labels) in documented().items()
    }


def test_labels_say_what_the_table_closes_them_to(scrape: dict[str, Metric]) -> None:
    closed = {
        (family.exposed_name, label.name): {*label.values}
        for family in FAMILIES
        for label in family.labels
        if label.values
    }
    for (name, label), values in closed.items():
        seen = {sample.labels[label] for sample in scrape[name].samples}
        assert seen <= values, (name, label)


def test_metrics_that_are_always_there_are_there_before_anything_happened(tmp_path: Path) -> None:
    unreachable = tmp_path / "kubeconfig"
    unreachable.write_text(KUBECONFIG.format(port=free_port()))
    daemon = Daemon(tmp_path, unreachable, '[[exporters]]\nname = "scc"\ntype = "secret"\n')
    try:
        found = daemon.wait_for("a scrape", lambda: exposed(daemon), 60)
        always = {
            family.exposed_name
            for family in FAMILIES
            if not family.appears and not family.name.startswith("informer_")
        }
        assert always <= set(found)
        later = {"telemetryd_fleet_nodes", "telemetryd_exporter_last_success_timestamp_seconds"}
        assert not later & set(found)
    finally:
        assert daemon.stop() == 0
