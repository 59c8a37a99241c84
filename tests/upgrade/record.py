"""Records what this version keeps outside of itself: `python -m tests.upgrade.record`.

It writes `tests/upgrade/state-VERSION/`, once for each version that is released:

* `sending/`: a state folder with an epoch, the last delivery, a pending payload and a history;
* `opted-out/`: a state folder that remembers an opt-out and a restriction of the file;
* `secret.json`, `marked-secret.json`: the Secret as written, and with the mark of an opt-out;
* `lease.json`: the Lease as its leader left it when it was killed; needs a real kube-apiserver.

The receiver answers with a high pair first, so that what is recorded is above what any clock makes.
"""

import json
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from telemetryd import __version__
from tests.apiserver import fixtures
from tests.apiserver.admin import Admin
from tests.apiserver.crds import install_crds
from tests.apiserver.process import ApiServer
from tests.apiserver.versions import find_assets
from tests.support.daemon import Daemon
from tests.support.embedded import NAMESPACE, SECRETS, FleetServer, serve_fleet
from tests.support.receiver import Request, Verdict, receiving_in_threads
from tests.support.waiting import until
from tests.system.rancher import Rancher

FOLDER: Final = Path(__file__).parent
EPOCH: Final = 41
SEQUENCE: Final = 9_000_000_000_000_000
URL: Final = "http://receiver.example/payloads"
"""The test's receiver is the proxy on the way there, so that the port can be another each time."""
WEB: Final = f"""
[[exporters]]
name = "web"
type = "http"
format = "fleet"
interval = "1s"
max_silence = "1s"
splay_max = "0s"
retry_base = "100ms"
url = "{URL}"
"""
SCC: Final = """
[[exporters]]
name = "scc"
type = "secret"
interval = "1s"
"""
ELECTION: Final = """
[leader_election]
enabled = true
lease_duration = "4s"
renew_deadline = "2s"
retry_period = "500ms"
"""
LEASE: Final = "/apis/coordination.k8s.io/v1/namespaces/cattle-telemetry-system/leases/telemetryd"
_KEPT: Final = ("epoch", "history.db", "restrictions.json", "spool")


class Receiver:
    """Answers 409 with a high pair once, then takes payloads until it refuses."""

    def __init__(self) -> None:
        self.requests: list[Request] = []
        self.refuses = False
        self.outranks = False

    def take(self, request: Request) -> Verdict:
        self.requests.append(request)
        if self.outranks:
            self.outranks = False
            pair = {"Telemetryd-Epoch": str(EPOCH), "Telemetryd-Sequence": str(SEQUENCE)}
            return Verdict(409, pair)
        return Verdict(503 if self.refuses else 204)

    @contextmanager
    def running(self) -> Iterator[dict[str, str]]:
        """The variables that lead a daemon's requests to it."""
        with receiving_in_threads(self.take) as url:
            yield {"HTTP_PROXY": url, "NO_PROXY": "127.0.0.1"}


def keep(state: Path, target: Path) -> None:
    """Copies what a state folder holds for the next start, without its lock and socket."""
    target.mkdir()
    for name in _KEPT:
        if (state / name).is_dir():
            shutil.copytree(state / name, target / name)
        elif (state / name).exists():
            shutil.copy(state / name, target / name)


def put_back(recorded: Path, state: Path) -> None:
    """Puts a recorded state folder in place, as the daemon itself has it: for its user alone."""
    state.mkdir(exist_ok=True)
    for path in sorted(recorded.rglob("*")):
        copy = state / path.relative_to(recorded)
        if path.is_dir():
            copy.mkdir(mode=0o700)
        else:
            copy.write_bytes(path.read_bytes())
            copy.chmod(0o600)


