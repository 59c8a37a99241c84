"""lightkube: generic resources listed in chunks of 500, kept as the objects it makes."""

import asyncio
import sys

from lightkube import AsyncClient, KubeConfig
from lightkube.generic_resource import (
    create_global_resource,
    create_namespaced_resource,
)

from benchmarks.peers.protocol import GROUP, PAGE_SIZE, PLURALS, VERSION, begin, synced

_NAMESPACED = {"nodes", "projects"}


async def hold(kubeconfig: str) -> None:
    """List everything and keep it."""
    client = AsyncClient(config=KubeConfig.from_file(kubeconfig))
    begin()
    lists = await asyncio.gather(*(_list(client, plural) for plural in PLURALS))
    held = dict(zip(PLURALS, lists, strict=True))
    synced(len(held["nodes"]))


async def _list(client: AsyncClient, plural: str) -> list[object]:
    kind = plural[:-1].capitalize()
    if plural in _NAMESPACED:
        resource = create_namespaced_resource(GROUP, VERSION, kind, plural)
        return [item async for item in client.list(resource, namespace="*", chunk_size=PAGE_SIZE)]
    everywhere = create_global_resource(GROUP, VERSION, kind, plural)
    return [item async for item in client.list(everywhere, chunk_size=PAGE_SIZE)]


asyncio.run(hold(sys.argv[1]))
