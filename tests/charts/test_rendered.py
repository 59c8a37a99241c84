"""What the chart makes of its values, without a cluster."""

import json
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

from telemetryd import __version__
from telemetryd.config import FileExporterConfig, HttpExporterConfig, SecretExporterConfig
from tests.charts.checks import check, config_of, environ_of
from tests.charts.conftest import BOTH
from tests.charts.helm import Helm, HelmError, container_of, example, find, toml_of
from tests.charts.test_values import WRONG, at, names_of_examples
from tests.deploy.kustomize import build
from tests.docs.values import MONITORING

pytestmark = BOTH

EVERYTHING: dict[str, Any] = {"persistence": {"accessMode": "ReadWriteMany"}}
"""What the examples need to go together: a volume that both replicas can mount."""


def test_default_values_are_right_and_ask_for_what_the_base_of_deploy_does(
    renderer: Helm, tmp_path: Path
) -> None:
    objects = renderer.template()
    config = check(objects, tmp_path, scc=False)
    (exporter,) = config.exporters
    assert isinstance(exporter, SecretExporterConfig)
    assert (exporter.name, exporter.namespace) == ("scc", "cattle-telemetry-system")
    assert not {obj["kind"] for obj in objects} & {"PodMonitor", "PrometheusRule", "Secret"}
    assert container_of(objects)["image"] == f"telemetryd:{__version__}"
    kinds = {obj["kind"] for obj in objects}
    assert kinds == {obj["kind"] for obj in build("base")} - {"Namespace"}
    assert "0 chart(s) failed" in renderer.lint()


@pytest.mark.parametrize("name", names_of_examples())
def test_example_is_right(renderer: Helm, name: str, tmp_path: Path) -> None:
    objects = renderer.template(example(name))
    # Those of all examples together are checked by the schema.
    check(objects, tmp_path, scc=name == "scc-operator", by_schema=False)


def test_every_example_goes_together_with_all_others(renderer: Helm, tmp_path: Path) -> None:
    examples = [example(name) for name in names_of_examples()]
    objects = renderer.template(*examples, EVERYTHING, monitoring=True)
    config = check(objects, tmp_path, scc=True)
    assert {each.name for each in config.exporters} == {"archive", "collector", "receiver", "scc"}
    assert {"PodMonitor", "PrometheusRule"} <= {obj["kind"] for obj in objects}
    pod = find(objects, "Deployment")["spec"]["template"]["spec"]
    mounts = {mount["name"]: mount["mountPath"] for mount in container_of(objects)["volumeMounts"]}
    (archive,) = [each for each in config.exporters if isinstance(each, FileExporterConfig)]
    assert archive.directory.startswith(mounts["state"] + "/")
    assert config.server.tls_cert_file == f"{mounts['tls']}/tls.crt"
    (receiver,) = [each for each in config.exporters if isinstance(each, HttpExporterConfig)]
    assert receiver.bearer_token_file == f"{mounts['credentials-receiver']}/token"
    (credentials,) = [each for each in pod["volumes"] if each["name"] == "credentials-receiver"]
    assert credentials["secret"]["secretName"] == "telemetry-receiver"
    assert environ_of(objects)["HTTPS_PROXY"] == "http://proxy.example.com:3128"


def test_numbers_stay_whole_and_every_kind_of_value_survives(
    renderer: Helm, tmp_path: Path
) -> None:
    values = {
        "config": {
            "kubernetes": {"page_size": 10_000},
            "log_level": None,
            "privacy": {"server_url": "omit"},
            "exporters": {
                "scc": None,
                "archive": {
                    "type": "file",
                    "directory": "/var/lib/telemetryd/a",
                    "keep": 1_000_000,
                    "jitter": 0.25,
                    "splay_max": "0s",
                    "compress": False,
                },
                "off": {"type": "secret", "secret": "other", "enabled": False},
            },
            "identity": {"product": 'quoted "name" \\ é'},
        }
    }
    objects = renderer.template(values)
    config = check(objects, tmp_path, scc=False, by_schema=False)
    archive, off = config.exporters
    assert isinstance(archive, FileExporterConfig)
    assert (archive.keep, archive.jitter) == (1_000_000, 0.25)
    assert (off.name, off.enabled) == ("off", False)
    assert config.kubernetes.page_size == 10_000
    assert config.identity.product == 'quoted "name" \\ é'
    assert "1000000" in toml_of(objects)


