"""Daemons under load with everything around them that a cause of an alert can be brought to.

One Prometheus scrapes all of them. What the causes are belongs to ``causes``.
"""

import json
import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from itertools import count
from pathlib import Path
from typing import Any

from anyio.from_thread import start_blocking_portal

from telemetryd.serve.control.client import ask
from telemetryd.serve.control.protocol import Request
from tests.apiserver.admin import Admin
from tests.apiserver.crds import CLUSTERS, FEATURES, NODES, SETTINGS, collection
from tests.apiserver.process import ApiServer
from tests.faults.proxy import FaultProxy
from tests.monitoring.files import MONITORING, RULES, read_yaml
from tests.monitoring.prometheus import Prometheus, Target
from tests.monitoring.scaled import scaled
from tests.support.daemon import TOP_LEVEL, Daemon
from tests.support.receiver import Receiver, receiving
from tests.support.repeating import repeating
from tests.system.rancher import Rancher

CLUSTERS_WANTED = 31
"""So many that only the cause that is meant to halve the fleet does so."""

CHANGES_PER_S = 5
CHANGING = (
    f"{collection(CLUSTERS)}/local",
    f"{collection(NODES, 'local')}/sentinel-m-0",
    f"{collection(SETTINGS)}/server-url",
    f"{collection(FEATURES)}/fleet",
    "/api/v1/namespaces/kube-system",
)
"""One object of each kind that is watched. The API server's bookmarks come once a minute, which is
longer than the divided durations let a watch be silent."""

_COMMON = "[secret_requests]\nenabled = false\n"
_ELECTION = """
[leader_election]
enabled = true
namespace = "{namespace}"
name = "{name}"
lease_duration = "4s"
renew_deadline = "3s"
retry_period = "1s"
"""
_FOLDER = """
[[exporters]]
name = "folder"
type = "file"
interval = "1s"
directory = "{folder}/kept"
keep = 3
"""
_MAIN = """
[[exporters]]
name = "scc"
type = "secret"
interval = "1s"
retry_base = "100ms"
quiet_period = "10s"

[[exporters]]
name = "receiver"
type = "http"
format = "fleet"
url = "{url}"
interval = "2s"
timeout = "1s"
max_silence = "2s"
splay_max = "0s"
retry_base = "100ms"
"""


