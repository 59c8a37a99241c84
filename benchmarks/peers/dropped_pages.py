"""The floor: aiohttp fetches the pages, orjson parses them, and they are dropped."""

import asyncio
import base64
import ssl
import sys
from pathlib import Path
from typing import Any

import aiohttp
import orjson
import yaml

from benchmarks.peers.protocol import GROUP, PAGE_SIZE, PLURALS, VERSION, begin, synced


async def fetch(kubeconfig: str) -> None:
    """Fetch and parse everything; keep nothing but the number of nodes."""
    server, headers, context = _access(Path(kubeconfig))
    connector = aiohttp.TCPConnector(ssl=context)
    async with aiohttp.ClientSession(server, headers=headers, connector=connector) as session:
        begin()
        counts = await asyncio.gather(*(_count(session, plural) for plural in PLURALS))
        synced(dict(zip(PLURALS, counts, strict=True))["nodes"])


async def _count(session: aiohttp.ClientSession, plural: str) -> int:
    seen, token = 0, ""
    while True:
        query = {"limit": str(PAGE_SIZE), **({"continue": token} if token else {})}
        async with session.get(f"/apis/{GROUP}/{VERSION}/{plural}", params=query) as response:
            page = orjson.loads(await response.read())
        seen += len(page["items"])
        token = page["metadata"].get("continue")
        if not token:
            return seen


def _access(kubeconfig: Path) -> tuple[str, dict[str, str], ssl.SSLContext]:
    config = yaml.safe_load(kubeconfig.read_text())  # type: ignore[no-untyped-call]
    context = _named(config["contexts"], config["current-context"])["context"]
    cluster = _named(config["clusters"], context["cluster"])["cluster"]
    user = _named(config["users"], context["user"])["user"]
    headers = {"Authorization": f"Bearer {user['token']}", "Accept-Encoding": "identity"}
    if "certificate-authority-data" in cluster:
        authority = base64.b64decode(cluster["certificate-authority-data"]).decode()
        return cluster["server"], headers, ssl.create_default_context(cadata=authority)
    authority = cluster["certificate-authority"]
    return cluster["server"], headers, ssl.create_default_context(cafile=authority)


def _named(entries: list[dict[str, Any]], name: str) -> dict[str, Any]:
    return next(entry for entry in entries if entry["name"] == name)


asyncio.run(fetch(sys.argv[1]))
