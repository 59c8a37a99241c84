"""What a test asks about a process from outside."""

import contextlib
import random
import socket
from pathlib import Path
from typing import Any

from telemetryd.logs import RESERVED

# Below the kernel's ephemeral range (32768 and up), so that no outgoing connection can take the
# port of a server that is down for a moment.
_PORTS = range(20_000, 32_000)


def is_gone(process: int) -> bool:
    """Whether it has ended. Its parent, or who inherited it, may not have waited for it yet."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def whole_lines(log: Path) -> str:
    """What a process has logged so far, without the line that it may be writing."""
    text = log.read_text()
    return text[: text.rfind("\n") + 1]


def said(line: dict[str, Any]) -> str:
    """A JSON log line's message and fields, as in the text format but without quotes."""
    fields = (f"{key}={value}" for key, value in line.items() if key not in RESERVED)
    return " ".join((line["message"], *fields))


def free_ports(count: int) -> list[int]:
    """Returns distinct loopback ports that have no listener."""
    ports: list[int] = []
    with contextlib.ExitStack() as held:
        # A test that seeds the generator would make two workers' ports alike.
        for port in random.SystemRandom().sample(_PORTS, len(_PORTS)):
            probe = held.enter_context(socket.socket())
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            ports.append(port)
            if len(ports) == count:
                return ports
    raise RuntimeError(f"fewer than {count} free ports in {_PORTS}")
