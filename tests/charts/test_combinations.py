"""Combinations drawn by lot: rendered, linted, accepted by the API server, and run."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from telemetryd.config import Config, SecretExporterConfig
from tests.apiserver.admin import Admin, Objects
from tests.apiserver.process import DEPLOYED_USER, ApiServer
from tests.charts.checks import CLUSTER_WIDE, check
from tests.charts.conftest import BOTH
from tests.charts.drawn import COUNT, CREDENTIALS, TLS_SECRET, draw, draw_freely
from tests.charts.helm import Helm
from tests.charts.pod import running
from tests.deploy.installed import ensure_namespace, path_of
from tests.deploy.kustomize import NAMESPACE
from tests.deploy.life import used
from tests.support.certificates import Authority
from tests.system.rancher import Rancher

pytestmark = [BOTH, pytest.mark.long]


def apply(admin: Admin, objects: Objects, *, dry_run: bool = False) -> None:
    """Applies each object as Helm would, by server-side apply."""
    for obj in objects:
        query = {"fieldManager": "helm", "force": "true"}
        admin.request(
            "PATCH",
            path_of(obj),
            body=obj,
            query={**query, "dryRun": "All"} if dry_run else query,
            content_type="application/apply-patch+yaml",
        )


def looked_at_in_vain(config: Config) -> set[str]:
    """Secrets of exporters that are off: an opt-out may be marked there, and no right is needed."""
    return {
        f"get /api/v1/namespaces/{each.namespace}/secrets/{each.secret}"
        for each in config.exporters
        if isinstance(each, SecretExporterConfig) and not each.enabled
    }


@pytest.fixture(scope="module")
def cluster(admin: Admin, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A small fleet, and the Secrets and namespaces that combinations need."""
    for name in (NAMESPACE, "cattle-scc-system", "cattle-dashboards"):
        ensure_namespace(admin, name)
    folder = tmp_path_factory.mktemp("certificates")
    authority = Authority(folder)
    pair = authority.issue("server")
    secrets: Objects = [
        {
            "type": "kubernetes.io/tls",
            "metadata": {"name": TLS_SECRET},
            "stringData": {
                "tls.crt": pair.cert.read_text(),
                "tls.key": pair.key.read_text(),
                "ca.crt": authority.ca.read_text(),
            },
        },
        {"metadata": {"name": CREDENTIALS}, "stringData": {"token": "of a receiver"}},
    ]
    collection = f"/api/v1/namespaces/{NAMESPACE}/secrets"
    for secret in secrets:
        admin.create(collection, secret)
    try:
        with Rancher.built(admin, clusters=2, nodes=1):
            yield
    finally:
        for secret in secrets:
            admin.delete(f"{collection}/{secret['metadata']['name']}")


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    "number", range(COUNT), ids=[f"{n} {draw(n, 10464).name}" for n in range(COUNT)]
)
def test_combination_is_right_and_runs_with_just_its_rights(
    helm: Helm,
    cluster: None,
    monitoring: None,
    admin: Admin,
    apiserver: ApiServer,
    tmp_path: Path,
    number: int,
) -> None:
    drawn = draw_freely(number)
    assert "0 chart(s) failed" in helm.lint(drawn.values)
    objects = helm.template(drawn.values, monitoring=number % 2 == 0)
    config = check(objects, tmp_path, scc=drawn.scc)
    apply(admin, objects, dry_run=True)
    of_the_pod = [
        obj
        for obj in objects
        if obj["kind"] in CLUSTER_WIDE | {"Role", "RoleBinding", "ServiceAccount", "ConfigMap"}
    ]
    apply(admin, of_the_pod)
    begin = len(apiserver.audit(DEPLOYED_USER))
    try:
        with running(objects, apiserver, admin, tmp_path):
            pass
        _, denied = used(apiserver.audit(DEPLOYED_USER)[begin:])
        assert set(denied) <= looked_at_in_vain(config)
    finally:
        for obj in reversed(of_the_pod):
            admin.delete(path_of(obj))
