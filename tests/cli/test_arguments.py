"""The command line: global options anywhere, help, and what is said to what is wrong."""

import argparse
from typing import Any

import pytest

from telemetryd.__main__ import GLOBAL_OPTIONS, _command
from telemetryd.cli import run_command
from telemetryd.cli.arguments import build_parser
from telemetryd.config import Assignment
from telemetryd.daemon.signals import EarlySignals


def parse(line: str) -> argparse.Namespace:
    return build_parser().parse(line.split())


def refusal(line: str, capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit, match=r"^64$"):
        parse(line)
    said = capsys.readouterr().err
    assert said.startswith("usage: telemetryd")
    return said.splitlines()[-1]


@pytest.mark.parametrize(
    "line",
    ["--config F run", "run --config F", "--config=F ctl status", "ctl --config F status",
     "ctl status --config F", "--config G run --config F"],
)  # fmt: skip
def test_file_may_be_named_before_and_after_the_command(line: str) -> None:
    assert parse(line).config == "F"


def test_assignments_of_the_whole_line_are_kept_in_their_order() -> None:
    options = parse("--set a=1 --log-level debug ctl --context c status --kubeconfig k --set b=x=y")
    assert options.assignments == [
        Assignment("--set", "a", "1"),
        Assignment("--log-level", "log_level", "debug"),
        Assignment("--context", "kubernetes.context", "c"),
        Assignment("--kubeconfig", "kubernetes.kubeconfig", "k"),
        Assignment("--set", "b", "x=y"),
    ]


def test_no_command_shows_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command([], EarlySignals()) == 0
    shown = capsys.readouterr()
    assert "check-config" in shown.out
    assert "--set KEY=VALUE" in shown.out
    assert not shown.err


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("fly", 'telemetryd: unknown command "fly": run, check-config'),
        ("chek-config", 'did you mean "check-config"?'),
        ("--config F rn", 'did you mean "run"?'),
        ("--confg F run", 'telemetryd: unknown option "--confg"; did you mean "--config"?'),
        ("run --confg F", 'telemetryd run: unknown option "--confg"; did you mean "--config"?'),
        ("payload --formt=scc", 'unknown option "--formt"; did you mean "--format"?'),
        ("ctl stat", 'telemetryd ctl: unknown command "stat"'),
        ("ctl stat", 'did you mean "status"?'),
        ("run now", 'telemetryd run: unexpected argument "now"'),
        ("schema --format sc", 'did you mean "scc"?'),
        ("run --set x", '--set: is "x": must be KEY=VALUE'),
        ("run --set =x", "must be KEY=VALUE"),
        ("run --config", "expected one argument"),
        ("schema --config --format scc", "not allowed with"),
    ],
)
def test_usage_error_says_what_may_have_been_meant(
    line: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert said in refusal(line, capsys)


def test_wrong_value_of_an_option_is_an_error_of_the_configuration(
    capsys: pytest.CaptureFixture[str],
) -> None:
    arguments = ["--log-level", "loud", "check-config", "--set", "page_size=1"]
    assert run_command(arguments, EarlySignals()) == 78
    said = sorted(capsys.readouterr().err.splitlines())
    assert said == [
        '--log-level: is "loud": must be one of "debug", "info", "warning", "error"',
        "--set page_size: unknown key; did you mean kubernetes.page_size?",
    ]


def test_command_is_found_before_the_parser_is_loaded() -> None:
    assert _command(["--config", "run", "--set=a=b", "--set", "run", "payload"]) == "payload"
    assert _command(["run", "--config", "F"]) == "run"
    assert _command(["--version"]) == ""
    takes_value: dict[str, Any] = {
        name: action.nargs for name, action in build_parser().options.items()
    }
    assert {name for name, nargs in takes_value.items() if nargs is None} == {*GLOBAL_OPTIONS}
