"""A process that the starter forks is what one with an interpreter of its own would be."""

import json
import operator
import os
import resource
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from pprint import pformat
from typing import Any

import pytest

from tests.support import starter
from tests.support.processes import free_ports, is_gone
from tests.support.waiting import until

SAME = (
    "Umask", "SigBlk", "SigIgn", "SigCgt", "CapInh", "CapPrm", "CapEff", "CapBnd",
    "NoNewPrivs", "Seccomp", "Uid", "Gid", "Groups",
)  # fmt: skip
"""Of `/proc/PID/status`."""
VARIES = {"_", "PWD", "OLDPWD", "SHLVL", "TELEMETRYD_LISTEN"}

pytestmark = pytest.mark.skipif(
    any(name.startswith("COVERAGE") for name in os.environ), reason="nothing is forked then"
)


@contextmanager
def daemon(
    folder: Path, *, fresh: bool, environ: dict[str, str] | None = None, **options: Any
) -> Iterator["subprocess.Popen[bytes]"]:
    """A daemon that runs, and has asked its plug-in for a token."""
    folder.mkdir(exist_ok=True)
    plugin = folder / "plugin"
    plugin.write_text(
        f"#!/bin/sh\nenv -0 > {folder}/env.new\nmv {folder}/env.new {folder}/env\nexit 1\n"
    )
    plugin.chmod(0o755)
    execute = {
        "apiVersion": "client.authentication.k8s.io/v1",
        "command": str(plugin),
        "interactiveMode": "Never",
    }
    kubeconfig = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "x",
        "contexts": [{"name": "x", "context": {"cluster": "x", "user": "x"}}],
        "clusters": [{"name": "x", "cluster": {"server": "https://127.0.0.1:1"}}],
        "users": [{"name": "x", "user": {"exec": execute}}],
    }
    (folder / "kubeconfig").write_text(json.dumps(kubeconfig))
    with (folder / "log").open("wb") as log:
        process = starter.start(
            "run",
            fresh=fresh,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env={
                **os.environ,
                "KUBECONFIG": str(folder / "kubeconfig"),
                "TELEMETRYD_LISTEN": f"127.0.0.1:{free_ports(1)[0]}",
                "STATE_DIRECTORY": str(folder),
                "RUNTIME_DIRECTORY": str(folder),
                "TZ": "Asia/Kathmandu",
                **(environ or {}),
            },
            **options,
        )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def traits(process: "subprocess.Popen[bytes]", folder: Path) -> dict[str, Any]:
    """What the kernel, and a program that it started, say of it."""
    place = Path(f"/proc/{process.pid}")
    lines = (place / "status").read_text().splitlines()
    status = {name: text for name, _, text in (line.partition(":") for line in lines)}
    until((folder / "env").exists, "the plug-in")
    text = (folder / "env").read_text()
    pairs = (each.partition("=") for each in text.replace(str(folder), "").split("\0"))
    descriptors = []
    for each in (place / "fd").iterdir():
        with suppress(FileNotFoundError):  # it has just been closed
            named = os.readlink(each).partition(":")[0]  # noqa: PTH115
            descriptors.append(named.replace(str(folder), ""))
    return {
        **{name: status[name] for name in SAME},
        "limits": (place / "limits").read_text(),
        "cwd": os.readlink(place / "cwd"),  # noqa: PTH115
        "descriptors": sorted(descriptors),
        "environ": {name: text for name, _, text in pairs if name not in VARIES},
        "is leader": os.getsid(process.pid) == os.getpgid(process.pid) == process.pid,
    }


@pytest.mark.parametrize(
    "arguments",
    [
        pytest.param(("--help",), marks=pytest.mark.long),
        ("check-config",),
        pytest.param(("check-config", "--config", "/there/is/none"), marks=pytest.mark.long),
        pytest.param(("fly",), marks=pytest.mark.long),
    ],
    ids=" ".join,
)
def test_a_forked_command_prints_and_exits_as_one_of_its_own_interpreter(
    arguments: tuple[str, ...], tmp_path: Path
) -> None:
    environ = {
        **os.environ,
        "HOME": str(tmp_path),
        "TELEMETRYD_LISTEN": "127.0.0.1:1",
        "COLUMNS": "70",
    }
    forked, own = (
        starter.run(*arguments, fresh=fresh, env=environ, cwd=tmp_path) for fresh in (False, True)
    )
    assert (forked.returncode, forked.stdout, forked.stderr) == (
        own.returncode,
        own.stdout,
        own.stderr,
    )
    assert forked.args == own.args


