"""Half an hour of random faults, churn and reloads against a real API server; ends at any breach.

Two replicas share a Lease, one of them behind the proxy. After each fault every oracle of ``bench``
is asked, and the sink whether two ever wrote at once. Run by ``make soak``, for it takes its time;
a seed brings the same faults again, though not at the same moments.
"""

import http.client
import json
import logging
import secrets
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from random import Random
from statistics import median
from typing import Any

from tests.apiserver.admin import Admin, AdminError
from tests.apiserver.crds import NODES, collection, install_crds
from tests.apiserver.process import ApiServer
from tests.apiserver.versions import find_assets
from tests.faults.bench import CONVERGES_WITHIN_S, NODES_ID, set_up
from tests.faults.soakfaults import FAULTS, Fault, Soaked, healing
from tests.support.daemon import Daemon
from tests.support.sink import Sink, receiving
from tests.system.account import RANCHER
from tests.system.rancher import Rancher
from tests.system.replicas import DELIVERY, ELECTION, HAND_OVER_S, SLACK_S

LEASES: dict[str, list[str]] = {
    "apiGroups": ["coordination.k8s.io"],
    "resources": ["leases"],
    "verbs": ["get", "create", "update"],
}
SECRET = '\n[[exporters]]\nname = "scc"\ntype = "secret"\ninterval = "1s"\nretry_base = "200ms"\n'
FOLDER = '\n[[exporters]]\nname = "folder"\ntype = "file"\ninterval = "1s"\nkeep = 3\n'
FIRST_CHURNED, CHURNED = 5000, 40
CHURN_EVERY_S = 0.1
MOST_ASKS, MOST_ASKS_A_SECOND = 60, 10
"""Lists and watches of all informers, page by page: around a fault, and while it lasts."""

MOST_GROWTH_MIB = 32.0
MOST_GROWTH_FILES = 20


class Churn:
    """Changes nodes all the time, but for when it must rest."""

    def __init__(self, admin: Admin, rng: Random) -> None:
        self._rancher = Rancher(admin)
        self._rng = rng
        self._there: set[int] = set()
        self._over = threading.Event()
        self._may = threading.Event()
        self._rests = threading.Event()
        self.changes = 0

    @contextmanager
    def running(self) -> Iterator["Churn"]:
        """Goes on in a thread of its own until left."""
        thread = threading.Thread(target=self._run)
        thread.start()
        try:
            yield self
        finally:
            self._over.set()
            self._may.set()
            thread.join()

    def go_on(self) -> None:
        """Changes nodes from now on."""
        self._rests.clear()
        self._may.set()

    def rest(self) -> None:
        """Returns once nothing changes any more."""
        self._may.clear()
        assert self._rests.wait(60), "a change has hung for a minute"

    def _run(self) -> None:
        while not self._over.is_set():
            if not self._may.is_set():
                self._rests.set()
                self._may.wait()
                continue
            try:
                self._change(FIRST_CHURNED + self._rng.randrange(CHURNED))
            except (OSError, http.client.HTTPException, AdminError):
                time.sleep(0.5)  # the API server is away; whether it was done shows later
            time.sleep(CHURN_EVERY_S)

    def _change(self, number: int) -> None:
        path = f"{collection(NODES, 'local')}/sentinel-m-{number}"
        if number not in self._there:
            self._rancher.add_node("local", number)
            self._there.add(number)
        elif self._rng.random() < 0.5:
            spec = {"etcd": self._rng.random() < 0.5}
            self._rancher.admin.patch(path, {"spec": spec})
        else:
            self._there.discard(number)
            self._rancher.admin.delete(path)
        self.changes += 1


@dataclass(frozen=True, slots=True)
class Round:
    """What one fault came to."""

    name: str
    asks: int
    converged_s: float
    rss_mib: float
    files: int


