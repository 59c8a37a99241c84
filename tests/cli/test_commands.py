"""The command line as a shell sees it: output, exit status, and no traceback ever."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from telemetryd import __version__
from telemetryd.cli.arguments import build_parser
from tests.support import starter
from tests.support.daemon import free_port
from tests.support.sampling import sampled

COMMANDS = (
    "run",
    "check-config",
    "payload",
    "schema",
    "healthcheck",
    "doctor",
    "demo",
    "ctl",
    "spool",
)
CTL_COMMANDS = ("status", "reload", "start", "stop", "restart", "trigger", "cache")
SPOOL_COMMANDS = ("list", "export", "replay")
SIGNALS = (signal.SIGHUP, signal.SIGUSR1, signal.SIGTERM, signal.SIGINT)
"""Those that a daemon handles, and ignores at its end."""


def telemetryd(*arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    """Runs one command to its end, away from this machine's own configuration."""
    return starter.run(*arguments, env=_environ(environ))


def telemetryd_process(*arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    """The same in an interpreter of its own, as a shell starts it."""
    return starter.run(*arguments, env=_environ(environ), fresh=True)


def _environ(environ: dict[str, str]) -> dict[str, str]:
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("TELEMETRYD_", "KUBE")) and name != "DO_NOT_TRACK"
    }
    return kept | {"HOME": "/nonexistent"} | environ


def _unmeasured(environ: dict[str, str]) -> dict[str, str]:
    """Without coverage, whose data another user may not write."""
    return {name: value for name, value in environ.items() if not name.startswith("COVERAGE")}


def assert_one_clear_line(result: subprocess.CompletedProcess[str], *parts: str) -> None:
    lines = result.stderr.strip().splitlines()
    assert len(lines) == 1, result.stderr
    assert "Traceback" not in result.stderr
    for part in parts:
        assert part in lines[0]


def test_help_of_every_command_shows_an_example(capsys: pytest.CaptureFixture[str]) -> None:
    overview = telemetryd("--help")
    assert overview.returncode == 0
    nested = [f"ctl {command}" for command in CTL_COMMANDS]
    nested += [f"spool {command}" for command in SPOOL_COMMANDS]
    for command in (*COMMANDS, *nested):
        with pytest.raises(SystemExit, match=r"^0$"):
            build_parser().parse_args([*command.split(), "--help"])
        shown = capsys.readouterr().out
        assert f"example: telemetryd {command}" in " ".join(shown.split())
        if command in COMMANDS:
            assert command in overview.stdout
        else:
            assert "--config FILE" in shown


def test_help_says_the_defaults_that_are_in_force(capsys: pytest.CaptureFixture[str]) -> None:
    for command, option, about in (
        ("payload", "format", "payload format (default {})"),
        ("payload", "timeout", "how long to wait for the sync (default {:.0f}s)"),
        ("report", "by", "in UTC (default {})"),
        ("demo", "clusters", "managed clusters (default {})"),
        ("demo", "churn", "changes a second (default {})"),
    ):
        in_force = getattr(build_parser().parse_args([command]), option)
        with pytest.raises(SystemExit, match=r"^0$"):
            build_parser().parse_args([command, "--help"])
        assert about.format(in_force) in " ".join(capsys.readouterr().out.split())


def test_version_is_the_package_s() -> None:
    assert telemetryd_process("--version").stdout == f"telemetryd {__version__}\n"


@pytest.mark.parametrize(
    "arguments",
    [
        ("fly",),
        ("run", "--fast"),
        ("schema", "--format", "xml"),
        ("doctor", "--fix"),
        ("payload", "--timeout", "soon"),
        ("ctl",),
        ("ctl", "stop"),
        ("demo", "--clusters", "-1"),
        ("demo", "--churn", "nan"),
        ("demo", "--duration", "20"),
    ],
)
def test_wrong_usage_exits_64(arguments: tuple[str, ...]) -> None:
    result = telemetryd(*arguments)
    assert result.returncode == 64, result.stderr
    assert not result.stdout
    assert "usage:" in result.stderr


