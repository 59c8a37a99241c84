"""What stands around the daemon: API server, Rancher, tenant, receiver; and the daemon itself."""

import contextlib
import json
import ssl
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from telemetryd.history.slots import DAY_S, HOUR_S, MINUTE_S, Moment, piece
from telemetryd.history.sqlite import open_store, read_store
from tests.apiserver.admin import Admin, AdminError, Object
from tests.apiserver.crds import SECRET_REQUESTS, collection, install_crds
from tests.apiserver.process import ApiServer
from tests.deploy.installed import ensure_namespace
from tests.siege.cage import Cage
from tests.siege.probes import Server
from tests.siege.swelling import SWOLLEN
from tests.support.certificates import Authority
from tests.support.daemon import Daemon
from tests.support.sink import Sink
from tests.system.account import RANCHER, SECRET, make_account
from tests.system.rancher import INSTALL_UUID, Rancher
from tests.system.scc import NAMESPACE, REQUEST, SERVED, Scc

CLUSTERS, NODES = 10, 20
EXPORTERS: Final = {"scc": 1, "receiver": 3}
"""Those that are configured, and seconds between two slots."""
PAST_S: Final = 365 * DAY_S
"""Of the history that is there at the start."""
TEXT_BYTES: Final = 1_000_000
_QUOTA_BYTES = 8 * 2**30
_MONITORING = "monitoring"
_START_S = 60.0

_RULES: list[Any] = [
    *RANCHER,
    {"apiGroups": [""], "resources": ["namespaces"], "verbs": ["get"]},
    {
        "apiGroups": [""],
        **SECRET,
        "resourceNames": ["rancher-scc-metrics"],
    },
    {
        "apiGroups": ["telemetry.cattle.io"],
        "resources": ["secretrequests"],
        "verbs": ["get", "list", "watch"],
    },
    {
        "apiGroups": ["telemetry.cattle.io"],
        "resources": ["secretrequests/status"],
        "verbs": ["update", "patch"],
    },
    {
        "apiGroups": ["authentication.k8s.io"],
        "resources": ["tokenreviews"],
        "verbs": ["create"],
    },
    {
        "apiGroups": ["authorization.k8s.io"],
        "resources": ["subjectaccessreviews"],
        "verbs": ["create"],
    },
]

_CONFIG = """
tls_cert_file = "{cert}"
tls_key_file = "{key}"
kubernetes_auth = {auth}

[identity]
git_hash = "0123456789abcdef0123456789abcdef01234567"

[secret_requests]
interval = "5s"

[[exporters]]
name = "scc"
type = "secret"
interval = "{scc_s}s"
timeout = "900ms"

[[exporters]]
name = "receiver"
type = "http"
url = "{url}"
interval = "{delivery_s}s"
timeout = "2500ms"
max_silence = "1s"
splay_max = "0s"
"""


@contextlib.contextmanager
def api_server(assets: Path, folder: Path) -> Iterator[tuple[ApiServer, Admin]]:
    """A server with a Rancher and scc-operator's request, until left."""
    folder.mkdir()
    server = ApiServer(assets, folder, etcd_flags=[f"--quota-backend-bytes={_QUOTA_BYTES}"])
    with contextlib.ExitStack() as stack:
        stack.callback(server.stop)
        server.start()
        admin = Admin(server.url, server.admin_token, server.ca_file)
        stack.callback(admin.close)
        install_crds(admin)
        Rancher(admin).build(clusters=CLUSTERS, nodes=NODES)
        scc = Scc(admin)
        scc.namespace(NAMESPACE)
        scc.ask()
        yield server, admin


