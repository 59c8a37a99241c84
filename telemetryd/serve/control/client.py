"""The client of the control socket: finds the daemon, sends one request, waits for the answer."""

import os
import socket
import time
from collections.abc import Sequence
from typing import Final

from telemetryd.errors import CommandRefused, NoDaemon
from telemetryd.serve.control.protocol import (
    MAX_ANSWER_BYTES,
    CommandAnswer,
    Request,
    parse_answer,
    render_line,
)

QUICK_S: Final = 15.0
"""For commands that the daemon answers at once."""
PATIENT_S: Final = 3900.0
"""For commands that wait for exporters to end, which may be configured to take an hour."""

_BUSY_PAUSE_S = 0.02
_READ_BYTES = 64 * 1024
_NOBODY_LISTENS = (FileNotFoundError, NotADirectoryError, ConnectionRefusedError)


def ask(paths: Sequence[str], request: Request, *, timeout_s: float | None = None) -> CommandAnswer:
    """Send a request to the daemon on the first path where one listens.

    ``timeout_s`` is for everything; None for a default by the command.

    Raises:
        NoDaemon: No daemon listens, or it gave no answer.
        CommandRefused: This user may not connect.
    """
    if timeout_s is None:
        patient = (
            request.verify
            or request.wait
            or request.command in {"reload", "stop", "restart", "opt-in"}
        )
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
    """Connect to the first path where a daemon listens; returns the path.

    Raises:
        NoDaemon: No daemon listens.
        CommandRefused: This user may not connect.
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
    """Connect; waits while the listener's queue is full.

    Raises:
        OSError: Connecting fails, or takes too long.
    """
    while True:
        stream.settimeout(_left_s(deadline_s))
        try:
            stream.connect(path)
        except BlockingIOError:
            time.sleep(_BUSY_PAUSE_S)
        else:
            return


def _receive_line(stream: socket.socket, deadline_s: float) -> bytes:
    """Receive one line.

    Raises:
        EOFError: The daemon closed the connection before the end of the line.
        OSError: Receiving fails, or takes too long.
        ValueError: The line is too long.
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
    """Seconds until the deadline.

    Raises:
        TimeoutError: It has passed.
    """
    left_s = deadline_s - time.monotonic()
    if left_s <= 0:
        raise TimeoutError
    return left_s
