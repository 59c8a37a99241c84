"""Two replicas that share a Lease, of which one stops itself in the middle of a write.

Each is behind a proxy of its own, which can have one write refused: it passes it on with a token
that the API server doesn't know. By then the token file holds another, with which it is retried.
"""

import json
import secrets
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from aiohttp import web

from tests.apiserver.admin import Admin
from tests.apiserver.process import ApiServer
from tests.faults.proxy import Exchange, FaultProxy, Rule
from tests.system.daemon import TOP_LEVEL, Daemon
from tests.system.replicas import ELECTION

WITHIN_S = 90
FREEZER = Path(__file__).parent / "freezing"
_NAME = "late-writer"
ACCOUNT = f"/api/v1/namespaces/kube-system/serviceaccounts/{_NAME}"
"""Whose tokens `make_token` makes; they are worth nothing once it is gone."""
_RBAC = "/apis/rbac.authorization.k8s.io/v1"


class Replica:
    """One of two daemons, which can be stopped at a point of a write."""

    def __init__(
        self, folder: Path, apiserver: ApiServer, line: FaultProxy, config: str, top_level: str
    ) -> None:
        self.folder = folder
        self._line = line
        self._refusals: list[Rule] = []
        self._token = folder / "token"
        self._token.write_text(apiserver.admin_token)
        kubeconfig = apiserver.kubeconfig(folder / "kubeconfig")
        document = json.loads(kubeconfig.read_text())
        document["clusters"][0]["cluster"] = line.cluster()
        document["users"][0]["user"] = {"tokenFile": str(self._token)}
        kubeconfig.write_text(json.dumps(document))
        self.daemon = Daemon(
            folder,
            kubeconfig,
            ELECTION + config,
            top_level,
            environ={
                "HOSTNAME": folder.name,
                "PYTHONPATH": str(FREEZER),
                "FREEZING": str(folder),
            },
        )

    def leading(self) -> bool:
        code, body = self.daemon.get("/status.json")
        return code == 200 and json.loads(body)["leader"]["leading"]

    def epoch(self) -> int:
        return int(self.daemon.status()["leader"]["epoch"])

    def refuse_next(self, method: str, resource: str, next_token: str) -> None:
        """Have the next such request answered 401; from then on the file holds that token."""

        async def pass_on_unknown(exchange: Exchange) -> web.StreamResponse:
            self._token.write_text(next_token)
            unknown = {"Authorization": f"Bearer {secrets.token_hex(16)}"}
            headers = {**exchange.request.headers, **unknown}
            exchange.request = exchange.request.clone(headers=headers)
            answer = await exchange.proxy.pass_on(exchange)
            assert answer.status == 401
            return answer

        self._refusals.append(self._line.rule(resource, method, pass_on_unknown, times=1))

    def arm(self, words: str, *, when: str, skip: int = 0) -> None:
        """Have it stop at the next request whose body has these words; so many go before."""
        new = self.folder / "new"
        new.write_text(json.dumps({"words": words, "when": when, "skip": skip}))
        new.rename(self.folder / "armed")

    def frozen(self) -> bool:
        return (self.folder / "frozen").exists()

    def go_on(self) -> None:
        """Let it go on, and wait until its late bytes have left and it knows it isn't leader."""
        assert all(rule.met for rule in self._refusals)
        self.daemon.signal(signal.SIGCONT)
        self.daemon.wait_for("late bytes", (self.folder / "sent").exists, WITHIN_S)
        self.daemon.wait_for("the end of its term", lambda: not self.leading(), WITHIN_S)


