"""`telemetryd ctl` as a shell runs it, and a proxy that keeps the daemon in the dark."""

import json
import os
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import anyio
from aiohttp import web
from anyio.from_thread import start_blocking_portal

from tests.support import starter
from tests.support.daemon import TOP_LEVEL, Daemon

EXPORTERS = """
[[exporters]]
name = "scc"
type = "secret"
interval = "1s"

[[exporters]]
name = "off"
type = "secret"
secret = "off"
enabled = false
"""


def ctl(*arguments: str, config: Path, **environ: str) -> "subprocess.CompletedProcess[str]":
    """Runs one command to its end."""
    command, *rest = arguments
    kept = {name: value for name, value in os.environ.items() if name != "RUNTIME_DIRECTORY"}
    return starter.run(
        *("ctl", command, "--config", str(config), *rest),
        env=kept | {"HOME": "/nonexistent"} | environ,
    )


def assert_refused(result: "subprocess.CompletedProcess[str]", status: int, *parts: str) -> None:
    """Exits so, with nothing but one line on stderr that contains the parts."""
    assert result.returncode == status, result.stderr
    assert not result.stdout
    (line,) = result.stderr.splitlines()
    for part in parts:
        assert part in line


@dataclass(frozen=True, slots=True)
class Commanded:
    """A daemon and where it takes commands."""

    daemon: Daemon
    socket: Path

    def ctl(self, *arguments: str) -> "subprocess.CompletedProcess[str]":
        return ctl(*arguments, config=self.daemon.config_file)

    def configure(self, text: str = EXPORTERS, top_level: str = TOP_LEVEL) -> None:
        self.daemon.configure(f'control_socket = "{self.socket}"\n{text}', top_level)


@contextmanager
def running(
    folder: Path, kubeconfig: Path, config: str = EXPORTERS, kubernetes: str = ""
) -> Iterator[Commanded]:
    """A daemon that listens on a socket with a short path."""
    with tempfile.TemporaryDirectory(prefix="td-", dir="/tmp") as short:
        path = Path(short, "control.sock")
        text = f'control_socket = "{path}"\n{config}'
        daemon = Daemon(folder, kubeconfig, text, kubernetes=kubernetes)
        try:
            daemon.wait_for("listening", path.exists, 15)
            yield Commanded(daemon, path)
        finally:
            status = daemon.stop()
        assert status == 0, daemon.log()[-4000:]
        assert not path.exists(), "the socket goes with the daemon"


@contextmanager
def blind_proxy(folder: Path, kubeconfig: Path) -> Iterator[Path]:
    """A proxy that lets everything through but what watches would bring; a kubeconfig for it."""
    document: dict[str, Any] = json.loads(kubeconfig.read_text())
    target = document["clusters"][0]["cluster"]["server"]

    async def forward(request: web.BaseRequest) -> web.StreamResponse:
        if "watch" in request.query:
            silent = web.StreamResponse(headers={"Content-Type": "application/json"})
            await silent.prepare(request)
            await anyio.sleep_forever()
        async with (
            aiohttp.ClientSession() as session,
            session.request(
                request.method,
                f"{target}{request.path_qs}",
                headers={"Authorization": request.headers["Authorization"]},
            ) as answer,
        ):
            return web.Response(
                status=answer.status,
                body=await answer.read(),
                headers={"Content-Type": answer.headers["Content-Type"]},
            )

    async def start() -> web.ServerRunner:
        runner = web.ServerRunner(web.Server(forward, access_log=None), shutdown_timeout=0.01)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        return runner

    with start_blocking_portal() as portal:
        runner = portal.call(start)
        try:
            server = f"http://127.0.0.1:{runner.addresses[0][1]}"
            document["clusters"][0]["cluster"] = {"server": server}
            blind = folder / "blind"
            blind.write_text(json.dumps(document))
            yield blind
        finally:
            portal.call(runner.cleanup)
