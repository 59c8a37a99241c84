"""The demo's API server with a benchmark fleet, as a process: ``NODES KUBECONFIG``.

It streams lists where it is asked to. The kubeconfig appears once it can be reached; the process
ends when its standard input does.
"""

import json
import sys
from datetime import UTC, datetime
from pathlib import Path
from random import Random

import anyio
import anyio.to_thread
import orjson

from benchmarks.fleet import BenchFleet
from telemetryd.demo.apiserver import ApiServer, ServerOptions
from tests.kube.certificates import Authority

_TOKEN = "benchmark"  # noqa: S105 - opens nothing but this server


async def serve_fleet(nodes: int, kubeconfig: Path) -> None:
    """Serve a fleet until standard input ends."""
    authority = Authority(kubeconfig.parent)
    pair = authority.issue("server")
    server = ApiServer(
        ServerOptions(token=_TOKEN, certificate=(pair.cert, pair.key), rancher_version=None),
        now=lambda: datetime.now(UTC),
        rng=Random(1),
    )
    fleet = BenchFleet(nodes)
    for namespace in fleet.namespaces:
        server.put_object(namespace)
    for stored in fleet.objects():
        server.put_object(orjson.loads(stored.body))
    async with server.serve() as endpoint:
        written = kubeconfig.with_suffix(".new")
        written.write_text(json.dumps(_access(endpoint.url, authority.ca)), encoding="utf-8")
        written.rename(kubeconfig)
        await anyio.to_thread.run_sync(sys.stdin.read)


def _access(url: str, ca_file: Path) -> dict[str, object]:
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "it",
        "contexts": [{"name": "it", "context": {"cluster": "it", "user": "it"}}],
        "clusters": [
            {"name": "it", "cluster": {"server": url, "certificate-authority": str(ca_file)}}
        ],
        "users": [{"name": "it", "user": {"token": _TOKEN}}],
    }


if __name__ == "__main__":
    anyio.run(serve_fleet, int(sys.argv[1]), Path(sys.argv[2]))
