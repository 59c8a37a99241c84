"""The support bundle of a real daemon: what it holds, what it must not hold, and where it goes."""

import io
import json
import os
import socket
import subprocess
import tarfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from telemetryd import __version__
from telemetryd.cli.supportbundle import PART_BYTES
from tests.apiserver import fixtures
from tests.daemon.echoing import echoing_server
from tests.daemon.test_secrets_process import SECRETS, exporters, leaks, login
from tests.support import starter
from tests.support.daemon import Daemon
from tests.support.embedded import FleetServer, serve_fleet
from tests.support.receiver import Verdict, receiving_in_threads
from tests.upgrade.running import Installed, Running, installed

PARTS = {
    "config.toml",
    "doctor.txt",
    "environment.txt",
    "log.jsonl",
    "manifest.json",
    "metrics.txt",
    "state-folder.json",
    "status.json",
    "versions.json",
}
OF_DAEMON = {"log.jsonl", "metrics.txt", "status.json"}
SCC = '[[exporters]]\nname = "scc"\ntype = "secret"\ninterval = "1s"\n'


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FleetServer]:
    with serve_fleet(tmp_path_factory.mktemp("fleet"), clusters=2, nodes=2) as fleet:
        yield fleet


@pytest.fixture(scope="module")
def daemon(fleet: FleetServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    state = tmp_path_factory.mktemp("daemon") / "state"
    with installed(state, fleet, SCC, {"TELEMETRYD_LOG_LEVEL": "debug"}) as daemon:
        daemon.until("a run", lambda: daemon.exporter("scc")["last_success_at"])
        yield daemon


def bundle(where: Installed, *words: str) -> "subprocess.CompletedProcess[bytes]":
    return starter.run(
        *("support-bundle", "--config", str(where.file), *words), env=where.environ, text=False
    )


def unpack(content: bytes) -> dict[str, str]:
    """The parts by their names, all in one folder."""
    with tarfile.open(fileobj=io.BytesIO(content)) as archive:
        members = archive.getmembers()
        assert len({member.name.partition("/")[0] for member in members}) == 1
        assert {member.mode for member in members} == {0o600}
        found = {}
        for member in members:
            file = archive.extractfile(member)
            assert file is not None
            found[member.name.partition("/")[2]] = file.read().decode()
        return found


def test_bundle_of_a_daemon_has_every_part_and_a_manifest(daemon: Running) -> None:
    done = bundle(daemon.installed, "--output", "-")
    assert (done.returncode, done.stderr) == (0, b"")
    parts = unpack(done.stdout)
    assert set(parts) == PARTS
    manifest = json.loads(parts["manifest.json"])
    assert manifest["telemetryd_support_bundle"] == 1
    assert manifest["daemon_answered"] is True
    assert manifest["missing"] == []
    assert manifest["left_out"]
    listed = {each["name"]: each for each in manifest["parts"]}
    assert set(listed) == PARTS - {"manifest.json"}
    for name, each in listed.items():
        assert each["bytes"] == len(parts[name].encode())
        assert each["bytes_left_out"] == 0
        assert each["about"]
    status = json.loads(parts["status.json"])
    assert [each["name"] for each in status["exporters"]] == ["scc"]
    assert 'telemetryd_exporter_state{exporter="scc"' in parts["metrics.txt"]
    log = [json.loads(line) for line in parts["log.jsonl"].splitlines()]
    assert "started" in {line["message"] for line in log}
    assert {"time", "level", "logger", "message"} <= log[0].keys()
    assert 'log_level = "debug"' in parts["config.toml"]
    assert "# $TELEMETRYD_LOG_LEVEL" in parts["config.toml"]
    assert "TELEMETRYD_LOG_LEVEL" in parts["environment.txt"].splitlines()
    assert "PASS  connection" in parts["doctor.txt"]
    versions = json.loads(parts["versions.json"])
    assert versions["telemetryd"] == __version__
    assert versions["libraries"]["aiohttp"]


def test_bundle_lists_the_spool_by_name_and_size_alone(fleet: FleetServer, tmp_path: Path) -> None:
    state = tmp_path / "state"
    with receiving_in_threads(lambda _: Verdict(503)) as url:
        config = f'[[exporters]]\nname = "web"\ntype = "http"\nurl = "{url}"\nsplay_max = "0s"\n'
        with installed(state, fleet, config) as daemon:
            pending = state / "spool" / "web" / "pending"
            daemon.until("a pending payload", pending.exists)
            parts = unpack(bundle(daemon.installed, "--output", "-").stdout)
            content = pending.read_bytes()
    found = json.loads(parts["state-folder.json"])
    assert found["folder"] == str(state)
    sizes = {each["name"]: each["bytes"] for each in found["files"] if each["kind"] == "file"}
    assert sizes["spool/web/pending"] == len(content)
    body = json.loads(content.split(b"\n", 2)[2])
    everything = "".join(parts.values())
    assert body["subscription"]["installuuid"] not in everything
    assert '"managedSystems"' not in everything


# -- what must not be in it

WORDS = {
    "kubeconfig's cluster": "sentinel-of-a-cluster",
    "kubeconfig's context": "sentinel@context:of/all",
    "kubeconfig's user": "sentinel-of-a-user",
    "server URL": "sentinel-rancher.example.com",
    "path of the server URL": "sentinel/path/of/rancher",
    "managed cluster": "c-m-5entinel1",
    "node": "sentinel-machine-77",
    "receiver's path": "hooks/5entinel-of-a-hook-998877",
    "password in a variable": "5entinel-Passw0rd-of-a-variable",
    "proxy's password": "5entinel-Pr0xy-Passw0rd",
    "token file": "5entinelT0kenOfAReceiver0123456789",
    "API key": "5entinel-Key-4711-0815",
    "unused user's password": "5entinel-Unused-Passw0rd",
    "plugin's variable": "5entinel-Plugin-Variable-1",
    "token in the place of a path": "5entinel_ghp_T0kenInPlaceOfAPath",
}


REQUESTED = ("kubeconfig's cluster", "kubeconfig's user", "managed cluster", "node")
"""SecretRequests have these names too, so that the daemon shows them in every view."""


def secret_request(name: str) -> dict[str, Any]:
    target = {"name": "telemetry", "namespace": "default"}
    return {
        "apiVersion": "telemetry.cattle.io/v1",
        "kind": "SecretRequest",
        "metadata": {"name": name},
        "spec": {"secretType": "scc", "targetSecretRef": target},
    }


def named_kubeconfig(folder: Path, fleet: FleetServer) -> Path:
    document = json.loads(fleet.kubeconfig.read_text())
    cluster, context, user = (
        WORDS[f"kubeconfig's {each}"] for each in ("cluster", "context", "user")
    )
    document["current-context"] = context
    document["clusters"][0]["name"] = cluster
    document["contexts"][0] = {"name": context, "context": {"cluster": cluster, "user": user}}
    document["users"][0]["name"] = user
    plugin = {"name": "SOME_VARIABLE", "value": WORDS["plugin's variable"]}
    document["users"] += [
        {"name": "b", "user": {"username": "b", "password": WORDS["unused user's password"]}},
        {"name": "c", "user": {"exec": {"command": "none", "env": [plugin]}}},
    ]
    path = folder / "kubeconfig"
    path.write_text(json.dumps(document))
    return path


def test_no_sentinel_of_any_place_is_in_a_bundle(fleet: FleetServer, tmp_path: Path) -> None:
    server = f"https://{WORDS['server URL']}/{WORDS['path of the server URL']}"
    cluster, node = WORDS["managed cluster"], WORDS["node"]
    fleet.put(fixtures.setting("server-url", server))
    fleet.put(fixtures.rancher_cluster(cluster))
    fleet.put(fixtures.rancher_node(cluster, node))
    (tmp_path / "token").write_text(WORDS["token file"])
    (tmp_path / "headers").write_text(f"X-Api-Key: {WORDS['API key']}\n")
    secret, hook = WORDS["proxy's password"], WORDS["receiver's path"]
    misplaced = WORDS["token in the place of a path"]
    proxy = f"http://someone:{secret}@127.0.0.1:1"
    config = (
        f'[identity]\nserver_url = "{server}"\n{SCC}[[exporters]]\nname = "web"\ntype = "http"\n'
        f'url = "http://127.0.0.1:1/{hook}"\ninterval = "1s"\n'
        f'splay_max = "0s"\nheaders_file = "{tmp_path}/headers"\n'
        f'bearer_token_file = "{tmp_path}/token"\n[[exporters]]\nname = "wrong"\ntype = "http"\n'
        f'url = "http://127.0.0.1:1/a"\ninterval = "1s"\nsplay_max = "0s"\n'
        f'bearer_token_file = "/{misplaced}"\n'
    )
    environ = {
        "HTTPS_PROXY": proxy,
        "SOME_PASSWORD": WORDS["password in a variable"],
        "NO_PROXY": "127.0.0.1",
    }
    for what in REQUESTED:
        fleet.put(secret_request(WORDS[what]))
    theirs = named_kubeconfig(tmp_path, fleet)
    there = FleetServer(fleet._server, fleet._portal, fleet.url, theirs)
    state = tmp_path / "state"
    try:
        with installed(state, there, config, environ) as daemon:
            daemon.until("a run", lambda: daemon.exporter("scc")["last_success_at"])
            for name in ("web", "wrong"):
                daemon.until("an error", lambda: daemon.exporter(name)["last_error"])  # noqa: B023
            daemon.until("the requests", lambda: len(daemon.status()["secret_requests"]) == 4)
            done = bundle(daemon.installed, "--output", "-")
            seen = daemon.log() + daemon.installed.run("config", "show").stdout
            seen += json.dumps(daemon.status())
    finally:
        fleet.put(fixtures.setting("server-url", fleet.url))
        for what in REQUESTED:
            fleet.remove("secretrequests.telemetry.cattle.io", WORDS[what])
    named = {"kubeconfig's context", "server URL", *REQUESTED}
    assert {what for what, word in WORDS.items() if word in seen} >= named, "the daemon shows them"
    assert done.returncode == 0, done.stderr
    parts = unpack(done.stdout) | {"stderr": done.stderr.decode()}
    for what, word in WORDS.items():
        for name, text in parts.items():
            assert word.lower() not in text.lower(), (what, name)
            assert json.dumps(word)[1:-1] not in text, (what, name)
    assert "[redacted]" in parts["config.toml"]
    for name in ("status.json", "log.jsonl", "doctor.txt"):
        assert "[redacted]" in parts[name], name


@pytest.mark.timeout(300)
def test_credentials_that_servers_echo_are_not_in_a_bundle(tmp_path: Path) -> None:
    with echoing_server() as echoing, echoing_server() as receiver:
        kubeconfig = login(tmp_path, echoing, "password")
        daemon = Daemon(
            tmp_path,
            kubeconfig,
            exporters(tmp_path, receiver),
            kubernetes='source = "kubernetes"',
        )
        try:
            daemon.wait_for("it listens", lambda: '"message":"started"' in daemon.log(), 60)
            daemon.wait_for("much is echoed", lambda: len(echoing.asked) > 6, 60)
            echoing.is_serving = True
            daemon.wait_for("the receiver is sent something", lambda: "/in" in receiver.asked, 120)
            folder = str(tmp_path)
            environ = {**os.environ, "STATE_DIRECTORY": folder, "RUNTIME_DIRECTORY": folder}
            words = ("support-bundle", "--config", str(daemon.config_file), "--output", "-")
            done = starter.run(*words, env=environ, text=False)
            sent = " ".join((*echoing.sent, *receiver.sent))
        finally:
            daemon.stop()
    assert {"exporter's token", "API key", "proxy password", "password"} <= set(leaks(sent))
    parts = unpack(done.stdout)
    assert set(parts) == PARTS
    for name, text in parts.items():
        assert leaks(text) == [], name
        assert not any(secret in text for secret in SECRETS.values()), name


# -- where it goes


def test_bundle_is_written_for_its_owner_alone_and_never_over_a_file(
    daemon: Running, tmp_path: Path
) -> None:
    target = tmp_path / "bundle.tar.gz"
    done = bundle(daemon.installed, "--output", str(target))
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{target}\n".encode(), b"")
    assert target.stat().st_mode & 0o777 == 0o600
    assert set(unpack(target.read_bytes())) == PARTS
    assert list(tmp_path.iterdir()) == [target], "no temporary file is left"
    before = target.read_bytes()
    for path in (target, tmp_path / "link"):
        if path.name == "link":
            path.symlink_to("nowhere")
        again = bundle(daemon.installed, "--output", str(path))
        assert again.returncode == 1
        said = f"telemetryd: {path} exists: name another file, or add --force\n"
        assert again.stderr.decode() == said
    assert target.read_bytes() == before
    forced = bundle(daemon.installed, "--output", str(target), "--force")
    assert forced.returncode == 0, forced.stderr
    assert set(unpack(target.read_bytes())) == PARTS


def test_bundle_gets_a_name_with_the_time_in_the_current_folder(
    daemon: Running, tmp_path: Path
) -> None:
    done = starter.run(
        *("support-bundle", "--config", str(daemon.installed.file)),
        env=daemon.installed.environ,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    (made,) = tmp_path.glob("telemetryd-support-*Z.tar.gz")
    assert done.stdout == f"{made.name}\n"


READ_ONLY = ("unshare", "--mount", "sh", "-ec", 'mount -o remount,bind,ro /; exec "$@"', "sh")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount")
def test_bundle_goes_to_standard_output_where_no_file_can_be_written(
    daemon: Running, tmp_path: Path
) -> None:
    words = ("support-bundle", "--config", str(daemon.installed.file), "--output")
    environ = daemon.installed.environ
    refused = starter.run(*words, f"/{tmp_path.name}", env=environ, under=READ_ONLY)
    assert refused.returncode == 1
    assert "can't be written: Read-only file system; --output - writes to stdout" in refused.stderr
    done = starter.run(*words, "-", env=environ, under=READ_ONLY, text=False)
    assert (done.returncode, done.stderr) == (0, b"")
    assert set(unpack(done.stdout)) == PARTS


# -- daemons that are absent, older or too large


def test_without_a_daemon_the_rest_is_written_and_the_lack_said(
    fleet: FleetServer, tmp_path: Path
) -> None:
    (tmp_path / "state").mkdir()
    done = bundle(Installed(tmp_path / "state", fleet, SCC), "--output", "-")
    assert done.returncode == 1
    parts = unpack(done.stdout)
    assert set(parts) == PARTS - OF_DAEMON
    manifest = json.loads(parts["manifest.json"])
    assert manifest["daemon_answered"] is False
    assert {each["name"] for each in manifest["missing"]} == OF_DAEMON
    lines = done.stderr.decode().splitlines()
    assert len(lines) == 4
    for name in OF_DAEMON:
        assert any(f"without {name}: no daemon listens on" in line for line in lines)
    assert "journalctl -u telemetryd, or kubectl logs" in lines[-1]


def test_broken_configuration_is_named_in_the_bundle(fleet: FleetServer, tmp_path: Path) -> None:
    (tmp_path / "state").mkdir()
    where = Installed(tmp_path / "state", fleet, "log_levle = 1\n")
    done = bundle(where, "--output", "-")
    assert done.returncode == 1
    parts = unpack(done.stdout)
    assert "log_levle" in parts["doctor.txt"]
    missing = {each["name"]: each["why"] for each in json.loads(parts["manifest.json"])["missing"]}
    assert set(missing) == OF_DAEMON | {"config.toml", "state-folder.json"}
    assert "log_levle" in missing["config.toml"]


@contextmanager
def answering(path: Path, answers: dict[str, Any]) -> Iterator[None]:
    """A daemon of another version: it gives each command a prepared answer."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen(5)

        def serve() -> None:
            while True:
                stream, _ = listener.accept()
                with stream, stream.makefile("rb") as lines:
                    line = lines.readline()
                    if not line:
                        return
                    answer = answers[json.loads(line)["command"]]
                    stream.sendall(json.dumps(answer).encode() + b"\n")

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield
        finally:
            with socket.socket(socket.AF_UNIX) as last:
                last.connect(str(path))
            thread.join()


def test_daemon_that_does_not_know_the_command_gives_at_least_its_status(
    fleet: FleetServer, tmp_path: Path, short_path: Path
) -> None:
    (tmp_path / "state").mkdir()
    where = Installed(tmp_path / "state", fleet, SCC, {"RUNTIME_DIRECTORY": str(short_path)})
    refusal = "not a request: Invalid enum value 'support-bundle' - at `$.command`"
    answers = {
        "support-bundle": {"ok": False, "error": refusal},
        "status": {"ok": True, "result": {"version": "0.0.9", "api_server": "https://a"}},
    }
    with answering(short_path / "control.sock", answers):
        done = bundle(where, "--output", "-")
    assert done.returncode == 1
    parts = unpack(done.stdout)
    assert set(parts) == PARTS - OF_DAEMON | {"status.json"}
    assert json.loads(parts["status.json"])["version"] == "0.0.9"
    missing = {each["name"]: each["why"] for each in json.loads(parts["manifest.json"])["missing"]}
    assert missing == dict.fromkeys(OF_DAEMON - {"status.json"}, refusal)


def test_part_that_is_too_large_is_cut_at_a_line_and_the_rest_counted(
    fleet: FleetServer, tmp_path: Path, short_path: Path
) -> None:
    (tmp_path / "state").mkdir()
    where = Installed(tmp_path / "state", fleet, SCC, {"RUNTIME_DIRECTORY": str(short_path)})
    line = "x" * 999
    parts: dict[str, Any] = {"metrics.txt": [line] * 9000, "status.json": {}, "log.jsonl": []}
    with answering(
        short_path / "control.sock", {"support-bundle": {"ok": True, "result": {"parts": parts}}}
    ):
        done = bundle(where, "--output", "-")
    assert done.returncode == 0, done.stderr
    found = unpack(done.stdout)
    kept = PART_BYTES // 1000
    assert found["metrics.txt"] == f"{line}\n" * kept
    (listed,) = (
        each
        for each in json.loads(found["manifest.json"])["parts"]
        if each["name"] == "metrics.txt"
    )
    assert listed["bytes_left_out"] == (9000 - kept) * 1000