@pytest.mark.parametrize(
    "options",
    [
        pytest.param({}, marks=pytest.mark.long),
        {"cwd": "/", "umask": 0o027, "start_new_session": True, "without": starter.CAPABILITIES},
    ],
    ids=["as it is", "with options"],
)
def test_a_forked_daemon_has_what_one_of_its_own_interpreter_has(
    options: dict[str, Any], tmp_path: Path
) -> None:
    if "without" in options and os.geteuid() != 0:
        pytest.skip("only root has capabilities to lose")
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    places = tmp_path / "forked", tmp_path / "own"
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(500, limits[1]), limits[1]))
    try:
        with (
            (tmp_path / "held").open("w"),  # nobody else's
            daemon(places[0], fresh=False, **options) as forked,
            daemon(places[1], fresh=True, **options) as own,
        ):
            assert isinstance(forked, starter.Forked)
            assert not isinstance(own, starter.Forked)

            def found() -> list[dict[str, Any]]:
                return [traits(forked, places[0]), traits(own, places[1])]

            # The files that a daemon has open change while it starts.
            until(lambda: operator.eq(*found()), "the same", more=lambda: pformat(found()))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


@pytest.mark.parametrize(
    "line",
    [
        pytest.param("telemetryd check-config 2>&- >/dev/full", marks=pytest.mark.long),
        "telemetryd fly 2>&- >&- <&-",
        pytest.param("telemetryd schema | true; exit ${PIPESTATUS[0]}", marks=pytest.mark.long),
    ],
)
def test_a_shell_sees_a_forked_command_as_one_of_its_own_interpreter(line: str) -> None:
    forked, own = (
        subprocess.run(
            ["bash", "-c", line.replace("telemetryd", command)],
            capture_output=True,
            check=False,
            timeout=60,
        )
        for command in (starter.shell_command(), shlex.join(starter.command()))
    )
    assert (forked.returncode, forked.stdout, forked.stderr) == (
        own.returncode,
        own.stdout,
        own.stderr,
    )


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_daemon_of_a_shell_gets_its_signals(number: int, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.touch()
    line = f"exec {starter.shell_command()} demo > {out}"
    with subprocess.Popen(["bash", "-c", line], stderr=subprocess.DEVNULL) as process:
        until(lambda: "exported" in out.read_text(), "an export", ended=process.poll)
        process.send_signal(number)
        assert process.wait(60) == (0 if number == signal.SIGTERM else -number)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("LD_PRELOAD", "x.so"),
        ("PYTHONPATH", "x"),
        ("PYTHONOPTIMIZE", "1"),
        ("MALLOC_ARENA_MAX", "1"),
        ("COVERAGE_PROCESS_CONFIG", "x"),
        ("LC_ALL", "de_DE.UTF-8"),
    ],
)
def test_what_an_interpreter_reads_at_its_begin_gets_one(name: str, text: str) -> None:
    nowhere: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    with starter.start("schema", env={**os.environ, "X": "1"}, **nowhere) as process:
        assert isinstance(process, starter.Forked)
    with starter.start("schema", env={**os.environ, name: text}, **nowhere) as process:
        assert not isinstance(process, starter.Forked)
        process.kill()


def test_a_forked_process_is_waited_for_and_killed_as_any_other(tmp_path: Path) -> None:
    with daemon(tmp_path, fresh=False) as process:
        assert process.poll() is None
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.01)
        os.kill(process.pid, signal.SIGKILL)
        until(lambda: is_gone(process.pid), "its end")
        assert Path(f"/proc/{process.pid}").exists(), "nobody has asked for its status yet"
        assert process.wait() == -signal.SIGKILL
        assert process.poll() == -signal.SIGKILL
        assert not Path(f"/proc/{process.pid}").exists()
        process.kill()  # does nothing


def test_a_descriptor_that_is_passed_keeps_its_number() -> None:
    reader, writer = os.pipe()
    command = f"/proc/self/fd/{reader}"
    os.write(writer, b"[server]\nport = 1\n")
    os.close(writer)
    done = starter.run("check-config", "--config", command, pass_fds=(reader,))
    os.close(reader)
    assert done.returncode == 78
    assert "isn't a regular file" in done.stderr, done.stderr


def test_what_runs_is_killed_with_the_process_that_started_it(tmp_path: Path) -> None:
    program = (
        "import subprocess, sys\n"
        "from tests.support import starter\n"
        "process = starter.start('demo', stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)\n"
        "print(process.pid, flush=True)\n"
        "sys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program],
        cwd=Path(__file__).parents[2],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        started = int(process.stdout.readline())
        assert not is_gone(started)
        process.kill()
    until(lambda: is_gone(started), "its end")
