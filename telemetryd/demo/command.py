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
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import orjson

from telemetryd import logs
from telemetryd.config import Config, ConfigSource
from telemetryd.daemon.app import run_until
from telemetryd.daemon.dryrun import IN_POD
from telemetryd.daemon.notify import Notifier, StatusLog
from telemetryd.daemon.reload import Reloader
from telemetryd.demo.apiserver import serve
from telemetryd.demo.fleet import Fleet, Step, run_churn
from telemetryd.demo.objects import (
    CLUSTERS,
    NODES,
    SECRETS,
    SETTINGS,
    ObjectStore,
    RefusedRequest,
)
from telemetryd.demo.year import MADE_UP, write_year

TOKEN = "demo"  # noqa: S105 - opens nothing but the embedded server
SEED = 1
_POLL_S = 0.1

_CONFIG = """
log_level = "warning"
drain_timeout = "5s"
state_dir = {folder}

[kubernetes]
kubeconfig = {kubeconfig}

[server]
listen = "127.0.0.1:0"
expose_payload = true

[entitlement]
preset = "aws-csp"
limit = {limit}

[[exporters]]
name = "scc"
type = "secret"
interval = "2s"
"""


async def run_demo(
    *,
    clusters: int,
    nodes: int,
    churn_per_s: float,
    duration_s: float,
    now: Callable[[], float],
) -> int:
    """Serve a fleet, run the daemon on it, and print what it exports.

    ``duration_s`` and ``churn_per_s`` may be 0: no end before SIGINT or SIGTERM, and no changes.

    Returns:
        How many exports there were.
    """

    def moment() -> datetime:
        return datetime.fromtimestamp(now(), UTC)

    store = ObjectStore(now=moment, rng=random.Random(SEED))
    fleet = Fleet(clusters, nodes, SEED, now=moment)
    for obj in fleet.objects():
        store.put(obj)
    stop = anyio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    summary: dict[str, Any] = {
        "clusters": 0,
        "nodes": 0,
        "exports": 0,
        "payload_bytes": 0,
        "digest": "",
    }
    with tempfile.TemporaryDirectory(prefix="telemetryd-demo-") as folder:
        kubeconfig = Path(folder, "kubeconfig")
        async with serve(store, TOKEN) as url, anyio.create_task_group() as root:
            # The server answers ``/rancherversion`` as well.
            store.put({**store.get(SETTINGS, ("", "server-url")), "value": url})
            await anyio.Path(kubeconfig).write_bytes(_kubeconfig(url))
            source = ConfigSource(str(Path(folder, "config.toml")), {IN_POD: "its own server"})
            limit = -(-clusters * nodes // 20) + 1
            text = _config(folder, kubeconfig, limit)
            await anyio.Path(folder, "config.toml").write_text(text)
            file = source.read()
            past = partial(
                write_year,
                Path(folder),
                fleet.install_uuid,
                clusters=clusters,
                nodes=clusters * nodes,
                now=now(),
                seed=SEED,
            )
            # Before the daemon opens the file, which has one writer.
            await anyio.to_thread.run_sync(past)
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
            _say(f"API server  {url} (KUBECONFIG={kubeconfig})")
            for path in ("/", "/history", "/metrics", "/status.json", "/payload/scc"):
                _say(f"look at     http://{listening}{path}")
            _say(f"command it  telemetryd ctl status --config {source.path_option}")
            _say(f"its past    telemetryd report --config {source.path_option} ({MADE_UP})")
            async with anyio.create_task_group() as meanwhile:
                if churn_per_s:
                    meanwhile.start_soon(run_churn, fleet, churn_per_s, partial(_take, store))
                meanwhile.start_soon(_follow, store, summary, moment)
                with anyio.move_on_after(duration_s or None):
                    await stop.wait()
                meanwhile.cancel_scope.cancel()
            stop.set()
    _say(json.dumps(summary))
    return int(summary["exports"])


def _config(folder: str, kubeconfig: Path, limit: int) -> str:
    return _CONFIG.format(
        folder=json.dumps(folder), kubeconfig=json.dumps(str(kubeconfig)), limit=limit
    )


def _configure_logging(config: Config) -> None:
    logs.configure(config.log_format, config.log_level, sys.stderr, os.environ)


def _kubeconfig(url: str) -> bytes:
    """A kubeconfig for the embedded server: JSON, which is YAML."""
    return orjson.dumps(
        {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "demo",
            "contexts": [{"name": "demo", "context": {"cluster": "demo", "user": "demo"}}],
            "clusters": [{"name": "demo", "cluster": {"server": url}}],
            "users": [{"name": "demo", "user": {"token": TOKEN}}],
        }
    )


def _take(store: ObjectStore, step: Step) -> None:
    """Carry out one write of churn."""
    store.remove(step.obj) if step.gone else store.put(step.obj)


async def _follow(
    store: ObjectStore, summary: dict[str, Any], moment: Callable[[], datetime]
) -> None:
    """Print each write of the Secret, and sum up."""
    seen = ""
    while True:
        summary["clusters"] = len(store.tables[CLUSTERS].bodies)
        summary["nodes"] = len(store.tables[NODES].bodies)
        with suppress(RefusedRequest):
            secret = store.get(SECRETS, ("cattle-telemetry-system", "rancher-scc-telemetry"))
            metadata = secret["metadata"]
            if metadata["resourceVersion"] != seen:
                seen = metadata["resourceVersion"]
                payload = b64decode(secret["data"]["payload"])
                summary["exports"] += 1
                summary["payload_bytes"] = len(payload)
                summary["digest"] = metadata["annotations"]["telemetryd/digest"]
                _say(f"{moment():%H:%M:%S}    exported {_describe(orjson.loads(payload))}")
        await anyio.sleep(_POLL_S)


def _describe(payload: dict[str, Any]) -> str:
    clusters = sum(row["count"] for row in payload["managedClusters"])
    systems = sum(row["count"] for row in payload["managedSystems"])
    kinds = len(payload["managedSystems"])
    return f"{clusters} clusters, {systems} systems of {kinds} kinds, Rancher {payload['version']}"


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()
