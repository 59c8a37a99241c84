"""Starts, stops, pauses and compacts one etcd and kube-apiserver pair on loopback.

Everything is synchronous: an async test calls the methods through `anyio.to_thread.run_sync`.
Requests to the API server beyond `/readyz` don't belong here but in `tests.apiserver.admin`.
"""

import contextlib
import dataclasses
import functools
import http.client
import json
import os
import re
import secrets
import signal
import ssl
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from tests.support.processes import free_ports
from tests.support.waiting import until

_POLL_S = 0.05
_REQUEST_TIMEOUT_S = 30.0
_START_TIMEOUT_S = 180.0
_LOG_TAIL_LINES = 30
_FIRST_STREAMS = (1, 34)
_NO_STREAMS = "--feature-gates=WatchList=false"
_GO = {"GOGC": "400", "GOMEMLIMIT": "8GiB"}
"""Memory for time: a server collects its garbage a quarter as often, while there is memory."""

AUDITED_USER = "system:serviceaccount:audited:telemetryd"
DEPLOYED_USER = "system:serviceaccount:cattle-telemetry-system:telemetryd"
"""Every request of these two is in the audit log, and no one else's; the second is `deploy/`'s."""

_AUDIT_POLICY = {
    "apiVersion": "audit.k8s.io/v1",
    "kind": "Policy",
    "rules": [{"level": "Metadata", "users": [AUDITED_USER, DEPLOYED_USER]}, {"level": "None"}],
}

# Kills the server ($1) when our end of the pipe closes without a line, that is when the test
# process died without cleaning up.
_GUARD = 'read -r _ || kill -KILL "$1"'


class ApiServerError(Exception):
    """A server of the pair could not be started or refused an operation."""


