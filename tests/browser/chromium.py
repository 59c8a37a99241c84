"""A headless Chromium, spoken to by its own protocol: as much of it as the tests need."""

import subprocess
import time
from base64 import b64decode
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import anyio
from aiohttp import ClientSession, ClientWebSocketResponse

_OPTIONS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-extensions",
    "--disable-sync",
    "--no-first-run",
    "--remote-debugging-port=0",
)
_START_TIMEOUT_S = 20.0
_CALL_TIMEOUT_S = 15.0


@contextmanager
def launched(program: str, profile: Path) -> Iterator[str]:
    """Runs the browser with a profile of its own; gives the URL that leads to it."""
    process = subprocess.Popen(
        [program, *_OPTIONS, f"--user-data-dir={profile}", "about:blank"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield _find(process, profile / "DevToolsActivePort")
    finally:
        process.terminate()
        process.wait(_START_TIMEOUT_S)


def _find(process: "subprocess.Popen[bytes]", told: Path) -> str:
    until = time.monotonic() + _START_TIMEOUT_S
    while time.monotonic() < until:
        lines = told.read_text().split("\n") if told.exists() else []
        if len(lines) >= 2:
            return f"ws://127.0.0.1:{lines[0]}{lines[1]}"
        assert process.poll() is None, "the browser ended at once"
        time.sleep(0.02)
    raise TimeoutError("the browser doesn't start")


class Page:
    """One tab; what happens in it meanwhile is kept in ``events``."""

    def __init__(self, socket: ClientWebSocketResponse, session: str) -> None:
        self._socket = socket
        self._session = session
        self._last = 0
        self.events: list[dict[str, Any]] = []

    async def call(self, method: str, **params: Any) -> dict[str, Any]:
        """One command of the protocol, and what it returns."""
        self._last += 1
        call: dict[str, Any] = {"id": self._last, "method": method, "params": params}
        if self._session:
            call["sessionId"] = self._session
        await self._socket.send_json(call)
        with anyio.fail_after(_CALL_TIMEOUT_S):
            while True:
                message = await self._socket.receive_json()
                if message.get("id") == self._last:
                    assert "error" not in message, (method, message["error"])
                    result: dict[str, Any] = message["result"]
                    return result
                self.events.append(message)

    async def open(self, url: str) -> None:
        """Loads a page and waits until it is all there."""
        await self.call("Page.navigate", url=url)
        with anyio.fail_after(_CALL_TIMEOUT_S):
            while await self.run("document.readyState") != "complete":
                await anyio.sleep(0.01)

    async def show(
        self, width: int, scheme: str, height: int = 900, *, media: str = "screen"
    ) -> None:
        """Gives the window a width in CSS pixels, and the reader a liking for dark or light."""
        await self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width, height=height, deviceScaleFactor=1, mobile=False,
        )  # fmt: skip
        await self.call(
            "Emulation.setEmulatedMedia", media=media,
            features=[{"name": "prefers-color-scheme", "value": scheme}],
        )  # fmt: skip

    async def run(self, script: str) -> Any:
        """The value of an expression, as the page's own script would see it."""
        result = await self.call("Runtime.evaluate", expression=script, returnByValue=True)
        assert "exceptionDetails" not in result, result["exceptionDetails"]
        return result["result"].get("value")

    async def press_tab(self) -> None:
        """One press of the Tab key."""
        for kind in ("rawKeyDown", "keyUp"):
            await self.call(
                "Input.dispatchKeyEvent", type=kind, key="Tab", code="Tab",
                windowsVirtualKeyCode=9,
            )  # fmt: skip

    async def accessible(self) -> list[tuple[str, str]]:
        """Role and name of everything that assistive technology is told of."""
        tree = await self.call("Accessibility.getFullAXTree")
        return [
            (node["role"]["value"], node.get("name", {}).get("value", ""))
            for node in tree["nodes"]
            if not node["ignored"]
        ]

    async def picture(self, *, full: bool) -> bytes:
        """A PNG of the window, or of the whole page."""
        shot = await self.call("Page.captureScreenshot", captureBeyondViewport=full)
        return b64decode(shot["data"])


@asynccontextmanager
async def tab(endpoint: str) -> AsyncIterator[Page]:
    """A new tab, closed at the end."""
    async with (
        ClientSession() as session,
        session.ws_connect(endpoint, max_msg_size=0) as socket,
    ):
        browser = Page(socket, "")
        target = (await browser.call("Target.createTarget", url="about:blank"))["targetId"]
        attached = await browser.call("Target.attachToTarget", targetId=target, flatten=True)
        page = Page(socket, attached["sessionId"])
        page._last = browser._last
        for domain in ("Page", "Runtime", "Network", "Log", "Audits", "Accessibility"):
            await page.call(f"{domain}.enable")
        yield page
        await page.call("Page.close")
