"""Has telemetryd's own client ask for `/version`, case after case: `python -m …driver`.

Reads a case a line (JSON) and answers with a line. Each case has an environment, a working folder
and an event loop of its own. The event loop alone is not the real one: where it would look up a
name or dial, it writes the address down and dials the listener instead, as the Go program does.
"""

import asyncio
import gc
import json
import os
import signal
import socket
from collections.abc import Coroutine
from pathlib import Path
from typing import IO, Any

import anyio

from telemetryd.config.settings import KubernetesConfig
from telemetryd.errors import ConfigError
from telemetryd.kube.client import KubeClient
from telemetryd.stats import KubeStats

TIMEOUT_S = 60.0
_CASE_TIMEOUT_S = 90
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
    return {**said, "dialled": loop.dialled}


def _run(loop: asyncio.AbstractEventLoop, ask: Coroutine[Any, Any, None]) -> None:
    with asyncio.Runner(loop_factory=lambda: loop) as runner:
        runner.run(ask)


def _own_streams() -> tuple[IO[str], IO[str]]:
    """Where cases come from and answers go: whatever else reads and writes has nothing there."""
    asked, answers = (os.fdopen(os.dup(number), mode) for number, mode in ((0, "r"), (1, "w")))
    with Path(os.devnull).open("r+b") as nothing:
        for stream in range(3):
            os.dup2(nothing.fileno(), stream)
    return asked, answers


def main() -> None:
    """Answer until the input ends; a case that hangs ends the process."""
    os.setsid()
    asked, answers = _own_streams()
    # Loaded before the first case: the backend of loops, and the codec of host names.
    anyio.run(anyio.sleep, 0)
    "host".encode("idna")
    gc.collect()
    gc.freeze()
    for line in asked:
        signal.alarm(_CASE_TIMEOUT_S)
        answers.write(json.dumps(_answer(json.loads(line))) + "\n")
        answers.flush()
        signal.alarm(0)


if __name__ == "__main__":
    main()
