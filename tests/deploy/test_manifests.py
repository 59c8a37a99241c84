"""What `deploy/` holds, without a cluster: built as kustomize does, valid, no more than needed."""

import shutil
import subprocess
import warnings
from pathlib import Path
from typing import Any

import pytest

from telemetryd import __version__
from telemetryd.config import SecretExporterConfig, load_config
from telemetryd.doctor.access import (
    Access,
    Needs,
    SecretTarget,
    needed_access,
    needs_of,
    plan_of,
)
from tests.apiserver.admin import Object, Objects
from tests.deploy.kustomize import VARIANTS, build, folder_of, parse_documents
from tests.deploy.rights import granted

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of its own dependencies
    from kubernetes_validate.utils import ValidationError, latest_version, validate

NEWEST = latest_version()
VERSIONS = ("1.25.0", "1.30.0", "1.34.0", NEWEST)
SCC = SecretTarget("cattle-scc-system", "rancher-scc-metrics", "SecretRequest", own=False)


def find(objects: Objects, kind: str) -> Object:
    (found,) = [obj for obj in objects if obj["kind"] == kind]
    return found


def key_of(obj: Object) -> tuple[str, str, str]:
    metadata = obj["metadata"]
    return obj["kind"], metadata.get("namespace", ""), metadata["name"]


@pytest.mark.parametrize("variant", VARIANTS)
def test_builder_agrees_with_kustomize_itself(variant: str, tmp_path: Path) -> None:
    commands = {"kustomize": ("build",), "kubectl": ("kustomize",)}
    tool = next((name for name in commands if shutil.which(name)), None)
    if tool is None:
        pytest.skip("neither kustomize nor kubectl here")
    built = subprocess.run(
        [tool, *commands[tool], str(folder_of(variant, tmp_path))],
        capture_output=True,
        text=True,
        check=True,
    )
    theirs = parse_documents(built.stdout)
    assert sorted(theirs, key=key_of) == sorted(build(variant), key=key_of)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("version", VERSIONS)
def test_every_object_is_valid_by_the_strict_schema(variant: str, version: str) -> None:
    for obj in build(variant):
        validate(obj, version, strict=True)


def test_schema_refuses_what_is_wrong() -> None:
    broken = find(build("base"), "Deployment")
    broken["spec"]["replica"] = 2
    with pytest.raises(ValidationError):
        validate(broken, NEWEST, strict=True)


@pytest.mark.parametrize("variant", VARIANTS)
def test_configuration_of_the_configmap_is_valid_and_reloads_itself(
    variant: str, tmp_path: Path
) -> None:
    file = tmp_path / "config.toml"
    file.write_text(find(build(variant), "ConfigMap")["data"]["config.toml"])
    config = load_config(file, {})
    assert config.reload_on_change
    (exporter,) = config.exporters
    assert isinstance(exporter, SecretExporterConfig)


def test_base_grants_just_what_its_configuration_needs(tmp_path: Path) -> None:
    file = tmp_path / "config.toml"
    file.write_text(find(build("base"), "ConfigMap")["data"]["config.toml"])
    plan = plan_of(load_config(file, {}))
    needs = needs_of(plan, rancher_served=True, requests_served=True)
    with_requests = Needs(
        rancher=True, secret_requests=True, delete_secrets=False, secrets=needs.secrets
    )
    assert granted(build("base")) == set(needed_access(with_requests))


def test_scc_overlay_grants_the_secret_of_scc_operator_beside_the_base() -> None:
    needs = Needs(rancher=True, secret_requests=True, delete_secrets=False, secrets=())
    added = granted(build("overlays/scc")) - granted(build("base"))
    assert added == set(needed_access(needs, [SCC])) - set(needed_access(needs))
    assert {access.verb for access in added} == {"get", "create", "patch"}
    assert granted(build("base")) < granted(build("overlays/scc"))


def test_kubernetes_overlay_grants_core_nodes_and_nothing_of_rancher() -> None:
    secrets = (SecretTarget("cattle-telemetry-system", "rancher-scc-telemetry", "x", own=True),)
    needs = Needs(rancher=False, secret_requests=False, delete_secrets=False, secrets=secrets)
    rights = granted(build("overlays/kubernetes"))
    assert rights == set(needed_access(needs))
    assert {access.group for access in rights} == {""}
    assert Access("", "nodes", "", "watch") in rights


