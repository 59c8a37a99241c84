"""The status page in a real browser: both schemes, narrow and wide, by keyboard and by reader.

With ``SCREENSHOTS`` set to a folder, pictures of every state are left there to look at, and
``status-page.png``, which the README shows.
"""

import os
from base64 import b64decode
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from telemetryd.serve.http.server import serve
from telemetryd.serve.page.facts import StatusFacts
from tests.browser.chromium import Page, tab
from tests.serve.facts import Facts
from tests.serve.http.test_server import Served
from tests.serve.page.test_overview import REJECTED
from tests.serve.states import STATES

pytestmark = pytest.mark.anyio

MEASURES = (Path(__file__).parent / "measures.js").read_text()
SCREENSHOTS = os.environ.get("SCREENSHOTS")
WIDTHS = (360, 959, 960, 1000, 1600, 1920)  # 960 is the narrowest at which records are tables
PICTURED = (360, 1000, 1600, 1920)
SCHEMES = ("light", "dark")
PAPER = 718
"""Of A4 between margins of 10 mm, in CSS pixels."""
HEADINGS = [
    REJECTED, "Fleet", "Entitlement and history", "Exporters", "What each exporter sends",
    "Sent by archive, scc and secretrequest/rancher-scc-metrics (scc)", "Informers", "Leader",
    "Configuration", "Why the reload was rejected", "What is read",
    "Read, whether it is sent or not", "Never read", "Switching it off",
]  # fmt: skip
MOST_LINES = 3
"""Of a cell."""
MOST_LINES_OF_CARDS = 6
"""Of a cell in a narrow window."""
UNBROKEN = frozenset({"hostile", "long"})
"""States whose texts need more lines, wherever they stand."""
LEAST_CONTRAST = 4.5
"""WCAG 2.2, success criterion 1.4.3, for text of every size."""


async def measure(page: Page, expression: str) -> Any:
    return await page.run(f"(() => {{ {MEASURES}; return {expression}; }})()")


@asynccontextmanager
async def opened(browser: str, facts: StatusFacts) -> AsyncIterator[tuple[Page, str]]:
    """The page of a server that shows these facts, and its URL."""
    served = Served(Facts(), status=lambda: facts)
    async with serve("127.0.0.1", 0, served.endpoints()) as listening, tab(browser) as page:
        url = f"http://{listening}/"
        await page.open(url)
        yield page, url


def complaints(page: Page, url: str) -> list[Any]:
    """What the browser has complained of, and what it has asked others for."""
    found: list[Any] = []
    for event in page.events:
        method, params = event["method"], event["params"]
        if method in {"Runtime.exceptionThrown", "Runtime.consoleAPICalled", "Audits.issueAdded"}:
            found.append(params)
        elif method == "Log.entryAdded":
            found.append(params["entry"]["text"])
        elif method == "Network.requestWillBeSent":
            target = params["request"]["url"]
            if target != url and not target.startswith("data:"):
                found.append(target)
    return found


@pytest.mark.parametrize("state", STATES)
async def test_page_fits_every_width_and_is_readable_in_both_schemes(
    state: str, browser: str
) -> None:
    async with opened(browser, STATES[state]) as (page, url):
        for width in WIDTHS:
            await page.show(width, "light")
            assert await measure(page, "overflowing()") == [], width
            assert await measure(page, "spilling()") == [], width
            if state not in UNBROKEN:
                most = MOST_LINES if width >= 960 else MOST_LINES_OF_CARDS
                assert await measure(page, f"tallCells({most})") == [], width
        for width in (WIDTHS[0], WIDTHS[-1]):
            for scheme in SCHEMES:
                await page.show(width, scheme)
                assert await measure(page, f"faintTexts({LEAST_CONTRAST})") == []
        assert await measure(page, "wordless()") == []
        assert await measure(page, "outline()") == []
        await page.show(PAPER, "dark", media="print")
        for measured in ("overflowing()", "spilling()", "printed()", "faintTexts(4.5)"):
            assert await measure(page, measured) == [], "on paper"
        assert complaints(page, url) == []
        assert await page.run("document.scripts.length + document.images.length") == 0
        if SCREENSHOTS:
            for width in PICTURED:
                for scheme in SCHEMES:
                    await page.show(width, scheme)
                    await keep(page, f"{state.replace(' ', '-')}-{width}-{scheme}.png")
            if state == "served":
                await page.show(1200, "light", 1118)
                await page.run("document.documentElement.style.scrollbarWidth = 'none'")
                await keep(page, "status-page.png", full=False)


async def test_page_is_printed_whole(browser: str) -> None:
    async with opened(browser, STATES["served"]) as (page, _):
        printed = await page.call("Page.printToPDF", paperWidth=8.27, paperHeight=11.69)
        pages = b64decode(printed["data"]).count(b"/Type /Page\n")
        assert 3 <= pages <= 12


async def test_link_to_the_fields_of_an_exporter_opens_them(browser: str) -> None:
    async with opened(browser, STATES["served"]) as (page, url):
        assert await page.run("document.querySelectorAll('details[open]').length") == 0
        click = "document.querySelector('a[href=\"#sends-2\"]').click()"
        await page.call("Runtime.evaluate", expression=click, userGesture=True)
        (opened_at,) = await page.run(
            "[...document.querySelectorAll('details[open] > div')].map((each) => each.id)"
        )
        assert opened_at == "sends-2"
        assert complaints(page, url) == []


