"""The proxy that goes silent."""

import json
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.resting import SilentProxy
from tests.support.waiting import until


@pytest.fixture
def server() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(30)
        yield listener


@pytest.fixture
def proxy(server: socket.socket, tmp_path: Path) -> Iterator[SilentProxy]:
    host, port = server.getsockname()
    config = {"clusters": [{"cluster": {"server": f"https://{host}:{port}"}}]}
    (tmp_path / "k").write_text(json.dumps(config))
    with SilentProxy.before(tmp_path / "k") as proxy:
        yield proxy


def connect(
    proxy: SilentProxy, server: socket.socket, folder: Path
) -> tuple[socket.socket, socket.socket]:
    """Both ends of a new connection."""
    config = json.loads(proxy.kubeconfig(folder / "through").read_text())
    port = int(config["clusters"][0]["cluster"]["server"].rpartition(":")[2])
    near = socket.create_connection(("127.0.0.1", port), timeout=30)
    far, _ = server.accept()
    far.settimeout(30)
    return near, far


def test_bytes_pass_both_ways_and_so_does_the_end(
    proxy: SilentProxy, server: socket.socket, tmp_path: Path
) -> None:
    near, far = connect(proxy, server, tmp_path)
    with near, far:
        near.sendall(b"ask")
        assert far.recv(10) == b"ask"
        far.sendall(b"answer")
        assert near.recv(10) == b"answer"
        far.shutdown(socket.SHUT_WR)
        assert near.recv(10) == b""


def test_silent_connection_stays_open_and_passes_nothing_while_a_new_one_works(
    proxy: SilentProxy, server: socket.socket, tmp_path: Path
) -> None:
    near, far = connect(proxy, server, tmp_path)
    with near, far:
        proxy.silence()
        far.sendall(b"lost" * 1_000_000)  # taken, or this would not return
        again, beyond = connect(proxy, server, tmp_path)
        with again, beyond:
            beyond.sendall(b"heard")
            assert again.recv(10) == b"heard"
        near.setblocking(False)
        with pytest.raises(BlockingIOError):
            near.recv(10)


def test_closed_proxy_ends_what_is_open(
    proxy: SilentProxy, server: socket.socket, tmp_path: Path
) -> None:
    near, far = connect(proxy, server, tmp_path)
    with near, far:
        proxy.silence()
        proxy.close()
        until(lambda: near.recv(10) == b"", "the end")
