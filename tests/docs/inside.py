"""The network of another process: sockets in it, and a way from its loopback to this machine's."""

import ctypes
import os
import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

_CLONE_NEWNET = 0x40000000
_CHUNK_BYTES = 65536

T = TypeVar("T")


def within(pid: int, make: Callable[[], T]) -> T:
    """Returns what the function returns in a thread that is in the network of that process.

    Raises:
        OSError: The function raised it, or the network can't be entered, which takes root.
    """
    made: list[T] = []
    failed: list[OSError] = []

    def enter() -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        try:
            file = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY)
            try:
                if libc.setns(file, _CLONE_NEWNET):
                    raise OSError(ctypes.get_errno(), "setns")
            finally:
                os.close(file)
            made.append(make())
        except OSError as error:
            failed.append(error)

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    if failed:
        raise failed[0]
    return made[0]


class Relay:
    """Leads from a port on the loopback of that process to the same port of this machine's.

    Args:
        pid: A process with a network of its own.
        port: Where it listens there, and where it connects to here.
    """

    def __init__(self, pid: int, port: int) -> None:
        self._listener = within(pid, lambda: socket.create_server(("127.0.0.1", port)))
        self._port = port
        self._open: set[socket.socket] = set()
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def close(self) -> None:
        """Ends it and every connection."""
        for each in (self._listener, *self._open):
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                near = self._listener.accept()[0]
            except OSError:
                return
            self._open.add(near)
            thread = threading.Thread(target=self._carry_both_ways, args=(near,))
            self._threads.append(thread)
            thread.start()

    def _carry_both_ways(self, near: socket.socket) -> None:
        with near, suppress(OSError), socket.create_connection(("127.0.0.1", self._port)) as far:
            back = threading.Thread(target=_carry, args=(far, near))
            back.start()
            _carry(near, far)
            back.join()
        self._open.discard(near)


def _carry(source: socket.socket, sink: socket.socket) -> None:
    with suppress(OSError):
        while chunk := source.recv(_CHUNK_BYTES):
            sink.sendall(chunk)
    with suppress(OSError):
        sink.shutdown(socket.SHUT_WR)