def record_sending(folder: Path, fleet: FleetServer, target: Path) -> None:
    """A delivery under a high pair, and a payload that could not be delivered after it."""
    receiver = Receiver()
    receiver.outranks = True
    state = folder / "sending"
    state.mkdir()
    with receiver.running() as environ:
        daemon = Daemon(state, fleet.kubeconfig, WEB + SCC, environ=environ, fresh=True)
        try:
            daemon.wait_for("a delivery", (state / "spool/web/state").exists, 60)
            receiver.refuses = True
            daemon.wait_for("a pending payload", (state / "spool/web/pending").exists, 60)
            daemon.wait_for("the epoch on disk", (state / "epoch").exists, 60)
            daemon.wait_for("a history", lambda: daemon.status()["history"]["samples"] > 1, 90)
        finally:
            assert daemon.stop() == 0, daemon.log()
    assert not (state / "history.db-wal").exists(), "all is in the file"
    keep(state, target / "sending")
    write(target / "secret.json", fleet.get(SECRETS, "rancher-scc-telemetry", NAMESPACE))


def record_opted_out(folder: Path, fleet: FleetServer, target: Path) -> None:
    """An opt-out by the Setting, and a `[privacy]` that omits."""
    state = folder / "opted-out"
    state.mkdir()
    privacy = '[privacy]\nserver_url = "omit"\n'
    daemon = Daemon(state, fleet.kubeconfig, privacy + SCC, fresh=True)
    try:
        daemon.wait_for("the Secret", lambda: secret_of(fleet), 60)
        fleet.put(fixtures.setting("telemetry-opt", "out"))
        daemon.wait_for("the mark", lambda: "telemetryd/opted-out" in notes_of(fleet), 60)
        file = state / "restrictions.json"
        daemon.wait_for("the memory", lambda: "telemetry-opt" in file.read_text(), 60)
    finally:
        assert daemon.stop() == 0, daemon.log()
    keep(state, target / "opted-out")
    write(target / "marked-secret.json", secret_of(fleet))


def record_lease(folder: Path, target: Path) -> None:
    """The Lease of a leader that was killed."""
    assets = find_assets()
    assert assets is not None, "the Lease needs a kube-apiserver: make apiserver"
    server = ApiServer(assets, folder)
    server.start()
    try:
        admin = Admin(server.url, server.admin_token, server.ca_file)
        install_crds(admin)
        state = folder / "leading"
        state.mkdir()
        with Rancher.built(admin, clusters=2, nodes=2):
            kubeconfig = server.kubeconfig(state / "kubeconfig")
            daemon = Daemon(state, kubeconfig, ELECTION + SCC, fresh=True)
            daemon.wait_for("readiness", daemon.ready, 60)
            daemon.wait_for("a term", lambda: daemon.status()["leader"]["leading"], 60)
            lease = until(lambda: admin.get(LEASE), "the Lease")
            daemon.process.kill()
            daemon.process.wait()
        admin.close()
    finally:
        server.stop()
    write(target / "lease.json", lease)


def secret_of(fleet: FleetServer) -> dict[str, Any] | None:
    return fleet.get(SECRETS, "rancher-scc-telemetry", NAMESPACE)


def notes_of(fleet: FleetServer) -> dict[str, str]:
    """Annotations of the Secret."""
    notes: dict[str, str] = (secret_of(fleet) or {})["metadata"].get("annotations", {})
    return notes


def write(path: Path, obj: Any) -> None:
    path.write_text(json.dumps(obj, indent=1, sort_keys=True) + "\n")


def main() -> None:
    target = FOLDER / f"state-{__version__}"
    if target.exists():
        sys.exit(f"{target} is there: what a version wrote doesn't change")
    with tempfile.TemporaryDirectory(prefix="td-record-") as name:
        folder = Path(name)
        recorded = folder / "recorded"
        recorded.mkdir()
        with serve_fleet(folder, clusters=2, nodes=2) as fleet:
            record_sending(folder, fleet, recorded)
        with serve_fleet(folder, clusters=2, nodes=2) as fleet:
            record_opted_out(folder, fleet, recorded)
        record_lease(folder, recorded)
        shutil.copytree(recorded, target)


if __name__ == "__main__":
    main()
