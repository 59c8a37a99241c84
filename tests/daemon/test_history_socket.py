"""The history of a real daemon: asked for over its socket, and what never gets into it."""

import json
import os
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from telemetryd.cli.daemonhistory import DaemonHistory
from telemetryd.daemon.commands import MOST_SLOTS
from telemetryd.errors import HistoryError, NoDaemon
from telemetryd.history.slots import DAY_S, HOUR_S, SIZES, Moment, piece
from telemetryd.history.sqlite import open_store, read_store
from telemetryd.history.store import FILE_NAME
from tests.cli.test_commands import telemetryd
from tests.daemon.sentinels import BUILDERS, SENTINEL, spoiled
from tests.serve.control.test_client import serving
from tests.support.daemon import TOP_LEVEL, Daemon
from tests.support.embedded import TOKEN, FleetServer, serve_fleet

INSTALLATION = "11111111-1111-4111-8111-111111111111"
OTHER = "22222222-2222-4222-8222-222222222222"
HOURS = 2 * MOST_SLOTS + 30
BEGIN = int(time.time() // DAY_S) * DAY_S - 60 * DAY_S
OFF = {
    "collection": (f"{TOP_LEVEL}enabled = false\n", "", {}),
    "do not track": (TOP_LEVEL, "", {"DO_NOT_TRACK": "1"}),
    "history": (TOP_LEVEL, "[history]\nenabled = false\n", {}),
}


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FleetServer]:
    with serve_fleet(tmp_path_factory.mktemp("fleet")) as server:
        yield server


@contextmanager
def running(
    folder: Path,
    fleet: FleetServer,
    config: str = "",
    top_level: str = TOP_LEVEL,
    **environ: str,
) -> Iterator[Daemon]:
    """A daemon whose socket and state are in the folder, also for commands."""
    own = f'control_socket = "{folder}/control.sock"\n'
    top_level += f'state_dir = "{folder}"\n'
    daemon = Daemon(folder, fleet.kubeconfig, own + config, top_level, environ=environ)
    try:
        daemon.wait_for("ready", daemon.ready, 60)
        yield daemon
    finally:
        assert daemon.stop() == 0, daemon.log()[-3000:]


def fill(folder: Path) -> None:
    """Hours of a former installation, in more than two answers."""
    with closing(open_store(folder, now=time.time)) as store:
        slots = [
            piece(size_s, BEGIN + hour * HOUR_S, 60.0, Moment({"nodes.entitled": hour}, True))
            for hour in range(HOURS)
            for size_s in (HOUR_S, *([DAY_S] if hour % 24 == 0 else []))
        ]
        store.merge((INSTALLATION, slot) for slot in slots)


def looked(daemon: Daemon) -> bool:
    return (daemon.metric("telemetryd_history_samples_total") or 0) > 0


