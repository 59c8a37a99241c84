"""A daemon whose exec plugin grants short-lived certificates, against a real API server."""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.support.daemon import Daemon
from tests.support.sink import receiving
from tests.system.replicas import ELECTION
from tests.system.rotation import USERS, RotatingServer, Running, serving

RENEWALS = 200
SETTLED = 50
"""Renewals after which there is as much of everything as there will be."""

CONFIG = (
    ELECTION
    + """
[[exporters]]
name = "scc"
type = "secret"
interval = "1s"

[[exporters]]
name = "sink"
type = "http"
format = "fleet"
url = "{url}"
interval = "1s"
splay_max = "0s"
spool = false
"""
)

PLUGIN = """#!/bin/sh
echo run >> {folder}/runs
now=$(date -u -d '+1.5 seconds' +%Y-%m-%dT%H:%M:%S.%3NZ)
sed "s/UNTIL/$now/" {folder}/granted-$(($(wc -l < {folder}/runs) % 2))
"""


@dataclass(frozen=True, slots=True)
class Held:
    """What a process holds."""

    descriptors: int
    files: int
    resident_kib: int


def held(daemon: Daemon, temporary: Path) -> Held:
    process = Path(f"/proc/{daemon.process.pid}")
    status = (process / "status").read_text().splitlines()
    (resident,) = (int(line.split()[1]) for line in status if line.startswith("VmRSS:"))
    descriptors = len(os.listdir(process / "fd"))  # noqa: PTH208
    return Held(descriptors, sum(1 for _ in temporary.rglob("*")), resident)


def plugin(folder: Path, server: RotatingServer) -> dict[str, Any]:
    """A user whose plugin grants one of two certificates in turn, each for 1.5 s."""
    version = "client.authentication.k8s.io/v1"
    for turn, name in enumerate(USERS[:2]):
        pair = server.clients.issue(name)
        status = {
            "clientCertificateData": pair.cert.read_text(),
            "clientKeyData": pair.key.read_text(),
            "expirationTimestamp": "UNTIL",
        }
        credential = {"apiVersion": version, "kind": "ExecCredential", "status": status}
        (folder / f"granted-{turn}").write_text(json.dumps(credential))
    command = folder / "plugin"
    command.write_text(PLUGIN.format(folder=folder))
    command.chmod(0o755)
    run = {"apiVersion": version, "interactiveMode": "Never", "command": str(command)}
    return {"exec": run}


@pytest.mark.faults
@pytest.mark.timeout(1800)
def test_daemon_whose_certificates_are_renewed_200_times_holds_no_more_than_before(
    assets: Path, tmp_path: Path
) -> None:
    temporary, certificates = tmp_path / "tmp", tmp_path / "server"
    temporary.mkdir()
    certificates.mkdir()
    runs = tmp_path / "runs"
    with serving(assets, certificates) as server, receiving() as sink:
        running = Running(server, tmp_path, sink)
        running.user = plugin(tmp_path, server)
        running.write()
        config = CONFIG.format(url=sink.url("a"))
        environ = {"TMPDIR": str(temporary)}
        daemon = Daemon(tmp_path, running.kubeconfig, config, environ=environ, fresh=True)
        running.daemon = daemon
        seen: dict[int, Held] = {}

        def renewed() -> bool:
            count = len(runs.read_text().split()) if runs.exists() else 0
            seen[count] = held(daemon, temporary)
            return count >= RENEWALS

        try:
            daemon.wait_for("the first export", sink.posts, 120)
            daemon.wait_for("200 renewals", renewed, 1500)
            running.check_contact()
        finally:
            status = daemon.stop()
        assert status == 0, daemon.log()[-4000:]
    early = [seen[count] for count in seen if SETTLED <= count < RENEWALS // 2]
    late = [seen[count] for count in seen if count >= RENEWALS * 3 // 4]
    assert not any(each.files for each in seen.values()), "nothing of the login lies in files"
    most = max(each.descriptors for each in early)
    assert max(each.descriptors for each in late) <= most + 10, seen
    least_kib = min(each.resident_kib for each in late)
    assert least_kib <= max(each.resident_kib for each in early) + 8 * 1024, seen
    print(f"\n{RENEWALS} renewals: settled {early[0]}, at the end {late[-1]}")  # noqa: T201
