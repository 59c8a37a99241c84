"""An API server whose login changes, a proxy before it, and the daemon that follows."""

import base64
import json
import shutil
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from itertools import pairwise
from pathlib import Path
from typing import Any, Generic, TypeAlias, TypeVar

from tests.apiserver.admin import Admin
from tests.apiserver.fixtures import core_node, namespace
from tests.apiserver.process import ApiServer
from tests.faults.proxy import FaultProxy
from tests.support.certificates import Authority, Pair
from tests.support.daemon import Daemon
from tests.support.sink import Sink
from tests.system.late import ACCOUNT, make_token
from tests.system.rancher import TARGET_NAMESPACE

BACK_WITHIN_S = 60
USERS = ("one", "two", "three")


class RotatingServer(ApiServer):
    """An API server whose certificate, tokens and clients' CA change from one start to the next.

    Attributes:
        name: What its certificate is for beside 127.0.0.1.
    """

    def __init__(self, assets: Path, folder: Path) -> None:
        super().__init__(assets, folder)
        self.folder = folder
        self.token = "first"
        self.name = "127.0.0.2"
        (folder / "certs").mkdir()
        self.authority = self.clients = Authority(folder, "first")
        self._certify(self.authority.issue("server", also=[self.name]))

    def restart(self, authority: Authority, *, name: str = "127.0.0.2", token: str = "") -> None:
        """Comes back on its port with a certificate of the authority, and another token."""
        self.kill_apiserver()
        self.authority = authority
        self.name = name
        self.token = token or self.token
        self._certify(authority.issue("server", also=[name]))
        self.start_apiserver()

    def start_apiserver(self) -> None:
        users = f"{self.admin_token},admin,1,system:masters\n{self.token},one,2,system:masters\n"
        (self.folder / "tokens.csv").write_text(users)
        super().start_apiserver()

    def admin(self) -> Admin:
        """An all-powerful client of it as it is now."""
        return Admin(self.url, self.admin_token, self.ca_file)

    def _certify(self, pair: Pair) -> None:
        # With the authority at its end the file serves as a CA too.
        chain = pair.cert.read_text() + self.authority.ca.read_text()
        (self.folder / "certs" / "apiserver.crt").write_text(chain)
        shutil.copy(pair.key, self.folder / "certs" / "apiserver.key")
        (self.folder / "clients.crt").write_bytes(self.clients.ca.read_bytes())

    def _apiserver_command(self) -> list[str | Path]:
        return [*super()._apiserver_command(), f"--client-ca-file={self.folder / 'clients.crt'}"]


class Front:
    """A proxy before the session's API server, which stands in for one whose login changes."""

    def __init__(self, apiserver: ApiServer, admin: Admin, proxy: FaultProxy, folder: Path) -> None:
        self._apiserver = apiserver
        self._admin = admin
        self._proxy = proxy
        self._folder = folder
        self.url = proxy.cluster()["server"]
        self.authority = Authority(folder, "first")
        proxy.change_authority(self.authority)
        self.token = make_token(admin)

    def change(self) -> None:
        """Another CA, another certificate, another token; the old one is worth nothing."""
        self._admin.delete(ACCOUNT)
        self.token = make_token(self._admin)
        self.authority = Authority(self._folder, "second")
        self._proxy.change_authority(self.authority)

    def admin(self) -> Admin:
        """An all-powerful client, past the proxy."""
        return Admin(self._apiserver.url, self._apiserver.admin_token, self._apiserver.ca_file)


@contextmanager
def serving(assets: Path, folder: Path) -> Iterator[RotatingServer]:
    """One that runs, with a node, and users who may do everything."""
    server = RotatingServer(assets, folder)
    server.start()
    try:
        admin = server.admin()
        with suppress(Exception):
            admin.create("/api/v1/namespaces", namespace("kube-system"))
        admin.create("/api/v1/namespaces", namespace(TARGET_NAMESPACE))
        admin.create("/apis/rbac.authorization.k8s.io/v1/clusterrolebindings", _binding())
        admin.create("/api/v1/nodes", core_node("sentinel-first"))
        admin.close()
        yield server
    finally:
        server.stop()


def _binding() -> dict[str, Any]:
    return {
        "metadata": {"name": "rotated"},
        "roleRef": {
            "apiGroup": "rbac.authorization.k8s.io",
            "kind": "ClusterRole",
            "name": "cluster-admin",
        },
        "subjects": [{"kind": "User", "name": name} for name in USERS],
    }


