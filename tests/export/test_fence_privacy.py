"""The one guard of all sinks: each attempt asks for leadership and for the privacy now in force.

The payload of an attempt is made, then `[privacy]` becomes stricter, then the same request is
tried again: nothing may leave.
"""

import fcntl
import json
import os
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random
from typing import Any

import anyio
import pytest

from telemetryd.config import (
    ExporterConfig,
    FileExporterConfig,
    HttpExporterConfig,
    OtlpExporterConfig,
    SecretExporterConfig,
)
from telemetryd.daemon.exporters import ExporterFactory
from telemetryd.errors import NotLeading
from telemetryd.export.engine.manager import ExporterManager
from telemetryd.export.sinks.snapshots import LOCK
from telemetryd.kube.client import KubeClient
from telemetryd.model import ExporterState
from telemetryd.stats import KubeStats
from tests.export.doubles import EPOCH_S, Source, running
from tests.export.filebench import names
from tests.informer.scripted import kubeconfig
from tests.support.receiver import Answer, Receiver, Request, Writer, receiving, status

pytestmark = pytest.mark.anyio

OVER = {ExporterState.IDLE, ExporterState.FAILED}
QUICK: dict[str, Any] = {
    "interval_s": 5.0,
    "timeout_s": 4.0,
    "splay_max_s": 0.0,
    "retry_budget_s": 0.05,
}
_JSON = ("Content-Type: application/json", "Connection: close")
MISSING = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": 404}


class Daemon:
    """A manager with one real sink, whose leadership and privacy a test changes."""

    def __init__(self, config: ExporterConfig, client: KubeClient) -> None:
        self.omitted: frozenset[str] = frozenset()
        self.leads = True
        self.at_write: Callable[[], None] = lambda: None
        self._name = config.name
        requests = client.requests(fence=self._require_leading)
        factory = ExporterFactory(requests, now=self._now)
        self.manager = ExporterManager(
            Source(),
            now=lambda: EPOCH_S + anyio.current_time(),
            rng=Random(7),
            require_leading=self._require_leading,
            omitted=lambda: self.omitted,
        )
        self.manager.register(*factory.build(config))

    def tighten(self) -> None:
        self.omitted = frozenset({"server_url"})

    def lose(self) -> None:
        self.leads = False

    async def run_over(self) -> None:
        """Until the first run has ended, however it ended."""
        with anyio.fail_after(30):
            while True:
                found = self.manager.status(self._name)
                skipped = self.manager.stats()[self._name].runs["skipped"]
                if found.last_attempt_at and (found.state in OVER or skipped):
                    return
                await anyio.sleep(0.005)

    def _require_leading(self) -> None:
        if not self.leads:
            raise NotLeading

    def _now(self) -> float:
        """The file sink asks in its thread, between the making of a payload and its rename."""
        self.at_write()
        return EPOCH_S


class Server:
    """Both an API server without Secrets and a receiver: it refuses the first write by a 401."""

    def __init__(self, token: Path) -> None:
        self.at_refusal: Callable[[], None] = lambda: None
        self.writes: list[Request] = []
        self._token = token
        token.write_text("one")

    async def answer(self, request: Request, writer: Writer) -> None:
        answer: Answer
        if request.method == "GET":
            answer = status(404, *_JSON, body=json.dumps(MISSING).encode())
        else:
            self.writes.append(request)
            answer = status(200, *_JSON, body=b"{}")
            if len(self.writes) == 1:
                answer = status(401, *_JSON, body=b"{}")
                self._token.write_text("two")
                self.at_refusal()
        await answer(request, writer)


@asynccontextmanager
async def serving(folder: Path) -> AsyncIterator[tuple[Server, Receiver, KubeClient]]:
    token = folder / "token"
    server = Server(token)
    async with receiving(default=server.answer) as receiver:
        url = f"http://127.0.0.1:{receiver.port}"
        config = kubeconfig(folder / "kubeconfig", url, user={"tokenFile": str(token)})
        async with KubeClient.connect(config, KubeStats(), environ={}) as client:
            yield server, receiver, client


def config_of(kind: str, receiver: Receiver, folder: Path) -> ExporterConfig:
    token = str(folder / "token")
    match kind:
        case "secret":
            return SecretExporterConfig(name="it", namespace="n", secret="s", **QUICK)
        case "http":
            url = receiver.url
            return HttpExporterConfig(
                name="it", url=url, bearer_token_file=token, spool=False, **QUICK
            )
        case _:
            url = receiver.url
            return OtlpExporterConfig(name="it", endpoint=url, bearer_token_file=token, **QUICK)


@pytest.mark.parametrize("change", ["none", "privacy", "leadership"])
@pytest.mark.parametrize("kind", ["secret", "http", "otlp"])
async def test_retry_after_a_401_leaves_only_where_privacy_and_leadership_still_allow_it(
    tmp_path: Path, kind: str, change: str
) -> None:
    async with serving(tmp_path) as (server, receiver, client):
        daemon = Daemon(config_of(kind, receiver, tmp_path), client)
        changes = {"none": lambda: None, "privacy": daemon.tighten, "leadership": daemon.lose}
        server.at_refusal = changes[change]
        async with running(daemon.manager):
            await daemon.run_over()
    allowed = change == "none"
    assert len(server.writes) == (2 if allowed else 1)
    tokens = [request.headers["authorization"] for request in server.writes]
    assert tokens == ["Bearer one", "Bearer two"][: len(server.writes)]


@pytest.mark.parametrize("compress", [False, True])
@pytest.mark.parametrize("change", ["none", "privacy", "leadership"])
async def test_snapshot_is_seen_only_where_privacy_and_leadership_still_allow_it(
    tmp_path: Path, change: str, compress: bool
) -> None:
    folder = tmp_path / "out"
    async with serving(tmp_path) as (_, _, client):
        config = FileExporterConfig(name="it", directory=str(folder), compress=compress, **QUICK)
        daemon = Daemon(config, client)
        changes = {"none": lambda: None, "privacy": daemon.tighten, "leadership": daemon.lose}
        daemon.at_write = changes[change]
        async with running(daemon.manager):
            await daemon.run_over()
    assert bool(names(folder)) is (change == "none")


async def test_write_that_a_disk_held_up_is_never_seen_once_its_exporter_has_ended(
    tmp_path: Path,
) -> None:
    folder = tmp_path / "out"
    begun, go_on = threading.Event(), threading.Event()

    def hang() -> None:
        begun.set()
        go_on.wait(30)

    async with serving(tmp_path) as (_, _, client):
        daemon = Daemon(FileExporterConfig(name="it", directory=str(folder), **QUICK), client)
        daemon.at_write = hang
        async with running(daemon.manager):
            with anyio.fail_after(30):
                while not begun.is_set():
                    await anyio.sleep(0.005)
            await daemon.manager.unregister("it")
        go_on.set()
        with anyio.fail_after(30):
            while not (folder / LOCK).exists():
                await anyio.sleep(0.005)
    opened = os.open(folder / LOCK, os.O_RDONLY)
    try:
        await anyio.to_thread.run_sync(fcntl.flock, opened, fcntl.LOCK_EX)
    finally:
        os.close(opened)
    assert names(folder) == []