@pytest.mark.parametrize("command", ["run", "check-config", "payload", "healthcheck", "doctor"])
def test_bad_configuration_exits_78_with_every_error(command: str, tmp_path: Path) -> None:
    config = tmp_path / "config.toml"
    config.write_text(
        'log_levle = "info"\n[server]\nlisten = 7\n'
        '[[exporters]]\nname = "a"\ntype = "secret"\ninterval = "often"\n'
    )
    result = telemetryd(command, "--config", str(config))
    assert result.returncode == 78
    assert not result.stdout
    lines = result.stderr.splitlines()
    assert len(lines) == 3, result.stderr
    for line, key in zip(
        sorted(lines), ("log_levle", "server.listen", "exporters.a.interval"), strict=True
    ):
        assert re.match(rf"{re.escape(str(config))}:\d: {re.escape(key)}: ", line), line


def test_missing_configuration_file_exits_78(tmp_path: Path) -> None:
    result = telemetryd_process("run", "--config", str(tmp_path / "none.toml"))
    assert result.returncode == 78
    assert_one_clear_line(result, "none.toml")


def test_valid_configuration_is_called_valid() -> None:
    result = telemetryd("check-config", "--offline", "--config", "config.example.toml")
    assert (result.returncode, result.stdout) == (0, "config.example.toml: valid\n")