class Tunnel:
    """A proxy that knows CONNECT alone, in threads."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self.tunnels = 0
        self._sockets: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self._start(self._accept)

    def close(self) -> None:
        """Ends every tunnel and refuses new ones."""
        for end in (self._listener, *self._sockets):
            _shut(end)
        for thread in self._threads:
            thread.join(30)
        self._listener.close()

    def _start(self, work: Callable[..., None], *sockets: socket.socket) -> threading.Thread:
        thread = threading.Thread(target=work, args=sockets, daemon=True)
        self._threads.append(thread)
        thread.start()
        return thread

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                self._start(self._serve, self._listener.accept()[0])

    def _serve(self, near: socket.socket) -> None:
        self._sockets.append(near)
        with near, suppress(OSError, IndexError, ValueError):
            head = b""
            while b"\r\n\r\n" not in head:
                head += near.recv(4096) or b"\r\n\r\n"
            host, _, port = head.split()[1].decode().rpartition(":")
            with socket.create_connection((host, int(port)), timeout=30) as far:
                far.settimeout(None)
                self._sockets.append(far)
                near.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
                self.tunnels += 1
                back = self._start(self._pass, far, near)
                self._pass(near, far)
                back.join(30)

    def _pass(self, source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                sink.sendall(data)
        _shut(source)
        _shut(sink)


def _shut(end: socket.socket) -> None:
    with suppress(OSError):
        end.shutdown(socket.SHUT_RDWR)


S = TypeVar("S", bound=RotatingServer | Front)


class Running(Generic[S]):
    """The server, the daemon, and the login that the daemon has."""

    def __init__(self, server: S, folder: Path, sink: Sink) -> None:
        self.server = server
        self.folder = folder
        self.sink = sink
        self.kubeconfig = folder / "kubeconfig"
        self.cluster: dict[str, Any] = {"server": server.url, **self.ca()}
        self.user: dict[str, Any] = {"token": server.token}
        self.nodes = 0
        self.write()
        self.daemon: Daemon

    def ca(self) -> dict[str, str]:
        """The server's authority, inline."""
        return {"certificate-authority-data": inline(self.server.authority.ca)}

    def write(self) -> None:
        """Puts a kubeconfig of the present login in the place of the one before."""
        write_kubeconfig(self.kubeconfig, self.cluster, self.user)

    def wait_for_loss(self) -> None:
        """Returns once a request of the daemon has failed; watches may still be open."""
        self.daemon.wait_for("the loss", lambda: not self._is_served(), 120)

    def check_contact(self) -> None:
        """Contact is back in time, and what happens from then on is exported once."""
        self.daemon.wait_for("contact", self._is_back, BACK_WITHIN_S)
        self.add_node()

    def _is_served(self) -> bool:
        return self.daemon.exporter("scc")["state"] not in {"backoff", "failed"}

    def _is_back(self) -> bool:
        problem = self.daemon.status()["login_problem"]
        return self._is_served() and self.is_read() and not problem

    def is_read(self) -> bool:
        """Whether no informer has an error."""
        return not any(informer["last_error"] for informer in self.daemon.status()["informers"])

    def add_node(self) -> None:
        """Creates a node, and waits until it was exported; no content is exported twice."""
        before = len(self.sink.posts())
        admin = self.server.admin()
        try:
            admin.create("/api/v1/nodes", core_node(f"sentinel-r-{self.nodes}"))
        finally:
            admin.close()
        self.nodes += 1
        self.daemon.wait_for("the export", lambda: len(self.sink.posts()) > before, BACK_WITHIN_S)
        time.sleep(2)  # two more slots
        posts = self.sink.posts()
        assert len({post.sequence for post in posts}) == len(posts), "nothing is exported twice"
        assert all(one.digest != two.digest for one, two in pairwise(posts)), (
            "nor what didn't change"
        )


Rotating: TypeAlias = Running[RotatingServer]


def write_kubeconfig(path: Path, cluster: dict[str, Any], user: dict[str, Any]) -> None:
    """Puts a kubeconfig in place by a rename."""
    document = {
        "current-context": "it",
        "contexts": [{"name": "it", "context": {"cluster": "it", "user": "it"}}],
        "clusters": [{"name": "it", "cluster": cluster}],
        "users": [{"name": "it", "user": user}],
    }
    new = path.with_suffix(".new")
    new.write_text(json.dumps(document))
    new.rename(path)


def inline(file: Path) -> str:
    return base64.b64encode(file.read_bytes()).decode()