def test_numbers_of_the_command_line_stay_whole_too(renderer: Helm, tmp_path: Path) -> None:
    sets = ("config.kubernetes.page_size=10000", "config.exporters.scc.jitter=0")
    config = config_of(renderer.template(sets=sets), tmp_path)
    assert config.kubernetes.page_size == 10_000
    assert config.exporters[0].jitter == 0


def test_no_exporter_at_all_is_written_as_such(renderer: Helm, tmp_path: Path) -> None:
    objects = renderer.template(at("config.exporters", {"scc": None}))
    assert tomllib.loads(toml_of(objects))["exporters"] == []
    check(objects, tmp_path, scc=False, by_schema=False)


def test_secret_of_an_exporter_that_is_off_is_only_read_and_marked(
    renderer: Helm, tmp_path: Path
) -> None:
    objects = renderer.template({"config": {"exporters": {"scc": {"enabled": False}}}})
    check(objects, tmp_path, scc=False, by_schema=False)
    rules = [rule for rule in find(objects, "Role")["rules"] if rule["resources"] == ["secrets"]]
    assert [rule["verbs"] for rule in rules] == [["get", "patch"]]


def test_exporters_on_one_secret_are_refused_by_name(renderer: Helm) -> None:
    with pytest.raises(HelmError, match=r"config\.exporters\.scc: Secret .* config\.exporters\.b"):
        renderer.template(at("config.exporters.b", {"type": "secret"}))


@pytest.mark.parametrize(
    "wrong",
    [
        pytest.param(name, marks=[] if number % 6 == 0 else pytest.mark.long)
        for number, name in enumerate(WRONG)
    ],
)
def test_wrong_values_fail_and_helm_names_the_key(renderer: Helm, wrong: str) -> None:
    values, key = WRONG[wrong]
    with pytest.raises(HelmError) as refused:
        renderer.template(values)
    said = str(refused.value)
    place = f"/{key.replace('.', '/')}" if key else ""
    assert f"at '{place}'" in said, said


def test_images_come_from_the_registry_that_rancher_sets(renderer: Helm) -> None:
    rancher = {"global": {"cattle": {"systemDefaultRegistry": "registry.example.com"}}}
    images = [
        container_of(renderer.template(rancher, {"image": image}))["image"]
        for image in ({}, {"registry": "own.example.com:5000/mirror", "tag": "1.2"})
    ]
    assert images == [
        f"registry.example.com/telemetryd:{__version__}",
        "own.example.com:5000/mirror/telemetryd:1.2",
    ]
    digest = f"sha256:{'0' * 64}"
    named = container_of(renderer.template({"image": {"digest": digest}}))["image"]
    assert named == f"telemetryd@{digest}"


def test_monitors_are_found_by_rancher_monitoring(renderer: Helm) -> None:
    values = at("monitoring.dashboard.namespace", "cattle-dashboards")
    objects = renderer.template(values, monitoring=True)
    monitor = find(objects, "PodMonitor")["spec"]
    (endpoint,) = monitor["podMetricsEndpoints"]
    assert endpoint["relabelings"] == [{"targetLabel": "job", "replacement": "telemetryd"}]
    assert "scheme" not in endpoint
    (dashboard,) = [
        obj for obj in objects if obj["metadata"].get("namespace") == "cattle-dashboards"
    ]
    assert dashboard["metadata"]["labels"]["grafana_dashboard"] == "1"
    source = json.loads((MONITORING / "dashboard.json").read_text())
    assert json.loads(dashboard["data"]["telemetryd.json"]) == source
    (rules,) = [obj for obj in objects if obj["kind"] == "PrometheusRule"]
    alerts = [rule["alert"] for rule in rules["spec"]["groups"][0]["rules"] if "alert" in rule]
    assert len(alerts) == (MONITORING / "telemetryd.rules.yml").read_text().count("- alert: ")
    assert "runbook_url" not in json.dumps(rules)


def test_monitors_can_be_forced_and_left_out_and_have_links_that_work(renderer: Helm) -> None:
    forced = {
        "podMonitor": {"enabled": True, "labels": {"release": "prometheus"}},
        "prometheusRule": {"enabled": True, "runbookUrl": "https://docs.example.com/runbooks.md"},
        "dashboard": {"enabled": False},
    }
    objects = renderer.template({"monitoring": forced})
    assert find(objects, "PodMonitor")["metadata"]["labels"]["release"] == "prometheus"
    links = re.findall(r'"runbook_url": "([^"]+)"', json.dumps(find(objects, "PrometheusRule")))
    assert links
    assert all(re.fullmatch(r"https://docs\.example\.com/runbooks\.md#\w+", link) for link in links)
    off = {name: {"enabled": False} for name in ("podMonitor", "prometheusRule", "dashboard")}
    kinds = [obj["kind"] for obj in renderer.template({"monitoring": off}, monitoring=True)]
    assert not {"PodMonitor", "PrometheusRule"} & set(kinds)
    assert kinds.count("ConfigMap") == 1


