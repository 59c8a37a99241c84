"""``telemetryd demo``: the whole daemon against the embedded API server, and what came of it."""

import asyncio
import json
import os
import random
import signal
import sys
import tempfile
from base64 import b64decode
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import orjson

from telemetryd import logs
from telemetryd.config import Config, ConfigSource
from telemetryd.daemon.app import run_until
from telemetryd.daemon.dryrun import IN_POD
from telemetryd.daemon.notify import Notifier, StatusLog
from telemetryd.daemon.reload import Reloader
from telemetryd.demo.apiserver import ApiServer, Endpoint, ServerOptions
from telemetryd.demo.fleet import Fleet, populate, run_churn

TOKEN = "demo"  # noqa: S105 - opens nothing but the embedded server
SEED = 1
_POLL_S = 0.1
_CLUSTERS = "clusters.management.cattle.io"
_NODES = "nodes.management.cattle.io"
_SETTINGS = "settings.management.cattle.io"

_CONFIG = """
log_level = "warning"
drain_timeout = "5s"
state_dir = {folder}

[kubernetes]
kubeconfig = {kubeconfig}

[server]
listen = "127.0.0.1:0"
expose_payload = true

[[exporters]]
name = "scc"
type = "secret"
interval = "2s"
"""


@dataclass(slots=True)
class Summary:
    """What was exported so far; the last line that the command prints.

    Attributes:
        exports: Writes of the Secret.
        payload_bytes: Size of the last payload.
        digest: Of the last payload, as the Secret's annotation has it.
    """

    clusters: int = 0
    nodes: int = 0
    exports: int = 0
    payload_bytes: int = 0
    digest: str = ""


async def run_demo(
    *,
    clusters: int,
    nodes: int,
    churn_per_s: float,
    duration_s: float,
    now: Callable[[], float],
) -> int:
    """Serve a fleet, run the daemon on it, and print what it exports.

    Args:
        clusters: Managed clusters, beside the local one.
        nodes: Nodes of each of them.
        churn_per_s: Changes a second; 0 for none.
        duration_s: Seconds to run; 0 until SIGINT or SIGTERM.
        now: Unix time in seconds.

    Returns:
        How many exports there were.
    """

    def moment() -> datetime:
        return datetime.fromtimestamp(now(), UTC)

    server = ApiServer(
        ServerOptions(token=TOKEN),
        now=moment,
        rng=random.Random(SEED),
    )
    fleet = Fleet(clusters, nodes, SEED, now=moment)
    populate(server, fleet)
    stop = anyio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    summary = Summary()
    with tempfile.TemporaryDirectory(prefix="telemetryd-demo-") as folder:
        kubeconfig = Path(folder, "kubeconfig")
        async with server.serve() as endpoint, anyio.create_task_group() as root:
            _point_rancher_at(server, endpoint)
            await anyio.Path(kubeconfig).write_bytes(_kubeconfig(endpoint))
            source = ConfigSource(str(Path(folder, "config.toml")), {IN_POD: "its own server"})
            await anyio.Path(folder, "config.toml").write_text(_config(folder, kubeconfig))
            file = source.read()
            listening = await root.start(
                partial(
                    run_until,
                    stop,
                    source.parse(file),
                    Reloader(source, file, configure_logging=_configure_logging, now=now),
                    StatusLog(),
                    now=now,
                    rng=random.Random(),
                    notifier=Notifier(),
                )
            )
            _say(f"API server  {endpoint.url} (KUBECONFIG={kubeconfig})")
            for path in ("/", "/metrics", "/status.json", "/payload/scc"):
                _say(f"look at     http://{listening}{path}")
            _say(f"command it  telemetryd ctl status --config {source.path_option}")
            async with anyio.create_task_group() as meanwhile:
                if churn_per_s:
                    meanwhile.start_soon(run_churn, server, fleet, churn_per_s)
                meanwhile.start_soon(_follow, server, summary, moment)
                with anyio.move_on_after(duration_s or None):
                    await stop.wait()
                meanwhile.cancel_scope.cancel()
            stop.set()
    _say(json.dumps({name: getattr(summary, name) for name in Summary.__slots__}))
    return summary.exports


def _config(folder: str, kubeconfig: Path) -> str:
    return _CONFIG.format(folder=json.dumps(folder), kubeconfig=json.dumps(str(kubeconfig)))


def _configure_logging(config: Config) -> None:
    logs.configure(config.log_format, config.log_level, sys.stderr, os.environ)


def _kubeconfig(endpoint: Endpoint) -> bytes:
    """A kubeconfig for the embedded server: JSON, which is YAML."""
    return orjson.dumps(
        {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "demo",
            "contexts": [{"name": "demo", "context": {"cluster": "demo", "user": "demo"}}],
            "clusters": [{"name": "demo", "cluster": {"server": endpoint.url}}],
            "users": [{"name": "demo", "user": {"token": TOKEN}}],
        }
    )


def _point_rancher_at(server: ApiServer, endpoint: Endpoint) -> None:
    """Let ``server-url`` be the embedded server, which answers ``/rancherversion`` as well."""
    setting = server.get_object(_SETTINGS, "server-url")
    server.put_object({**setting, "value": endpoint.url})


async def _follow(server: ApiServer, summary: Summary, moment: Callable[[], datetime]) -> None:
    """Print each write of the Secret."""
    seen = ""
    while True:
        summary.clusters = server.count_objects(_CLUSTERS)
        summary.nodes = server.count_objects(_NODES)
        secret = _secret(server)
        if secret is not None and secret["metadata"]["resourceVersion"] != seen:
            seen = secret["metadata"]["resourceVersion"]
            payload = b64decode(secret["data"]["payload"])
            summary.exports += 1
            summary.payload_bytes = len(payload)
            summary.digest = secret["metadata"]["annotations"]["telemetryd/digest"]
            _say(f"{moment():%H:%M:%S}    exported {_describe(orjson.loads(payload))}")
        await anyio.sleep(_POLL_S)


def _secret(server: ApiServer) -> dict[str, Any] | None:
    try:
        return server.get_object("secrets", "rancher-scc-telemetry", "cattle-telemetry-system")
    except KeyError:
        return None


def _describe(payload: dict[str, Any]) -> str:
    clusters = sum(row["count"] for row in payload["managedClusters"])
    systems = sum(row["count"] for row in payload["managedSystems"])
    kinds = len(payload["managedSystems"])
    return f"{clusters} clusters, {systems} systems of {kinds} kinds, Rancher {payload['version']}"


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()
