"""The cluster that a page's reader has: Rancher Prime and the Prometheus Operator.

Pages that use kubectl or Helm have a real kube-apiserver, and both programs as they are built for
the tests; all others have the demo's API server, which starts at once.
"""

import base64
import json
import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, NoReturn
from urllib.parse import urlsplit

import pytest

from tests.apiserver import crds, versions
from tests.apiserver.admin import Admin, Object
from tests.apiserver.fixtures import namespace
from tests.apiserver.process import ApiServer
from tests.charts.versions import find_program
from tests.docs.kubelet import Kubelet
from tests.docs.machine import Machine
from tests.support.embedded import serve_fleet
from tests.system.rancher import TARGET_NAMESPACE, Rancher
from tests.system.scc import NAMESPACE as SCC_NAMESPACE
from tests.system.scc import SYSTEM_PROJECT

_MISSING: Final = (
    "no kube-apiserver, kubectl or Helm here: "
    "`make apiserver`, `make clientgo` and `make helm` build them (they need Go)"
)
_NODES = 3
_CLUSTERS = 20


def uses_real(text: str) -> bool:
    """Whether a page's commands ask for more than the demo's API server can do."""
    return re.search(r"^[$#] (kubectl|helm) ", text, re.MULTILINE) is not None


@contextmanager
def demo_cluster(machine: Machine, folder: Path) -> Iterator[str]:
    """Gives the machine the demo's API server, and returns its URL."""
    with serve_fleet(folder, clusters=_CLUSTERS, nodes=_NODES) as fleet:
        machine.give_cluster(int(str(urlsplit(fleet.url).port)), fleet.kubeconfig.read_text())
        yield fleet.url


@contextmanager
def real_cluster(machine: Machine, *, installed: bool) -> Iterator[tuple[str, Kubelet]]:
    """Gives the machine a kube-apiserver with its tools; its URL, and what runs its pods.

    Args:
        machine: The reader's.
        installed: The reader has telemetryd, and so the namespace that it writes to.
    """
    assets, kubectl, helm = _find_programs()
    with tempfile.TemporaryDirectory(prefix="td-apiserver-") as folder:
        server = ApiServer(assets, Path(folder))
        server.start()
        admin = Admin(server.url, server.admin_token, server.ca_file)
        try:
            _fill(admin)
            if not installed:
                _remove_namespace(admin, TARGET_NAMESPACE)
            port = int(str(urlsplit(server.url).port))
            machine.give_cluster(port, _kubeconfig(server, Path(folder)))
            machine.script("/usr/local/bin/helm", f'#!/bin/sh\nexec {helm} "$@"\n')
            kubelet = Kubelet(machine, server, admin, kubectl)
            try:
                yield server.url, kubelet
            finally:
                kubelet.stop()
        finally:
            admin.close()
            server.stop()


def _find_programs() -> tuple[Path, Path, Path]:
    """The API server's folder, kubectl and Helm; skipped without them, failed where `CI=true`."""
    assets, kubectl, helm = (
        versions.find_assets(),
        versions.folder("newest") / "kubectl",
        find_program(4),
    )
    if assets is None or helm is None or not kubectl.exists():
        leave_out(_MISSING)
    return assets, kubectl, helm


def leave_out(reason: str) -> NoReturn:
    """Skips the test, or fails it where `CI=true`."""
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)


def _fill(admin: Admin) -> None:
    """Rancher Prime, with the namespaces of its telemetry."""
    crds.install_crds(admin)
    group = "monitoring.coreos.com"
    for kind in ("PodMonitor", "PrometheusRule"):
        crds.create_crd(admin, crds.crd(group, "v1", kind, namespaced=True))
    Rancher(admin).build(_CLUSTERS + 1, _NODES)
    admin.create("/api/v1/namespaces", namespace(SCC_NAMESPACE, project_id=SYSTEM_PROJECT))


def _remove_namespace(admin: Admin, name: str) -> None:
    """As the controllers of a cluster do."""
    path = f"/api/v1/namespaces/{name}"
    gone: Object = admin.delete(path)
    admin.request("PUT", f"{path}/finalize", body={**gone, "spec": {"finalizers": []}})


def _kubeconfig(server: ApiServer, folder: Path) -> str:
    """With the CA in it: the machine doesn't see the server's files."""
    config = json.loads(server.kubeconfig(folder / "kubeconfig").read_text())
    (cluster,) = config["clusters"]
    ca = Path(cluster["cluster"].pop("certificate-authority")).read_bytes()
    cluster["cluster"]["certificate-authority-data"] = base64.b64encode(ca).decode()
    return json.dumps(config)
