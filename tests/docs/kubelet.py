"""Runs the container of a Deployment as a process of the machine, in the place of a kubelet.

It has the arguments, the environment, the volumes and the token of its ServiceAccount as the API
server has them. `kubectl exec`, `kubectl logs` and `kubectl port-forward` go to that process; all
else of kubectl is the real one.
"""

import json
import shlex
import subprocess
import sys
from base64 import b64decode
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from tests.apiserver.admin import Admin, Object
from tests.apiserver.process import ApiServer
from tests.docs.machine import LAYER, PROGRAM, Machine
from tests.docs.markdown import ROOT
from tests.support.waiting import until

_ACCOUNT: Final = "/run/secrets/kubernetes.io/serviceaccount"
"""`/var/run` is a link to `/run`, which would lead out of the pod's root while that is made."""
_SHELL: Final = ("unshare", "--mount", "--", "bash", "-c")
_VOLUMES: Final = "/run/volumes"
_KUBECTL: Final = """#!/bin/bash
for word; do
  case $word in
  exec) while [ "$1" != -- ]; do shift; done; shift; exec /run/pod-exec "$@" ;;
  logs) exec cat /run/pod-log ;;
  port-forward) exec sleep infinity ;;
  --) break ;;
  esac
done
exec {program} "$@"
"""


class Kubelet:
    """Runs one Deployment at a time."""

    def __init__(self, machine: Machine, server: ApiServer, admin: Admin, kubectl: Path) -> None:
        self._machine = machine
        self._server = server
        self._admin = admin
        self._running = ""
        self._pod: subprocess.Popen[bytes] | None = None
        machine.script("/usr/local/bin/kubectl", _KUBECTL.format(program=kubectl))

    @property
    def has_pod(self) -> bool:
        """Whether one runs."""
        return self._pod is not None

    def sync(self) -> None:
        """Starts, replaces and ends the pod as the API server's only Deployment asks for."""
        found = self._admin.list("/apis/apps/v1/deployments")
        wanted = json.dumps([each["spec"]["template"] for each in found])
        if self._pod is None or wanted != self._running:
            self.stop()
            for deployment in found:
                self._start(deployment)
        self._running = wanted
        for deployment in found:
            self._report(deployment)

    def end_deleted(self) -> None:
        """Ends the pod where its Deployment is gone."""
        if not self._admin.list("/apis/apps/v1/deployments"):
            self.stop()

    def stop(self) -> None:
        """Ends the pod, where one runs, as a kubelet does."""
        pod, self._pod = self._pod, None
        if pod is not None:
            pod.terminate()
            assert pod.wait(timeout=60) == 0, self._log()

    def _start(self, deployment: Object) -> None:
        namespace = deployment["metadata"]["namespace"]
        spec: Object = deployment["spec"]["template"]["spec"]
        (container,) = spec["containers"]
        mounts = {_ACCOUNT: self._filled("account", self._account(namespace, spec))}
        volumes = {each["name"]: each for each in spec["volumes"]}
        for mount in container["volumeMounts"]:
            if mount["mountPath"] != "/tmp":
                content = self._content(namespace, volumes[mount["name"]])
                mounts[mount["mountPath"]] = self._filled(mount["name"], content)
        address = urlsplit(self._server.url)
        environ = {
            "PATH": "/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            "KUBERNETES_SERVICE_HOST": str(address.hostname),
            "KUBERNETES_SERVICE_PORT": str(address.port),
            **{each["name"]: each["value"] for each in container["env"] if "value" in each},
        }
        lines = [LAYER, f"cat > usr/local/bin/telemetryd <<'END'\n{PROGRAM}END\n"]
        lines.append("chmod +x usr/local/bin/telemetryd\n")
        for path, source in mounts.items():
            lines.append(f"mkdir -p .{path}\nmount --bind {source} .{path}\n")
        arguments = shlex.join(["telemetryd", *container.get("args", ("run",))])
        lines.append(f"exec chroot . {arguments}\n")
        needed = f"{ROOT}:{sys.prefix}:{sys.base_prefix}"
        with self._machine.at("/run/pod-log").open("wb") as log:
            self._pod = subprocess.Popen(
                [*self._machine.entered(), *_SHELL, "".join(lines), "pod", "/mnt", needed],
                env=environ,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        given = " ".join(f"{name}={shlex.quote(value)}" for name, value in environ.items())
        inside = f"nsenter --target={self._pod.pid} --mount --root --wd -- env -i {given}"
        self._machine.script("/run/pod-exec", f'#!/bin/sh\nexec {inside} "$@"\n')
        self._wait_ready(container)

    def _wait_ready(self, container: Object) -> None:
        asked = container["readinessProbe"]["httpGet"]
        ports = {each["name"]: int(each["containerPort"]) for each in container["ports"]}
        assert self._pod is not None
        until(
            lambda: self._machine.get(asked["path"], ports[asked["port"]])[0] == 200,
            "the pod is ready",
            deadline_s=120,
            more=self._log,
            ended=self._pod.poll,
        )

    def _report(self, deployment: Object) -> None:
        """What the controllers of a cluster would write of it."""
        metadata, count = deployment["metadata"], deployment["spec"]["replicas"]
        counts = ("replicas", "updatedReplicas", "readyReplicas", "availableReplicas")
        status: Object = {"observedGeneration": metadata["generation"]}
        status |= dict.fromkeys(counts, count)
        path = f"/apis/apps/v1/namespaces/{metadata['namespace']}/deployments/{metadata['name']}"
        self._admin.patch(f"{path}/status", {"status": status})

    def _account(self, namespace: str, spec: Object) -> dict[str, bytes]:
        name = spec["serviceAccountName"]
        path = f"/api/v1/namespaces/{namespace}/serviceaccounts/{name}/token"
        request: Object = {
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenRequest",
            "spec": {"expirationSeconds": 3600},
        }
        token: str = self._admin.create(path, request)["status"]["token"]
        return {
            "token": token.encode(),
            "ca.crt": self._server.ca_file.read_bytes(),
            "namespace": namespace.encode(),
        }

    def _content(self, namespace: str, volume: Object) -> dict[str, bytes]:
        core = f"/api/v1/namespaces/{namespace}"
        match volume:
            case {"configMap": {"name": name}}:
                data: dict[str, Any] = self._admin.get(f"{core}/configmaps/{name}")["data"]
                return {key: text.encode() for key, text in data.items()}
            case {"secret": {"secretName": name}}:
                data = self._admin.get(f"{core}/secrets/{name}")["data"]
                return {key: b64decode(text) for key, text in data.items()}
            case {"emptyDir": _} | {"persistentVolumeClaim": _}:
                return {}
            case _:
                raise AssertionError(f"teach tests/docs/kubelet.py this volume: {volume}")

    def _filled(self, name: str, files: dict[str, bytes]) -> str:
        path = f"{_VOLUMES}/{name}"
        self._machine.at(path).mkdir(parents=True, exist_ok=True)
        for key, content in files.items():
            (self._machine.at(path) / key).write_bytes(content)
        return path

    def _log(self) -> str:
        return self._machine.at("/run/pod-log").read_text(errors="replace")[-6000:]