def test_prometheus_scrapes_over_tls_with_a_token_of_its_own(renderer: Helm) -> None:
    objects = renderer.template(example("tls"), monitoring=True)
    (endpoint,) = find(objects, "PodMonitor")["spec"]["podMetricsEndpoints"]
    assert endpoint["scheme"] == "https"
    assert endpoint["tlsConfig"]["ca"]["secret"]["name"] == "telemetryd-tls"
    secret = endpoint["authorization"]["credentials"]
    (token,) = [obj for obj in objects if obj["kind"] == "Secret"]
    assert secret == {"name": token["metadata"]["name"], "key": "token"}
    assert token["type"] == "kubernetes.io/service-account-token"
    account = token["metadata"]["annotations"]["kubernetes.io/service-account.name"]
    (reader,) = [
        obj
        for obj in objects
        if obj["kind"] == "ClusterRoleBinding" and obj["metadata"]["name"].endswith("-metrics")
    ]
    subjects = {(each["namespace"], each["name"]) for each in reader["subjects"]}
    assert subjects == {
        ("cattle-monitoring-system", "rancher-monitoring-prometheus"),
        ("cattle-telemetry-system", account),
    }


def test_a_change_of_the_configuration_restarts_the_pod_or_is_reloaded(renderer: Helm) -> None:
    def template_of(*values: dict[str, Any]) -> Any:
        return find(renderer.template(*values), "Deployment")["spec"]["template"]

    level = at("config.log_level", "debug")
    live = at("config.reload_on_change", True)
    assert template_of() != template_of(level)
    assert template_of(live) == template_of(live, level)


def test_names_of_what_has_no_namespace_differ_between_releases(renderer: Helm) -> None:
    def names(namespace: str) -> set[str]:
        objects = renderer.template(example("scc-operator"), namespace=namespace)
        shared = (None, "cattle-scc-system")
        return {
            f"{obj['kind']}/{obj['metadata']['name']}"
            for obj in objects
            if obj["metadata"].get("namespace") in shared
        }

    assert names("one")
    assert not names("one") & names("two")


def test_extra_volumes_environment_and_scheduling_reach_the_pod(renderer: Helm) -> None:
    values = {
        "extraVolumes": [{"name": "ca", "configMap": {"name": "corporate-ca"}}],
        "extraVolumeMounts": [{"name": "ca", "mountPath": "/etc/corporate-ca"}],
        "extraEnv": [{"name": "SSL_CERT_FILE", "value": "/etc/corporate-ca/ca.crt"}],
        "extraEnvFrom": [{"secretRef": {"name": "more"}}],
        "nodeSelector": {"disk": "ssd"},
        "tolerations": [{"key": "dedicated", "operator": "Exists"}],
        "priorityClassName": "system-cluster-critical",
        "podLabels": {"team": "a"},
        "image": {"pullSecrets": ["registry"]},
        "credentials": {"own": {"data": {"token": "from values"}}},
    }
    objects = renderer.template(values)
    template = find(objects, "Deployment")["spec"]["template"]
    pod, container = template["spec"], container_of(objects)
    assert pod["volumes"][-1]["name"] == container["volumeMounts"][-1]["name"] == "ca"
    assert container["env"][-1]["name"] == "SSL_CERT_FILE"
    assert container["envFrom"] == values["extraEnvFrom"]
    assert pod["nodeSelector"] == {"kubernetes.io/os": "linux", "disk": "ssd"}
    assert [each["key"] for each in pod["tolerations"]] == ["cattle.io/os", "dedicated"]
    assert pod["priorityClassName"] == "system-cluster-critical"
    assert pod["imagePullSecrets"] == [{"name": "registry"}]
    assert template["metadata"]["labels"]["team"] == "a"
    (secret,) = [obj for obj in objects if obj["kind"] == "Secret"]
    assert secret["metadata"]["name"] == "telemetryd-own"
    assert secret["stringData"] == {"token": "from values"}


def test_renamed_release_is_right(renderer: Helm) -> None:
    objects = renderer.template({"fullnameOverride": "other"}, release="blue")
    assert find(objects, "Deployment")["metadata"]["name"] == "other"
    named = renderer.template(release="blue")
    assert find(named, "Deployment")["metadata"]["name"] == "blue-telemetryd"
