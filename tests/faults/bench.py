"""A daemon behind the proxy, and what has to be true of it after each fault.

The faults themselves belong to ``matrix`` and those that add to it.
"""

import json
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from telemetryd.serve.control.client import ask
from telemetryd.serve.control.protocol import Request
from tests.apiserver.admin import Admin
from tests.apiserver.crds import NODES, collection
from tests.apiserver.process import ApiServer
from tests.faults.proxy import COLLECTIONS, FaultProxy
from tests.faults.witness import Witness
from tests.support.daemon import Daemon
from tests.system.account import NAME, NAMESPACE, RANCHER, make_account
from tests.system.rancher import Rancher, facts, recount

CONVERGES_WITHIN_S = 60.0
RSS_AT_MOST_MIB = 160.0
NODES_ID = "nodes.management.cattle.io"
DRAIN_TIMEOUT_S = 2
PAGE_SIZE = 3
"""So that the few nodes make several pages."""

UNWATCHED = frozenset({"projects"})
"""Only SecretRequests need them."""

CONFIG = """
control_socket = "{socket}"

[secret_requests]
enabled = false

[[exporters]]
name = "scc"
type = "secret"
interval = "1s"
quiet_period = "3s"
retry_base = "200ms"
"""
T = TypeVar("T")


@dataclass(slots=True)
class Bench:
    """Everything a fault can be brought to, and everything that shows what came of it."""

    apiserver: ApiServer
    admin: Admin
    rancher: Rancher
    proxy: FaultProxy
    witness: Witness
    daemon: Daemon
    restart: Callable[[bool], Daemon]
    socket: Path
    token_file: Path
    tokens: list[str]
    config: str
    top_level: str
    begin_s: float = 0.0
    touched: set[int] = field(default_factory=set)

    # -- what a fault needs

    def until(self, what: str, probe: Callable[[], T], within_s: float = 20.0) -> T:
        """The first truthy result of the probe."""
        return self.daemon.wait_for(what, probe, within_s)

    def informer(self, resource: str = NODES_ID) -> dict[str, Any]:
        """Its part of the status."""
        return self.daemon.informer(resource)

    def error(self, resource: str = NODES_ID) -> str:
        """What stands in the informer's way."""
        return str(self.informer(resource)["last_error"])

    def node(self, number: int = 0) -> dict[str, Any]:
        """One of the nodes of cluster local, as the next event might bring it."""
        expected = self.admin.get(f"{collection(NODES, 'local')}/sentinel-m-{number}")
        expected["metadata"]["resourceVersion"] = self.informer()["resource_version"]
        return expected

    def lists_begun(self) -> int:
        """Lists of nodes since the fault, but for probes."""
        return sum(
            "continue" not in asked.query and asked.query.get("limit") != "1"
            for asked in self.proxy.asks(self.begin_s, "nodes", "list")
        )

    def watches_asked(self, resource: str = "nodes") -> int:
        """Watches asked for since the fault."""
        return len(self.proxy.asks(self.begin_s, resource, "watch"))

    def until_watched(
        self, resource: str, times: int, within_s: float = 20.0, *, since_s: float | None = None
    ) -> None:
        """Waits until so many watches were asked for since the fault, or since a moment."""
        begin_s = self.begin_s if since_s is None else since_s
        self.until(
            f"{times} watches of {resource}",
            lambda: len(self.proxy.asks(begin_s, resource, "watch")) >= times,
            within_s,
        )

    def asked(self) -> int:
        """Lists and watches of all resources since the fault, page by page."""
        asks = self.proxy.asks(self.begin_s)
        return sum(each.verb in {"list", "watch"} for each in asks)

    def new_token(self) -> str:
        """Another token of the daemon's account; its file is left alone."""
        path = f"/api/v1/namespaces/{NAMESPACE}/serviceaccounts/{NAME}/token"
        # Tokens of one second are the same token.
        body = {"spec": {"expirationSeconds": 3600 + 60 * len(self.tokens)}}
        token = str(self.admin.create(path, body)["status"]["token"])
        self.tokens.append(token)
        return token

    def touch(self) -> None:
        """Adds a node or takes it away again: a change after the fault, for the watch to bring."""
        number = 9000
        if number in self.touched:
            self.touched.remove(number)
            self.rancher.delete_node("local", number)
        else:
            self.touched.add(number)
            self.rancher.add_node("local", number)

    # -- oracles

    def watching(self) -> bool:
        """Whether every informer has its watch, those of the witness too."""
        return all(
            self.proxy.watches(resource, witness=witness)
            for resource in sorted(COLLECTIONS - UNWATCHED)
            for witness in (False, True)
        )

    def settled(self) -> bool:
        """Whether nothing stands in any informer's way, and no node is missing or left over."""
        code, body = self.daemon.get("/status.json")
        if code != 200:
            return False
        informers = {each["resource"]: each for each in json.loads(body)["informers"]}
        held = informers[NODES_ID]["objects"]
        well = all(
            each["synced"] and not each["absent"] and not each["unreadable"]
            for each in informers.values()
        )
        troubled = any(each["last_error"] for each in informers.values())
        return well and not troubled and held == len(self.admin.list(collection(NODES)))

    def check(self) -> None:
        """Each cache equals a fresh quorum list, the Secret the recount; nothing leaked.

        The witness's deltas replay to what it holds, and that is the fresh list too.
        """
        for each in self.daemon.status()["informers"]:
            answer = ask(
                [str(self.socket)], Request("cache", each["resource"], verify=True), timeout_s=30
            )
            assert answer.ok, (each, answer)
        self.until("a true Secret", self._secret_is_true)
        self.until(
            "the witness's agreement",
            lambda: not self.witness.disagreement(self.admin),
            CONVERGES_WITHIN_S,
        )
        log = self.daemon.log()
        assert "Bearer" not in log
        for token in self.tokens:
            assert token not in log
            assert token.rpartition(".")[2] not in log
        assert self.daemon.process.poll() is None
        assert self.rss_mib() <= RSS_AT_MOST_MIB

    def rss_mib(self) -> float:
        """What the daemon holds of the machine's memory."""
        return rss_mib(self.daemon)

    def _secret_is_true(self) -> bool:
        payload = self.rancher.payload()
        return payload is not None and facts(payload) == recount(self.admin)