@pytest.mark.parametrize(
    ("arguments", "title"),
    [
        ((), "RMSSubscription"),
        (("--format", "scc"), "RMSSubscription"),
        (("--format", "fleet"), "telemetryd fleet payload"),
    ],
)
def test_schema_is_json_schema_2020_12(arguments: tuple[str, ...], title: str) -> None:
    document = json.loads(telemetryd("schema", *arguments).stdout)
    assert document["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert document["title"] == title


def test_output_into_a_closed_pipe_ends_quietly() -> None:
    command = f"{starter.shell_command()} schema | true"
    result = subprocess.run(
        ["/bin/bash", "-c", command], capture_output=True, text=True, timeout=60, check=False
    )
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize(
    "command",
    [
        *("--help", "version", "schema", "completion bash", "config show", "doctor"),
        *("check-config --offline", "check-config --offline --json", "spool list --json"),
        "demo --duration 0s --clusters 1 --nodes 1",
    ],
)
def test_output_that_takes_nothing_fails_in_one_line(command: str, tmp_path: Path) -> None:
    path = tmp_path / "kubeconfig"
    path.write_text(json.dumps(kubeconfig()))
    result = subprocess.run(
        ["/bin/bash", "-c", f"{starter.shell_command()} {command} > /dev/full"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env=_environ({"KUBECONFIG": str(path), "STATE_DIRECTORY": str(tmp_path)}),
    )
    assert result.returncode == 1
    assert_one_clear_line(result, "standard output can't be written: No space left on device")


@pytest.mark.parametrize(
    ("arguments", "status", "parts"),
    [
        (("spool", "export"), 64, ("arguments are required: DIR\n",)),
        (("spool", "export", "/dev/null/x"), 1, ("/dev/null/x", "name a folder")),
        (("spool", "replay", "/nonexistent"), 1, ("/nonexistent", "telemetryd spool export")),
        (("spool", "replay", "pyproject.toml"), 1, ("isn't a manifest", "telemetryd spool export")),
        (("demo", "--clusters", "99999999999"), 64, ("from 0 to 9999",)),
        (("demo", "--clusters", "9999", "--nodes", "9999"), 64, ("at most 200000",)),
        (("rnu",), 64, ('did you mean "run"?',)),
        (("payload", "--exporter", "x\udcff"), 1, ("'x\\udcff'", "which has: scc")),
        (("check-config", "--config", "/x\udcff"), 78, ("/x\\udcff: doesn't exist",)),
    ],
    ids=lambda value: " ".join(map(ascii, value)) if isinstance(value, tuple) else None,
)
def test_input_that_can_not_be_used_is_named_with_what_would_be_right(
    arguments: tuple[str, ...], status: int, parts: tuple[str, ...], tmp_path: Path
) -> None:
    result = telemetryd(*arguments, STATE_DIRECTORY=str(tmp_path))
    assert result.returncode == status, result.stderr
    assert not result.stdout
    assert "Traceback" not in result.stderr
    for part in parts:
        assert part in result.stderr


def kubeconfig(**changes: Any) -> dict[str, Any]:
    document: dict[str, Any] = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "c",
        "contexts": [{"name": "c", "context": {"cluster": "k", "user": "u"}}],
        "clusters": [{"name": "k", "cluster": {"server": "https://127.0.0.1:1"}}],
        "users": [{"name": "u", "user": {"token": "very-secret-token"}}],
    }
    return document | changes


def cluster(**fields: str) -> dict[str, Any]:
    return kubeconfig(
        clusters=[{"name": "k", "cluster": {"server": "https://127.0.0.1:1", **fields}}]
    )


def user(**fields: Any) -> dict[str, Any]:
    return kubeconfig(users=[{"name": "u", "user": fields}])


BAD_KUBECONFIGS: dict[str, tuple[str, tuple[str, ...]]] = {
    "empty": ("", ()),
    "not YAML": ("a: b: c: [", ()),
    "a list": ("[1, 2]", ()),
    "binary": ("\0\1\2", ()),
    "no contexts": (json.dumps(kubeconfig(contexts=[])), ("context",)),
    "no such context": (json.dumps(kubeconfig(**{"current-context": "x"})), ("context",)),
    "no current context": (json.dumps(kubeconfig(**{"current-context": ""})), ("context",)),
    "no clusters": (json.dumps(kubeconfig(clusters=[])), ("cluster",)),
    "server of a wrong scheme": (
        json.dumps(kubeconfig(clusters=[{"name": "k", "cluster": {"server": "ftp://x"}}])),
        ("server",),
    ),
    "CA file gone": (
        json.dumps(cluster(**{"certificate-authority": "/nonexistent/ca.crt"})),
        ("clusters[name=k].cluster.certificate-authority: ", "No such file"),
    ),
    "CA data not base64": (
        json.dumps(cluster(**{"certificate-authority-data": "???"})),
        ("certificate-authority-data",),
    ),
    "CA data not a certificate": (
        json.dumps(cluster(**{"certificate-authority-data": "aGVsbG8="})),
        ("certificate-authority",),
    ),
    "token file gone": (
        json.dumps(user(tokenFile="/nonexistent/token")),
        ("users[name=u].user.tokenFile: ", "No such file"),
    ),
    "client certificate gone": (
        json.dumps(
            user(**{"client-certificate": "/nonexistent/c", "client-key": "/nonexistent/k"})
        ),
        ("users[name=u].user.client-certificate: ", "No such file"),
    ),
    "exec plugin gone": (
        json.dumps(
            user(
                exec={
                    "apiVersion": "client.authentication.k8s.io/v1",
                    "command": "/nonexistent/plugin",
                    "interactiveMode": "Never",
                }
            )
        ),
        ("/nonexistent/plugin",),
    ),
    "verification switched off by a word": (
        json.dumps(cluster(**{"insecure-skip-tls-verify": "false"})),
        ("insecure-skip-tls-verify", "true or false"),
    ),
    "proxy of another kind": (
        json.dumps(cluster(**{"proxy-url": "socks5://127.0.0.1:1"})),
        ("proxy-url", "http or https proxy"),
    ),
    "provider that is a number": (json.dumps(user(**{"auth-provider": 5})), ("auth-provider",)),
    "token file with a zero byte": (json.dumps(user(tokenFile="x\0y")), ("tokenFile",)),
    "larger than 16 MiB": ("#" * (16 * 1024 * 1024 + 1), ("larger than 16 MiB",)),
}


@pytest.mark.parametrize(
    "case",
    sampled(BAD_KUBECONFIGS, "empty", "no such context", "CA file gone", "exec plugin gone"),
)
def test_unusable_kubeconfig_exits_78_with_a_line_that_names_it(case: str, tmp_path: Path) -> None:
    text, parts = BAD_KUBECONFIGS[case]
    path = tmp_path / "kubeconfig"
    path.write_text(text)
    result = telemetryd("run", KUBECONFIG=str(path), TELEMETRYD_LISTEN=f"127.0.0.1:{free_port()}")
    assert result.returncode == 78, result.stderr
    assert "Traceback" not in result.stderr
    assert "very-secret-token" not in result.stderr
    lines = [line for line in result.stderr.splitlines() if not line.startswith("{")]
    assert lines, result.stderr
    assert any(str(path) in line for line in lines), result.stderr
    for part in parts:
        assert any(part in line for line in lines), result.stderr


@pytest.mark.parametrize(
    ("environ", "says"),
    [
        ({"KUBECONFIG": "~nosuchuser/x"}, "$KUBECONFIG"),
        ({"KUBECONFIG": "x" * 5000}, "File name too long"),
        ({"KUBECONFIG": "/dev/zero"}, "not a regular file"),
        ({"HOME": "/dev/null"}, "Not a directory"),
    ],
)
def test_path_that_is_no_kubeconfig_exits_78(environ: dict[str, str], says: str) -> None:
    result = telemetryd("payload", **environ)
    assert result.returncode == 78
    assert_one_clear_line(result, says)


AS_NOBODY = """
import os, sys
import anyio
import telemetryd.daemon.loop, telemetryd.daemon.preview, telemetryd.kube.loader
from telemetryd.cli import run_command
from telemetryd.daemon.signals import EarlySignals
anyio.run(anyio.sleep, 0)  # imports what it needs
if os.geteuid() == 0:
    os.setuid(65534)
sys.exit(run_command(["payload"], EarlySignals()))
"""
"""The interpreter itself may be where only root can read it."""


@pytest.mark.parametrize("variable", [pytest.param("HOME", marks=pytest.mark.long), "KUBECONFIG"])
def test_closed_folder_exits_78_and_is_named(variable: str, tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o000)
    value = {"HOME": closed, "KUBECONFIG": closed / "config"}[variable]
    result = subprocess.run(
        [sys.executable, "-c", AS_NOBODY],
        capture_output=True,
        text=True,
        timeout=60,
        env=_unmeasured(_environ({variable: str(value)})),
        check=False,
    )
    assert result.returncode == 78, result.stderr
    assert_one_clear_line(result, str(closed), "Permission denied", "readable kubeconfig")


@pytest.mark.parametrize("command", ["run", "check-config"])
def test_pipe_as_configuration_file_exits_78_at_once(command: str, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    result = telemetryd(command, "--config", str(tmp_path / "pipe"))
    assert result.returncode == 78
    assert_one_clear_line(result, "pipe", "isn't a regular file")


def test_proxy_variable_that_holds_none_exits_78_and_is_named(tmp_path: Path) -> None:
    path = tmp_path / "kubeconfig"
    document = kubeconfig(clusters=[{"name": "k", "cluster": {"server": "https://10.0.0.1"}}])
    path.write_text(json.dumps(document))
    result = telemetryd("payload", KUBECONFIG=str(path), HTTPS_PROXY="socks5://127.0.0.1:1")
    assert result.returncode == 78, result.stderr
    assert_one_clear_line(result, "$HTTPS_PROXY", "http or https proxy")


def test_kubeconfig_that_is_nowhere_exits_78_and_says_where_it_was_sought(tmp_path: Path) -> None:
    result = telemetryd("run", HOME=str(tmp_path))
    assert result.returncode == 78
    assert_one_clear_line(result, ".kube/config")


def test_taken_port_exits_1_and_names_the_key(tmp_path: Path) -> None:
    path = tmp_path / "kubeconfig"
    path.write_text(json.dumps(kubeconfig()))
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        result = telemetryd_process(
            "run", KUBECONFIG=str(path), TELEMETRYD_LISTEN=f"127.0.0.1:{port}"
        )
    assert result.returncode == 1, result.stderr
    assert "server.listen" in result.stderr
    assert "Traceback" not in result.stderr


def test_payload_from_an_unreachable_server_exits_1_with_the_reason(tmp_path: Path) -> None:
    path = tmp_path / "kubeconfig"
    path.write_text(json.dumps(kubeconfig()))
    result = telemetryd("payload", "--timeout", "1s", KUBECONFIG=str(path))
    assert result.returncode == 1
    assert not result.stdout
    last = result.stderr.splitlines()[-1]
    assert "waiting for source" in last
    assert "ask telemetryd doctor" in last
    assert "127.0.0.1:1" in last
    assert "Traceback" not in result.stderr


def test_healthcheck_without_a_daemon_exits_1() -> None:
    result = telemetryd("healthcheck", TELEMETRYD_LISTEN=f"127.0.0.1:{free_port()}")
    assert result.returncode == 1
    assert_one_clear_line(result, "127.0.0.1")


FAILING_PLUGIN = {
    "apiVersion": "client.authentication.k8s.io/v1",
    "command": "false",
    "interactiveMode": "Never",
}


@pytest.mark.parametrize(
    "document",
    [pytest.param(kubeconfig(), marks=pytest.mark.long), user(exec=FAILING_PLUGIN)],
    ids=["unreachable server", "failing plugin"],
)
def test_daemon_that_can_not_get_through_yet_lives_and_stops_cleanly(
    document: dict[str, Any], tmp_path: Path
) -> None:
    path = tmp_path / "kubeconfig"
    path.write_text(json.dumps(document))
    listen = f"127.0.0.1:{free_port()}"
    process = starter.start(
        "run",
        stderr=subprocess.PIPE,
        text=True,
        env=_environ({"KUBECONFIG": str(path), "TELEMETRYD_LISTEN": listen}),
    )
    try:
        deadline = time.monotonic() + 60
        while telemetryd("healthcheck", TELEMETRYD_LISTEN=listen).returncode:
            assert time.monotonic() < deadline
            assert process.poll() is None
        time.sleep(1)
        assert process.poll() is None, "an API server that is away is no reason to end"
    finally:
        process.send_signal(signal.SIGTERM)
        _, log = process.communicate(timeout=60)
    assert process.returncode == 0
    assert "Traceback" not in log
    assert "very-secret-token" not in log
    assert log.count("no credential: requests fail") == ("exec" in path.read_text())


def test_demo_exports_and_ends_with_its_summary() -> None:
    result = telemetryd("demo", "--clusters", "3", "--nodes", "4", "--duration", "4s")
    assert result.returncode == 0, result.stderr
    summary = json.loads(result.stdout.splitlines()[-1])
    assert summary["clusters"] >= 4
    assert summary["nodes"] > 0
    assert summary["exports"] >= 1
    assert summary["payload_bytes"] > 100
    assert len(summary["digest"]) == 64
    assert "/metrics" in result.stdout


def test_demo_interrupted_ends_with_its_summary() -> None:
    process = starter.start(
        *("demo", "--clusters", "0", "--nodes", "0"),
        stdout=subprocess.PIPE,
        text=True,
        env=_environ({}),
    )
    assert process.stdout is not None
    for line in process.stdout:
        if "exported" in line:
            break
    process.send_signal(signal.SIGINT)
    rest, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    assert json.loads(rest.splitlines()[-1])["exports"] >= 1
