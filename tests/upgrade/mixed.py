"""Two replicas of two versions share a Lease, a Secret and a receiver: for maintainers.

`python -m tests.upgrade.mixed COMMIT` takes the other version from this repository's history, and
needs a kube-apiserver. Each takes over from the other, and starts on the state that the other left;
an opt-out ends both; each commands the other. It exits with 1 where anything differs from that.
"""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final, TypeVar

from telemetryd.serve.control.client import ask
from telemetryd.serve.control.protocol import Request
from tests.apiserver.admin import Admin
from tests.apiserver.crds import SETTINGS, collection, install_crds
from tests.apiserver.fixtures import setting
from tests.apiserver.process import ApiServer
from tests.apiserver.versions import find_assets
from tests.support.sink import Sink, receiving
from tests.support.waiting import until
from tests.system.rancher import SECRET, Rancher
from tests.upgrade.record import ELECTION, LEASE, SCC

ROOT: Final = Path(__file__).parents[2]
T = TypeVar("T")
DELIVERY: Final = """
[[exporters]]
name = "delivery"
type = "http"
format = "fleet"
interval = "1s"
max_silence = "1s"
splay_max = "0s"
url = "{url}"
"""


class Version:
    """One version as a folder with its package, and the daemon that runs from it."""

    def __init__(self, name: str, source: Path, folder: Path, kubeconfig: Path, sink: Sink) -> None:
        self.name = name
        self.state = folder / "state"
        self.state.mkdir(parents=True)
        self._source = source
        self._log = folder / "log"
        self._file = folder / "config.toml"
        self._file.write_text(
            'log_level = "debug"\nlog_format = "json"\n'
            f'[kubernetes]\nkubeconfig = "{kubeconfig}"\n[server]\nlisten = "127.0.0.1:0"\n'
            f'control_socket = "{folder}/s"\n'
            f"{ELECTION}{DELIVERY.format(url=sink.url(name))}{SCC}"
        )
        self.socket = folder / "s"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, state: Path | None = None) -> None:
        """Start it, on the state of another where one is given."""
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "telemetryd", "run", "--config", str(self._file)],
                cwd=self._source,
                env=self._environ(state or self.state),
                stdout=log,
                stderr=log,
            )
        self.until("it listens", self.socket.exists)

    def stop(self) -> None:
        """SIGTERM, to its end."""
        process, self._process = self._process, None
        if process is not None:
            process.terminate()
            status = process.wait(timeout=60)
            assert status == 0, (self.name, status, self.log()[-2000:])

    def kill(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()
            self.socket.unlink(missing_ok=True)

    def ctl(self, other: "Version", *words: str) -> "subprocess.CompletedProcess[str]":
        """This version's command, asked of the other's daemon."""
        return subprocess.run(
            [sys.executable, "-m", "telemetryd", *words, "--config", str(other._file)],
            cwd=self._source,
            env=self._environ(other.state),
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    def status(self) -> dict[str, Any]:
        return ask([str(self.socket)], Request("status")).result

    def leads(self) -> bool:
        return bool(self.status()["leader"]["leading"])

    def stands_by(self) -> bool:
        return {each["state"] for each in self.status()["exporters"]} == {"standby"}

    def log(self) -> str:
        return self._log.read_text()

    def until(self, what: str, probe: Callable[[], T | None]) -> T:
        return until(
            probe,
            f"{self.name}: {what}",
            more=lambda: self.log()[-3000:],
            ended=self._process.poll if self._process else None,
        )

    def _environ(self, state: Path) -> dict[str, str]:
        return {**os.environ, "STATE_DIRECTORY": str(state), "HOSTNAME": self.name}


def say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def take_turns(old: Version, new: Version, admin: Admin, sink: Sink) -> None:
    """Each leads, by the other's end in order and by its death, and each epoch is higher."""
    old.start()
    old.until("it leads", old.leads)
    new.start()
    new.until("it stands by", new.stands_by)
    epochs = [old.status()["leader"]["epoch"]]
    for leader, other, end in ((old, new, old.stop), (new, old, new.kill), (old, new, old.kill)):
        since = len(sink.posts())
        leader.until("it delivers", lambda: len(sink.posts()) > since + 1)  # noqa: B023
        end()
        other.until("it takes over", other.leads)
        epochs.append(other.status()["leader"]["epoch"])
        leader.start()
        leader.until("it stands by", leader.stands_by)
    assert epochs == sorted(set(epochs)), epochs
    sink.check()
    managers = {each["manager"] for each in admin.get(SECRET)["metadata"]["managedFields"]}
    assert managers == {"telemetryd"}, managers
    say(f"epochs {epochs}, {len(sink.posts())} deliveries, one writer at any time")
    old.stop()
    new.stop()


def change_state(one: Version, other: Version, sink: Sink) -> None:
    """The other version starts on the state folder of the one."""
    other.start(one.state)
    other.until("it leads", other.leads)
    since = len(sink.posts())
    other.until("it delivers", lambda: len(sink.posts()) > since + 1)
    other.stop()
    left = {path.name for path in one.state.rglob("*") if not path.name.endswith(".sock")}
    say(f"{other.name} on the state of {one.name}: delivers; the folder holds {sorted(left)}")
    sink.check()


def command(one: Version, other: Version) -> None:
    """The one's ctl, asked of the other's daemon."""
    other.start()
    other.until("it leads", other.leads)
    for words in (("ctl", "status"), ("ctl", "reload"), ("ctl", "trigger", "scc", "--wait")):
        done = one.ctl(other, *words)
        say(f"{' '.join(words)} of {one.name} to {other.name}: exits {done.returncode}")
        assert done.returncode == 0, done.stderr
    done = one.ctl(other, "support-bundle", "--output", str(other.state.parent / "b.tar.gz"))
    say(f"support-bundle of {one.name} to {other.name}: {done.stderr.splitlines()[:1]}")
    assert "Traceback" not in done.stderr
    other.stop()


def opt_out(old: Version, new: Version, admin: Admin) -> None:
    """An opt-out that one notes keeps both off."""
    old.start()
    new.start()
    old.until("it leads", lambda: old.leads() or new.leads())
    admin.create(collection(SETTINGS), setting("telemetry-opt", "out"))
    for each in (old, new):
        each.until("it is off", lambda: each.status()["collection"]["off_by"])  # noqa: B023
    until(lambda: "telemetryd/opted-out" in json.dumps(admin.get(SECRET)), "the mark")
    say("both off by the opt-out of the Setting")
    old.stop()
    new.stop()


def main(commit: str) -> None:
    assets = find_assets()
    assert assets is not None, "it needs a kube-apiserver: make apiserver"
    with tempfile.TemporaryDirectory(prefix="td-mixed-") as name, ExitStack() as ends:
        folder = Path(name)
        source = folder / "source"
        source.mkdir()
        archive = subprocess.run(
            ["git", "archive", commit, "telemetryd"], cwd=ROOT, capture_output=True, check=True
        )
        subprocess.run(["tar", "x"], cwd=source, input=archive.stdout, check=True)
        server = ApiServer(assets, folder / "server")
        (folder / "server").mkdir()
        server.start()
        ends.callback(server.stop)
        admin = Admin(server.url, server.admin_token, server.ca_file)
        ends.callback(admin.close)
        install_crds(admin)
        ends.enter_context(Rancher.built(admin, clusters=2, nodes=2))
        sink = ends.enter_context(receiving())
        kubeconfig = server.kubeconfig(folder / "kubeconfig")
        old = Version("other", source, folder / "o", kubeconfig, sink)
        new = Version("this", ROOT, folder / "t", kubeconfig, sink)
        for each in (old, new):
            ends.callback(each.kill)
        take_turns(old, new, admin, sink)
        change_state(old, new, sink)
        change_state(new, old, sink)
        command(new, old)
        command(old, new)
        opt_out(old, new, admin)
        admin.delete(LEASE)
        errors = [
            line
            for each in (old, new)
            for line in each.log().splitlines()
            if '"level":"error"' in line
        ]
        assert errors == [], errors
    say("well")


if __name__ == "__main__":
    main(sys.argv[1])