class Stage:
    """What causes are brought to.

    Attributes:
        prometheus: Scrapes every daemon; its rules are the scaled ones.
        rancher: Its objects, on the API server that all daemons lead to.
        admin: Writes to that.
        proxies: Before it, one of each daemon that is behind one, by name.
        receiver: Where exporter `receiver` of `main` delivers.
        daemons: Those that run, and those that ended last, by the name that is their `instance`.
    """

    def __init__(
        self,
        folder: Path,
        prometheus: Prometheus,
        apiserver: ApiServer,
        rancher: Rancher,
        proxies: dict[str, FaultProxy],
        receiver: Receiver,
    ) -> None:
        self.prometheus = prometheus
        self.rancher = rancher
        self.admin = rancher.admin
        self.proxies = proxies
        self.receiver = receiver
        self.daemons: dict[str, Daemon] = {}
        self._folder = folder
        self._apiserver = apiserver
        self._clusters: dict[str, str] = {}

    # -- daemons

    def start(
        self, name: str, *, lease: tuple[str, str] | None = None, cluster: str = ""
    ) -> Daemon:
        """Starts a daemon, in the place of one that ended if there was one.

        Args:
            name: Of the daemon: its folder, its `instance`, and its proxy if it has one.
            lease: Namespace and name, for one that stands for election.
            cluster: Label of its target.
        """
        folder = self.folder(name)
        folder.mkdir(exist_ok=True)
        daemon = Daemon(folder, self._kubeconfig(name, folder), self.config(name, lease))
        self.daemons[name] = daemon
        self._clusters[name] = cluster
        self._scrape()
        return daemon

    def end(self, name: str) -> None:
        """Stops a daemon; Prometheus goes on scraping it."""
        daemon = self.daemons[name]
        daemon.signal(signal.SIGCONT)
        assert daemon.stop() == 0, daemon.log()[-3000:]

    def reload(self, name: str, config: str | None = None, top_level: str = TOP_LEVEL) -> None:
        """Puts another configuration in place, None for the right one, and sends SIGHUP."""
        right = self.config(name, None) if config is None else config
        self.daemons[name].configure(right, top_level)
        self.daemons[name].signal(signal.SIGHUP)

    def command(self, name: str, command: Any, exporter: str) -> None:
        """Commands an exporter over the control socket."""
        socket = self.folder(name) / "control.sock"
        answer = ask([str(socket)], Request(command, exporter), timeout_s=20)
        assert answer.ok, answer

    def pause(self, name: str, for_s: float) -> None:
        """The daemon stands still for so long, as on a machine with too little CPU."""
        self.daemons[name].signal(signal.SIGSTOP)
        time.sleep(for_s)
        self.daemons[name].signal(signal.SIGCONT)

    def folder(self, name: str) -> Path:
        """Where a daemon has its configuration, its state and its socket."""
        return self._folder / name

    def config(self, name: str, lease: tuple[str, str] | None = None) -> str:
        """The right configuration of a daemon."""
        config = _COMMON + _FOLDER.format(folder=self.folder(name))
        if name == "main":
            config += _MAIN.format(url=self.receiver.url)
        if lease is not None:
            config = _ELECTION.format(namespace=lease[0], name=lease[1]) + config
        return config

    # -- inside

    def _kubeconfig(self, name: str, folder: Path) -> Path:
        path = self._apiserver.kubeconfig(folder / "kubeconfig")
        proxy = self.proxies.get(name)
        if proxy is not None:
            document = json.loads(path.read_text())
            document["clusters"][0]["cluster"] = proxy.cluster()
            path.write_text(json.dumps(document))
        return path

    def _scrape(self) -> None:
        targets: list[Target] = [
            {
                "targets": [f"127.0.0.1:{daemon.port}"],
                "labels": {"instance": name, "cluster": self._clusters[name]},
            }
            for name, daemon in self.daemons.items()
        ]
        self.prometheus.scrape(targets)

    def close(self) -> None:
        """Ends every daemon."""
        for name, daemon in self.daemons.items():
            if daemon.process.poll() is None:
                self.end(name)


@contextmanager
def set_up(
    program: Path,
    apiserver: ApiServer,
    admin: Admin,
    folder: Path,
    *,
    by: int,
    proxied: tuple[str, ...],
) -> Iterator[Stage]:
    """A stage without daemons yet.

    Args:
        program: The Prometheus server.
        apiserver: Gets a fleet, which goes with the block.
        admin: Writes to it.
        folder: For everything; its path must be short, for sockets, and its disk fast.
        by: What durations of the rules are divided by.
        proxied: Names of daemons that are to be behind a proxy.
    """
    (job,) = read_yaml(MONITORING / "prometheus.yml")["scrape_configs"]
    del job["static_configs"]
    (folder / "prometheus").mkdir()
    with (
        _changing_fleet(admin) as rancher,
        start_blocking_portal() as portal,
        portal.wrap_async_context_manager(receiving()) as receiver,
        _proxies(apiserver, folder, proxied) as proxies,
        Prometheus(program, folder / "prometheus", scaled(RULES.read_text(), by), job) as server,
    ):
        stage = Stage(folder, server, apiserver, rancher, proxies, receiver)
        try:
            yield stage
        finally:
            stage.close()


@contextmanager
def _changing_fleet(admin: Admin) -> Iterator[Rancher]:
    number = count()

    def change() -> None:
        changed = {"metadata": {"annotations": {"changed": str(turn := next(number))}}}
        admin.patch(CHANGING[turn % len(CHANGING)], changed)

    with (
        Rancher.built(admin, clusters=CLUSTERS_WANTED, nodes=1) as rancher,
        repeating(change, every_s=1 / CHANGES_PER_S),
    ):
        yield rancher


@contextmanager
def _proxies(
    apiserver: ApiServer, folder: Path, names: tuple[str, ...]
) -> Iterator[dict[str, FaultProxy]]:
    with ExitStack() as stack:
        made = {}
        for name in names:
            (folder / f"proxy-{name}").mkdir()
            proxy = FaultProxy(apiserver.url, apiserver.ca_file, folder / f"proxy-{name}")
            made[name] = stack.enter_context(proxy.running())
        yield made
