"""``/history`` and the HTML report in a real browser: every width, both schemes, on paper.

With ``SCREENSHOTS`` set to a folder, pictures of every state are left there.
"""

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from dataclasses import replace
from pathlib import Path

import pytest

from telemetryd.history.slots import DAY_S, HOUR_S, MINUTE_S, Cell, Slot
from telemetryd.history.sqlite import open_store
from telemetryd.serve.http.server import serve
from tests.browser.chromium import Page, tab
from tests.browser.test_status_page import (
    LEAST_CONTRAST,
    MOST_LINES,
    MOST_LINES_OF_CARDS,
    PAPER,
    SCHEMES,
    SCREENSHOTS,
    complaints,
    keep,
    measure,
)
from tests.cli.test_commands import telemetryd
from tests.serve.facts import INSTALL_UUID, NOW, Facts
from tests.serve.http.test_server import Served
from tests.serve.past import PASTS
from tests.serve.states import HOSTILE, WELL

pytestmark = pytest.mark.anyio

WIDTHS = (360, 959, 960, 1000, 1600)
PICTURED = (360, 1000, 1600)


@asynccontextmanager
async def opened(
    browser: str, state: str, path: str = "history"
) -> AsyncIterator[tuple[Page, str]]:
    served = Served(Facts(), status=lambda: WELL, past=PASTS[state])
    async with serve("127.0.0.1", 0, served.endpoints()) as listening, tab(browser) as page:
        url = f"http://{listening}/{path}"
        await page.open(url)
        yield page, url


async def check(page: Page) -> None:
    """Everything that must hold at each width, in each scheme and on paper."""
    for width in WIDTHS:
        await page.show(width, "light")
        assert await measure(page, "overflowing()") == [], width
        assert await measure(page, "spilling()") == [], width
        assert await measure(page, "collidingTexts()") == [], width
    for width in (WIDTHS[0], WIDTHS[-1]):
        for scheme in SCHEMES:
            await page.show(width, scheme)
            faint = await measure(page, f"faintTexts({LEAST_CONTRAST})")
            assert [each for each in faint if not each.startswith("only ")] == []
            assert await measure(page, "faintLines()") == []
    assert await measure(page, "outline()") == []
    assert await page.run("document.scripts.length + document.images.length") == 0


async def picture(page: Page, name: str) -> None:
    if SCREENSHOTS:
        for width in PICTURED:
            for scheme in SCHEMES:
                await page.show(width, scheme)
                await keep(page, f"{name.replace(' ', '-')}-{width}-{scheme}.png")


@pytest.mark.parametrize("state", PASTS)
async def test_history_fits_every_width_and_is_readable_in_both_schemes(
    state: str, browser: str
) -> None:
    async with opened(browser, state) as (page, url):
        await check(page)
        if state != "hostile":
            for width in WIDTHS:
                await page.show(width, "light")
                most = MOST_LINES if width >= 960 else MOST_LINES_OF_CARDS
                assert await measure(page, f"tallCells({most})") == [], width
        assert await measure(page, "wordless()") == []
        await page.show(PAPER, "dark", media="print")
        for measured in ("overflowing()", "spilling()", "printed()", "faintLines()"):
            assert await measure(page, measured) == [], "on paper"
        assert complaints(page, url) == []
        await picture(page, f"history {state}")
        await page.run("document.querySelectorAll('details').forEach((each) => each.open = true)")
        for width in WIDTHS:
            await page.show(width, "light")
            assert await measure(page, "overflowing()") == [], width
            assert await measure(page, "spilling()") == [], width
        await picture(page, f"history {state} with tables")


async def test_charts_and_tables_have_names_for_screen_readers(browser: str) -> None:
    async with opened(browser, "13 months") as (page, _):
        await page.show(1000, "light")
        await page.run("document.querySelectorAll('details').forEach((each) => each.open = true)")
        exposed = await page.accessible()
    assert [name for role, name in exposed if role in {"image", "img", "graphics-document"}] == [
        "Last 24 hours, nodes: 298 to 311",
        "Last 30 days, nodes: 285 to 311",
        "Last 13 months, nodes: 174 to 365",
    ]
    assert {name for role, name in exposed if role == "table"} == {
        "Last 24 hours, by hour, in UTC",
        "Last 30 days, by day, in UTC",
        "Last 13 months, by month, in UTC",
        "Nodes by calendar month in UTC",
        "Versions that ran, and the most clusters at a moment, by calendar month in UTC",
    }
    headings = [name for role, name in exposed if role == "heading"]
    assert sorted(headings, key=headings.index) == [
        "This month counts 16 licenses, 1 over the limit of 15.", "Entitlement", "Last 24 hours",
        "Last 30 days", "Last 13 months", "By month", "How to read it",
    ]  # fmt: skip
    regions = [name for role, name in exposed if role == "region"]
    assert len(regions) == len(headings)
    assert all(name for role, name in exposed if role == "link")


