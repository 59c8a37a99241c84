"""Has telemetryd's own client ask for `/version`, in a process per case: `python -m …driver`.

Reads a case a line (JSON) and answers with a line. Each case runs in a fork of its own, so that
its environment, its working folder and what libraries remember are its own, while Python and its
imports are paid for once. The event loop alone is not the real one: where it would look up a name
or dial, it writes the address down and dials the listener instead, as the Go program does.
"""

import asyncio
import gc
import importlib
import json
import os
import select
import signal
import socket
import sys
import time
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import anyio

from telemetryd.config.settings import KubernetesConfig
from telemetryd.errors import ConfigError
from telemetryd.kube.client import KubeClient
from telemetryd.stats import KubeStats

TIMEOUT_S = 60.0
_CASE_TIMEOUT_S = 90.0
_FAKE = "198.18.0."  # RFC 2544: names are given addresses of no network


class _Loop(asyncio.SelectorEventLoop):
    """Looks up nothing and dials the listener alone."""

    def __init__(self, listener: tuple[str, int]) -> None:
        super().__init__()
        self._listener = listener
        self._names: dict[str, str] = {}
        self.dialled: list[str] = []

    async def getaddrinfo(self, host: Any, port: Any, **_: Any) -> Any:
        name = host.decode() if isinstance(host, bytes) else str(host)
        family = socket.AF_INET
        try:
            socket.inet_pton(socket.AF_INET, name)
            address = name
        except OSError:
            address = next((a for a, n in self._names.items() if n == name), "")
            address = address or f"{_FAKE}{len(self._names) + 1}"
            self._names[address] = name
        return [(family, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", (address, int(port)))]

    async def sock_connect(self, sock: socket.socket, address: Any) -> None:
        host, port = address[:2]
        name = self._names.get(host, host)
        if len(address) == 4 and address[3] and "%" not in name:
            name = f"{name}%{address[3]}"
        self.dialled.append(f"[{name}]:{port}" if ":" in name else f"{name}:{port}")
        listener: Any = self._listener
        if sock.family == socket.AF_INET6:
            listener = (f"::ffff:{listener[0]}", listener[1])
        await super().sock_connect(sock, listener)


async def _ask(case: dict[str, Any]) -> None:
    config = KubernetesConfig(context=case["context"] or None)
    async with KubeClient.connect(
        config, KubeStats(), service_account=case["service_account"]
    ) as client:
        await client.request("GET", "/version", timeout_s=TIMEOUT_S)


def _answer(case: dict[str, Any]) -> dict[str, Any]:
    os.environ.clear()
    os.environ.update(case["environ"])
    os.chdir(case["folder"])
    loop = _Loop(("127.0.0.1", case["port"]))
    said = {"refused": "", "failed": ""}
    try:
        _run(loop, _ask(case))
    except ConfigError as error:
        said["refused"] = str(error) or "refused"
    except Exception as error:  # noqa: BLE001 - what isn't telemetryd's own error is a finding
        said["failed"] = f"{type(error).__name__}: {error}"
    modules = [name for name in sys.modules if name.startswith("telemetryd")]
    return {**said, "dialled": loop.dialled, "modules": modules}


def _run(loop: asyncio.AbstractEventLoop, ask: Coroutine[Any, Any, None]) -> None:
    with asyncio.Runner(loop_factory=lambda: loop) as runner:
        runner.run(ask)


def _child(case: dict[str, Any], answers: int) -> None:
    with Path(os.devnull).open("r+b") as nothing:
        for stream in range(3):
            os.dup2(nothing.fileno(), stream)
    signal.alarm(int(_CASE_TIMEOUT_S))
    os.write(answers, json.dumps(_answer(case)).encode())


def _forked(case: dict[str, Any]) -> dict[str, Any]:
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            os.close(reader)
            os.setsid()
            _child(case, writer)
            status = 0
        finally:
            os._exit(status)
    os.close(writer)
    said = b""
    deadline = time.monotonic() + _CASE_TIMEOUT_S
    while select.select([reader], [], [], max(0.0, deadline - time.monotonic()))[0]:
        more = os.read(reader, 65536)
        if not more:
            break
        said += more
    os.close(reader)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    crashed = {"failed": "crashed", "refused": "", "dialled": [], "modules": []}
    found: dict[str, Any] = json.loads(said) if said else crashed
    for name in found.pop("modules"):
        importlib.import_module(name)  # what is imported late is paid for once, too
    return found


def main() -> None:
    """Answer until the input ends."""
    # Loaded once, not once a case: the backend of loops, and the codec of host names.
    anyio.run(anyio.sleep, 0)
    "host".encode("idna")
    gc.collect()
    gc.freeze()
    gc.disable()
    for line in sys.stdin:
        sys.stdout.write(json.dumps(_forked(json.loads(line))) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