class Stage:
    """The daemon with TLS and `kubernetes_auth`, as an account with just the rights it needs.

    Args:
        server: Its API server.
        admin: An all-powerful client of that.
        folder: For its files.
        sink: What it delivers to.
        cluster: What its kubeconfig names in the server's place, such as a proxy.
        auth: Whether tokens are asked for.
    """

    def __init__(
        self,
        server: ApiServer,
        admin: Admin,
        folder: Path,
        sink: Sink,
        cluster: Mapping[str, str] | None = None,
        *,
        auth: bool = True,
    ) -> None:
        self.admin = admin
        self._folder = folder
        self._kubeconfig = make_account(server, admin, folder, _RULES)
        if cluster is not None:
            document = json.loads(self._kubeconfig.read_text())
            document["clusters"][0]["cluster"] = cluster
            self._kubeconfig.write_text(json.dumps(document))
        authority = Authority(folder)
        pair = authority.issue("server")
        self.context = ssl.create_default_context(cafile=authority.ca)
        self._config = _CONFIG.format(
            cert=pair.cert,
            key=pair.key,
            auth=str(auth).lower(),
            url=sink.url("siege"),
            scc_s=EXPORTERS["scc"],
            delivery_s=EXPORTERS["receiver"],
        )
        self._allow_scrapes()
        self._fill_history()

    @contextlib.contextmanager
    def daemon(self, cage: Cage) -> Iterator[tuple[Daemon, Server]]:
        """A running one, as soon as its port is open."""
        top = 'log_level = "info"\nlog_format = "json"\n'
        daemon = Daemon(
            self._folder, self._kubeconfig, self._config, top, under=cage.under, fresh=True
        )
        server = Server(daemon.port, self.context)
        try:
            daemon.wait_for("livez", lambda: server.ask("/livez").is_answered, _START_S)
            yield daemon, server
        finally:
            daemon.process.terminate()
            with contextlib.suppress(Exception):
                daemon.process.wait(25)
            daemon.process.kill()
            daemon.process.wait()

    @property
    def control_socket(self) -> Path:
        """Where `telemetryd ctl` finds it."""
        return self._folder / "control.sock"

    def token(self) -> str:
        """A new token of the account that may scrape."""
        path = f"/api/v1/namespaces/{_MONITORING}/serviceaccounts/prometheus/token"
        spec: Object = {"expirationSeconds": 3600}
        request = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": spec}
        token: str = self.admin.create(path, request)["status"]["token"]
        return token

    def is_operator_served(self) -> bool:
        """Whether scc-operator's request is done and its Secret holds a payload."""
        scc = Scc(self.admin)
        return scc.conditions(REQUEST) == SERVED and bool(scc.payload())

    def history_faults(self, begin: float, end: float) -> list[str]:
        """What is wrong with the minutes between two moments; call it when the daemon has ended."""
        with contextlib.closing(read_store(self._folder)) as store:
            minutes = store.read(INSTALL_UUID, MINUTE_S, begin - HOUR_S, end)
            hours = store.read(INSTALL_UUID, HOUR_S, begin - HOUR_S, end)
        known = {slot.start: slot.known_s for slot in minutes}
        wanted = range(
            -int(-begin // MINUTE_S) * MINUTE_S, int(end // MINUTE_S) * MINUTE_S, MINUTE_S
        )
        lost = [
            f"the minute {start} is known for {known.get(start, 0.0):.1f} s"
            for start in wanted
            if known.get(start, 0.0) < MINUTE_S - 0.1
        ]
        twice = [
            f"the hour {hour.start} is known for {hour.known_s:.1f} s, its minutes for {each_s:.1f}"
            for hour in hours
            if any(start // HOUR_S * HOUR_S == hour.start for start in wanted)
            and abs(hour.known_s - (each_s := _known_s(known, hour.start))) > 0.1
        ]
        return [*lost, *twice, *([] if wanted else ["no minute passed"])]

    def _fill_history(self) -> None:
        """A year of hours, up to yesterday's last."""
        until = int(time.time() // DAY_S) * DAY_S
        moment = Moment({"nodes.entitled": 180, "nodes.all": 200}, complete=True)
        with contextlib.closing(open_store(self._folder, now=time.time)) as store:
            store.merge(
                (INSTALL_UUID, piece(size_s, start, float(size_s), moment))
                for size_s in (HOUR_S, DAY_S)
                for start in range(until - PAST_S, until, size_s)
            )

    def _allow_scrapes(self) -> None:
        ensure_namespace(self.admin, _MONITORING)
        rbac = "/apis/rbac.authorization.k8s.io/v1"
        role = {
            "metadata": {"name": "scrapes"},
            "rules": [{"nonResourceURLs": ["/metrics", "/history*"], "verbs": ["get"]}],
        }
        binding = {
            "metadata": {"name": "scrapes"},
            "roleRef": {
                "apiGroup": "rbac.authorization.k8s.io",
                "kind": "ClusterRole",
                "name": "scrapes",
            },
            "subjects": [
                {"kind": "ServiceAccount", "namespace": _MONITORING, "name": "prometheus"}
            ],
        }
        accounts = f"/api/v1/namespaces/{_MONITORING}/serviceaccounts"
        self.admin.create(accounts, {"metadata": {"name": "prometheus"}})
        self.admin.create(f"{rbac}/clusterroles", role)
        self.admin.create(f"{rbac}/clusterrolebindings", binding)


def _known_s(minutes: Mapping[int, float], hour: int) -> float:
    return sum(known for start, known in minutes.items() if hour <= start < hour + HOUR_S)


@dataclass(slots=True)
class Tenant:
    """A user who may create SecretRequests, and creates thousands.

    Attributes:
        number: How many, of which the first `large` hold their megabyte in the API server too.
        created: So many of them are there.
        errors: What the API server refused, at most a few.
    """

    admin: Admin
    number: int
    large: int
    per_s: float
    created: int = 0
    errors: list[str] = field(default_factory=list)
    _over: threading.Event = field(default_factory=threading.Event)

    @contextlib.contextmanager
    def running(self) -> Iterator["Tenant"]:
        """Creates them, at most so many a second, until all are there or it is left."""
        thread = threading.Thread(target=self._run)
        thread.start()
        try:
            yield self
        finally:
            self._over.set()
            thread.join()

    def _run(self) -> None:
        begin_s = time.monotonic()
        path = collection(SECRET_REQUESTS)
        with ThreadPoolExecutor(4) as pool:
            pending = []
            for number in range(self.number):
                late_s = begin_s + number / self.per_s - time.monotonic()
                if self._over.wait(max(0.0, late_s)):
                    break
                body = request_of(number, large=number < self.large)
                pending.append(pool.submit(self._create, path, body))

    def _create(self, path: str, body: bytes) -> None:
        if self._over.is_set():
            return
        try:
            self.admin.create_raw(path, body)
        except (AdminError, OSError) as error:
            if len(self.errors) < 5:
                self.errors.append(str(error)[:200])
        else:
            self.created += 1


def request_of(number: int, *, large: bool) -> bytes:
    """A SecretRequest; every fourth one is valid but for what it is not entitled to."""
    text = "t" * TEXT_BYTES
    targets: Sequence[dict[str, str]] = (
        {"namespace": NAMESPACE, "name": f"of-tenant-{number}"},
        {"namespace": "of-tenant", "name": "any"},
        {"namespace": "kube-system", "name": "bootstrap"},
        {"namespace": "", "name": ""},
    )
    document = {
        "apiVersion": "telemetry.cattle.io/v1",
        "kind": "SecretRequest",
        "metadata": {"name": f"large-{number}" if large else f"{SWOLLEN}{number}"},
        "spec": {
            "note": "",
            "secretType": text if large else "scc",
            "targetSecretRef": targets[number % len(targets)],
        },
    }
    return json.dumps(document).encode()
