"""Where state and the control socket are: by the file, the environment, and what is writable."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from telemetryd.config import Config, ControlSocket, parse_config
from telemetryd.config.paths import SYSTEM_STATE_DIR, default_state_dir
from telemetryd.errors import ConfigError

OTHER_USER = 65534


def parse(text: str = "", **environ: str) -> Config:
    return parse_config(text, "t.toml", environ)


def as_nobody(*environs: dict[str, str]) -> list[str]:
    """The default as a user who may write nowhere by default finds it in each environment."""
    if os.geteuid() != 0:
        return [str(default_state_dir(environ)) for environ in environs]
    code = (
        "import os, sys\n"
        "from telemetryd.config.paths import default_state_dir\n"
        f"os.setuid({OTHER_USER})\n"
        f"print(*map(default_state_dir, {environs!r}), sep='\\n')"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    return done.stdout.splitlines()


def test_given_paths_are_taken_at_their_word() -> None:
    config = parse('state_dir="/s/"\n[server]\ncontrol_socket="/r//c.sock"', STATE_DIRECTORY="/x")
    assert config.state_dir == "/s"
    assert config.server.control_socket is not None
    assert config.server.control_socket.path == "/r/c.sock"
    assert config.server.control_socket.explicit


def test_socket_is_in_the_runtime_folder_else_in_the_state_folder() -> None:
    state = 'state_dir = "/s"'
    assert parse(state).server.control_socket == ControlSocket("/s/control.sock", explicit=False)
    both = parse(state, RUNTIME_DIRECTORY="/run/t:/run/u").server.control_socket
    assert both is not None
    assert (both.path, both.explicit) == ("/run/t/control.sock", False)
    relative = parse(state, RUNTIME_DIRECTORY="run").server.control_socket
    assert relative == ControlSocket("/s/control.sock", explicit=False)


def test_service_managers_state_folder_comes_first(tmp_path: Path) -> None:
    folder = tmp_path / "not" / "yet"
    assert parse(STATE_DIRECTORY=f"{folder}:/other").state_dir == str(folder)
    assert not folder.parent.exists(), "nothing is made by looking"


def test_unusable_state_folders_are_passed_over() -> None:
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:  # others can't look into tmp_path
        Path(folder).chmod(0o755)
        file = Path(folder, "file")
        file.touch()
        home = Path(folder, "home")
        home.mkdir()
        home.chmod(0o777)
        usable = f"{home}/.local/state/telemetryd"
        assert as_nobody(
            {"STATE_DIRECTORY": str(file), "HOME": str(home)},
            {"STATE_DIRECTORY": "relative", "HOME": str(home)},
            {"XDG_STATE_HOME": str(home), "HOME": "/root"},
            {"HOME": "/nonexistent"},
            {},
        ) == [usable, usable, f"{home}/telemetryd", "None", "None"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may write there")
def test_system_state_folder_is_the_default_of_root() -> None:
    assert parse(HOME="/root").state_dir == SYSTEM_STATE_DIR


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("state_dir = 'state'", "state_dir: must be an absolute path"),
        ("state_dir = '/a/../b'", 'without ".."'),
        ("state_dir = 1", "state_dir: is a number"),
        ("[server]\ncontrol_socket = ''", "server.control_socket: is empty"),
        ("[server]\ncontrol_socket = 'c.sock'", "must be an absolute path"),
        (
            f"[server]\ncontrol_socket = '/{'s' * 107}'",
            "is too long for a Unix socket: must be 107",
        ),
        (f"[server]\ncontrol_socket = '/{'ü' * 54}'", "is too long for a Unix socket: must be 107"),
    ],
)
def test_unusable_path_is_named(text: str, message: str) -> None:
    with pytest.raises(ConfigError) as raised:
        parse(text)
    (problem,) = raised.value.problems
    assert message in str(problem)


def test_longest_socket_path_is_accepted() -> None:
    path = f"/{'s' * 106}"
    assert parse(f"[server]\ncontrol_socket = '{path}'").server.control_socket == ControlSocket(
        path, explicit=True
    )