class Pair:
    """Both of them."""

    def __init__(self, replicas: list[Replica]) -> None:
        self.replicas = replicas

    def leader(self) -> Replica:
        for replica in self.replicas:
            replica.daemon.wait_for("readiness", replica.daemon.ready, WITHIN_S)
        found: Replica = until(
            "a leader", lambda: next(filter(Replica.leading, self.replicas), None)
        )
        return found

    def freeze(
        self, leader: Replica, words: str, begin: Callable[[], object], *, when: str, skip: int = 0
    ) -> Replica:
        """Stop the leader at that point, and wait for the other to lead.

        Returns:
            The other.
        """
        leader.arm(words, when=when, skip=skip)
        begin()
        leader.daemon.wait_for("its stop", leader.frozen, WITHIN_S)
        (other,) = (each for each in self.replicas if each is not leader)
        other.daemon.wait_for("the next leader", other.leading, WITHIN_S)
        return other


@contextmanager
def running(
    folder: Path, apiserver: ApiServer, config: str, top_level: str = TOP_LEVEL
) -> Iterator[Pair]:
    """Both of them, which must end well."""
    replicas = []
    with ExitStack() as lines:
        for name in ("one", "two"):
            own = folder / name
            own.mkdir()
            proxy = FaultProxy(apiserver.url, apiserver.ca_file, own)
            line = lines.enter_context(proxy.running())
            replicas.append(Replica(own, apiserver, line, config, top_level))
        try:
            yield Pair(replicas)
        finally:
            for replica in replicas:
                replica.daemon.signal(signal.SIGCONT)
            statuses = [replica.daemon.stop() for replica in replicas]
    assert statuses == [0, 0]


def make_token(admin: Admin) -> str:
    """Another token that may do everything."""
    binding = {
        "metadata": {"name": _NAME},
        "roleRef": {
            "apiGroup": "rbac.authorization.k8s.io",
            "kind": "ClusterRole",
            "name": "cluster-admin",
        },
        "subjects": [{"kind": "ServiceAccount", "namespace": "kube-system", "name": _NAME}],
    }
    admin.apply(ACCOUNT, _object("v1", "ServiceAccount"), manager="test")
    kind = _object("rbac.authorization.k8s.io/v1", "ClusterRoleBinding")
    path = f"{_RBAC}/clusterrolebindings/{_NAME}"
    admin.apply(path, {**binding, **kind}, manager="test")
    request = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}}
    return str(admin.create(f"{ACCOUNT}/token", request)["status"]["token"])


def _object(version: str, kind: str) -> dict[str, Any]:
    return {"apiVersion": version, "kind": kind, "metadata": {"name": _NAME}}


class Receiver:
    """Follows the rule of docs/delivery.md: what is lower than what it has is refused."""

    def __init__(self) -> None:
        self.url = ""
        self.held = (-1, -1)
        self.taken: list[tuple[int, int]] = []
        self.refused: list[tuple[int, int]] = []
        self.unauthorized = 0
        self.lock = threading.Lock()

    def judge(self, pair: tuple[int, int], token: Path) -> int:
        with self.lock:
            if self.unauthorized:
                self.unauthorized -= 1
                token.write_text(str(time.monotonic()))
                return 401
            if pair < self.held:
                self.refused.append(pair)
                return 409
            self.held = pair
            self.taken.append(pair)
            return 204


@contextmanager
def receiving(token: Path) -> Iterator[Receiver]:
    receiver = Receiver()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            pair = tuple(int(self.headers[f"Telemetryd-{name}"]) for name in ("Epoch", "Sequence"))
            self.send_response(receiver.judge((pair[0], pair[1]), token))
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            """The record is the receiver's."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        receiver.url = f"http://127.0.0.1:{server.server_address[1]}/"
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield receiver
        finally:
            server.shutdown()
            thread.join()


def until(what: str, probe: Callable[[], Any]) -> Any:
    deadline_s, pause_s = time.monotonic() + WITHIN_S, 0.05
    while time.monotonic() < deadline_s:
        found = probe()
        if found is not None:
            return found
        time.sleep(pause_s)
        pause_s = min(pause_s * 1.2, 0.3)
    raise AssertionError(f"{what}: waited {WITHIN_S} s")
