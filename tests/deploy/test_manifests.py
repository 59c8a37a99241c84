"""What `deploy/` holds, without a cluster: made of the chart, valid, no more than is needed."""

import re
import subprocess
from dataclasses import replace
from ipaddress import ip_network
from pathlib import Path, PurePath
from typing import Final

import pytest

from telemetryd import __version__
from telemetryd.config import FileExporterConfig
from telemetryd.doctor.access import Needs, Plan, SecretTarget, needed_access
from tests.apiserver.admin import Object
from tests.charts.checks import check, check_schema, config_of, environ_of
from tests.charts.conftest import find_or_skip
from tests.charts.helm import Helm, container_of, find
from tests.deploy.generate import COMPONENTS, render
from tests.deploy.kustomize import (
    DEPLOY,
    NAMESPACE,
    VARIANTS,
    Variant,
    build,
    every_object,
    find_kubectl,
    parse_documents,
    write_overlay,
)
from tests.deploy.rights import granted

VERSIONS: Final = ("1.31.0", "1.34.0", "1.37.0")
NO_SECRETS = Plan(source="auto", secret_requests="auto", delete_secrets=False, secrets=())
SCC = SecretTarget("cattle-scc-system", "rancher-scc-metrics", "SecretRequest", own=False)
EVERYTHING: Final = ("scc-operator", "ha", "air-gapped", "tls", "monitoring", "monitoring-tls")


def key_of(obj: Object) -> tuple[str, str, str]:
    metadata = obj["metadata"]
    return obj["kind"], metadata.get("namespace", ""), metadata["name"]


def test_every_file_is_what_the_chart_makes(tmp_path: Path) -> None:
    made = render(Helm(find_or_skip(4), tmp_path))
    for path, text in made.items():
        assert path.read_text() == text, f"{path}: run `make manifests`"
    there = {path for name in ("base", "components") for path in (DEPLOY / name).rglob("*.yaml")}
    assert there == {path for path in made if path.parent != DEPLOY}
    assert set(COMPONENTS) == {path.name for path in (DEPLOY / "components").iterdir()}


def kustomize(folder: Path) -> list[Object]:
    """What a real kubectl builds of a folder."""
    kubectl = find_kubectl()
    if kubectl is None:
        pytest.skip("no kubectl here: `make clientgo` builds it (needs Go)")
    command = [kubectl, "kustomize", str(folder)]
    built = subprocess.run(command, capture_output=True, text=True, check=True)
    return parse_documents(built.stdout)


@pytest.mark.parametrize("variant", [(), ("kubernetes", "ha"), EVERYTHING], ids="+".join)
def test_builder_agrees_with_kustomize_itself(variant: Variant, tmp_path: Path) -> None:
    theirs = kustomize(write_overlay(tmp_path, *variant))
    assert sorted(theirs, key=key_of) == sorted(build(*variant), key=key_of)


def test_overlay_of_one_s_own_names_the_image(tmp_path: Path) -> None:
    image = {"name": "telemetryd", "newName": "registry.example.com/a/telemetryd", "newTag": "1.2"}
    objects = kustomize(write_overlay(tmp_path, "ha", images=[image]))
    assert container_of(objects)["image"] == "registry.example.com/a/telemetryd:1.2"


@pytest.mark.parametrize("version", VERSIONS)
def test_every_object_is_valid_by_the_strict_schema(version: str) -> None:
    check_schema(every_object(), version)


@pytest.mark.parametrize("variant", VARIANTS, ids="+".join)
def test_combination_is_right_and_has_just_the_rights_that_it_needs(
    variant: Variant, tmp_path: Path
) -> None:
    objects = build(*variant)
    config = check(objects, tmp_path, scc="scc-operator" in variant, by_schema=False)
    assert config.reload_on_change
    assert config.kubernetes.source == ("kubernetes" if "kubernetes" in variant else "rancher")
    assert config.leader_election.enabled == ("ha" in variant)
    assert config.server.kubernetes_auth == ("tls" in variant)
    names = {each.name for each in config.exporters}
    assert names == ({"scc", "archive"} if "air-gapped" in variant else {"scc"})
    assert container_of(objects)["image"] == f"telemetryd:{__version__}"
    variables = [each["name"] for each in container_of(objects)["env"]]
    assert len(variables) == len(set(variables))
    secrets = [access for access in granted(objects) if access.resource == "secrets"]
    assert secrets
    for access in secrets:
        assert access.verb in {"get", "create", "patch"}
        assert access.name
        assert access.namespace


def test_components_say_what_they_change_by_variables() -> None:
    environ = environ_of(build("kubernetes", "ha", "tls"))
    assert environ["TELEMETRYD_LEADER_ELECTION__ENABLED"] == "true"
    assert environ["TELEMETRYD_KUBERNETES__SOURCE"] == "kubernetes"
    assert environ["TELEMETRYD_SERVER__KUBERNETES_AUTH"] == "true"


def test_namespace_and_volume_are_no_part_of_what_can_be_deleted() -> None:
    kinds = {obj["kind"] for obj in every_object()}
    assert not kinds & {"Namespace", "PersistentVolumeClaim", "CustomResourceDefinition"}
    (namespace,) = parse_documents((DEPLOY / "namespace.yaml").read_text())
    assert namespace["metadata"]["name"] == NAMESPACE
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"


def test_high_availability_survives_a_node_and_an_update() -> None:
    objects = build("ha")
    deployment = find(objects, "Deployment")["spec"]
    selector = deployment["selector"]["matchLabels"]
    assert deployment["replicas"] == 2
    assert deployment["strategy"]["rollingUpdate"] == {"maxSurge": 1, "maxUnavailable": 0}
    budget = find(objects, "PodDisruptionBudget")["spec"]
    assert budget["minAvailable"] < deployment["replicas"], "else no node could be drained"
    spread = deployment["template"]["spec"]["topologySpreadConstraints"]
    assert spread[0]["topologyKey"] == "kubernetes.io/hostname"
    for constraint in spread:
        assert constraint["labelSelector"]["matchLabels"] == selector
        assert constraint["whenUnsatisfiable"] == "ScheduleAnyway"
    lease = [access for access in granted(objects) if access.resource == "leases"]
    assert {access.namespace for access in lease} == {NAMESPACE}
    assert {access.verb for access in lease if not access.name} == {"create"}


def test_air_gapped_keeps_snapshots_in_its_volume_and_reaches_no_public_address(
    tmp_path: Path,
) -> None:
    objects = build("air-gapped")
    config = config_of(objects, tmp_path)
    (archive,) = [each for each in config.exporters if isinstance(each, FileExporterConfig)]
    pod = find(objects, "Deployment")["spec"]["template"]["spec"]
    (claimed,) = [each for each in pod["volumes"] if "persistentVolumeClaim" in each]
    (claim,) = parse_documents((DEPLOY / "volume.yaml").read_text())
    assert claimed["persistentVolumeClaim"]["claimName"] == claim["metadata"]["name"]
    assert claim["metadata"]["namespace"] == NAMESPACE
    (mount,) = [
        each for each in pod["containers"][0]["volumeMounts"] if each["name"] == claimed["name"]
    ]
    assert PurePath(archive.directory).is_relative_to(mount["mountPath"])
    assert archive.max_bytes is not None
    assert archive.max_bytes <= 2**30 / 2, "half of the claim"
    egress = find(objects, "NetworkPolicy")["spec"]["egress"]
    for rule in egress:
        assert {port["port"] for port in rule["ports"]} == {443, 6443}
        for peer in rule["to"]:
            assert ip_network(peer["ipBlock"]["cidr"]).is_global is False
    assert egress


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
