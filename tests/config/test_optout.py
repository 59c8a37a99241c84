"""The switches in the environment: what they take for a yes, for a no, and for a mistake."""

import pytest

from telemetryd.config import parse_config, read_switches
from telemetryd.errors import ConfigError


@pytest.mark.parametrize("value", ["", " ", "true", "TRUE", "1", "yes", "on"])
def test_enabled_by_variable_leaves_it_on(value: str) -> None:
    assert read_switches({"TELEMETRYD_ENABLED": value}).enabled
    parse_config("", "f", {"TELEMETRYD_ENABLED": value})


@pytest.mark.parametrize("value", ["false", "False", "0", "no", "off", " off "])
def test_disabled_by_variable_is_off_whatever_the_file_says(value: str) -> None:
    assert not read_switches({"TELEMETRYD_ENABLED": value}).enabled
    assert parse_config("enabled = true", "f", {"TELEMETRYD_ENABLED": value}).enabled


def test_variable_that_says_neither_is_an_error_and_never_a_leave() -> None:
    environ = {"TELEMETRYD_ENABLED": "maybe"}
    assert not read_switches(environ).enabled
    with pytest.raises(ConfigError) as caught:
        parse_config("log_level = 1", "f", environ)
    first, second = map(str, caught.value.problems)
    assert first == '$TELEMETRYD_ENABLED: is "maybe": must be true or false'
    assert second.startswith("f: log_level")


@pytest.mark.parametrize("value", ["1", "true", "yes", "on", "please"])
def test_do_not_track_is_taken_for_a_no_to_tracking(value: str) -> None:
    assert not read_switches({"DO_NOT_TRACK": value}).tracking
    assert read_switches({"DO_NOT_TRACK": value}).enabled


@pytest.mark.parametrize("value", ["", "0", "false", "no", "off"])
def test_do_not_track_that_says_no_leaves_tracking_on(value: str) -> None:
    assert read_switches({"DO_NOT_TRACK": value}).tracking


def test_empty_environment_leaves_all_on() -> None:
    switches = read_switches({})
    assert switches.enabled
    assert switches.tracking
