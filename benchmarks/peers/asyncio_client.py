"""kubernetes_asyncio: pages of 500 of ``list_cluster_custom_object``, kept as dicts."""

import asyncio
import sys
from typing import Any

from kubernetes_asyncio import client, config

from benchmarks.peers.protocol import GROUP, PAGE_SIZE, PLURALS, VERSION, begin, synced


async def hold(kubeconfig: str) -> None:
    """List everything and keep it."""
    await config.load_kube_config(kubeconfig)
    async with client.ApiClient() as connection:
        api = client.CustomObjectsApi(connection)
        begin()
        lists = await asyncio.gather(*(_list(api, plural) for plural in PLURALS))
        held = dict(zip(PLURALS, lists, strict=True))
        synced(len(held["nodes"]))


async def _list(api: Any, plural: str) -> list[Any]:
    items: list[Any] = []
    token = None
    while True:
        page = await api.list_cluster_custom_object(
            GROUP, VERSION, plural, limit=PAGE_SIZE, _continue=token
        )
        items += page["items"]
        token = page["metadata"].get("continue")
        if not token:
            return items


asyncio.run(hold(sys.argv[1]))
