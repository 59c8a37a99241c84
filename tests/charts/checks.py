"""What must hold of everything that the chart renders, whatever the values are."""

import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

from telemetryd.config import Config, load_config
from telemetryd.doctor.access import Access, SecretTarget, needed_access, needs_of, plan_of
from tests.apiserver.admin import Objects
from tests.charts.helm import RELEASE, container_of, find, toml_of
from tests.deploy.kustomize import NAMESPACE
from tests.deploy.rights import granted

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of its own dependencies
    from kubernetes_validate.utils import latest_version, validate

NEWEST: Final[str] = latest_version()
MONITORS: Final = frozenset({"PodMonitor", "PrometheusRule"})
CLUSTER_WIDE: Final = frozenset({"ClusterRole", "ClusterRoleBinding"})
SCC: Final = SecretTarget("cattle-scc-system", "rancher-scc-metrics", "SecretRequest", own=False)


def config_of(objects: Objects, folder: Path) -> Config:
    """The configuration of the ConfigMap and of the variables, as telemetryd reads it."""
    file = folder / "rendered.toml"
    file.write_text(toml_of(objects))
    environ = environ_of(objects)
    ours = {name: text for name, text in environ.items() if name.startswith("TELEMETRYD_")}
    return load_config(file, ours)


def check(objects: Objects, folder: Path, *, scc: bool, by_schema: bool = True) -> Config:
    """Checks everything, and returns the configuration.

    Args:
        objects: What was rendered.
        folder: For files.
        scc: Whether the rights for scc-operator's SecretRequest were asked for.
        by_schema: Check each object by Kubernetes' schema too, which takes half a second.
    """
    config = config_of(objects, folder)
    check_objects(objects)
    if by_schema:
        check_schema(objects)
    check_pod(objects, config)
    assert granted(objects) == needed(config, scc=scc)
    check_network(objects, config)
    return config


def check_schema(objects: Objects, version: str = NEWEST) -> None:
    """Valid by the strict schema of that Kubernetes, by default the newest that there is one of."""
    for obj in objects:
        if obj["kind"] not in MONITORS:
            validate(obj, version, strict=True)


def check_objects(objects: Objects) -> None:
    """Labelled, in a namespace or named after it, once each."""
    seen = set()
    for obj in objects:
        kind, metadata = obj["kind"], obj["metadata"]
        assert kind not in {"Namespace", "CustomResourceDefinition"}
        assert ("namespace" in metadata) != (kind in CLUSTER_WIDE), metadata
        if metadata.get("namespace") != NAMESPACE and kind != "Secret":
            assert NAMESPACE in metadata["name"], "else two releases would share it"
        assert metadata["labels"]["app.kubernetes.io/instance"] == RELEASE
        key = (kind, metadata.get("namespace"), metadata["name"])
        assert key not in seen
        seen.add(key)
        for rule in obj.get("rules", ()):
            assert "*" not in str(rule)


def check_pod(objects: Objects, config: Config) -> None:
    """Selectors, ports, probes, mounts and replicas fit together and the configuration."""
    deployment = find(objects, "Deployment")["spec"]
    pod, container = deployment["template"]["spec"], container_of(objects)
    selector = deployment["selector"]["matchLabels"]
    assert set(selector) == {"app.kubernetes.io/name", "app.kubernetes.io/instance"}
    assert selector.items() <= deployment["template"]["metadata"]["labels"].items()
    for obj in objects:
        match obj["kind"]:
            case "Service":
                assert obj["spec"]["selector"] == selector
                assert obj["spec"]["ports"][0]["targetPort"] == "metrics"
            case "NetworkPolicy":
                assert obj["spec"]["podSelector"]["matchLabels"] == selector
            case "PodDisruptionBudget" | "PodMonitor":
                assert obj["spec"]["selector"]["matchLabels"] == selector
            case _:
                pass
    (port,) = container["ports"]
    assert (port["name"], port["containerPort"]) == ("metrics", config.server.listen_port)
    scheme = "HTTPS" if config.server.tls_cert_file else "HTTP"
    for probe, path in (("startup", "livez"), ("liveness", "livez"), ("readiness", "readyz")):
        asked = container[f"{probe}Probe"]["httpGet"]
        assert asked == {"path": f"/{path}", "port": "metrics", "scheme": scheme}
    assert config.server.listen_host in {"", "0.0.0.0", "::"}
    assert {mount["name"] for mount in container["volumeMounts"]} == {
        volume["name"] for volume in pod["volumes"]
    }
    assert all("subPath" not in mount for mount in container["volumeMounts"])
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert container["securityContext"]["readOnlyRootFilesystem"] is True
    assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    assert {"key": "cattle.io/os", "value": "linux"}.items() <= pod["tolerations"][0].items()
    assert pod["nodeSelector"]["kubernetes.io/os"] == "linux"
    checksum = "checksum/config" in deployment["template"]["metadata"].get("annotations", {})
    assert checksum != config.reload_on_change
    check_replicas(objects, config)