async def keep(page: Page, name: str, *, full: bool = True) -> None:
    assert SCREENSHOTS is not None
    folder = Path(SCREENSHOTS)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(await page.picture(full=full))


async def test_what_the_tests_look_for_would_be_found(browser: str) -> None:
    async with opened(browser, STATES["well"]) as (page, url):
        await page.show(360, "light")
        await page.run("document.querySelector('h2').style.color = '#999'")
        (faint,) = await measure(page, f"faintTexts({LEAST_CONTRAST})")
        assert faint == "2.85 Fleet"
        await page.run("document.querySelector('h2').style.width = '400px'")
        assert (await measure(page, "overflowing()"))[0].startswith("scrolls to 4")
        await page.run("document.querySelector('dt').append('x'.repeat(99))")
        await page.run("document.querySelector('dt').style.overflowWrap = 'normal'")
        assert (await measure(page, "spilling()"))[0].startswith("DT Clusters")
        await page.show(1000, "light")
        await page.run("document.querySelector('.records tbody th').append(' x'.repeat(999))")
        assert "lines: " in (await measure(page, "tallCells(3)"))[0]
        await page.run("document.querySelector('.state div').remove()")
        await page.run("document.querySelector('.mark').classList.add('gaps')")
        assert len(await measure(page, "wordless()")) == 1
        await page.run("document.querySelector('h3').outerHTML = '<h4>deep</h4>'")
        assert await measure(page, "outline()") == [4]
        assert "shown NAV" in await measure(page, "printed()")
        await page.run("document.body.append(Object.assign(new Image(), {src: '/metrics'}))")
        await page.run("document.head.append(document.createElement('style'))")
        await page.run("document.querySelector('head > style:last-child').textContent = 'p {}'")
        await page.run("new Promise(requestAnimationFrame)")
        found = "\n".join(map(str, complaints(page, url)))
        assert "img-src data:" in found
        assert "style-src 'sha256-" in found


@pytest.mark.parametrize("width", [360, 1600])
@pytest.mark.parametrize("scheme", SCHEMES)
async def test_tab_reaches_every_link_in_order_with_a_visible_focus(
    width: int, scheme: str, browser: str
) -> None:
    async with opened(browser, STATES["well"]) as (page, _):
        await page.show(width, scheme)
        targets = await page.run(
            "[...document.querySelectorAll('a, summary')]"
            ".map((each) => each.getAttribute('href') ?? each.tagName)"
        )
        assert len(targets) == 14
        reached = []
        for _ in targets:
            await page.press_tab()
            focus = await measure(page, "focused()")
            assert focus["outlined"], focus
            assert focus["inView"], focus
            reached.append(focus["target"])
        assert reached == targets


@pytest.mark.parametrize("width", [360, 1600])
async def test_landmarks_headings_and_tables_have_names_for_screen_readers(
    width: int, browser: str
) -> None:
    async with opened(browser, STATES["failing"]) as (page, _):
        await page.show(width, "light")
        exposed = await page.accessible()
    roles = [role for role, _ in exposed]
    for landmark in ("banner", "main", "navigation"):
        assert roles.count(landmark) == 1
    assert ("RootWebArea", "Needs attention · telemetryd") in exposed
    assert ("navigation", "Other views") in exposed
    headings = [name for role, name in exposed if role == "heading"]
    assert sorted(headings, key=HEADINGS.index) == HEADINGS
    regions = [name for role, name in exposed if role == "region"]
    assert regions[:3] == [REJECTED, "Fleet", "Entitlement and history"]
    assert all(regions)
    assert [name for role, name in exposed if role == "table"] == [
        "By kind", "By distribution", "By Kubernetes version", "By management", "By driver",
        "3 exporters: 1 backoff, 1 failed, 1 idle", "6 informers with 478 objects: 6 synced",
    ]  # fmt: skip
    columns = [name for role, name in exposed if role == "columnheader"]
    assert columns[:4] == ["Kind", "Clusters", "Nodes", "Cores"]
    assert columns[20:26] == [
        "Exporter", "State", "Last success", "Next run", "Sends", "Last payload",
    ]  # fmt: skip
    rows = [name for role, name in exposed if role == "rowheader"]
    assert rows[:2] == ["managed", "local"]
    assert len([name for name in rows if name.startswith(("archive", "scc", "secretrequest"))]) == 3
    assert all(name for role, name in exposed if role == "link")
    assert ("link", "Payload of scc, 1,234 bytes") in exposed
    assert not {"image", "img", "generic image"} & set(roles)


async def test_hostile_texts_are_texts(browser: str) -> None:
    async with opened(browser, STATES["hostile"]) as (page, url):
        assert await page.run("document.title") == "Needs attention · telemetryd"
        assert await page.run("document.querySelectorAll('script, img').length") == 0
        assert "<script>document.title='owned'" in await page.run("document.body.innerText")
        assert complaints(page, url) == []
