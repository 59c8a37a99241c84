"""How Prometheus finds the daemon: as a service, as pods, and by the operator's own objects."""

import json
import subprocess
from pathlib import Path

from tests.deploy.kustomize import build
from tests.monitoring.files import DASHBOARD, MONITORING, RULES, read_yaml
from tests.monitoring.prometheus import Prometheus

POD = {
    "__address__": "10.42.0.7:10464",
    "__meta_kubernetes_namespace": "cattle-telemetry-system",
    "__meta_kubernetes_pod_name": "telemetryd-5d8f",
    "__meta_kubernetes_pod_container_port_name": "metrics",
    "__meta_kubernetes_pod_phase": "Running",
}


def test_promtool_accepts_the_configuration_for_a_service(promtool: Path) -> None:
    checked = subprocess.run(
        [promtool, "check", "config", "--lint-fatal", str(MONITORING / "prometheus.yml")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr
    (job,) = read_yaml(MONITORING / "prometheus.yml")["scrape_configs"]
    assert job["job_name"] == "telemetryd"
    assert job["static_configs"][0]["targets"] == ["127.0.0.1:10464"]


def test_pods_get_the_labels_that_the_alerts_go_by(prometheus: Path, tmp_path: Path) -> None:
    # Debian builds Prometheus without kubernetes_sd: files bring what it would have found.
    (job,) = read_yaml(MONITORING / "prometheus-pods.yml")["scrape_configs"]
    (found,) = job.pop("kubernetes_sd_configs")
    assert found["role"] == "pod"
    others: tuple[dict[str, str], ...] = (
        {},
        {"__meta_kubernetes_pod_container_port_name": "other"},
        {"__meta_kubernetes_pod_phase": "Succeeded"},
    )
    pods = [{"targets": [POD["__address__"]], "labels": {**POD, **changed}} for changed in others]
    with Prometheus(prometheus, tmp_path, RULES.read_text(), job, pods) as server:
        targets = server.until("targets", lambda: server.get("targets")["activeTargets"])
        (target,) = targets
        dropped = server.get("targets")["droppedTargets"]
    assert target["labels"] == {
        "job": "telemetryd",
        "instance": "10.42.0.7:10464",
        "namespace": "cattle-telemetry-system",
        "pod": "telemetryd-5d8f",
    }
    assert target["scrapeUrl"] == "http://10.42.0.7:10464/metrics"
    assert len(dropped) == len(others) - 1


def test_discovery_and_podmonitor_select_the_pods_of_the_base() -> None:
    objects = build("monitoring")
    (deployment,) = [obj for obj in objects if obj["kind"] == "Deployment"]
    namespace = deployment["metadata"]["namespace"]
    template = deployment["spec"]["template"]
    labels = template["metadata"]["labels"]
    (container,) = template["spec"]["containers"]
    (port,) = container["ports"]

    (monitor,) = [obj for obj in objects if obj["kind"] == "PodMonitor"]
    assert monitor["metadata"]["namespace"] == namespace
    assert monitor["spec"]["selector"]["matchLabels"].items() <= labels.items()
    (endpoint,) = monitor["spec"]["podMetricsEndpoints"]
    assert {"targetLabel": "job", "replacement": "telemetryd"} in endpoint["relabelings"]
    assert endpoint["port"] == port["name"]

    (job,) = read_yaml(MONITORING / "prometheus-pods.yml")["scrape_configs"]
    (found,) = job["kubernetes_sd_configs"]
    assert found["namespaces"]["names"] == [namespace]
    name, _, value = found["selectors"][0]["label"].partition("=")
    assert labels[name] == value
    assert job["relabel_configs"][0] == {
        "source_labels": ["__meta_kubernetes_pod_container_port_name"],
        "regex": port["name"],
        "action": "keep",
    }


def test_dashboard_of_the_component_is_where_rancher_monitoring_looks() -> None:
    (found,) = [
        obj
        for obj in build("monitoring")
        if obj["metadata"].get("namespace") == "cattle-dashboards"
    ]
    assert found["metadata"]["labels"]["grafana_dashboard"] == "1"
    assert json.loads(found["data"]["telemetryd.json"]) == json.loads(DASHBOARD.read_text())
