"""The status page in a real browser: both schemes, narrow and wide, by keyboard and by reader.

With ``SCREENSHOTS`` set to a folder, pictures of every state are left there to look at.
"""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from telemetryd.serve.http.server import serve
from telemetryd.serve.page.status import StatusFacts
from tests.browser.chromium import Page, tab
from tests.serve.facts import Facts
from tests.serve.http.test_server import Served
from tests.serve.states import STATES

pytestmark = pytest.mark.anyio

MEASURES = (Path(__file__).parent / "measures.js").read_text()
SCREENSHOTS = os.environ.get("SCREENSHOTS")
WIDTHS = (360, 960, 1600)  # 960 is the narrowest at which tables are tables
SCHEMES = ("light", "dark")
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
async def test_page_is_readable_at_every_width_and_in_both_schemes(
    state: str, browser: str
) -> None:
    async with opened(browser, STATES[state]) as (page, url):
        for width in WIDTHS:
            for scheme in SCHEMES:
                await page.show(width, scheme)
                assert await measure(page, "overflowing()") == []
                assert await measure(page, f"faintTexts({LEAST_CONTRAST})") == []
                if SCREENSHOTS:
                    await keep(page, f"{state}-{width}-{scheme}.png")
        assert complaints(page, url) == []
        assert await page.run("document.scripts.length + document.images.length") == 0


async def keep(page: Page, name: str) -> None:
    assert SCREENSHOTS is not None
    folder = Path(SCREENSHOTS)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(await page.picture(full=True))


async def test_what_the_tests_look_for_would_be_found(browser: str) -> None:
    async with opened(browser, STATES["well"]) as (page, url):
        await page.show(360, "light")
        await page.run("document.querySelector('h2').style.color = '#999'")
        (faint,) = await measure(page, f"faintTexts({LEAST_CONTRAST})")
        assert faint == "2.85 Exporters"
        await page.run("document.querySelector('h2').style.width = '400px'")
        assert (await measure(page, "overflowing()"))[0].startswith("scrolls to 4")
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
        targets = await page.run("[...document.links].map((link) => link.getAttribute('href'))")
        assert len(targets) == 8
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
        told = await page.accessible()
    roles = [role for role, _ in told]
    for landmark in ("banner", "main", "navigation"):
        assert roles.count(landmark) == 1
    assert ("RootWebArea", "Needs attention · telemetryd") in told
    assert ("navigation", "Other views") in told
    assert [name for role, name in told if role == "heading"] == [
        "3 things need attention.", "Exporters", "Caches", "Fleet", "Configuration",
        "Why the reload was rejected", "What is collected",
        "Sent by archive, scc, secretrequest/rancher-scc-metrics (scc)",
        "Read, whether it is sent or not", "Never read", "Switching it off",
    ]  # fmt: skip
    regions = [name for role, name in told if role == "region"]
    assert regions[:2] == ["3 things need attention.", "Exporters"]
    assert all(regions)
    tables = [name for role, name in told if role == "table"]
    assert [name.split(" ", 1)[0] for name in tables] == ["State,", "State,"]
    columns = [name for role, name in told if role == "columnheader"]
    assert columns[:6] == [
        "Exporter", "State", "Last success", "Next run", "Payload", "Last error",
    ]  # fmt: skip
    rows = [name for role, name in told if role == "rowheader"]
    assert len(rows) == 9
    assert all(name for role, name in told if role == "link")
    assert ("link", "Payload of scc, 1,234 B") in told
    assert not {"image", "img", "generic image"} & set(roles)


async def test_hostile_texts_are_texts(browser: str) -> None:
    async with opened(browser, STATES["hostile"]) as (page, url):
        assert await page.run("document.title") == "Needs attention · telemetryd"
        assert await page.run("document.querySelectorAll('script, img').length") == 0
        assert "<script>document.title='owned'" in await page.run("document.body.innerText")
        assert complaints(page, url) == []