def report(config: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    return telemetryd("report", "--all-installations", *arguments, "--config", str(config))


def test_slots_come_over_the_socket_as_they_are_in_the_file(
    short_path: Path, fleet: FleetServer
) -> None:
    fill(short_path)
    with running(short_path, fleet) as daemon:
        daemon.wait_for("a look", lambda: looked(daemon), 60)
        with closing(read_store(short_path)) as store:
            asked = DaemonHistory([str(short_path / "control.sock")], str(short_path))
            # The daemon's own comes with its first minute.
            named = asked.installations()
            assert INSTALLATION in named
            assert set(named) <= set(store.installations())
            assert len(asked.read(INSTALLATION, HOUR_S, 0, 2**62)) == HOURS
            for size_s in SIZES:
                for begin, end in ((0.0, 2.0**62), (BEGIN + 7200.5, BEGIN + 90 * HOUR_S)):
                    there = store.read(INSTALLATION, size_s, begin, end)
                    assert asked.read(INSTALLATION, size_s, begin, end) == there


def test_report_of_the_daemon_is_that_of_its_file(short_path: Path, fleet: FleetServer) -> None:
    fill(short_path)
    asked = ("--format", "csv", "--to", time.strftime("%Y-%m-%d", time.gmtime(BEGIN + 30 * DAY_S)))
    with running(short_path, fleet, '[entitlement]\npreset = "aws-csp"\n') as daemon:
        of_daemon = report(daemon.config_file, *asked)
    of_file = report(daemon.config_file, *asked)
    assert of_daemon.returncode == of_file.returncode == 0, of_daemon.stderr
    assert of_daemon.stdout == of_file.stdout
    assert len(of_file.stdout.splitlines()) > 1


def test_everything_is_removed_by_the_daemon_what_it_has_in_memory_among_it(
    short_path: Path, fleet: FleetServer
) -> None:
    fill(short_path)
    with running(short_path, fleet) as daemon:
        daemon.wait_for("a look", lambda: looked(daemon), 60)
        some = telemetryd("history", "prune", "--config", str(daemon.config_file))
        assert (some.returncode, some.stdout) == (0, "0 slots removed\n")
        keep = ("--set", "history.keep=2d", "--set", "history.keep_daily=2d")
        old = telemetryd("history", "prune", *keep, "--config", str(daemon.config_file))
        assert old.stdout == f"{HOURS + -(-HOURS // 24)} slots removed\n"
        every = telemetryd("history", "prune", "--all", "--config", str(daemon.config_file))
        assert (every.returncode, every.stdout) == (0, "everything removed\n"), every.stderr
        assert daemon.whole_log().count('"command":"prune"') == 3
        exported = telemetryd("history", "export", "--config", str(daemon.config_file))
        assert exported.stdout.splitlines() == ['{"format":"telemetryd-history","version":1}']
    content = b"".join(each.read_bytes() for each in short_path.glob(f"{FILE_NAME}*"))
    assert INSTALLATION.encode() not in content


def test_daemon_of_another_state_folder_is_not_asked(short_path: Path, fleet: FleetServer) -> None:
    fill(short_path)
    elsewhere = short_path / "elsewhere"
    elsewhere.mkdir()
    with running(short_path, fleet) as daemon:
        with pytest.raises(NoDaemon, match=f"keeps its state in {short_path}"):
            DaemonHistory([str(short_path / "control.sock")], str(elsewhere))
        there = report(daemon.config_file, "--set", f"state_dir={elsewhere}")
        assert there.returncode == 1
        assert f"no history in {elsewhere}" in there.stderr
        cleared = ("history", "prune", "--all", "--set", f"state_dir={elsewhere}")
        assert telemetryd(*cleared, "--config", str(daemon.config_file)).returncode == 0
    with closing(read_store(short_path)) as store:
        assert len(store.read(INSTALLATION, HOUR_S, 0, 2**62)) == HOURS


def test_import_beside_a_running_daemon_is_refused_and_changes_nothing(
    short_path: Path, fleet: FleetServer
) -> None:
    fill(short_path)
    with running(short_path, fleet) as daemon:
        daemon.wait_for("a look", lambda: looked(daemon), 60)
        config = ("--config", str(daemon.config_file))
        export = short_path / "export.jsonl"
        export.write_text(
            telemetryd("history", "export", *config).stdout.replace(INSTALLATION, OTHER)
        )
        before = telemetryd("history", "export", *config).stdout
        for command in (("import", str(export)), ("migrate",)):
            ended = telemetryd("history", *command, *config)
            assert (ended.returncode, ended.stdout) == (1, "")
            assert ended.stderr == (
                f"telemetryd: {short_path}: another telemetryd keeps its history there: end it, or"
                " set state_dir\n"
            )
        assert telemetryd("history", "export", *config).stdout == before
        assert daemon.metric("telemetryd_history_writable") == 1
    after = telemetryd("history", "import", str(export), *config)
    assert (after.returncode, after.stderr) == (0, "")


AS_ANOTHER_USER = """
import os, sys
from telemetryd.cli import run_command
from telemetryd.daemon.signals import EarlySignals
command = sys.argv[1:]
# Twice: once it has run, all is imported, for the other user may not read the library.
print(run_command(command, EarlySignals()), flush=True)
os.setgroups([])
os.setgid(65534)
os.setuid(65534)
sys.exit(run_command(command, EarlySignals()))
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may become somebody else")
@pytest.mark.parametrize(
    "command", ["report --all-installations", "history export", "history prune"]
)
def test_user_whom_the_daemon_refuses_gets_one_error_and_sees_nothing(
    short_path: Path, fleet: FleetServer, command: str
) -> None:
    fill(short_path)
    with running(short_path, fleet) as daemon:
        daemon.wait_for("a look", lambda: looked(daemon), 60)
        short_path.chmod(0o755)
        daemon.config_file.chmod(0o644)
        arguments = [*command.split(), "--config", str(daemon.config_file)]
        ended = subprocess.run(
            [sys.executable, "-c", AS_ANOTHER_USER, *arguments],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert ended.returncode == 1
        assert ended.stderr == (
            f"telemetryd: user 65534 may not connect to {short_path}/control.sock: run it as root"
            " or as the daemon's user\n"
        )
        assert ended.stdout.endswith("\n0\n"), "and nothing after it"


@pytest.mark.parametrize("command", ["report", "history export", "history import", "history prune"])
def test_file_of_a_newer_telemetryd_gets_one_error_and_is_left_alone(
    short_path: Path, command: str
) -> None:
    fill(short_path)
    place = short_path / FILE_NAME
    export = short_path / "export.jsonl"
    export.write_text(telemetryd("history", "export", "--set", f"state_dir={short_path}").stdout)
    with closing(sqlite3.connect(place)) as newer:
        newer.execute("PRAGMA user_version = 9")
    before = place.read_bytes()
    own = (str(export),) if command.endswith("import") else ()
    socket = f"server.control_socket={short_path}/none.sock"
    for each in (command.split(), [*command.split(), "--set", socket]):
        ended = telemetryd(*each, *own, "--set", f"state_dir={short_path}")
        assert (ended.returncode, ended.stdout) == (1, "")
        assert ended.stderr == (
            f"telemetryd: {place}: has schema 9, and this telemetryd knows 1: run the newer"
            " telemetryd that wrote it, or move the file away to begin a new history\n"
        )
    assert place.read_bytes() == before
    assert not [*short_path.glob("*damaged*")]


def test_daemon_that_does_not_know_the_question_leaves_the_file(short_path: Path) -> None:
    fill(short_path)
    config = short_path / "config.toml"
    config.write_text(f'state_dir = "{short_path}"\n[server]\ncontrol_socket = "{short_path}/s"\n')
    line = b'{"ok":false,"error":"the daemon is telemetryd 0.0.9 and doesn\'t know the command"}\n'
    with serving(str(short_path / "s"), lambda stream: stream.sendall(line)):
        with pytest.raises(HistoryError, match=r"telemetryd 0\.0\.9"):
            DaemonHistory([str(short_path / "s")], str(short_path))
        of_file = report(config, "--format", "json")
    assert of_file.returncode == 0, of_file.stderr
    assert json.loads(of_file.stdout)[0]["installation"] == INSTALLATION


def test_daemon_without_a_history_makes_none_by_being_asked(
    short_path: Path, fleet: FleetServer
) -> None:
    with running(short_path, fleet, *reversed(OFF["history"][:2])) as daemon:
        ended = report(daemon.config_file)
        assert ended.returncode == 1
        assert f"no history in {short_path}" in ended.stderr
    assert not (short_path / FILE_NAME).exists()


@pytest.mark.parametrize("switch", OFF)
def test_nothing_is_written_while_it_is_off(
    short_path: Path, fleet: FleetServer, switch: str
) -> None:
    top_level, config, environ = OFF[switch]
    with running(short_path, fleet, config, top_level, **environ) as daemon:
        assert not looked(daemon)
    # A daemon that is on writes at its end what it saw, as the test of texts shows.
    assert not [*short_path.glob(f"{FILE_NAME}*")]


def test_what_waits_when_collection_is_switched_off_is_never_written(
    short_path: Path, fleet: FleetServer
) -> None:
    def kept() -> int:
        with closing(read_store(short_path)) as store:
            return sum(
                len(store.read(each, size_s, 0, 2**62))
                for each in store.installations()
                for size_s in SIZES
            )

    own = f'control_socket = "{short_path}/control.sock"\n'
    with running(short_path, fleet) as daemon:
        daemon.wait_for("a look", lambda: looked(daemon), 60)
        daemon.configure(own, f'{TOP_LEVEL}enabled = false\nstate_dir = "{short_path}"\n')
        done = telemetryd("ctl", "reload", "--config", str(daemon.config_file))
        assert done.returncode == 0, done.stderr
        daemon.wait_for("off", lambda: not daemon.status()["collection"]["enabled"], 30)
        before = kept()
    assert kept() == before


def test_no_text_of_an_object_no_url_and_no_token_gets_into_the_file(short_path: Path) -> None:
    with serve_fleet(short_path) as fleet:
        names = set()
        for resource in ("clusters.management.cattle.io", "nodes.management.cattle.io"):
            assert resource in BUILDERS
            for obj in spoiled(resource):
                fleet.put(obj)
                names.add(obj["metadata"]["name"])
        with running(short_path, fleet) as daemon:
            daemon.wait_for("a look", lambda: looked(daemon), 60)
            (installation,) = {
                each["value"]
                for each in [fleet.get("settings.management.cattle.io", "install-uuid")]
                if each is not None
            }
    files = [*short_path.glob(f"{FILE_NAME}*")]
    content = b"".join(each.read_bytes() for each in files).lower()
    assert installation.encode() in content, "it was written at the end"
    assert names
    for secret in (SENTINEL, fleet.url, fleet.url.partition("://")[2], f'"{TOKEN}"', "acme"):
        assert secret.lower().encode() not in content, secret
    with closing(read_store(short_path)) as store:
        (slot,) = store.read(installation, DAY_S, 0, 2**62)
        assert slot.cell("nodes.all").high > 0
        assert not any(SENTINEL in name for name in (*slot.cells, slot.version))
