"""A running daemon's socket is found by its file, spoilt as that may be."""

from collections.abc import Mapping
from pathlib import Path

import pytest

from telemetryd.config import ConfigSource, ControlPlace, find_control_socket
from telemetryd.config.locate import SYSTEM_SOCKET
from telemetryd.errors import ConfigError

NOTHING: Mapping[str, str] = {}


def find(file: Path, text: str, environ: Mapping[str, str] = NOTHING) -> ControlPlace:
    file.write_text(text)
    return find_control_socket(ConfigSource(str(file), environ))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "config.toml"


def test_sound_file_names_the_place(file: Path) -> None:
    place = find(file, "[server]\ncontrol_socket = '/a/b.sock'")
    assert place == ControlPlace(("/a/b.sock",), None)


@pytest.mark.parametrize(
    "spoilt",
    [
        "interval = 'often'\n[server]\nlisten = 7\ncontrol_socket = '/a/b.sock'",
        "[[exporters]\n[server]\ncontrol_socket = '/a/b.sock'",
        '[server]\n  control_socket="/a/b.sock" # here\nlisten = ',
        "[server]\nlisten = 'x'\ncontrol_socket = '/a/b.sock'\nx = " + "[" * 5000,
    ],
)
def test_spoilt_file_still_names_it(file: Path, spoilt: str) -> None:
    place = find(file, spoilt)
    assert place.paths == ("/a/b.sock",)
    assert place.error is not None


@pytest.mark.parametrize(
    "spoilt",
    ["state_dir = '/s'\nunknown = 1", "state_dir = '/s'\n[", "server = 1\nstate_dir = '/s'"],
)
def test_spoilt_file_still_names_the_state_folder(file: Path, spoilt: str) -> None:
    assert find(file, spoilt).paths == ("/s/control.sock",)
    assert find(file, spoilt, {"RUNTIME_DIRECTORY": "/r"}).paths == ("/r/control.sock",)


def test_file_with_nothing_but_errors_leads_to_the_default(file: Path) -> None:
    environ = {"STATE_DIRECTORY": str(file.parent)}
    place = find(file, "[server]\ncontrol_socket = 5\n", environ)
    assert place.paths == (f"{file.parent}/control.sock",)


def test_file_that_cannot_be_read_is_reported_and_the_usual_place_is_tried(tmp_path: Path) -> None:
    environ = {"STATE_DIRECTORY": str(tmp_path)}
    place = find_control_socket(ConfigSource(str(tmp_path / "none"), environ))
    assert place.paths == (f"{tmp_path}/control.sock",)
    assert "doesn't exist" in str(place.error)
    with pytest.raises(ConfigError, match="is empty"):
        find_control_socket(ConfigSource("", environ))


def test_services_own_socket_is_tried_only_for_the_system_file(file: Path) -> None:
    environ = {"STATE_DIRECTORY": str(file.parent)}
    usual = f"{file.parent}/control.sock"
    file.touch()
    of_system = ConfigSource(None, environ, system_path=file)
    assert find_control_socket(of_system).paths == (usual, SYSTEM_SOCKET)
    named = ConfigSource(str(file), environ, system_path=file)
    assert find_control_socket(named).paths == (usual, SYSTEM_SOCKET)
    other = ConfigSource(str(file), environ)
    assert find_control_socket(other).paths == (usual,)
    inside = ConfigSource(None, {**environ, "RUNTIME_DIRECTORY": "/r"}, system_path=file)
    assert find_control_socket(inside).paths == ("/r/control.sock",)
    file.write_text("[server]\ncontrol_socket = '/a/b.sock'")
    assert find_control_socket(of_system).paths == ("/a/b.sock",)
