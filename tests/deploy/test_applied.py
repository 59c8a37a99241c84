"""A real API server and a real kubectl take everything in `deploy/`, and leave what must stay."""

import subprocess
from pathlib import Path

import pytest

from tests.apiserver.admin import Admin, AdminError, Object
from tests.apiserver.process import ApiServer
from tests.charts.checks import MONITORS
from tests.deploy.installed import ensure_namespace, path_of
from tests.deploy.kustomize import (
    DEPLOY,
    NAMESPACE,
    build,
    every_object,
    find_kubectl,
    parse_documents,
    write_overlay,
)

SECRETS = f"/api/v1/namespaces/{NAMESPACE}/secrets"
(RESTRICTED,) = parse_documents((DEPLOY / "namespace.yaml").read_text())


def dry_run(admin: Admin, obj: Object) -> Object:
    return admin.request(
        "PATCH",
        path_of(obj),
        body=obj,
        query={"fieldManager": "kubectl", "force": "true", "dryRun": "All"},
        content_type="application/apply-patch+yaml",
    )


def test_every_object_is_accepted_as_it_is(admin: Admin) -> None:
    checked = [obj for obj in every_object() if obj["kind"] not in MONITORS]
    for obj in checked:
        if namespace := obj["metadata"].get("namespace"):
            ensure_namespace(admin, namespace)
        answer = dry_run(admin, obj)
        assert answer["kind"] == obj["kind"]
        for key in set(obj) - {"metadata", "data"}:
            assert key in answer
    assert len(checked) > len(build())


def test_pods_meet_the_restricted_standard(admin: Admin) -> None:
    name = "restricted-of-tests"
    labels = RESTRICTED["metadata"]["labels"]
    namespace = {"metadata": {"name": name, "labels": labels}}
    admin.create("/api/v1/namespaces", namespace)
    pods = f"/api/v1/namespaces/{name}/pods"
    deployments = [obj for obj in every_object() if obj["kind"] == "Deployment"]
    for deployment in deployments:
        spec = deployment["spec"]["template"]["spec"]
        pod = {"metadata": {"name": "telemetryd"}, "spec": spec}
        admin.request("POST", pods, body=pod, query={"dryRun": "All"})
    wider = {**spec, "securityContext": {}, "hostNetwork": True}
    with pytest.raises(AdminError, match="violates PodSecurity"):
        admin.request("POST", pods, body={**pod, "spec": wider}, query={"dryRun": "All"})


def test_applied_and_deleted_by_kubectl_it_leaves_namespace_secret_and_volume(
    admin: Admin, apiserver: ApiServer, tmp_path: Path
) -> None:
    kubectl = find_kubectl()
    if kubectl is None:
        pytest.skip("no kubectl here: `make clientgo` builds it (needs Go)")
    kubeconfig = apiserver.kubeconfig(tmp_path / "kubeconfig")
    overlay = write_overlay(tmp_path, "ha", "air-gapped")

    def run(*words: object) -> str:
        command = [kubectl, "--kubeconfig", str(kubeconfig), *map(str, words)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    run("apply", "-f", DEPLOY / "namespace.yaml", "-f", DEPLOY / "volume.yaml")
    applied = run("apply", "-k", overlay)
    assert len(applied.splitlines()) == len(build("ha", "air-gapped"))
    secret = f"{SECRETS}/rancher-scc-telemetry"
    admin.create(SECRETS, {"metadata": {"name": "rancher-scc-telemetry"}})
    try:
        run("delete", "-k", overlay, "--wait=false")
        for obj in build("ha", "air-gapped"):
            with pytest.raises(AdminError) as gone:
                admin.get(path_of(obj))
            assert gone.value.status == 404, obj["metadata"]
        (volume,) = parse_documents((DEPLOY / "volume.yaml").read_text())
        assert admin.get(secret)
        assert "deletionTimestamp" not in admin.get(f"/api/v1/namespaces/{NAMESPACE}")["metadata"]
        assert "deletionTimestamp" not in admin.get(path_of(volume))["metadata"]
    finally:
        admin.delete(secret)
        admin.delete(path_of(volume))
        admin.patch(path_of(volume), {"metadata": {"finalizers": None}})
