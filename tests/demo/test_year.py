"""The demo's made-up year: whole, marked, and one that the daemon goes on with."""

import json
import re
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from urllib.request import urlopen

import pytest

from telemetryd.demo.year import DAYS, MADE_UP, write_year
from telemetryd.history.entitlement import PRESETS
from telemetryd.history.report import MONTH, make_report
from telemetryd.history.slots import DAY_S, HOUR_S, Gap
from telemetryd.history.sqlite import read_store
from tests.cli.test_commands import telemetryd
from tests.support import starter
from tests.support.waiting import until

INSTALLATION = "11111111-1111-4111-8111-111111111111"
NOW = 1_800_000_000.0
SAID = re.compile("(API server|look at|command it|its past|[0-9:]{8}) ")
"""How each line of the demo begins; any other one is a warning."""


@pytest.fixture
def year(tmp_path: Path) -> Path:
    write_year(tmp_path, INSTALLATION, clusters=20, nodes=300, now=NOW, seed=1)
    return tmp_path


def test_year_is_whole_and_every_slot_says_that_it_is_made_up(year: Path) -> None:
    with closing(read_store(year)) as store:
        hours = store.read(INSTALLATION, HOUR_S, 0, 2**62)
        days = store.read(INSTALLATION, DAY_S, 0, 2**62)
    assert len(hours) == DAYS * 24
    assert [slot.start for slot in hours] == list(
        range(hours[0].start, int(NOW // HOUR_S * HOUR_S), HOUR_S)
    )
    assert DAYS <= len(days) <= DAYS + 1
    assert all(MADE_UP in slot.version for slot in hours if slot.known)
    assert {gap for slot in hours for gap in slot.gaps} == {Gap.DOWN, Gap.INCOMPLETE}
    first, last = hours[0].cell("nodes.entitled"), hours[-1].cell("nodes.entitled")
    assert (first.low or 0) < 150
    assert (last.low or 0) > 280
    assert max(slot.cell("nodes.entitled").high for slot in days) == max(
        slot.cell("nodes.entitled").high for slot in hours
    )


def test_report_of_it_shows_growth_gaps_and_peaks(year: Path) -> None:
    with closing(read_store(year)) as store:
        made = make_report(
            store,
            PRESETS["aws-csp"],
            installation=INSTALLATION,
            instance="here",
            begin=None,
            end=datetime.fromtimestamp(NOW, UTC),
            by=MONTH,
        )
    whole = made.periods[1:-1]
    counts = [(each.figure, each.mean, each.peak) for each in whole]
    assert all(None not in each for each in counts)
    figures = [figure or 0 for figure, *_ in counts]
    assert len(whole) >= 11
    assert figures == sorted(figures)
    assert any(each.hours.known < each.hours.total for each in whole)
    assert any(each.hours.complete < each.hours.known for each in whole)
    peaks = [peak.value if peak else 0 for *_, peak in counts]
    assert all(peak >= (mean or 0) for peak, (_, mean, _) in zip(peaks, counts, strict=True))
    assert any(peak > figure * 6 / 5 for peak, figure in zip(peaks, figures, strict=True))


def test_demo_shows_its_past_and_leaves_other_folders_alone(tmp_path: Path) -> None:
    own = tmp_path / "own"
    own.mkdir()
    log = tmp_path / "log"
    with log.open("wb") as out:
        process = starter.start(
            *("demo", "--clusters", "2", "--nodes", "30"),
            stdout=out,
            stderr=out,
            env={"PATH": "/usr/bin:/bin", "STATE_DIRECTORY": str(own), "HOME": str(own)},
        )
    try:
        listening = until(
            lambda: [each for each in lines(log) if each.startswith("look at")],
            "the demo's daemon",
            ended=process.poll,
        )
        # The file has one writer: the year is there before the daemon opens it.
        (said,) = [each for each in lines(log) if "KUBECONFIG=" in each]
        folder = Path(said.partition("KUBECONFIG=")[2].rstrip(")")).parent
        with closing(read_store(folder)) as store:
            (installation,) = store.installations()
            hours = store.read(installation, HOUR_S, 0, 2**62)
        assert (
            len([slot for slot in hours if not slot.known or MADE_UP in slot.version]) == DAYS * 24
        )

        page = until(lambda: past_on(listening[0].split()[-1]), "the year", ended=process.poll)
        assert f"v2.13.4 ({MADE_UP})" in page
        said = until(
            lambda: next((each for each in lines(log) if each.startswith("its past")), ""),
            "the demo to say where its past is",
            ended=process.poll,
        )
        assert f"({MADE_UP})" in said
        config = said.partition("--config ")[2].split()[0]
        made = telemetryd("report", "--format", "json", "--config", config)
        document = json.loads(made.stdout)
        assert document["rule"]["preset"] == "aws-csp"
        versions = [each for period in document["periods"] for each in period["versions"]]
        assert all(MADE_UP in each for each in versions[:3])
        assert MADE_UP in telemetryd("report", "--config", config).stdout
        assert "cannot keep the history" not in log.read_text()
        assert len(lines(log)) == len([each for each in lines(log) if SAID.match(each)])
    finally:
        process.terminate()
        assert process.wait(60) == 0
    assert not [*own.iterdir()]
    assert not Path(config).exists(), "its folder goes with it"


def past_on(url: str) -> str:
    """The page of the past, once the daemon knows the fleet."""
    with urlopen(f"{url}history", timeout=30) as answer:
        text = str(answer.read().decode())
    return text if "By month" in text else ""


def lines(log: Path) -> list[str]:
    return log.read_text().splitlines()
