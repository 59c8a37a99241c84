"""What `deploy/` holds, without a cluster: built as kustomize does, valid, no more than needed."""

import json
import re
import shutil
import subprocess
import warnings
from dataclasses import replace
from ipaddress import ip_network
from pathlib import Path, PurePath
from typing import Any

import pytest

from telemetryd import __version__
from telemetryd.config import Config, FileExporterConfig, SecretExporterConfig, load_config
from telemetryd.doctor.access import (
    Access,
    Needs,
    Plan,
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
NO_SECRETS = Plan(source="auto", secret_requests="auto", delete_secrets=False, secrets=())
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


@pytest.mark.parametrize("version", VERSIONS)
def test_every_object_is_valid_by_the_strict_schema(version: str) -> None:
    # Most objects are in several variants.
    different = {json.dumps(obj, sort_keys=True): obj for each in VARIANTS for obj in build(each)}
    for obj in different.values():
        validate(obj, version, strict=True)


def test_schema_refuses_what_is_wrong() -> None:
    broken = find(build("base"), "Deployment")
    broken["spec"]["replica"] = 2
    with pytest.raises(ValidationError):
        validate(broken, NEWEST, strict=True)


def config_of(variant: str, folder: Path) -> Config:
    file = folder / "config.toml"
    file.write_text(find(build(variant), "ConfigMap")["data"]["config.toml"])
    return load_config(file, {})


@pytest.mark.parametrize("variant", VARIANTS)
def test_configuration_of_the_configmap_is_valid_and_reloads_itself(
    variant: str, tmp_path: Path
) -> None:
    config = config_of(variant, tmp_path)
    assert config.reload_on_change
    assert isinstance(config.exporters[0], SecretExporterConfig)
    assert (len(config.exporters) == 2) == ("air-gapped" in variant)


@pytest.mark.parametrize("variant", VARIANTS)
def test_leader_is_elected_where_there_is_more_than_one_replica(
    variant: str, tmp_path: Path
) -> None:
    replicas = find(build(variant), "Deployment")["spec"]["replicas"]
    assert config_of(variant, tmp_path).leader_election.enabled == (replicas > 1)


@pytest.mark.parametrize("variant", VARIANTS)
def test_rights_are_just_what_the_configuration_needs(variant: str, tmp_path: Path) -> None:
    rancher = variant.partition("+")[0] != "overlays/kubernetes"
    requested = [SCC] if "scc" in variant else []
    plan = plan_of(config_of(variant, tmp_path))
    # With the component alone, the keys that need it are one's own to add.
    plan = replace(plan, reviews=plan.reviews or "kubernetes-auth" in variant)
    needs = needs_of(plan, rancher_served=rancher, requests_served=rancher)
    needs = replace(needs, registrations="scc" in variant)
    assert granted(build(variant)) == set(needed_access(needs, requested))


def test_scc_overlay_grants_what_is_scc_operator_s_beside_the_base() -> None:
    needs = Needs(plan=NO_SECRETS, rancher=True, secret_requests=True)
    added = granted(build("overlays/scc")) - granted(build("base"))
    asked = set(needed_access(needs, [SCC])) - set(needed_access(needs))
    assert {access.verb for access in asked} == {"get", "create", "patch"}
    assert added == {*asked, Access("scc.cattle.io", "registrations", "", "list")}
    assert granted(build("base")) < granted(build("overlays/scc"))


def test_kubernetes_overlay_grants_core_nodes_and_nothing_of_rancher() -> None:
    rights = granted(build("overlays/kubernetes"))
    assert {access.group for access in rights} == {""}
    assert Access("", "nodes", "", "watch") in rights


def test_kubernetes_auth_grants_the_reviews_beside_the_base(tmp_path: Path) -> None:
    objects = build("overlays/kubernetes-auth")
    file = tmp_path / "config.toml"
    file.write_text(find(objects, "ConfigMap")["data"]["config.toml"])
    plan = plan_of(load_config(file, {}))
    needs = Needs(plan=replace(plan, lease=None), rancher=True, secret_requests=True)
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


@pytest.mark.parametrize("variant", VARIANTS)
def test_no_rule_has_a_wildcard(variant: str) -> None:
    for obj in build(variant):
        for rule in obj.get("rules", ()):
            assert "*" not in str(rule)


@pytest.mark.parametrize("variant", VARIANTS)
def test_pod_meets_the_restricted_standard(variant: str) -> None:
    pod = find(build(variant), "Deployment")["spec"]["template"]["spec"]
    # https://kubernetes.io/docs/concepts/security/pod-security-standards, profile restricted
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["runAsUser"] == 65532
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert not {"hostNetwork", "hostPID", "hostIPC"} & set(pod)
    assert {next(iter(set(volume) - {"name"})) for volume in pod["volumes"]} <= {
        "configMap",
        "emptyDir",
        "persistentVolumeClaim",
        "secret",
    }
    (container,) = pod["containers"]
    context = container["securityContext"]
    assert context["allowPrivilegeEscalation"] is False
    assert context["readOnlyRootFilesystem"] is True
    assert context["capabilities"] == {"drop": ["ALL"]}
    namespace = find(build("base"), "Namespace")["metadata"]
    assert namespace["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"


@pytest.mark.parametrize("variant", VARIANTS)
def test_deployment_fits_image_service_and_policy(variant: str) -> None:
    objects = build(variant)
    deployment = find(objects, "Deployment")
    pod = deployment["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert container["image"] == f"telemetryd:{__version__}"
    environ = {entry["name"]: entry["value"] for entry in container["env"]}
    assert environ["TELEMETRYD_LISTEN"] == "0.0.0.0:10464"
    assert container["ports"] == [{"name": "metrics", "containerPort": 10464, "protocol": "TCP"}]
    guarded = "kubernetes-auth" in variant
    to = {"port": "metrics", **({"scheme": "HTTPS"} if guarded else {})}
    for probe in ("startupProbe", "livenessProbe"):
        assert container[probe]["httpGet"] == {"path": "/livez", **to}
    assert container["readinessProbe"]["httpGet"] == {"path": "/readyz", **to}
    mounts = {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}
    assert set(mounts.values()) == {volume["name"] for volume in pod["volumes"]}
    writable = {environ[name] for name in ("STATE_DIRECTORY", "RUNTIME_DIRECTORY", "TMPDIR")}
    tls = {"/etc/telemetryd-tls"} if guarded else set()
    assert writable | {"/etc/telemetryd"} | tls == set(mounts)
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    assert deployment["spec"]["selector"]["matchLabels"] == labels
    assert find(objects, "Service")["spec"]["selector"] == labels
    policy = find(objects, "NetworkPolicy")["spec"]
    assert policy["podSelector"]["matchLabels"] == labels
    assert pod["terminationGracePeriodSeconds"] > 20, "drain_timeout"
    assert pod["serviceAccountName"] == find(objects, "ServiceAccount")["metadata"]["name"]


def test_high_availability_survives_a_node_and_an_update() -> None:
    objects = build("overlays/ha")
    deployment = find(objects, "Deployment")["spec"]
    labels = deployment["template"]["metadata"]["labels"]
    assert deployment["replicas"] == 2
    assert deployment["strategy"]["rollingUpdate"] == {"maxSurge": 1, "maxUnavailable": 0}
    budget = find(objects, "PodDisruptionBudget")["spec"]
    assert budget["minAvailable"] < deployment["replicas"], "else no node could be drained"
    assert budget["selector"]["matchLabels"] == labels
    spread = deployment["template"]["spec"]["topologySpreadConstraints"]
    assert spread[0]["topologyKey"] == "kubernetes.io/hostname"
    for constraint in spread:
        assert constraint["labelSelector"]["matchLabels"] == labels
        assert constraint["whenUnsatisfiable"] == "ScheduleAnyway"
    lease = [access for access in granted(objects) if access.resource == "leases"]
    assert {access.namespace for access in lease} == {"cattle-telemetry-system"}
    assert {access.verb for access in lease if not access.name} == {"create"}
    for variant in VARIANTS:
        election = "components/ha" in variant or variant.startswith("overlays/ha")
        assert bool([obj for obj in build(variant) if obj["kind"] == "PodDisruptionBudget"]) == (
            election
        )


def test_air_gapped_keeps_snapshots_in_its_volume_and_reaches_no_public_address(
    tmp_path: Path,
) -> None:
    objects = build("overlays/air-gapped")
    (archive,) = [
        each
        for each in config_of("overlays/air-gapped", tmp_path).exporters
        if isinstance(each, FileExporterConfig)
    ]
    pod = find(objects, "Deployment")["spec"]["template"]["spec"]
    (claimed,) = [each for each in pod["volumes"] if "persistentVolumeClaim" in each]
    claim = find(objects, "PersistentVolumeClaim")
    assert claimed["persistentVolumeClaim"]["claimName"] == claim["metadata"]["name"]
    (mount,) = [
        each for each in pod["containers"][0]["volumeMounts"] if each["name"] == claimed["name"]
    ]
    assert PurePath(archive.directory).is_relative_to(mount["mountPath"])
    assert archive.max_bytes is not None
    assert archive.max_bytes <= 2**30 / 2, "half of the claim"
    assert find(objects, "Deployment")["spec"]["strategy"] == {"type": "Recreate"}
    egress = find(objects, "NetworkPolicy")["spec"]["egress"]
    for rule in egress:
        assert {port["port"] for port in rule["ports"]} == {443, 6443}
        for peer in rule["to"]:
            assert ip_network(peer["ipBlock"]["cidr"]).is_global is False
    assert egress


def test_every_object_is_in_a_namespace_and_labelled() -> None:
    cluster_wide: set[str] = {"Namespace", "ClusterRole", "ClusterRoleBinding"}
    for obj in [obj for variant in VARIANTS for obj in build(variant)]:
        metadata: dict[str, Any] = obj["metadata"]
        assert ("namespace" in metadata) != (obj["kind"] in cluster_wide)
        assert any(label.startswith("app.kubernetes.io/") for label in metadata["labels"])


VERBS = ("get", "list", "watch", "create", "update", "patch", "delete", "deletecollection")


def told_rights() -> set[tuple[str, str, str]]:
    """Group, resource and verb of each right that `docs/install.md` has in its table."""
    page = (Path(__file__).parents[2] / "docs" / "install.md").read_text()
    section = page.partition("## What it needs of the API server")[2].partition("\n## ")[0]
    rights: set[tuple[str, str, str]] = set()
    group = ""
    for line in section.splitlines():
        if not line.startswith("|") or line.startswith(("|---", "| group")):
            continue
        first, second, third = (cell.strip() for cell in line.strip("|").split(" | "))
        if first:
            group = "" if first == "core" else re.findall("`([^`]+)`", first)[-1]
        resources = {"secrets"} if "Secret" in second else set(re.findall("`([^`]+)`", second))
        resources -= {"kube-system", "resourceNames"}
        verbs = {word for word in re.findall("`([^`]+)`", third) if word in VERBS}
        assert resources, line
        assert verbs, line
        rights |= {(group, resource, verb) for resource in resources for verb in verbs}
    return rights


def test_documented_rights_are_those_that_are_needed_with_everything_on() -> None:
    own = SecretTarget("a", "b", "exporter scc", own=True)
    plan = replace(NO_SECRETS, delete_secrets=True, secrets=(own,), lease=("a", "b"), reviews=True)
    rights = {
        (access.group, access.resources, access.verb)
        for rancher in (True, False)
        for access in needed_access(
            Needs(plan=plan, rancher=rancher, secret_requests=rancher, registrations=rancher),
            [SCC],
        )
    }
    assert told_rights() == rights