@dataclasses.dataclass(frozen=True, slots=True)
class _Server:
    """One running server process and the guard that outlives us to kill it."""

    process: subprocess.Popen[bytes]
    guard: subprocess.Popen[bytes]
    log: Path

    @classmethod
    def start(
        cls, command: Sequence[str | Path], log: Path, is_ready: Callable[[], bool]
    ) -> "_Server":
        """Starts the server and returns once it is ready; otherwise it is killed."""
        with log.open("ab") as output:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**os.environ, **_GO},
                start_new_session=True,
            )
        guard = subprocess.Popen(
            ["/bin/sh", "-c", _GUARD, "guard", str(process.pid)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            start_new_session=True,
        )
        server = cls(process, guard, log)
        try:
            server._wait_until(is_ready)
        except BaseException:
            server.kill()
            raise
        return server

    def _wait_until(self, is_ready: Callable[[], bool]) -> None:
        try:
            until(
                is_ready,
                self.log.stem,
                deadline_s=_START_TIMEOUT_S,
                more=self._last_lines,
                ended=self.process.poll,
            )
        except AssertionError as error:
            raise ApiServerError(str(error)) from None

    def kill(self) -> None:
        """Kills the server and waits until it is gone, then dismisses the guard."""
        self.process.kill()
        self.process.wait()
        self.guard.communicate(b"\n")

    def _last_lines(self) -> str:
        lines = self.log.read_text(errors="replace").splitlines()[-_LOG_TAIL_LINES:]
        return "\n".join(["its log ends with:", *lines])


class ApiServer:
    """An etcd and kube-apiserver pair with RBAC on, in one folder, on fixed free ports.

    The admin token is bound to `system:masters`. There are no controllers: nodes, namespaces,
    ServiceAccounts and their tokens (TokenRequest) are made by the test.

    Args:
        assets: The folder of the two binaries, as `versions.find_assets` returns it.
        folder: An existing empty folder for data, certificates and logs; not removed here.
        etcd_flags: Further flags of etcd, such as a higher quota.
    """

    def __init__(self, assets: Path, folder: Path, *, etcd_flags: Sequence[str] = ()) -> None:
        self._assets = assets
        self._folder = folder
        self._etcd_flags = etcd_flags
        self._flags = os.environ.get("APISERVER_FLAGS", "").split()
        etcd_port, self._peer_port, port = free_ports(3)
        self.url = f"https://127.0.0.1:{port}"
        self.etcd_endpoint = f"http://127.0.0.1:{etcd_port}"
        self.ca_file = folder / "certs" / "apiserver.crt"
        self.admin_token = secrets.token_hex(16)
        self._audited: list[dict[str, Any]] = []
        self._audited_bytes = 0
        self._etcd: _Server | None = None
        self._apiserver: _Server | None = None

    @functools.cached_property
    def version(self) -> tuple[int, int]:
        """Major and minor version of the binary, such as (1, 37)."""
        output = subprocess.run(
            [self._assets / "kube-apiserver", "--version"],
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        match = re.search(r"v(\d+)\.(\d+)", output)
        if match is None:
            raise ApiServerError(f"kube-apiserver --version says {output!r}")
        return int(match[1]), int(match[2])

    @property
    def streams_lists(self) -> bool:
        """Whether it serves lists as streams: from 1.34 on, unless a flag turns that off."""
        return self.version >= _FIRST_STREAMS and _NO_STREAMS not in self._flags

    def audit(self, user: str = AUDITED_USER) -> list[dict[str, Any]]:
        """Returns all events of the user so far: one as a request begins, one at its end."""
        log = self._folder / "audit.log"
        if log.exists():
            with log.open("rb") as file:
                file.seek(self._audited_bytes)
                new = file.read()
            new = new[: new.rfind(b"\n") + 1]  # without the line that it may be writing
            self._audited_bytes += len(new)
            self._audited += map(json.loads, new.splitlines())
        return [event for event in self._audited if event["user"]["username"] == user]

    def start(self) -> None:
        """Starts both and returns once `/readyz` says ok; what started is killed on failure."""
        _write_credentials(self._folder, self.admin_token)
        try:
            self.start_etcd()
            self.start_apiserver()
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Kills both and waits until they are gone; a stopped or half-started pair is fine."""
        self.kill_apiserver()
        self.kill_etcd()

    def start_etcd(self) -> None:
        """Starts etcd on its port and data, unless it runs."""
        if self._etcd is None:
            log = self._folder / "etcd.log"
            self._etcd = _Server.start(self._etcd_command(), log, self._etcd_is_ready)

    def kill_etcd(self) -> None:
        """Kills etcd and waits until it is gone; the data stays."""
        if self._etcd is not None:
            self._etcd.kill()
            self._etcd = None

    def start_apiserver(self) -> None:
        """Starts the API server on its port and waits until it is ready, unless it runs."""
        if self._apiserver is None:
            log = self._folder / "kube-apiserver.log"
            command = self._apiserver_command()
            self._apiserver = _Server.start(command, log, self._apiserver_is_ready)

    def kill_apiserver(self) -> None:
        """Kills the API server and waits until it is gone; etcd runs on."""
        if self._apiserver is not None:
            self._apiserver.kill()
            self._apiserver = None

    def pause(self) -> None:
        """Freezes the API server: its sockets stay open and nothing answers."""
        self._signal_apiserver(signal.SIGSTOP)

    def resume(self) -> None:
        """Undoes `pause`."""
        self._signal_apiserver(signal.SIGCONT)

    def compact(self) -> int:
        """Compacts etcd to its current revision and returns that revision.

        Watches at an older resource version get 410 only once the API server was restarted as
        well: its watch cache remembers. So do continue tokens from 1.34 on; before, they get it at
        once.
        """
        revision = int(self._etcd_call("/v3/maintenance/status", {})["header"]["revision"])
        try:
            self._etcd_call("/v3/kv/compaction", {"revision": revision, "physical": True})
        except ApiServerError as error:
            if "has been compacted" not in str(error):
                raise
        return revision

    def kubeconfig(self, path: Path, token: str | None = None) -> Path:
        """Writes a kubeconfig for the token (the admin's by default) and returns its path."""
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "test",
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
            "clusters": [
                {
                    "name": "test",
                    "cluster": {"server": self.url, "certificate-authority": str(self.ca_file)},
                }
            ],
            "users": [{"name": "test", "user": {"token": token or self.admin_token}}],
        }
        path.write_text(json.dumps(config, indent=2))  # JSON is YAML
        path.chmod(0o600)
        return path

    def _etcd_command(self) -> list[str | Path]:
        peer = f"http://127.0.0.1:{self._peer_port}"
        return [
            self._assets / "etcd",
            f"--data-dir={self._folder / 'etcd'}",
            f"--listen-client-urls={self.etcd_endpoint}",
            f"--advertise-client-urls={self.etcd_endpoint}",
            f"--listen-peer-urls={peer}",
            f"--initial-advertise-peer-urls={peer}",
            f"--initial-cluster=default={peer}",
            "--unsafe-no-fsync",
            *self._etcd_flags,
        ]

    def _apiserver_command(self) -> list[str | Path]:
        return [
            self._assets / "kube-apiserver",
            f"--etcd-servers={self.etcd_endpoint}",
            f"--secure-port={urlsplit(self.url).port}",
            "--bind-address=127.0.0.1",
            "--advertise-address=127.0.0.1",
            f"--cert-dir={self._folder / 'certs'}",
            "--service-account-issuer=https://kubernetes.default.svc",
            f"--service-account-key-file={self._folder / 'sa.pub'}",
            f"--service-account-signing-key-file={self._folder / 'sa.key'}",
            f"--token-auth-file={self._folder / 'tokens.csv'}",
            "--authorization-mode=RBAC",
            "--service-cluster-ip-range=10.0.0.0/24",
            "--disable-admission-plugins=ServiceAccount",
            # From 1.37 on, the usual reconciler refuses to start with a loopback address.
            "--endpoint-reconciler-type=none",
            f"--audit-policy-file={self._folder / 'audit.json'}",
            f"--audit-log-path={self._folder / 'audit.log'}",
            *self._flags,
        ]

    def _etcd_is_ready(self) -> bool:
        return _fetch(self.etcd_endpoint, "GET", "/health")[0] == http.HTTPStatus.OK

    def _apiserver_is_ready(self) -> bool:
        try:
            context = ssl.create_default_context(cafile=self.ca_file)
        except (FileNotFoundError, ssl.SSLError):  # not written yet, or only half
            return False
        headers = {"Authorization": f"Bearer {self.admin_token}"}
        status, body = _fetch(self.url, "GET", "/readyz", headers=headers, context=context)
        return status == http.HTTPStatus.OK and body == b"ok"

    def _signal_apiserver(self, number: signal.Signals) -> None:
        if self._apiserver is None:
            raise ApiServerError("the API server does not run")
        self._apiserver.process.send_signal(number)

    def _etcd_call(self, path: str, body: dict[str, Any]) -> Any:
        status, answer = _fetch(self.etcd_endpoint, "POST", path, body=json.dumps(body))
        if status != http.HTTPStatus.OK:
            raise ApiServerError(f"etcd {path}: {status} {answer.decode(errors='replace')}")
        return json.loads(answer)


def _write_credentials(folder: Path, admin_token: str) -> None:
    """Writes the token file and the key pair that signs ServiceAccount tokens."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    private = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.TraditionalOpenSSL,
        serialization.NoEncryption(),
    )
    public = key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    (folder / "sa.key").write_bytes(private)
    (folder / "sa.pub").write_bytes(public)
    (folder / "audit.json").write_text(json.dumps(_AUDIT_POLICY))  # JSON is YAML
    (folder / "tokens.csv").write_text(f"{admin_token},admin,1,system:masters\n")


def _fetch(
    url: str,
    method: str,
    path: str,
    *,
    body: str | None = None,
    headers: dict[str, str] | None = None,
    context: ssl.SSLContext | None = None,
) -> tuple[int, bytes]:
    """Returns status and body of one request; status 0 where there was no answer."""
    netloc = urlsplit(url).netloc
    connection = (
        http.client.HTTPConnection(netloc, timeout=_REQUEST_TIMEOUT_S)
        if context is None
        else http.client.HTTPSConnection(netloc, timeout=_REQUEST_TIMEOUT_S, context=context)
    )
    with contextlib.closing(connection):
        try:
            connection.request(method, path, body=body, headers=headers or {})
            response = connection.getresponse()
            return response.status, response.read()
        except (OSError, http.client.HTTPException) as error:
            return 0, str(error).encode()
