"""Whole scrapes, compared with those that an earlier version gave; the fleet in ``/metrics``.

A difference is a change of what operators see. To accept one, write the files again:
``python -m tests.serve.metrics.test_families``.
"""

from dataclasses import replace
from pathlib import Path

import anyio
import pytest

from telemetryd.model import ExporterState, RoleCounts, Switch, Switches, Totals
from telemetryd.serve.metrics.families import FAMILIES
from telemetryd.stats import ExporterStats, InformerStats
from tests.serve.facts import (
    DOUBTFUL,
    NODES,
    NOW,
    ODD_GROUPS,
    SNAPSHOT,
    Facts,
    busy_exporter_stats,
    busy_facts,
    exporter_status,
    informer_status,
    new_exporter_status,
)
from tests.serve.metrics.test_metrics import samples, scrape

pytestmark = pytest.mark.anyio


async def test_fleet_is_split_by_what_its_clusters_are() -> None:
    found = await samples(Facts(snapshot=DOUBTFUL))

    def by(name: str) -> dict[str, float]:
        """The series of one metric that aren't 0, by their label."""
        start = f"fleet_{name}["
        return {
            series.removeprefix(start).partition("=")[2].rstrip("]"): value
            for series, value in found.items()
            if series.startswith(start) and value
        }

    assert by("nodes_by_kind") == {"local": 3, "managed": 300}
    assert by("cpu_cores_by_kind") == {"local": 12, "managed": 1200}
    assert by("clusters_by_provider") == {"rke2": 16, "eks": 4, "other": 1}
    assert by("nodes_by_provider") == {"rke2": 243, "eks": 52, "other": 8}
    assert by("clusters_by_driver") == {"rke2": 1, "imported": 15, "eks": 4, "other": 1}
    assert by("clusters_by_management") == {
        "local": 1,
        "provisioned": 15,
        "hosted": 4,
        "imported": 1,
    }
    assert by("clusters_by_kubernetes_minor") == {"1.32": 3, "1.33": 17, "other": 1}
    assert by("gpus") == {"nvidia": 16, "intel": 2}
    assert by("withheld_texts") == {"provider": 1}


async def test_doubtful_numbers_and_requests_of_pods_are_shown() -> None:
    found = await samples(Facts(snapshot=DOUBTFUL))
    assert found["fleet_active_clusters"] == 18
    assert found["fleet_deleting_clusters"] == 1
    assert (found["fleet_stale_clusters"], found["fleet_stale_nodes"]) == (2, 12)
    assert found["fleet_unreadable_nodes"] == 1
    assert found["fleet_differing_clusters"] == 1
    assert found["fleet_implausible_drop[what=nodes]"] == 1
    assert found["fleet_implausible_drop[what=clusters]"] == 0
    reporting = 303 - 8
    assert found["fleet_pod_capacity"] == 110 * reporting
    assert found["fleet_requested_pods"] == 20 * reporting
    assert found["fleet_requested_cpu_cores"] == reporting
    assert found["fleet_requested_memory_bytes"] == 2 * 2**30 * reporting


async def test_closed_labels_of_the_fleet_are_there_as_0_and_no_others() -> None:
    empty = replace(SNAPSHOT, totals=Totals(roles=dict.fromkeys(RoleCounts._fields, 0)))
    found = await samples(Facts(snapshot=empty))
    fleet = {series: value for series, value in found.items() if series.startswith("fleet_")}
    assert set(fleet.values()) == {0}
    for family in FAMILIES:
        series = [each for each in fleet if each.partition("[")[0] == family.name]
        if family.name == "fleet_clusters_by_kubernetes_minor":
            assert series == []
        elif family.name.startswith("fleet_"):
            assert len(series) == (len(family.labels[0].values) if family.labels else 1)


async def test_series_of_a_version_goes_with_its_last_cluster() -> None:
    facts = Facts(snapshot=DOUBTFUL)
    renderer = facts.renderer()
    assert 'minor="1.32"' in await scrape(renderer)
    kept = tuple(each for each in ODD_GROUPS if each.key.kubernetes_minor != "1.32")
    facts.snapshot = replace(SNAPSHOT, totals=replace(SNAPSHOT.totals, groups=kept))
    assert 'minor="1.32"' not in await scrape(renderer)


FOLDER = Path(__file__).parent / "scrapes"


def _many() -> Facts:
    """Several of each, some with names that need escapes; reloads have failed and succeeded."""
    facts = busy_facts()
    stats = busy_exporter_stats()
    stats.in_flight = stats.spool_items = 1
    stats.spool_bytes = 4321
    facts.exporters += [
        (
            exporter_status(
                name="secretrequest/b",
                state=ExporterState.BACKOFF,
                consecutive_failures=2,
                schema_valid=False,
            ),
            stats,
        ),
        (
            new_exporter_status(name='a"b\\c\nd' + "é\ud800" + "x" * 600, enabled=False),
            ExporterStats(),
        ),
    ]
    facts.informers.append(
        (
            informer_status(resource="namespaces", synced=False, last_contact_at=None),
            InformerStats("namespaces"),
        )
    )
    facts.config.reloads.update({("success", "file"): 2, ("failure", "signal"): 1})
    facts.config.status = replace(facts.config.status, reloaded_at=NOW, problems=("k: is wrong",))
    facts.kube.requests["PATCH", "409"] += 3
    facts.switches = Switches(frozenset({Switch.SETTING, Switch.DO_NOT_TRACK}))
    return facts


STATES = {
    "fresh": Facts(),
    "waiting": Facts(
        exporters=[(new_exporter_status(), ExporterStats())],
        informers=[
            (informer_status(synced=False, objects=0, last_contact_at=None), InformerStats(NODES))
        ],
    ),
    "busy": busy_facts(),
    "many": _many(),
    "doubtful": Facts(snapshot=DOUBTFUL),
    "empty": Facts(
        snapshot=replace(
            SNAPSHOT, complete=False, totals=Totals(roles=dict.fromkeys(RoleCounts._fields, 0))
        )
    ),
}


async def scrape_of_itself(facts: Facts) -> str:
    """What a scrape shows of telemetryd itself; the process and Python differ from run to run."""
    text = (await facts.renderer().render()).body.decode()
    ours = ("# HELP telemetryd_", "# TYPE telemetryd_", "telemetryd_")
    return "".join(line for line in text.splitlines(keepends=True) if line.startswith(ours))


@pytest.mark.parametrize("name", STATES)
async def test_scrape_has_not_changed(name: str) -> None:
    assert await scrape_of_itself(STATES[name]) == (FOLDER / f"{name}.txt").read_text()


if __name__ == "__main__":
    for state, given in STATES.items():
        (FOLDER / f"{state}.txt").write_text(anyio.run(scrape_of_itself, given))