def rss_mib(daemon: Daemon) -> float:
    """What the daemon holds of the machine's memory."""
    status = Path(f"/proc/{daemon.process.pid}/status").read_text()
    (line,) = (line for line in status.splitlines() if line.startswith("VmRSS:"))
    return int(line.split()[1]) / 1024


@dataclass(frozen=True, slots=True)
class Scenario:
    """One row of the matrix.

    Attributes:
        fault: Brings the fault and waits until what it has to lead to has shown.
        asks_at_most: Lists and watches, of all resources, from the fault until all agrees again.
        lists: Lists of nodes begun meanwhile; None where their number is left to chance.
        quick: Done in about three seconds.
        pages: It is about the pages of a list, so streamed lists are off.
    """

    rows: tuple[int, ...]
    name: str
    fault: Callable[[Bench], None]
    asks_at_most: int
    lists: int | None
    quick: bool
    pages: bool = False


@dataclass(frozen=True, slots=True)
class Result:
    """What a scenario measured."""

    scenario: Scenario
    fault_s: float
    converged_s: float
    asks: int
    rss_mib: float


def play(bench: Bench, scenario: Scenario) -> Result:
    """Brings the fault, heals it, and holds what follows against every oracle."""
    if scenario.lists != 0 or not scenario.quick:
        # Faults that follow on each other are backed off: this one shall be the first.
        bench.daemon = bench.restart(scenario.pages)
    bench.until("agreement beforehand", bench.settled, CONVERGES_WITHIN_S)
    bench.until("its watches", bench.watching, CONVERGES_WITHIN_S)
    bench.begin_s = time.monotonic()
    try:
        scenario.fault(bench)
    finally:
        bench.proxy.heal()
    healed_s = time.monotonic()
    bench.touch()
    bench.until("agreement", bench.settled, CONVERGES_WITHIN_S)
    converged_s = time.monotonic() - healed_s
    asks, lists = bench.asked(), bench.lists_begun()
    bench.check()
    assert asks <= scenario.asks_at_most, bench.proxy.asks(bench.begin_s)
    assert scenario.lists in {None, lists}, bench.proxy.asks(bench.begin_s, "nodes")
    return Result(scenario, healed_s - bench.begin_s, converged_s, asks, bench.rss_mib())


