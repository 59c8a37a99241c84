"""Runs the container of a rendered Deployment as a process, as a kubelet would run it.

It has the rendered arguments and environment, and the rendered volumes at their paths, in a mount
namespace of its own: nothing of it is seen outside. The network is the machine's.
"""

import http.client
import json
import os
import shlex
import signal
import ssl
import subprocess
import sys
import time
from base64 import b64decode
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from tests.apiserver.admin import Admin, Object, Objects
from tests.apiserver.process import ApiServer
from tests.charts.helm import container_of, find, toml_of
from tests.support.processes import whole_lines

ACCOUNT: Final = "/var/run/secrets/kubernetes.io/serviceaccount"

_PATIENCE_S = 120.0
_ROOTS = """set -e
mount -t tmpfs none /run
mkdir /run/etc
cp -a /etc/. /run/etc
mount --bind /run/etc /etc
"""
_PROGRAM: Final = {Path(__file__).parents[2], Path(sys.prefix)}
"""Where telemetryd and its interpreter are, which a volume may hide: `/tmp` is one."""


class Pod:
    """The one container of a Deployment, running.

    Args:
        objects: What was rendered.
        server: The API server that it asks.
        admin: Makes the token of its ServiceAccount, and reads what is not among the objects.
        folder: For its volumes and its log.
    """

    def __init__(self, objects: Objects, server: ApiServer, admin: Admin, folder: Path) -> None:
        self._objects = objects
        self._admin = admin
        self._folder = folder
        self._deployment = find(objects, "Deployment")
        self._spec: Object = self._deployment["spec"]["template"]["spec"]
        self._namespace: str = self._deployment["metadata"]["namespace"]
        self._container = container_of(objects)
        self._log = folder / "log"
        address = urlsplit(server.url)
        environ = {
            "PATH": os.environ["PATH"],
            "KUBERNETES_SERVICE_HOST": str(address.hostname),
            "KUBERNETES_SERVICE_PORT": str(address.port),
            **{each["name"]: each["value"] for each in self._container["env"]},
        }
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                ["unshare", "--mount", "--", "sh", "-c", self._script(server)],
                cwd="/",
                env=environ,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def log(self) -> str:
        """All it has logged so far."""
        return whole_lines(self._log)

    def probe(self, name: str) -> int:
        """The status that a probe gets, as the kubelet asks: it checks no certificate."""
        asked = self._container[name]["httpGet"]
        (port,) = [
            each["containerPort"]
            for each in self._container["ports"]
            if each["name"] == asked["port"]
        ]
        return self.get(asked["path"], int(port), asked["scheme"])[0]

    def get(self, path: str, port: int, scheme: str) -> tuple[int, str]:
        """Status and body of one GET; (0, "") where it does not answer."""
        connection = (
            http.client.HTTPSConnection("127.0.0.1", port, timeout=30, context=_unverified())
            if scheme == "HTTPS"
            else http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        )
        with closing(connection):
            try:
                connection.request("GET", path)
                answer = connection.getresponse()
                return answer.status, answer.read().decode()
            except OSError:
                return 0, ""

    def wait_ready(self) -> None:
        """Until each of its probes succeeds.

        Raises:
            AssertionError: It ended, or is not ready in time; with the end of its log.
        """
        deadline = time.monotonic() + _PATIENCE_S
        for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
            while (status := self.probe(probe)) != http.HTTPStatus.OK:
                ended = self._process.poll()
                assert ended is None, f"ended with {ended}\n{toml_of(self._objects)}{self.log()}"
                assert time.monotonic() < deadline, f"{probe}: {status}\n{self.log()[-6000:]}"
                time.sleep(0.1)

    def stop(self) -> int:
        """Ends it as the kubelet does, and returns its exit status."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
        try:
            return self._process.wait(timeout=_PATIENCE_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
            raise

    def _script(self, server: ApiServer) -> str:
        """Mounts each volume, at `/tmp` last as their contents lie below it, and runs it."""
        mounts = {ACCOUNT: self._account(server)}
        volumes = {volume["name"]: self._volume(volume) for volume in self._spec["volumes"]}
        for mount in self._container["volumeMounts"]:
            mounts[mount["mountPath"]] = volumes[mount["name"]]
        lines = [_ROOTS]
        for number, folder in enumerate(_PROGRAM):
            kept = f"/run/program{number}"
            lines.append(f"mkdir {kept}\nmount --bind {shlex.quote(str(folder))} {kept}\n")
        lines.append("mount -t tmpfs none /var/lib\n")
        for path in sorted(mounts, key=lambda path: (path == "/tmp", path)):
            lines.append(f"mkdir -p {shlex.quote(path)}\n")
            lines.append(f"mount --bind {shlex.quote(str(mounts[path]))} {shlex.quote(path)}\n")
        for number, folder in enumerate(_PROGRAM):
            where = shlex.quote(str(folder))
            lines.append(f"mkdir -p {where}\nmount --bind /run/program{number} {where}\n")
        command = [sys.executable, "-m", "telemetryd", *self._container["args"]]
        return "".join([*lines, f"exec {shlex.join(command)}\n"])

    def _account(self, server: ApiServer) -> Path:
        """What is mounted of the ServiceAccount."""
        name = self._spec["serviceAccountName"]
        path = f"/api/v1/namespaces/{self._namespace}/serviceaccounts/{name}/token"
        request: Object = {
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenRequest",
            "spec": {"expirationSeconds": 3600},
        }
        token = self._admin.create(path, request)["status"]["token"]
        return self._filled(
            "serviceaccount",
            {
                "token": token.encode(),
                "ca.crt": server.ca_file.read_bytes(),
                "namespace": self._namespace.encode(),
            },
        )

    def _volume(self, volume: Object) -> Path:
        name = volume["name"]
        match volume:
            case {"configMap": {"name": source}}:
                data = self._object("ConfigMap", source).get("data", {})
                return self._filled(name, {key: text.encode() for key, text in data.items()})
            case {"secret": {"secretName": source}}:
                found = self._object("Secret", source)
                data = {key: b64decode(text) for key, text in found.get("data", {}).items()}
                plain = {key: text.encode() for key, text in found.get("stringData", {}).items()}
                return self._filled(name, data | plain)
            case {"emptyDir": _} | {"persistentVolumeClaim": _}:
                return self._filled(name, {})
            case _:
                raise AssertionError(f"no such volume is known here: {json.dumps(volume)}")

    def _object(self, kind: str, name: str) -> Object:
        for obj in self._objects:
            if obj["kind"] == kind and obj["metadata"]["name"] == name:
                return obj
        plural = f"{kind.lower()}s"
        return self._admin.get(f"/api/v1/namespaces/{self._namespace}/{plural}/{name}")

    def _filled(self, name: str, files: dict[str, bytes]) -> Path:
        made = self._folder / "volumes" / name
        made.mkdir(parents=True)
        for key, content in files.items():
            (made / key).write_bytes(content)
        return made


@contextmanager
def running(objects: Objects, server: ApiServer, admin: Admin, folder: Path) -> Iterator[Pod]:
    """A pod that is ready, until the block is left; it must end with status 0."""
    pod = Pod(objects, server, admin, folder)
    try:
        pod.wait_ready()
        yield pod
    finally:
        status = pod.stop()
    assert status == 0, pod.log()[-4000:]


def _unverified() -> Any:
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context