async def test_gap_is_said_in_words_above_its_chart(browser: str) -> None:
    async with opened(browser, "13 months") as (page, _):
        captions = await page.run(
            "[...document.querySelectorAll('figcaption')].map((each) => each.textContent)"
        )
    assert ["was down" in each for each in captions] == [True, True, True]


async def test_front_page_links_to_the_history_and_shows_the_last_30_days(browser: str) -> None:
    async with opened(browser, "13 months", "") as (page, url):
        for width in WIDTHS:
            await page.show(width, "light")
            assert await measure(page, "overflowing()") == [], width
            assert await measure(page, "spilling()") == [], width
        for scheme in SCHEMES:
            await page.show(1000, scheme)
            assert await measure(page, "faintLines()") == []
        assert await page.run("document.querySelectorAll('.spark .mean').length") >= 1
        assert complaints(page, url) == []
        await picture(page, "front page with history")
        await page.run("document.querySelector('.past a').click()")
        await page.open(f"{url}history")
        assert await page.run("document.title") == "History: needs attention · telemetryd"


async def test_what_the_tests_look_for_in_charts_would_be_found(browser: str) -> None:
    async with opened(browser, "13 months") as (page, _):
        await page.show(1000, "light")
        await page.run("document.querySelector('.chart .mean').style.stroke = '#ccc'")
        assert (await measure(page, "faintLines()"))[0].endswith(" mean")
        await page.run("document.querySelector('.chart text').style.fill = '#aaa'")
        (faint,) = await measure(page, f"faintTexts({LEAST_CONTRAST})")
        assert faint.endswith(" 0")
        await page.run("document.querySelectorAll('.chart text')[1].setAttribute('y', 196)")
        assert await measure(page, "collidingTexts()")


def reported(tmp_path: Path, state: str) -> Path:
    """What ``telemetryd report --format html`` writes of a store, which ends now."""
    folder = tmp_path / "state"
    folder.mkdir()
    now = time.time()
    later = int(now - NOW) // HOUR_S * HOUR_S
    version = HOSTILE if state == "hostile" else "v2.15.0"
    past = PASTS["a day" if state == "hostile" else state]

    def moved(slot: Slot) -> Slot:
        is_named = state == "hostile" and slot.known
        cells = {f"clusters.provider.{HOSTILE}": Cell(2, 2, 2, 2, 2.0)} if is_named else {}
        start = (slot.start + later) // slot.size_s * slot.size_s
        return replace(slot, start=start, version=version, cells={**slot.cells, **cells})

    with closing(open_store(folder, now=lambda: now)) as store:
        for size_s in (MINUTE_S, HOUR_S, DAY_S):
            slots = [(INSTALL_UUID, moved(slot)) for slot in past.slots.get(size_s, [])]
            store.merge(slots)
    config = tmp_path / "config.toml"
    limit = past.facts.rule.limit or 40
    rule = f'[entitlement]\npreset = "aws-csp"\nlimit = {limit}\n'
    config.write_text(f'state_dir = "{folder}"\n{rule}')
    place = tmp_path / "report.html"
    ended = telemetryd(
        "report", "--format", "html", "--output", str(place), "--config", str(config)
    )
    assert (ended.returncode, ended.stderr) == (0, "")
    return place


@pytest.mark.parametrize("state", ["a day", "13 months", "hostile"])
async def test_report_fits_every_width_and_is_readable_in_both_schemes(
    state: str, browser: str, tmp_path: Path
) -> None:
    place = reported(tmp_path, state)
    async with tab(browser) as page:
        await page.open(place.as_uri())
        for width in WIDTHS:
            await page.show(width, "light")
            for measured in ("overflowing()", "spilling()", "collidingTexts()"):
                assert await measure(page, measured) == [], (width, measured)
        for width in (WIDTHS[0], WIDTHS[-1]):
            for scheme in SCHEMES:
                await page.show(width, scheme)
                assert await measure(page, f"faintTexts({LEAST_CONTRAST})") == []
                assert await measure(page, "faintLines()") == []
        assert await measure(page, "outline()") == []
        assert await page.run("document.scripts.length + document.images.length") == 0
        assert complaints(page, place.as_uri()) == []
        exposed = await page.accessible()
        assert [name for role, name in exposed if role in {"image", "img"}] == ["nodes over time"]
        assert len([role for role, _ in exposed if role == "table"]) == 3
        assert "\u202e" not in await page.run("document.body.innerText")
        await picture(page, f"report {state}")