class Soak:
    """The rounds."""

    def __init__(self, soaked: Soaked, churn: Churn, sink: Sink) -> None:
        self._soaked = soaked
        self._churn = churn
        self._sink = sink
        self._folder = str(soaked.bench.token_file.parent / "out")
        self._queue: list[Fault] = []
        self.rounds: list[Round] = []

    def play(self) -> Round:
        """One fault, while all churns, and what must be true afterwards.

        Raises:
            AssertionError: It isn't.
        """
        soaked, bench = self._soaked, self._soaked.bench
        fault = self._next()
        begin_s = bench.begin_s = time.monotonic()
        self._churn.go_on()
        reloaded = self._reload() if soaked.rng.random() < 0.4 else ""
        with healing(soaked):
            fault(soaked)
        healed_s = time.monotonic()
        soaked.sleep(0.0, 2.0)
        self._churn.rest()
        bench.touch()
        bench.until("agreement", bench.settled, CONVERGES_WITHIN_S)
        converged_s = time.monotonic() - healed_s
        asks, most = bench.asked(), MOST_ASKS + MOST_ASKS_A_SECOND * (time.monotonic() - begin_s)
        assert asks <= most, f"{asks} lists and watches, {most:.0f} at most"
        bench.until("the other's agreement", self._other_agrees, CONVERGES_WITHIN_S)
        since_s = time.monotonic()
        bench.until("a delivery", lambda: self._sink.posts(since_s), HAND_OVER_S + 5 * SLACK_S)
        bench.check()
        self._sink.check()
        files = len(list(Path(f"/proc/{bench.daemon.process.pid}/fd").iterdir()))
        name = f"{fault.__name__.replace('_', ' ')}{reloaded}"
        done = Round(name, asks, converged_s, bench.rss_mib(), files)
        self.rounds.append(done)
        return done

    def judge(self) -> list[str]:
        """What grew, from the second tenth of the rounds to the last."""
        tenth = max(1, len(self.rounds) // 10)
        wrong = []
        for what, samples, most in (
            ("RSS in MiB", [each.rss_mib for each in self.rounds], MOST_GROWTH_MIB),
            ("open files", [float(each.files) for each in self.rounds], MOST_GROWTH_FILES),
        ):
            first, last = median(samples[tenth : 2 * tenth] or samples), median(samples[-tenth:])
            if last - first > most:
                wrong.append(f"{what} grew from {first:.0f} to {last:.0f}")
        return wrong

    def _next(self) -> Fault:
        """Each fault once, in any order, and then again."""
        if not self._queue:
            self._queue = self._soaked.rng.sample(FAULTS, len(FAULTS))
        return self._queue.pop()

    def _reload(self) -> str:
        """Another configuration, or one that must be rejected."""
        bench, rng = self._soaked.bench, self._soaked.rng
        bad = rng.random() < 0.3
        folder = f'{FOLDER}directory = "{self._folder}"\n' if rng.random() < 0.5 else ""
        bench.daemon.configure(
            bench.config + folder + ("\nunknown = true\n" if bad else ""), bench.top_level
        )
        bench.daemon.signal(signal.SIGHUP)
        wanted = 0.0 if bad else 1.0
        bench.until(
            "the reload",
            lambda: (
                bench.daemon.metric("telemetryd_config_last_reload_successful") == wanted
                and (bad or self._has_folder() is bool(folder))
            ),
        )
        return ", reload rejected" if bad else ", reloaded"

    def _has_folder(self) -> bool:
        exporters = self._soaked.bench.daemon.status()["exporters"]
        return any(each["name"] == "folder" for each in exporters)

    def _other_agrees(self) -> bool:
        code, body = self._soaked.other.get("/status.json")
        if code != 200:
            return False
        informers = {each["resource"]: each for each in json.loads(body)["informers"]}
        nodes = len(self._soaked.admin.list(collection(NODES)))
        well = all(each["synced"] and not each["last_error"] for each in informers.values())
        return well and informers[NODES_ID]["objects"] == nodes


def soak(seconds: float, seed: int, tell: Callable[[str], Any]) -> int:
    """Rounds for so long; 1 where anything was wrong."""
    assets = find_assets()
    if assets is None:
        tell("no kube-apiserver here: `make apiserver` builds one")
        return 1
    with tempfile.TemporaryDirectory(prefix="telemetryd-soak-") as name:
        folder = Path(name)
        for each in ("apiserver", "one", "two"):
            (folder / each).mkdir()
        server = ApiServer(assets, folder / "apiserver")
        server.start()
        admin = Admin(server.url, server.admin_token, server.ca_file)
        try:
            install_crds(admin)
            return _rounds(server, admin, folder, seconds, Random(seed), tell)
        finally:
            admin.close()
            server.stop()


def _rounds(
    server: ApiServer,
    admin: Admin,
    folder: Path,
    seconds: float,
    rng: Random,
    tell: Callable[[str], Any],
) -> int:
    with receiving() as sink:
        more = ELECTION + DELIVERY.format(url=sink.url("one"))
        with set_up(
            server, admin, folder / "one", more=more, rules=[*RANCHER, LEASES], log_level="info"
        ) as bench:

            def start_other() -> Daemon:
                config = ELECTION + SECRET + DELIVERY.format(url=sink.url("two"))
                kubeconfig = server.kubeconfig(folder / "two" / "kubeconfig")
                return Daemon(folder / "two", kubeconfig, config, 'log_level = "info"\n')

            soaked = Soaked(bench, start_other(), start_other, rng)
            try:
                with Churn(admin, Random(rng.random())).running() as churn:
                    return _play(Soak(soaked, churn, sink), churn, seconds, tell)
            finally:
                soaked.other.signal(signal.SIGCONT)
                soaked.other.stop()


def _play(soak: Soak, churn: Churn, seconds: float, tell: Callable[[str], Any]) -> int:
    begin_s = time.monotonic()
    wrong: list[str] = []
    while not wrong and time.monotonic() < begin_s + seconds:
        try:
            done = soak.play()
        except AssertionError as error:
            wrong.append(str(error))
            break
        minutes, rest_s = divmod(int(time.monotonic() - begin_s), 60)
        tell(
            f"{minutes:3d}:{rest_s:02d}  {done.name:<52} {done.asks:4d} asks  "
            f"{done.converged_s:5.1f} s  {done.rss_mib:5.0f} MiB  {done.files:3d} files"
        )
    rounds = soak.rounds
    if rounds:
        wrong += soak.judge()
        rss = [each.rss_mib for each in rounds]
        converged = [each.converged_s for each in rounds]
        tell(
            f"{len(rounds)} faults, {churn.changes} changes, {sum(each.asks for each in rounds)} "
            f"lists and watches; RSS {rss[0]:.0f} MiB at first, {rss[-1]:.0f} at last, "
            f"{max(rss):.0f} at most; {rounds[-1].files} files; converged in "
            f"{median(converged):.1f} s, {max(converged):.1f} s at most"
        )
    for each in wrong:
        tell(f"BREACH: {each}")
    return 1 if wrong else 0


def main(arguments: list[str]) -> int:
    """Seconds, and the seed where one is given."""
    seed = int(arguments[1]) if len(arguments) > 1 else secrets.randbelow(1_000_000)

    def tell(line: str) -> None:
        sys.stdout.write(f"{line}\n")
        sys.stdout.flush()

    # The witness's informers log as the daemon's do: what they say of each fault drowns the rest.
    logging.getLogger("telemetryd").addHandler(logging.NullHandler())
    tell(f"seed {seed}")
    return soak(float(arguments[0]), seed, tell)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
