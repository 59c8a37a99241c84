"""Fifty thousand nodes that change two thousand times a second, as a proxy answers for them.

Each node has a serial that rises with each change and is its number of cores: whoever tells it
lower than before has lost the order. Nodes are of real size. What must come of it is the test's.
"""

import asyncio
import json
import time
from random import Random

from aiohttp import web

from tests.apiserver.fixtures import rancher_node
from tests.faults.proxy import Exchange, FaultProxy

FIRST_VERSION = 1_000_000_000
_TICK_S = 0.02
_BATCH = 200


class Flood:
    """The nodes, and everything that ever happened to them.

    Args:
        nodes: How many.
        rng: Which of them change.

    Attributes:
        serials: Of each node, the number of its last change.
    """

    def __init__(self, nodes: int, rng: Random) -> None:
        self.serials = [1] * nodes
        self._versions = [FIRST_VERSION] * nodes
        self._rng = rng
        self._history: list[tuple[int, int]] = []
        self._news = asyncio.Event()
        self._last = 0, 0, b""
        template = rancher_node("local", "sentinel-m-@N", cpu="@S")
        template["metadata"] |= {"uid": "uid-@N", "resourceVersion": "@V"}
        self._template = json.dumps(template, separators=(",", ":")).encode()

    def attach(self, proxy: FaultProxy) -> None:
        """Answers lists and watches of nodes from now on, for everybody."""
        proxy.rule("nodes", "list", self._list)
        proxy.rule("nodes", "watch", self._watch)

    async def churn(self, a_second: int, seconds: float) -> float:
        """Changes that many nodes; returns the changes a second that were reached."""
        begin_s = time.monotonic()
        each = round(a_second * _TICK_S)
        ticks = round(seconds / _TICK_S)
        for tick in range(ticks):
            for _ in range(each):
                number = self._rng.randrange(len(self.serials))
                self.serials[number] += 1
                self._history.append((number, self.serials[number]))
                self._versions[number] = FIRST_VERSION + len(self._history)
            news, self._news = self._news, asyncio.Event()
            news.set()
            await asyncio.sleep(max(0.0, begin_s + (tick + 1) * _TICK_S - time.monotonic()))
        return each * ticks / (time.monotonic() - begin_s)

    def _render(self, number: int, serial: int, version: int) -> bytes:
        filled = self._template.replace(b"@N", b"%d" % number)
        return filled.replace(b"@S", b"%d" % serial).replace(b"@V", b"%d" % version)

    def _lines(self, start: int, end: int) -> bytes:
        """Events; watches that keep up with each other get the same bytes."""
        if self._last[:2] != (start, end):
            lines = [
                b'{"type":"MODIFIED","object":%b}\n'
                % self._render(*self._history[index], FIRST_VERSION + index + 1)
                for index in range(start, end)
            ]
            self._last = start, end, b"".join(lines)
        return self._last[2]

    async def _list(self, exchange: Exchange) -> web.StreamResponse:
        """A page of what is now; nobody asks for one while nodes change."""
        if exchange.ask.is_stream:
            return web.Response(status=422)  # as a server that has no streaming lists
        query = exchange.ask.query
        start = int(query.get("continue") or 0)
        end = min(start + int(query["limit"]), len(self.serials))
        items = [
            self._render(number, self.serials[number], self._versions[number])
            for number in range(start, end)
        ]
        meta = {"resourceVersion": str(FIRST_VERSION + len(self._history))}
        if end < len(self.serials):
            meta["continue"] = str(end)
        head = {"kind": "NodeList", "apiVersion": "management.cattle.io/v3", "metadata": meta}
        body = json.dumps(head).encode()[:-1] + b',"items":[' + b",".join(items) + b"]}"
        return web.Response(body=body, headers={"Content-Type": "application/json"})

    async def _watch(self, exchange: Exchange) -> web.StreamResponse:
        response = await exchange.start()
        sent = int(exchange.ask.query["resourceVersion"]) - FIRST_VERSION
        while True:
            news = self._news
            while sent < len(self._history):
                upto = min((sent // _BATCH + 1) * _BATCH, len(self._history))
                await response.write(self._lines(sent, upto))
                sent = upto
            await news.wait()
