"""The other end of the control socket: finds the daemon, asks it once, waits for the answer.

What is asked, and how the answer is shown, doesn't belong here.
"""

import os
import socket
import time
from collections.abc import Sequence
from typing import Final

from telemetryd.errors import CommandRefused, NoDaemon
from telemetryd.serve.control.protocol import (
    MAX_ANSWER_BYTES,
    Answer,
    Request,
    parse_answer,
    render_line,
)

QUICK_S: Final = 15.0
"""Enough for commands that a daemon answers at once."""
PATIENT_S: Final = 3900.0
"""For those that wait for exporters to end, which a configuration may give an hour."""

_BUSY_PAUSE_S = 0.02
_READ_BYTES = 64 * 1024
_NOBODY_LISTENS = (FileNotFoundError, NotADirectoryError, ConnectionRefusedError)


def ask(paths: Sequence[str], request: Request, *, timeout_s: float | None = None) -> Answer:
    """Ask the daemon that listens on the first of these paths where one does.

    Args:
        paths: Of control sockets, the likeliest first.
        request: The command.
        timeout_s: For everything; None for what the command may take.

    Raises:
        NoDaemon: None listens, or it gave no answer.
        CommandRefused: This user may not ask it.
    """
    if timeout_s is None:
        patient = request.verify or request.command in {"reload", "stop", "restart", "opt-in"}
        timeout_s = PATIENT_S if patient else QUICK_S
    deadline_s = time.monotonic() + timeout_s
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as stream:
        path = _connect(stream, paths, deadline_s)
        try:
            stream.settimeout(_left_s(deadline_s))
            stream.sendall(render_line(request))
            return parse_answer(_receive_line(stream, deadline_s))
        except TimeoutError as error:
            message = f"the daemon on {path} gave no answer within {timeout_s:g} s"
            raise NoDaemon(message) from error
        except (OSError, EOFError) as error:
            raise NoDaemon(f"the daemon on {path} hung up without an answer") from error
        except ValueError as error:
            raise NoDaemon(f"what listens on {path} is no telemetryd of this version") from error


def _connect(stream: socket.socket, paths: Sequence[str], deadline_s: float) -> str:
    """Connect to the first that listens; returns its path.

    Raises:
        NoDaemon: None does.
        CommandRefused: This user may not.
    """
    denied = ""
    for path in paths:
        try:
            _connect_one(stream, path, deadline_s)
        except _NOBODY_LISTENS:
            continue
        except PermissionError:
            denied = denied or path
        except TimeoutError as error:
            raise NoDaemon(f"the daemon on {path} takes no connection") from error
        except OSError as error:
            why = error.strerror or str(error)
            raise NoDaemon(f"{path} can't be connected to: {why.lower()}") from error
        else:
            return path
    if denied:
        raise CommandRefused(
            f"user {os.geteuid()} may not connect to {denied}: run it as root or as the daemon's"
            " user"
        )
    places = " or ".join(paths) or "any place that this user may use"
    raise NoDaemon(f"no daemon listens on {places}: start one, or name its file with --config")


def _connect_one(stream: socket.socket, path: str, deadline_s: float) -> None:
    """Connect, patiently where very many do at the same time.

    Raises:
        OSError: It can't be connected to, or not in time.
    """
    while True:
        stream.settimeout(_left_s(deadline_s))
        try:
            stream.connect(path)
        except BlockingIOError:  # the queue of the listener is full
            time.sleep(_BUSY_PAUSE_S)
        else:
            return


def _receive_line(stream: socket.socket, deadline_s: float) -> bytes:
    """The answer's line.

    Raises:
        EOFError: It doesn't come to its end.
        OSError: Likewise.
        ValueError: It is far too long.
    """
    chunks: list[bytes] = []
    size = 0
    while True:
        stream.settimeout(_left_s(deadline_s))
        chunk = stream.recv(_READ_BYTES)
        if not chunk:
            raise EOFError
        line, end, _ = chunk.partition(b"\n")
        chunks.append(line)
        size += len(line)
        if end:
            return b"".join(chunks)
        if size > MAX_ANSWER_BYTES:
            raise ValueError("too long")


def _left_s(deadline_s: float) -> float:
    """Seconds to the deadline.

    Raises:
        TimeoutError: None are left.
    """
    left_s = deadline_s - time.monotonic()
    if left_s <= 0:
        raise TimeoutError
    return left_s