def check_replicas(objects: Objects, config: Config) -> None:
    """Never two pods that export, and never two on a volume for one."""
    deployment = find(objects, "Deployment")["spec"]
    if deployment["replicas"] > 1 or deployment["strategy"]["type"] == "RollingUpdate":
        assert config.leader_election.enabled
    claims = [obj for obj in objects if obj["kind"] == "PersistentVolumeClaim"]
    for claim in claims:
        if claim["spec"]["accessModes"] != ["ReadWriteMany"]:
            assert deployment["replicas"] <= 1
            assert deployment["strategy"]["type"] == "Recreate"
    budgets = [obj for obj in objects if obj["kind"] == "PodDisruptionBudget"]
    assert bool(budgets) == (deployment["replicas"] > 1)
    if config.leader_election.enabled:
        assert config.leader_election.namespace == NAMESPACE
        assert config.leader_election.name == RELEASE


def needed(config: Config, *, scc: bool) -> set[Access]:
    """The rights that this configuration needs: with `source = "auto"` those of either source."""
    source = config.kubernetes.source
    served = [True, False] if source == "auto" else [source == "rancher"]
    rights: set[Access] = set()
    for rancher in served:
        needs = needs_of(plan_of(config), rancher_served=rancher, requests_served=rancher)
        requested = [SCC] if scc and needs.secret_requests else []
        rights |= set(needed_access(needs, requested))
    if scc:
        rights.add(Access("scc.cattle.io", "registrations", "", "list"))
    return rights


def check_network(objects: Objects, config: Config) -> None:
    """Every port that an exporter sends to is let out, and no other."""
    policies = [obj for obj in objects if obj["kind"] == "NetworkPolicy"]
    for policy in policies:
        open_ports = {
            port["port"] for rule in policy["spec"]["egress"] for port in rule.get("ports", ())
        }
        assert {443, 6443} <= open_ports
        wanted = {port_of(url) for url in _urls(config.exporters)}
        if config.history.enabled and config.history.store == "postgresql":
            wanted.add(5432)
        assert wanted <= open_ports
        assert open_ports <= wanted | {53, 443, 6443} | proxy_ports(objects)


def proxy_ports(objects: Objects) -> set[int]:
    """Of the proxies in the environment."""
    environ = environ_of(objects)
    return {port_of(environ[name]) for name in ("HTTP_PROXY", "HTTPS_PROXY") if name in environ}


def environ_of(objects: Objects) -> Mapping[str, str]:
    """The environment of the container."""
    return {each["name"]: each["value"] for each in container_of(objects)["env"]}


def port_of(url: str) -> int:
    """The port of a URL."""
    scheme, _, rest = url.partition("://")
    port = rest.partition("/")[0].rpartition(":")[2]
    return int(port) if port.isdigit() else {"http": 80, "https": 443}[scheme]


def _urls(exporters: Iterable[Any]) -> list[str]:
    on = (each for each in exporters if each.enabled)
    found = (getattr(each, "url", None) or getattr(each, "endpoint", None) for each in on)
    return [url for url in found if url]
