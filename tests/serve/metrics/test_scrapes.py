"""Whole scrapes, compared with those that an earlier version gave: names, types, labels, values.

A difference is a change of what operators see. To accept one, write the files anew:
``python -m tests.serve.metrics.test_scrapes``.
"""

from dataclasses import replace
from pathlib import Path

import anyio
import pytest

from telemetryd.model import ExporterState, RoleCounts, Switch, Switches, Totals
from telemetryd.stats import ExporterStats, InformerStats
from tests.serve.facts import (
    DOUBTFUL,
    NODES,
    NOW,
    SNAPSHOT,
    Facts,
    busy_exporter_stats,
    busy_facts,
    exporter_status,
    informer_status,
    new_exporter_status,
)

pytestmark = pytest.mark.anyio

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


async def scrape(facts: Facts) -> str:
    """What a scrape shows of telemetryd itself; the process and Python differ from run to run."""
    text = (await facts.renderer().render()).body.decode()
    ours = ("# HELP telemetryd_", "# TYPE telemetryd_", "telemetryd_")
    return "".join(line for line in text.splitlines(keepends=True) if line.startswith(ours))


@pytest.mark.parametrize("name", STATES)
async def test_scrape_has_not_changed(name: str) -> None:
    assert await scrape(STATES[name]) == (FOLDER / f"{name}.txt").read_text()


if __name__ == "__main__":
    for state, given in STATES.items():
        (FOLDER / f"{state}.txt").write_text(anyio.run(scrape, given))
