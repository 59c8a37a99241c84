"""Where the daemon keeps its state and its control socket: the socket's kind, and both defaults.

Defaults come from the environment and from what the file system allows; nothing is made here.
"""

import os
import queue
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from telemetryd.config.storage import AbsolutePath
from telemetryd.config.values import InvalidValue, Kind

SYSTEM_STATE_DIR = "/var/lib/telemetryd"
CONTROL_SOCKET_NAME = "control.sock"
RUNTIME_VARIABLE = "RUNTIME_DIRECTORY"
LOOK_S = 2.0
"""For a look at a folder; a disk or a file server may hang."""
LONGEST_SOCKET_PATH_BYTES = 107
"""``sun_path`` of unix(7) without its closing NUL."""


@dataclass(frozen=True, slots=True)
class ControlSocket:
    """Where the daemon listens for commands.

    Attributes:
        path: Absolute.
        explicit: The file names it: then it must be usable.
    """

    path: str
    explicit: bool = field(compare=False)

    def __str__(self) -> str:
        return self.path


@dataclass(frozen=True, slots=True)
class SocketPath(Kind[ControlSocket]):
    """The path of a Unix socket."""

    def _parse(self, value: object) -> ControlSocket:
        path = AbsolutePath().parse(value)
        if is_too_long(path):
            raise InvalidValue(
                f"is too long for a Unix socket: must be {LONGEST_SOCKET_PATH_BYTES} bytes at"
                " most, such as /run/telemetryd/control.sock"
            )
        return ControlSocket(path, explicit=True)


def is_too_long(path: str) -> bool:
    """Whether no Unix socket can have this path."""
    return len(os.fsencode(path)) > LONGEST_SOCKET_PATH_BYTES


def default_state_dir(environ: Mapping[str, str]) -> str | None:
    """The first usable one of the service manager's, the system's and the user's folder.

    Usable is one that is writable, or could be made. One whose disk hangs counts as usable: it may
    remember an opt-out. ``$STATE_DIRECTORY`` may name several folders, of which the first counts
    (systemd.exec(5)).

    Returns:
        An absolute path, None where none is usable.
    """
    home = environ.get("HOME", "")
    user_state = environ.get("XDG_STATE_HOME") or (f"{home}/.local/state" if home else "")
    candidates = (
        environ.get("STATE_DIRECTORY", "").partition(":")[0],
        SYSTEM_STATE_DIR,
        f"{user_state}/telemetryd" if user_state else "",
    )
    return next((folder for folder in candidates if _may_be_usable(folder)), None)


def default_control_socket(
    environ: Mapping[str, str], state_dir: str | None
) -> ControlSocket | None:
    """In ``$RUNTIME_DIRECTORY``, else in the state folder; None where there is neither."""
    runtime_dir = environ.get(RUNTIME_VARIABLE, "").partition(":")[0]
    folder = runtime_dir if runtime_dir.startswith("/") else state_dir
    if folder is None:
        return None
    return ControlSocket(str(Path(folder, CONTROL_SOCKET_NAME)), explicit=False)


def _may_be_usable(folder: str) -> bool:
    """Whether a folder is usable, or its disk hangs; blocks for ``LOOK_S`` at most."""
    found: queue.SimpleQueue[bool] = queue.SimpleQueue()

    def look() -> None:
        found.put(_is_usable(folder))

    threading.Thread(target=look, name="state folder", daemon=True).start()
    try:
        return found.get(timeout=LOOK_S)
    except queue.Empty:
        return True


def _is_usable(folder: str) -> bool:
    """Whether it is a folder to write to, or the nearest one above it that exists is."""
    if not folder.startswith("/"):
        return False
    path = Path(folder)
    while not os.access(path, os.F_OK) and path != path.parent:
        path = path.parent
    return path.is_dir() and os.access(path, os.W_OK | os.X_OK)