def table(results: list[Result]) -> list[str]:
    """What was measured, a line each."""
    form = "{:>11}  {:<68} {:>8} {:>10} {:>6} {:>8}"
    lines = [form.format("row", "scenario", "fault s", "converge s", "asks", "RSS MiB")]
    for each in sorted(results, key=lambda result: result.scenario.rows):
        rows = ",".join(map(str, each.scenario.rows))
        seconds = f"{each.fault_s:.1f}", f"{each.converged_s:.1f}"
        name = each.scenario.name.replace("_", " ")
        lines += [form.format(rows, name, *seconds, each.asks, f"{each.rss_mib:.0f}")]
    return lines


@contextmanager
def set_up(
    apiserver: ApiServer,
    admin: Admin,
    folder: Path,
    *,
    more: str = "",
    rules: Sequence[Any] = RANCHER,
    log_level: str = "debug",
) -> Iterator[Bench]:
    """A small fleet, a proxy, and a daemon behind it that must end well.

    Args:
        apiserver: What the proxy stands before.
        admin: Past the proxy.
        folder: For configuration, certificates and the log.
        more: Further TOML.
        rules: What the daemon's account may do.
        log_level: Of the daemon.
    """
    rancher = Rancher(admin)
    rancher.build(clusters=3, nodes=3)
    kubeconfig = make_account(apiserver, admin, folder, list(rules))
    document = json.loads(kubeconfig.read_text())
    token = document["users"][0]["user"].pop("token")
    token_file = folder / "token"
    token_file.write_text(token)
    document["users"][0]["user"]["tokenFile"] = str(token_file)
    try:
        with (
            tempfile.TemporaryDirectory(prefix="td-", dir="/tmp") as short,
            FaultProxy(apiserver.url, apiserver.ca_file, folder).running() as proxy,
            ExitStack() as ends,
        ):
            own = folder / "witness-kubeconfig"
            for file, its in ((own, True), (kubeconfig, False)):
                document["clusters"][0]["cluster"] = proxy.cluster(witness=its)
                file.write_text(json.dumps(document))
            witness = ends.enter_context(Witness(own, PAGE_SIZE).running())
            socket = Path(short, "control.sock")
            config = CONFIG.format(socket=socket) + more
            top_level = (
                f'log_level = "{log_level}"\nlog_format = "json"\n'
                f'drain_timeout = "{DRAIN_TIMEOUT_S}s"\n'
            )
            started: list[Daemon] = []

            def restart(pages: bool) -> Daemon:
                if started:
                    assert started[-1].stop() == 0, started[-1].log()[-4000:]
                    witness.restart(pages=pages)
                watch_list = "off" if pages else "auto"
                started.append(
                    Daemon(
                        folder,
                        kubeconfig,
                        config,
                        top_level,
                        kubernetes=f'page_size = {PAGE_SIZE}\nwatch_list = "{watch_list}"',
                        fresh=True,  # its memory has a limit
                    )
                )
                started[-1].wait_for("readiness", started[-1].ready, 90)
                return started[-1]

            try:
                yield Bench(
                    apiserver,
                    admin,
                    rancher,
                    proxy,
                    witness,
                    restart(False),
                    restart,
                    socket,
                    token_file,
                    [token],
                    config,
                    top_level,
                )
            finally:
                proxy.heal()
                status = started[-1].stop() if started else 0
            assert status == 0, started[-1].log()[-4000:]
    finally:
        rancher.clear()
