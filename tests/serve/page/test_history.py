"""``/history``: what it says in each state, and that its figures are those of the report."""

import csv
import io
import json
from dataclasses import replace
from datetime import UTC, datetime
from html import unescape

import pytest

from telemetryd.history.documents import to_csv
from telemetryd.history.report import MONTH, make_report
from telemetryd.history.slots import HOUR_S, Slot
from telemetryd.serve.page.facts import HistoryFacts
from telemetryd.serve.page.history import render_csv, render_history, render_json
from telemetryd.serve.page.notes import Tone
from telemetryd.serve.page.usage import Usage, UsageReader
from tests.serve.facts import INSTALL_UUID, NOW
from tests.serve.page.test_page import Document
from tests.serve.past import BEGAN, FACTS, OUTAGES, PASTS, RULE, Past, nodes_at

pytestmark = pytest.mark.anyio


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A page that is busy for long is read to its end."""
    monkeypatch.setattr("telemetryd.serve.page.usage.READ_TIMEOUT_S", 300.0)


async def shown(past: Past) -> Document:
    usage = await UsageReader(lambda: past.facts, past.read).usage()
    return Document(render_history(usage, past.facts).decode())


async def data(past: Past) -> dict[str, object]:
    usage = await UsageReader(lambda: past.facts, past.read).usage()
    found: dict[str, object] = json.loads(render_json(usage, past.facts))
    return found


class All:
    """A past as a store of a file."""

    def __init__(self, past: Past) -> None:
        self.slots = past.slots

    def read(
        self,
        installation: str,
        size_s: int,
        begin: float,
        end: float,
        *,
        series: str = "",
    ) -> list[Slot]:
        assert installation == INSTALL_UUID
        return [slot for slot in self.slots[size_s] if begin <= slot.start < end]


@pytest.mark.parametrize("name", PASTS)
async def test_page_is_well_formed_and_names_are_unique(name: str) -> None:
    document = await shown(PASTS[name])
    assert document.headings[0] == "h1"
    assert document.headings.count("h1") == 1
    ids = [attributes["id"] for _, attributes in document.elements if "id" in attributes]
    assert len(set(ids)) == len(ids)
    assert {each["aria-labelledby"] for each in document.all("section")} <= set(ids)
    charts = [each for each in document.all("svg") if each.get("class") == "chart"]
    assert all(each["role"] == "img" and each["aria-label"] for each in charts)
    drawn = name in {"a day", "13 months", "unwritable", "hostile"}
    assert len(charts) == (3 if drawn else 0)
    # A table for each, and that of versions and providers.
    assert len(document.all("details")) == (4 if drawn else 0)


@pytest.mark.parametrize(
    ("name", "tone", "sentence"),
    [
        ("nothing known", Tone.BUSY, "Nothing is known yet."),
        ("a day", Tone.GOOD, "This month counts 311 licenses; no limit is configured."),
        ("13 months", Tone.BAD, "This month counts 16 licenses, 1 over the limit of 15."),
        ("off", Tone.QUIET, "No history is kept: switched off by $DO_NOT_TRACK."),
        ("unwritable", Tone.GAPS, "The history can't be written; everything else goes on."),
        ("unreadable", Tone.BAD, "This month counts 16 licenses, 1 over the limit of 15."),
    ],
)
async def test_page_begins_with_what_matters(name: str, tone: Tone, sentence: str) -> None:
    document = await shown(PASTS[name])
    assert sentence in document.texts
    assert document.all("section")[0]["class"] == f"verdict {tone.name.lower()}"


async def test_months_are_those_of_the_report() -> None:
    past = PASTS["13 months"]
    usage = await UsageReader(lambda: past.facts, past.read).usage()
    now = datetime.fromtimestamp(NOW, UTC)
    report = make_report(
        All(past), RULE, installation=INSTALL_UUID, instance="", begin=None, end=now, by=MONTH
    )
    assert render_csv(usage, past.facts).decode() == to_csv([report])
    assert usage.since == report.since == datetime.fromtimestamp(BEGAN, UTC)
    rows = list(csv.DictReader(io.StringIO(to_csv([report]))))
    text = (await shown(past)).text
    for row in rows:
        assert f"{int(row['peak']):,}" in text
    assert text.count("over the limit") == 2 + sum(int(row["licenses"]) > 15 for row in rows)


async def test_history_older_than_13_months_is_named_and_not_drawn() -> None:
    past = PASTS["13 months"]
    later = 40 * 86400.0
    moved = replace(past.facts, now=NOW + later)
    usage = await UsageReader(lambda: moved, past.read).usage()
    assert usage.since == datetime.fromtimestamp(BEGAN, UTC)
    assert usage.report is not None
    assert usage.report.periods[0].begin == datetime(2026, 2, 1, tzinfo=UTC)
    assert usage.report.periods[-1].figure is None


async def test_gaps_stay_gaps_and_say_why() -> None:
    found = await data(PASTS["13 months"])
    charts = found["charts"]
    assert isinstance(charts, dict)
    assert {name: len(points) for name, points in charts.items()} == {
        "day": 720, "month": 720, "year": 380,
    }  # fmt: skip
    (begin, end) = next(each for each in OUTAGES if each[0] == 8985)
    gone = [
        point
        for point in charts["month"]
        if BEGAN + begin * HOUR_S
        <= datetime.fromisoformat(point["from"]).timestamp()
        < BEGAN + end * HOUR_S
    ]
    assert len(gone) == end - begin
    assert {(point["low"], point["high"]) for point in gone} == {(None, None)}
    assert all("was down" in point["gap"] for point in gone)
    text = (await shown(PASTS["13 months"])).text
    for words in (
        "5 days (telemetryd was down or not ready)",
        "1 day 6 hours (collection was off)",
    ):
        assert words in text
    assert "6 hours in part (not all could be read)" in text


async def test_peak_of_a_minute_is_in_every_chart() -> None:
    past = PASTS["13 months"]
    peak = nodes_at(7234) + 90
    found = await data(past)
    charts = found["charts"]
    assert isinstance(charts, dict)
    assert max(point["high"] or 0 for point in charts["year"]) == peak


async def test_versions_and_providers_of_each_month_are_in_words() -> None:
    past = PASTS["13 months"]
    text = (await shown(past)).text
    assert text.count("eks 2, rke2 19") == text.count("1.33 21") == 13
    usage = await UsageReader(lambda: past.facts, past.read).usage()
    lines = csv.DictReader(io.StringIO(render_csv(usage, past.facts).decode()))
    assert {(each["versions"], each["providers"], each["kubernetes"]) for each in lines} == {
        ("v2.15.0", "eks 2, rke2 19", "1.33 21")
    }


async def test_hostile_texts_are_texts() -> None:
    document = await shown(PASTS["hostile"])
    assert "script" not in {name for name, _ in document.elements}
    assert "<script>document.title='owned'</script>" in unescape(document.text)
    found = await data(PASTS["hostile"])
    assert str(found["store"]).startswith("SQLite, /<script>")


async def test_json_holds_what_the_page_shows() -> None:
    found = await data(PASTS["unwritable"])
    assert found["enabled"] is True
    assert found["trouble"] == "history: database or disk is full"
    assert found["store"] == "SQLite, /var/lib/telemetryd/history.db"
    assert found["installation"] == INSTALL_UUID
    periods = found["periods"]
    assert isinstance(periods, list)
    assert {(*each["versions"], *each["providers"], *each["kubernetes"]) for each in periods} == {
        ("v2.15.0", "eks", "rke2", "1.33")
    }
    off = await data(PASTS["off"])
    assert (off["enabled"], off["off"]) == (False, "switched off by $DO_NOT_TRACK")


async def test_store_is_read_once_a_minute_in_small_parts() -> None:
    past = replace(PASTS["13 months"], reads=[])
    now = [NOW]

    def facts() -> HistoryFacts:
        return replace(FACTS, now=now[0])

    reader = UsageReader(facts, past.read)
    first = await reader.usage()
    number = len(past.reads)
    assert await reader.usage() is first
    now[0] += 59 - NOW % 60
    assert await reader.usage() is first
    assert len(past.reads) == number
    now[0] += 1
    assert await reader.usage() is not first
    # The day that it all began with, hours and days of this month, and what the charts show.
    assert len(past.reads) == number + 6
    now[0] += HOUR_S
    await reader.usage()
    assert len(past.reads) == 2 * number + 6
    assert max((end - begin) / size_s for size_s, begin, end in past.reads) <= 1441


async def test_what_was_removed_is_not_shown_from_memory() -> None:
    past = replace(PASTS["13 months"], slots=dict(PASTS["13 months"].slots))
    now = [NOW]
    reader = UsageReader(lambda: replace(FACTS, now=now[0]), past.read)
    assert (await reader.usage()).report is not None
    past.slots.clear()
    now[0] += 60
    assert await reader.usage() == Usage()


async def test_nothing_is_read_while_it_is_off() -> None:
    past = replace(PASTS["13 months"], reads=[])
    reader = UsageReader(lambda: replace(FACTS, off="switched off"), past.read)
    assert (await reader.usage()).report is None
    assert await reader.nodes() == ()
    assert past.reads == []
