"""Who survives what: each attack alone against telemetryd and its peers, each in a new process.

`make siege-peers` prints the table of docs/faults.md. All of them serve TLS on loopback within
the same memory limit, and none asks for credentials.
"""

import contextlib
import json
import shutil
import ssl
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeAlias

from tests.apiserver.versions import find_assets
from tests.siege.attacks import ATTACKERS, attacking
from tests.siege.cage import Cage, caged
from tests.siege.probes import Prober, Sampler, Series, Server, milliseconds
from tests.siege.run import LIMIT_BYTES
from tests.siege.stage import Stage, api_server
from tests.support.certificates import Authority, Pair
from tests.support.daemon import free_port
from tests.support.gobuild import cache
from tests.support.sink import receiving

SCENES: Final[Mapping[str, Mapping[str, int]]] = {
    "600 slow requests, byte by byte": {"slow": 600},
    "600 idle TLS handshakes": {"handshakes": 600},
    "500 unfinished requests of 61 header lines of 8 kB": {"headers": 500},
    "600 busy connections": {"busy": 600},
    "1,200 connections: 600 slow, 600 busy": {"slow": 600, "busy": 600},
    "50 senders of random bytes": {"garbage": 50},
}
_NODE_EXPORTER = "prometheus-node-exporter"
_START_S = 60.0
_MIB = 2**20

Started: TypeAlias = "AbstractContextManager[tuple[subprocess.Popen[bytes], Server]]"


