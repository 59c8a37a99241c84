"""sd_notify(3): tells the service manager how the daemon is; nothing at all where there is none.

When something is told is the daemon's affair. The protocol is one datagram of ``KEY=value`` lines;
it needs no library.
"""

import logging
import socket
import time
from collections.abc import Mapping
from typing import Self

log = logging.getLogger(__name__)

_LONGEST_STATUS_BYTES = 1024
"""systemd ignores a datagram of more than 4096 bytes as a whole."""


class Notifier:
    """Sends notifications; never waits and never raises: one that can't be sent is lost.

    Attributes:
        watchdog_period_s: Seconds between two signs of life, a third of what the service manager
            allows; None where it expects none.
    """

    def __init__(self, address: str = "", watchdog_period_s: float | None = None) -> None:
        """Open nothing yet.

        Args:
            address: Path of a datagram socket, ``@`` in front of an abstract one's name; empty
                for none.
            watchdog_period_s: The attribute.
        """
        self._address = f"\0{address[1:]}" if address.startswith("@") else address
        self.watchdog_period_s = watchdog_period_s

    @classmethod
    def from_environ(cls, environ: Mapping[str, str], pid: int) -> Self:
        """The notifier that a service manager describes to its service.

        Args:
            environ: For ``NOTIFY_SOCKET``, of which only AF_UNIX addresses count, and for
                ``WATCHDOG_USEC`` and ``WATCHDOG_PID``.
            pid: This process.
        """
        address = environ.get("NOTIFY_SOCKET", "")
        return cls(
            address if address.startswith(("/", "@")) else "", _watchdog_period_s(environ, pid)
        )

    def __bool__(self) -> bool:
        """Whether there is anyone to tell."""
        return bool(self._address)

    def ready(self, status: str) -> None:
        """It is up, or back from a reload whatever came of that."""
        self._send("READY=1", _status(status))

    def reloading(self) -> None:
        """A reload begins; ``ready`` must follow."""
        # The service manager ignores it without the time, and waits for ever (Type=notify-reload).
        now_us = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        self._send("RELOADING=1", f"MONOTONIC_USEC={now_us}", _status("reloading"))

    def stopping(self) -> None:
        """It drains; nothing else is told afterwards but its status."""
        self._send("STOPPING=1", _status("draining"))

    def status(self, text: str) -> None:
        """How it is, in one line for people."""
        self._send(_status(text))

    def watchdog(self) -> None:
        """It is alive."""
        self._send("WATCHDOG=1")

    def _send(self, *lines: str) -> None:
        if not self._address:
            return
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as sender:
                sender.sendto("\n".join(lines).encode(errors="replace"), self._address)
        except (OSError, ValueError) as error:
            log.debug("notification lost text=%s error=%r", lines[0], error)


def _watchdog_period_s(environ: Mapping[str, str], pid: int) -> float | None:
    if environ.get("WATCHDOG_PID", str(pid)) != str(pid):
        return None
    allowed_us = environ.get("WATCHDOG_USEC", "")
    if not allowed_us.isdecimal() or int(allowed_us) == 0:
        return None
    return int(allowed_us) / 3_000_000


def _status(text: str) -> str:
    line = " ".join(text.split()).encode(errors="replace")[:_LONGEST_STATUS_BYTES]
    return f"STATUS={line.decode(errors='ignore')}"
