"""`check-config`, `config show`, `schema --config`, `completion` and `version`."""

import json
import os
import subprocess
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from supply.shell import MAN_PAGE, render_files
from telemetryd import __version__
from telemetryd.cli import run_command
from telemetryd.cli.configcommands import COMPLETIONS, SHELL_FILES
from telemetryd.config import parse_config
from telemetryd.config.jsonschema import config_schema
from telemetryd.daemon.signals import EarlySignals

Run = Callable[..., tuple[int, str, str]]
SECRET = "ghp_S3cretOfSomebody42"
KUBECONFIG = {
    "apiVersion": "v1",
    "kind": "Config",
    "current-context": "c",
    "contexts": [{"name": "c", "context": {"cluster": "k", "user": "u"}}],
    "clusters": [{"name": "k", "cluster": {"server": "https://127.0.0.1:1"}}],
    "users": [{"name": "u", "user": {"token": "t"}}],
}


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs one command in this process: status, stdout, stderr."""
    for name in os.environ:
        if name.startswith(("TELEMETRYD_", "KUBE")) or name == "DO_NOT_TRACK":
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("STATE_DIRECTORY", str(tmp_path / "state"))
    kubeconfig = tmp_path / "kubeconfig"
    kubeconfig.write_text(json.dumps(KUBECONFIG))
    monkeypatch.setenv("KUBECONFIG", str(kubeconfig))

    def run_one(*arguments: str, text: str = "", **environ: str) -> tuple[int, str, str]:
        for name, value in environ.items():
            monkeypatch.setenv(name, value)
        if text:
            (tmp_path / "c.toml").write_text(text)
            arguments = (*arguments, "--config", str(tmp_path / "c.toml"))
        status = run_command(arguments, EarlySignals())
        said = capsys.readouterr()
        return status, said.out, said.err.replace(str(tmp_path), "")

    return run_one


HTTP = '[[exporters]]\nname = "r"\ntype = "http"\nurl = "https://a.example/hook"\n'


def test_valid_configuration_is_valid_with_all_that_it_names(run: Run) -> None:
    status, said, wrong = run("check-config", text=HTTP)
    assert (status, wrong) == (0, "")
    assert said.endswith("/c.toml: valid\n")


BAD_FILES = {
    "[server]\ntls_cert_file = '/none/c'\ntls_key_file = '/none/k'\n": (
        "/c.toml:2: server.tls_cert_file: the file can't be read",
        "/c.toml:3: server.tls_key_file: the file can't be read",
    ),
    f"{HTTP}ca_file = '/etc/hostname'\nclient_cert_file = '/dev/null'\n": (
        "/c.toml:5: exporters.r.ca_file: CA can't be loaded",
    ),
    "[kubernetes]\nkubeconfig = '/none/k'\n": ("kubernetes.kubeconfig",),
    "[server]\ncontrol_socket = '/dev/null/c.sock'\n": ("/c.toml:2: server.control_socket: ",),
}


@pytest.mark.parametrize(("text", "said"), BAD_FILES.items())
def test_file_that_a_start_would_refuse_is_refused_with_its_line(
    run: Run, text: str, said: tuple[str, ...]
) -> None:
    status, out, wrong = run("check-config", text=text)
    assert (status, out) == (78, "")
    lines = wrong.splitlines()
    assert len(lines) == len(said), wrong
    for line, part in zip(lines, said, strict=True):
        assert part in line
    assert run("check-config", "--offline", text=text)[0] == 0


def test_problems_of_files_are_reported_all_at_once(run: Run) -> None:
    text = "".join(BAD_FILES).replace("[server]\ncontrol", "[leader_election]\n[x]\ncontrol")
    text = text.partition("[leader_election]")[0]
    status, _, wrong = run("check-config", text=text)
    assert status == 78
    assert len(wrong.splitlines()) == 4, wrong


def test_token_file_that_is_missing_yet_is_a_warning(run: Run) -> None:
    text = f"{HTTP}bearer_token_file = '/none/token'\n"
    status, said, wrong = run("check-config", text=text)
    assert (status, said.endswith("valid\n")) == (0, True)
    assert wrong == (
        "telemetryd: /c.toml:5: exporters.r.bearer_token_file: names a file that isn't there yet:"
        " exports fail until it is\n"
    )


def test_document_has_every_problem_with_its_place(run: Run) -> None:
    text = HTTP + "interval = '5'\njitter = 2\n"
    status, said, wrong = run("check-config", "--json", text=text, TELEMETRYD_XYZZY_1="x")
    assert (status, wrong) == (78, "")
    document = json.loads(said)
    assert (document["valid"], document["warnings"]) == (False, [])
    variable, interval, jitter = document["problems"]
    assert (variable["where"], variable["line"]) == ("$TELEMETRYD_XYZZY_1", None)
    assert (interval["line"], interval["key"]) == (5, "exporters.r.interval")
    assert interval["exporter"] == jitter["exporter"] == "r"
    document = json.loads(
        run("check-config", "--json", "--offline", text=HTTP, TELEMETRYD_XYZZY_1="")[1]
    )
    assert (document["valid"], document["problems"]) == (True, [])


def test_setting_without_effect_is_a_warning(run: Run) -> None:
    text = "[privacy]\nserver_url = 'omit'\n"
    arguments = ("check-config", "--offline", "--set", "privacy.server_url=send")
    status, _, wrong = run(*arguments, text=text)
    assert status == 0
    assert "--set privacy.server_url has no effect: /c.toml:2 restricts" in wrong


def test_values_in_force_are_shown_with_their_origin(run: Run) -> None:
    text = (
        f"log_level = 'error'\n[privacy]\nserver_url = 'omit'\n{HTTP}headers_file = '/{SECRET}'\n"
    )
    status, said, wrong = run(
        "config",
        "show",
        "--set",
        "exporters.r.interval=5s",
        "--set",
        "privacy.server_url=send",
        text=text,
        TELEMETRYD_KUBERNETES__PAGE_SIZE="7",
    )
    assert (status, wrong) == (0, "")
    origins = {
        line.partition(" =")[0]: line.rpartition("# ")[2].replace("/c.toml", "FILE")[-40:]
        for line in said.splitlines()
        if " = " in line
    }
    assert origins["log_level"].endswith("FILE:1")
    assert origins["server_url"].endswith("FILE:3")
    assert origins["page_size"] == "$TELEMETRYD_KUBERNETES__PAGE_SIZE"
    assert origins["interval"] == "--set exporters.r.interval"
    assert origins["drain_timeout"] == "default"
    assert "--set privacy.server_url has no effect" in said
    assert SECRET not in said
    assert "hook" not in said
    assert "# headers_file is set, and not shown" in said
    shown = tomllib.loads(said)
    assert shown["kubernetes"]["page_size"] == 7
    assert shown["privacy"]["server_url"] == "omit"
    assert parse_config(said, "shown", {}).exporters[0].interval_s == 5.0


def test_collection_that_a_variable_switches_off_is_shown_as_off(run: Run) -> None:
    _, said, _ = run("config", "show", DO_NOT_TRACK="1")
    (line,) = (line for line in said.splitlines() if line.startswith("enabled = ") and "$" in line)
    assert line.split() == ["enabled", "=", "false", "#", "$DO_NOT_TRACK"]


def test_remembered_restriction_is_shown_with_where_it_is_from(run: Run, tmp_path: Path) -> None:
    (tmp_path / "state").mkdir()
    entry = {"source": "file", "key": "privacy.server_url", "where": "/old.toml", "since": 1.0}
    document = {"version": 1, "restrictions": [entry]}
    (tmp_path / "state" / "restrictions.json").write_text(json.dumps(document))
    _, said, wrong = run("config", "show", text=HTTP)
    assert 'server_url = "omit"' in said
    assert "# remembered from /old.toml" in said
    assert "ctl opt-in" in wrong


def test_schema_of_the_configuration_is_printed(run: Run) -> None:
    status, said, _ = run("schema", "--config")
    assert (status, json.loads(said)) == (0, config_schema())


def test_version_has_revision_and_python(run: Run) -> None:
    status, said, _ = run("version")
    version, revision, python = said.splitlines()
    assert (status, version) == (0, f"telemetryd {__version__}")
    assert revision.startswith("revision ")
    assert python.startswith("Python 3.")


@pytest.fixture(scope="module")
def made() -> dict[str, str]:
    return render_files()


@pytest.mark.parametrize("name", [*COMPLETIONS.values(), MAN_PAGE])
def test_file_of_the_shell_is_that_of_the_parser(made: dict[str, str], name: str) -> None:
    # The width of a usage's lines is argparse's own, and differs between versions of Python.
    shipped, expected = (SHELL_FILES / name).read_text(), made[name]
    assert shipped.split() == expected.split(), "run make docs"


@pytest.mark.parametrize("shell", COMPLETIONS)
def test_completion_is_printed(run: Run, shell: str) -> None:
    status, said, _ = run("completion", shell)
    assert (status, said) == (0, (SHELL_FILES / COMPLETIONS[shell]).read_text())


def complete(*words: str) -> list[str]:
    """What bash offers at the end of a line."""
    script = f"""
    source {SHELL_FILES / "telemetryd.bash"}
    COMP_WORDS=({" ".join(f"'{word}'" for word in words)})
    COMP_CWORD={len(words) - 1}
    _shtab_telemetryd telemetryd "${{COMP_WORDS[COMP_CWORD]}}"
    printf '%s\\n' "${{COMPREPLY[@]}}"
    """
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True)
    return done.stdout.split()


def test_bash_completes_commands_and_options() -> None:
    assert complete("telemetryd", "che") == ["check-config"]
    assert complete("telemetryd", "ctl", "stat") == ["status"]
    assert "--offline" in complete("telemetryd", "check-config", "--")
    assert complete("telemetryd", "completion", "f") == ["fish"]


def test_man_page_names_every_command(made: dict[str, str]) -> None:
    page: Any = made[MAN_PAGE].replace("\\-", "-")
    for command in ("run", "check-config", "config show", "ctl trigger", "completion", "version"):
        assert f"telemetryd {command}" in page
    assert "1970" not in page
