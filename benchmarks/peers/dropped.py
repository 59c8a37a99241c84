"""The floors: aiohttp fetches everything, and it is dropped.

Pages are parsed by orjson. Of a streamed list the objects are counted, and nothing is parsed.
"""

import argparse
import asyncio
import base64
import ssl
from pathlib import Path
from typing import Any

import aiohttp
import orjson
import yaml

from benchmarks.peers.protocol import GROUP, PAGE_SIZE, PLURALS, VERSION, begin, synced

_STREAM = {
    "watch": "true",
    "sendInitialEvents": "true",
    "allowWatchBookmarks": "true",
    "resourceVersionMatch": "NotOlderThan",
    "resourceVersion": "",
}
_FORMS = {
    "json": ("application/json", b'{"type":"ADDED"'),
    "protobuf": ("application/vnd.kubernetes.protobuf;stream=watch", b"\n\x05ADDED\x12"),
}
"""What is asked for, and how the event of an object begins."""
_END = b"k8s.io/initial-events-end"
"""The annotation of the bookmark after the last object."""


async def fetch(kubeconfig: Path, stream: str | None, *, core: bool) -> None:
    """Fetch everything; keep nothing but the number of nodes.

    Args:
        kubeconfig: Which server.
        stream: A key of ``_FORMS``; None asks for pages.
        core: The nodes of plain Kubernetes alone.
    """
    server, headers, context = _access(kubeconfig)
    base = "/api/v1" if core else f"/apis/{GROUP}/{VERSION}"
    paths = [f"{base}/{plural}" for plural in (("nodes",) if core else PLURALS)]
    connector = aiohttp.TCPConnector(ssl=context)
    async with aiohttp.ClientSession(server, headers=headers, connector=connector) as session:
        begin()
        counts = await asyncio.gather(
            *(
                _count_pages(session, path)
                if stream is None
                else _count_stream(session, path, *_FORMS[stream])
                for path in paths
            )
        )
        synced(dict(zip(paths, counts, strict=True))[f"{base}/nodes"])


async def _count_pages(session: aiohttp.ClientSession, path: str) -> int:
    seen, token = 0, ""
    while True:
        query = {"limit": str(PAGE_SIZE), **({"continue": token} if token else {})}
        async with session.get(path, params=query) as response:
            page = orjson.loads(await response.read())
        seen += len(page["items"])
        token = page["metadata"].get("continue")
        if not token:
            return seen


async def _count_stream(
    session: aiohttp.ClientSession, path: str, accept: str, added: bytes
) -> int:
    seen, last = 0, b""
    async with session.get(path, params=_STREAM, headers={"Accept": accept}) as response:
        response.raise_for_status()
        async for chunk in response.content.iter_any():
            # What began in the chunk before is whole here, and was not there.
            seen += (last[-len(added) + 1 :] + chunk).count(added)
            if _END in last[-len(_END) + 1 :] + chunk:
                return seen
            last = chunk
    raise EOFError(f"{path}: the stream ends before its bookmark")


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


parser = argparse.ArgumentParser()
parser.add_argument("kubeconfig", type=Path)
parser.add_argument("--core", action="store_true")
parser.add_argument("--stream", choices=sorted(_FORMS))
given = parser.parse_args()
asyncio.run(fetch(given.kubeconfig, given.stream, core=given.core))
