"""Any configuration file: a configuration or plain errors, and a daemon that keeps what it has."""

import contextlib
import io
import os
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from telemetryd.cli import run_command
from telemetryd.cli.configcommands import EX_CONFIG
from telemetryd.config import Config, load_config
from telemetryd.daemon.signals import EarlySignals
from telemetryd.errors import ConfigError
from tests.fuzz.budget import budget, examples, fuzzing, patient
from tests.fuzz.counts import assert_no_growth, assert_no_growth_here
from tests.fuzz.daemon import Probed
from tests.fuzz.toml_texts import TEXTS, spoilt

pytestmark = [patient, fuzzing]

EXAMPLES = 250
RELOADS = 12
LONGEST_LINE = 1000
MOST_LINES = 101

EXAMPLE_FILE = Path("config.example.toml").read_bytes()
CONTENTS = (
    TEXTS.map(lambda text: text.encode("utf-8", "surrogatepass"))
    | spoilt(EXAMPLE_FILE)
    | st.binary(max_size=200)
)


def judge(file: Path, lines: list[str]) -> None:
    """Each problem is one line that isn't long, and they aren't endless."""
    assert 1 <= len(lines) <= MOST_LINES
    for line in lines:
        assert line.startswith(f"{file}:")
        assert len(line) <= LONGEST_LINE + len(str(file))
        assert line.isprintable()


def test_any_file_is_a_configuration_or_plain_errors(tmp_path: Path) -> None:
    file = tmp_path / "c.toml"
    found: list[bytes] = []

    def read(content: bytes) -> bool:
        file.write_bytes(content)
        try:
            return isinstance(load_config(file, {}), Config)
        except ConfigError as error:
            judge(file, [str(problem) for problem in error.problems])
            return False

    @budget(EXAMPLES)
    @given(content=CONTENTS)
    def fuzz(content: bytes) -> None:
        read(content)
        found.append(content)

    fuzz()
    assert_no_growth_here(read, found)
    assert 0 < sum(map(read, found)) < len(found), "some are valid, and some aren't"


def test_any_file_is_valid_or_refused_by_check_config(tmp_path: Path) -> None:
    file = tmp_path / "c.toml"

    @budget(EXAMPLES // 4)
    @given(content=CONTENTS)
    def fuzz(content: bytes) -> None:
        file.write_bytes(content)
        said, wrong = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(wrong):
            status = run_command(
                ["check-config", "--offline", "--config", os.fspath(file)], EarlySignals()
            )
        if status == 0:
            assert (said.getvalue(), wrong.getvalue()) == (f"{file}: valid\n", "")
        else:
            assert (status, said.getvalue()) == (EX_CONFIG, "")
            judge(file, wrong.getvalue().splitlines())

    fuzz()


def test_any_file_that_is_refused_at_a_reload_changes_nothing(daemon: Probed) -> None:
    daemon.configure()
    assert daemon.ask("reload").ok
    file = daemon.daemon.config_file
    good = file.read_bytes()
    daemon.expected.add("config rejected")
    # The first type that isn't ours loads the search for plug-ins, which stays: that is no growth.
    file.write_bytes(good + b'[[exporters]]\nname = "x"\ntype = "unknown"\n')
    assert not daemon.ask("reload").ok
    file.write_bytes(good)

    @budget(RELOADS)
    @given(content=spoilt(good) | TEXTS.map(lambda text: good + text.encode()))
    def fuzz(content: bytes) -> None:
        before = daemon.ask("status").result["config"]
        file.write_bytes(content)
        answer = daemon.ask("reload")
        if not answer.ok:
            judge(file, answer.result["problems"])
            after = daemon.ask("status").result["config"]
            assert (after["file"], after["hash"]) == (before["file"], before["hash"])
        file.write_bytes(good)
        assert daemon.ask("reload").ok
        daemon.assert_well()

    assert_no_growth(fuzz, examples(RELOADS), daemon.counts)
