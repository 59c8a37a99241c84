"""Finds a running daemon's control socket by its configuration file, even if that is broken.

A daemon keeps running when its file is broken, and can be asked to reload it: so the path is taken
from what can still be read.
"""

import re
import tomllib
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

from telemetryd.config.load import ConfigSource
from telemetryd.config.overrides import find_overrides
from telemetryd.config.paths import (
    RUNTIME_VARIABLE,
    ControlSocket,
    SocketPath,
    default_control_socket,
    default_state_dir,
)
from telemetryd.config.storage import AbsolutePath
from telemetryd.config.values import InvalidValue
from telemetryd.errors import ConfigError

SYSTEM_SOCKET: Final = "/run/telemetryd/control.sock"
"""Where the systemd unit's ``RuntimeDirectory=`` has it, which an operator's shell doesn't know."""

_PATH_LINE = re.compile(
    r"""^[ \t]*(control_socket|state_dir)[ \t]*=[ \t]*(["'])(/[^"'\\]*)\2""", re.MULTILINE
)
"""Good enough to look for a socket by; nothing is configured with it."""


@dataclass(frozen=True, slots=True)
class ControlPlace:
    """Where a running daemon may be asked.

    Attributes:
        paths: Of its control socket, the likeliest first.
        error: What is wrong with its file, None where all is well.
    """

    paths: tuple[str, ...]
    error: ConfigError | None


def find_control_socket(source: ConfigSource) -> ControlPlace:
    """Where the daemon with this configuration listens for commands.

    Raises:
        ConfigError: No file can be looked for.
    """
    text, error = "", None
    path = source.find()
    try:
        file = source.read()
        text = file.text
        socket = source.parse(file).server.control_socket
    except ConfigError as found:
        socket, error = _guess(text, source), found
    paths = () if socket is None else (socket.path,)
    of_system = path in {None, source.system_path}
    if of_system and not (socket and socket.explicit) and not source.environ.get(RUNTIME_VARIABLE):
        paths = (*paths, SYSTEM_SOCKET)
    return ControlPlace(paths, error)


def _guess(text: str, source: ConfigSource) -> ControlSocket | None:
    table = _salvage(text)
    server = table.get("server")
    overrides, _ = find_overrides(source.environ, source.assignments)
    above = {each.path: each.text for each in overrides}
    written = server.get("control_socket") if isinstance(server, dict) else None
    for given in (above.get(("server", "control_socket")), written):
        with suppress(InvalidValue):
            return SocketPath().parse(given)
    try:
        state_dir: str | None = AbsolutePath().parse(
            above.get(("state_dir",)) or table.get("state_dir")
        )
    except InvalidValue:
        state_dir = default_state_dir(source.environ)
    return default_control_socket(source.environ, state_dir)


def _salvage(text: str) -> dict[str, Any]:
    """What names the place in a file that has errors, even of syntax."""
    try:
        return tomllib.loads(text)
    except (ValueError, RecursionError):
        found = {name: path for name, _, path in _PATH_LINE.findall(text)}
        return {**found, "server": found}
