"""Two network namespaces and a line between them that is slow and loses packets.

What the kernel's netem does, for kernels that lack it: each end of the line is a TUN device in a
namespace of its own, and a thread carries packets from one to the other, late or not at all. TCP on
both sides is the kernel's, with its retransmissions and timeouts. It takes root.
"""

import ctypes
import fcntl
import os
import select
import socket
import struct
import subprocess
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from random import Random
from typing import TypeVar

T = TypeVar("T")

NEAR, FAR = "10.203.0.2", "10.203.0.1"
_CLONE_NEWNET = 0x40000000
_TUNSETIFF = 0x400454CA
_IFF_TUN, _IFF_NO_PI = 0x0001, 0x1000
_MAX_PACKET_BYTES = 65536


class End:
    """One end: a thread that lives in a network namespace of its own, and its device."""

    def __init__(self, name: str, address: str, peer: str) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=name)
        self.device = self.within(lambda: _enter(name, address, peer))

    def within(self, work: Callable[[], T]) -> T:
        """Does it in the namespace: sockets and processes that it makes stay there."""
        return self._thread.submit(work).result()

    def close(self) -> None:
        """Ends the thread; the namespace goes with the last of what was made in it."""
        self._thread.shutdown()
        os.close(self.device)


@dataclass(slots=True)
class Line:
    """What lies between the two; may be changed at any time.

    Attributes:
        latency_s: Of each packet, each way.
        loss: Of all packets, this share doesn't arrive.
        carried: Packets that did; ``lost`` those that didn't.
    """

    near: End
    far: End
    rng: Random
    latency_s: float = 0.0
    loss: float = 0.0
    carried: int = 0
    lost: int = 0

    def carry(self, over: threading.Event) -> None:
        """Carries packets until asked to end."""
        ways = {self.near.device: self.far.device, self.far.device: self.near.device}
        under_way: deque[tuple[float, int, bytes]] = deque()
        while not over.is_set():
            wait_s = under_way[0][0] - time.monotonic() if under_way else 0.1
            ready, _, _ = select.select(list(ways), [], [], min(0.1, max(0.0, wait_s)))
            for source in ready:
                packet = os.read(source, _MAX_PACKET_BYTES)
                if self.rng.random() < self.loss:
                    self.lost += 1
                else:
                    under_way.append((time.monotonic() + self.latency_s, ways[source], packet))
            while under_way and under_way[0][0] <= time.monotonic():
                _, sink, packet = under_way.popleft()
                os.write(sink, packet)
                self.carried += 1


@contextmanager
def bad_line(rng: Random) -> Iterator[Line]:
    """A line that is still a good one."""
    near, far = End("near", NEAR, FAR), End("far", FAR, NEAR)
    line = Line(near, far, rng)
    over = threading.Event()
    carrier = threading.Thread(target=line.carry, args=(over,))
    carrier.start()
    try:
        yield line
    finally:
        over.set()
        carrier.join()
        near.close()
        far.close()


def listen(end: End, address: str) -> socket.socket:
    """A listener at one end, for whoever wants to accept from it elsewhere."""
    return end.within(lambda: socket.create_server((address, 0)))


def _enter(name: str, address: str, peer: str) -> int:
    """Puts this thread into a new namespace and returns its device."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(_CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), "no network namespace can be had: it takes root")
    device = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(device, _TUNSETIFF, struct.pack("16sH", name.encode(), _IFF_TUN | _IFF_NO_PI))
    for command in (
        f"ip address add {address} peer {peer} dev {name}",
        f"ip link set {name} up",
        "ip link set lo up",
    ):
        subprocess.run(command.split(), check=True)
    return device