def test_kubernetes_auth_grants_the_reviews_beside_the_base(tmp_path: Path) -> None:
    objects = build("overlays/kubernetes-auth")
    file = tmp_path / "config.toml"
    file.write_text(find(objects, "ConfigMap")["data"]["config.toml"])
    plan = plan_of(load_config(file, {}))
    needs = Needs(
        rancher=True,
        secret_requests=True,
        delete_secrets=False,
        secrets=plan.secrets,
        reviews=plan.reviews,
    )
    assert plan.reviews
    assert granted(objects) == set(needed_access(needs))
    added = granted(objects) - granted(build("base"))
    assert {str(access) for access in added} == {
        "create tokenreviews.authentication.k8s.io",
        "create subjectaccessreviews.authorization.k8s.io",
    }


def test_kubernetes_auth_mounts_the_certificate_where_it_is_read_and_probes_over_tls(
    tmp_path: Path,
) -> None:
    objects = build("overlays/kubernetes-auth")
    file = tmp_path / "config.toml"
    file.write_text(find(objects, "ConfigMap")["data"]["config.toml"])
    server = load_config(file, {}).server
    pod = find(objects, "Deployment")["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    (mount,) = [each for each in container["volumeMounts"] if each["name"] == "tls"]
    assert mount["readOnly"]
    assert "subPath" not in mount, "a file's mount never sees a renewed certificate"
    assert server.tls_cert_file == f"{mount['mountPath']}/tls.crt"
    assert server.tls_key_file == f"{mount['mountPath']}/tls.key"
    (volume,) = [each for each in pod["volumes"] if each["name"] == "tls"]
    assert volume["secret"]["defaultMode"] == 0o440, "readable by fsGroup"
    for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
        assert container[probe]["httpGet"]["scheme"] == "HTTPS"


@pytest.mark.parametrize("variant", VARIANTS)
def test_no_secret_can_be_listed_and_none_be_read_without_its_name(variant: str) -> None:
    secrets = [access for access in granted(build(variant)) if access.resource == "secrets"]
    assert secrets
    for access in secrets:
        assert access.verb in {"get", "create", "patch"}
        assert access.name
        assert access.namespace


def test_no_rule_has_a_wildcard() -> None:
    for obj in build("overlays/scc"):
        for rule in obj.get("rules", ()):
            assert "*" not in str(rule)


def test_pod_meets_the_restricted_standard() -> None:
    pod = find(build("base"), "Deployment")["spec"]["template"]["spec"]
    # https://kubernetes.io/docs/concepts/security/pod-security-standards, profile restricted
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["runAsUser"] == 65532
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert not {"hostNetwork", "hostPID", "hostIPC"} & set(pod)
    assert {next(iter(set(volume) - {"name"})) for volume in pod["volumes"]} <= {
        "configMap",
        "emptyDir",
    }
    (container,) = pod["containers"]
    context = container["securityContext"]
    assert context["allowPrivilegeEscalation"] is False
    assert context["readOnlyRootFilesystem"] is True
    assert context["capabilities"] == {"drop": ["ALL"]}
    namespace = find(build("base"), "Namespace")["metadata"]
    assert namespace["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"


def test_deployment_fits_image_service_and_policy() -> None:
    objects = build("base")
    deployment = find(objects, "Deployment")
    pod = deployment["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert container["image"] == f"telemetryd:{__version__}"
    environ = {entry["name"]: entry["value"] for entry in container["env"]}
    assert environ["TELEMETRYD_LISTEN"] == "0.0.0.0:10464"
    assert container["ports"] == [{"name": "metrics", "containerPort": 10464, "protocol": "TCP"}]
    for probe in ("startupProbe", "livenessProbe"):
        assert container[probe]["httpGet"] == {"path": "/livez", "port": "metrics"}
    assert container["readinessProbe"]["httpGet"] == {"path": "/readyz", "port": "metrics"}
    mounts = {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}
    assert set(mounts.values()) == {volume["name"] for volume in pod["volumes"]}
    writable = {environ[name] for name in ("STATE_DIRECTORY", "RUNTIME_DIRECTORY", "TMPDIR")}
    assert writable | {"/etc/telemetryd"} == set(mounts)
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    assert deployment["spec"]["selector"]["matchLabels"] == labels
    assert find(objects, "Service")["spec"]["selector"] == labels
    policy = find(objects, "NetworkPolicy")["spec"]
    assert policy["podSelector"]["matchLabels"] == labels
    assert pod["terminationGracePeriodSeconds"] > 20, "drain_timeout"
    assert pod["serviceAccountName"] == find(objects, "ServiceAccount")["metadata"]["name"]


def test_every_object_is_in_a_namespace_and_labelled() -> None:
    cluster_wide: set[str] = {"Namespace", "ClusterRole", "ClusterRoleBinding"}
    for obj in build("overlays/scc"):
        metadata: dict[str, Any] = obj["metadata"]
        assert ("namespace" in metadata) != (obj["kind"] in cluster_wide)
        assert any(label.startswith("app.kubernetes.io/") for label in metadata["labels"])