@dataclass(frozen=True, slots=True)
class Peer:
    """Something that serves HTTP.

    Attributes:
        path: What its probe asks for.
        start: Starts it in a cage.
    """

    name: str
    path: str
    start: Callable[[Cage], Started]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one attack did to one peer."""

    answered: int
    asked: int
    ratio: float
    before_mib: float
    most_mib: float
    is_killed: bool

    def render(self) -> str:
        """One cell of the table."""
        memory = f"{self.before_mib:.0f} to {self.most_mib:.0f} MiB"
        if self.is_killed:
            return f"**killed** at {self.most_mib:.0f} MiB; {self.answered}/{self.asked}"
        ratio = f"{self.ratio:.1f} times" if self.answered else "-"
        return f"{self.answered}/{self.asked}, {ratio}, {memory}"


def attack(peer: Peer, numbers: Mapping[str, int], quiet_s: float, attack_s: float) -> Outcome:
    """One attack on a new process."""
    with caged(LIMIT_BYTES) as cage, peer.start(cage) as (process, server):
        series = [
            Series("own", lambda: server.ask(peer.path)),
            Series("beside", lambda: server.ask(peer.path, source=ATTACKERS)),
        ]
        prober, sampler = Prober(series), Sampler(process.pid, server.port)
        with prober.running(), sampler.running():
            begin_s = time.monotonic()
            time.sleep(quiet_s)
            attack_at_s = time.monotonic()
            with attacking(server, numbers), contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(attack_s)
            end_s = time.monotonic()
        ended = process.poll()
        before = [each for asked in prober.between(begin_s, attack_at_s).values() for each in asked]
        during = [each for asked in prober.between(attack_at_s, end_s).values() for each in asked]
        quiet = [each.rss_bytes for each in sampler.between(begin_s, attack_at_s)]
        busy = [each.rss_bytes for each in sampler.between(attack_at_s, end_s)]
        middle = milliseconds(before)[0]
        # A peer that ends by itself, or is over a limit that nothing enforces, counts as killed.
        killed = bool(cage.kills()) or ended is not None or max(busy, default=0) > LIMIT_BYTES
        return Outcome(
            answered=sum(each.is_answered for each in during),
            asked=len(during),
            ratio=milliseconds(during)[0] / middle if middle else 0.0,
            before_mib=max(quiet, default=0) / _MIB,
            most_mib=max(busy, default=0) / _MIB,
            is_killed=killed,
        )


@contextlib.contextmanager
def _running(
    command: list[str], cage: Cage, server: Server, path: str
) -> Iterator[tuple[subprocess.Popen[bytes], Server]]:
    with subprocess.Popen(
        [*cage.under, *command],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as process:
        try:
            deadline = time.monotonic() + _START_S
            while not server.ask(path).is_answered:
                if process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError(f"{command[0]} does not answer; ended: {process.poll()}")
                time.sleep(0.1)
            yield process, server
        finally:
            process.kill()


def find_node_exporter() -> Path:
    """Debian's program, from its package; its service is not started.

    Raises:
        RuntimeError: It can't be had.
    """
    found = shutil.which(_NODE_EXPORTER)
    if found is not None:
        return Path(found)
    folder = cache() / _NODE_EXPORTER
    program = folder / "usr/bin" / _NODE_EXPORTER
    if not program.exists():
        folder.mkdir(parents=True, exist_ok=True)
        download = f"apt-get download -q {_NODE_EXPORTER} && dpkg-deb -x {_NODE_EXPORTER}_*.deb ."
        done = subprocess.run(download, shell=True, cwd=folder, check=False)
        if done.returncode:
            raise RuntimeError("no node_exporter: install Debian's prometheus-node-exporter")
    return program


def _node_exporter(folder: Path, authority: Authority, pair: Pair) -> Peer:
    program = find_node_exporter()
    web = folder / "web.yml"
    files = {"cert_file": str(pair.cert), "key_file": str(pair.key)}
    web.write_text(json.dumps({"tls_server_config": files}))  # JSON is YAML
    version = subprocess.run([program, "--version"], capture_output=True, text=True, check=True)
    number = (version.stdout + version.stderr).split("version ")[1].split()[0]

    def start(cage: Cage) -> Started:
        port = free_port()
        command = [str(program), f"--web.listen-address=127.0.0.1:{port}"]
        server = Server(port, ssl.create_default_context(cafile=authority.ca))
        return _running([*command, f"--web.config.file={web}"], cage, server, "/")

    return Peer(f"node_exporter {number}", "/", start)


def plain(authority: Authority, pair: Pair) -> Peer:
    """An aiohttp server."""

    def start(cage: Cage) -> Started:
        port = free_port()
        command = [sys.executable, "-m", "tests.siege.plain", str(port)]
        server = Server(port, ssl.create_default_context(cafile=authority.ca))
        return _running([*command, str(pair.cert), str(pair.key)], cage, server, "/livez")

    return Peer("aiohttp, every default", "/livez", start)


def _telemetryd(stage: Stage) -> Peer:
    @contextlib.contextmanager
    def start(cage: Cage) -> Iterator[tuple[subprocess.Popen[bytes], Server]]:
        with stage.daemon(cage) as (daemon, server):
            daemon.wait_for("readiness", lambda: server.ask("/readyz").is_answered, _START_S)
            yield daemon.process, server

    return Peer("telemetryd", "/livez", start)


def compare(quiet_s: float, attack_s: float, tell: Callable[[str], None]) -> str:
    """The whole table, as Markdown.

    Raises:
        RuntimeError: A peer can't be had.
    """
    assets = find_assets()
    if assets is None:
        raise RuntimeError("no kube-apiserver here: `make apiserver` builds one")
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="telemetryd-peers-")))
        authority = Authority(folder, "peers-ca")
        pair = authority.issue("peers")
        sink = stack.enter_context(receiving())
        api, admin = stack.enter_context(api_server(assets, folder / "apiserver"))
        stage = Stage(api, admin, folder, sink, auth=False)
        peers = [_telemetryd(stage), _node_exporter(folder, authority, pair)]
        peers.append(plain(authority, pair))
        with caged(LIMIT_BYTES) as cage:
            tell(f"memory of each: {cage.describe()}")
        rows = [["attack", *(peer.name for peer in peers)]]
        for scene, numbers in SCENES.items():
            row = [scene]
            for peer in peers:
                cell = attack(peer, numbers, quiet_s, attack_s).render()
                tell(f"{peer.name}: {scene}: {cell}")
                row.append(cell)
            rows.append(row)
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    lines.insert(1, "|" + "---|" * len(rows[0]))
    return "\n".join(lines)
