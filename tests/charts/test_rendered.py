"""What the chart makes of its values, without a cluster."""

import json
import re
import tomllib
from pathlib import Path
from typing import Any, Final

import pytest

from telemetryd import __version__
from telemetryd.config import FileExporterConfig, HttpExporterConfig, SecretExporterConfig
from tests.apiserver.admin import Objects
from tests.charts.checks import check, check_network, config_of, environ_of
from tests.charts.conftest import BOTH, find_or_skip
from tests.charts.helm import Helm, HelmError, Values, container_of, example, find, toml_of
from tests.charts.test_values import DEFAULTS, INJECTED, SCHEMA, WRONG, at, names_of_examples
from tests.charts.versions import Major
from tests.docs.values import MONITORING

pytestmark = BOTH

OFF: Final = {name: {"enabled": False} for name in ("podMonitor", "prometheusRule", "dashboard")}
EVERY_KIND: Final[Values] = {
    "config": {
        "kubernetes": {"page_size": 1e4},
        "log_level": None,
        "privacy": {"server_url": "omit"},
        "drain_timeout": "1m30s500ms",
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
            "off": {"type": "otlp", "endpoint": "http://collector:4318", "enabled": False},
        },
        "identity": {"product": "quoted \"name\" \\ é '''#{{ .Release }} =[x] \U0001f600"},
    }
}
PLUGIN: Final[dict[str, Any]] = {
    "lines": "one\ntwo\r\n\tthree",
    "separators": "next\u0085line\u2028paragraph\u2029end",
    'odd "key" = [x]': "",
    "": "of an empty key",
    "large": 2**53,
    "beyond": 1e300,
    "nested": {"a.b": [1, 2.5, "x"], "on": "yes", "no": False},
    "tables": [{"count": 3}, {"count": 4}],
}
"""Of a type that the chart does not know: whatever TOML can hold."""
POD: Final[dict[str, Any]] = {
    "extraVolumes": [
        {"name": "data", "emptyDir": {}},
        {"name": "ca", "configMap": {"name": "corporate-ca"}},
    ],
    "extraVolumeMounts": [
        {"name": "data", "mountPath": "/data"},
        {"name": "ca", "mountPath": "/etc/corporate-ca"},
    ],
    "extraEnv": [{"name": "SSL_CERT_FILE", "value": "/etc/corporate-ca/ca.crt"}],
    "extraEnvFrom": [{"secretRef": {"name": "more"}}],
    "nodeSelector": {"disk": "ssd"},
    "tolerations": [{"key": "dedicated", "operator": "Exists"}],
    "priorityClassName": "system-cluster-critical",
    "config": {
        "leader_election": {"enabled": True},
        "exporters": {"archive": {"type": "file", "directory": "/data/archive"}},
    },
    "strategy": {"rollingUpdate": {"maxSurge": 0, "maxUnavailable": "50%"}},
    "podLabels": {"team": "a"},
    "image": {"pullSecrets": ["registry"]},
    "credentials": {"own": {"data": {"token": "from values"}}},
}
DATABASE: Final[Values] = {"store": "postgresql", "dsn_file": "/etc/telemetryd-credentials/db/dsn"}
PLAIN: Final[dict[str, list[Values | Path]]] = {
    **{name: [example(name)] for name in names_of_examples()},
    "kinds": [EVERY_KIND],
    "plugin": [at("config.exporters.own", {"type": "of-a-plug-in", **PLUGIN})],
    "nulls": [{name: None for name in DEFAULTS if name not in SCHEMA["required"]}],
    "nothing": [at("config.exporters", {"scc": None})],
    "before": [{}],
    "level": [at("config.log_level", "debug")],
    "live": [at("config.reload_on_change", True)],
    "live-level": [at("config", {"reload_on_change": True, "log_level": "debug"})],
    "rancher": [{"global": INJECTED}],
    "registry": [
        {"global": INJECTED},
        {"image": {"registry": "own.example.com:5000/mirror", "tag": "1.2"}},
    ],
    "digest": [{"image": {"digest": f"sha256:{'0' * 64}"}}],
    "forced": [
        {
            "monitoring": {
                "podMonitor": {"enabled": True, "labels": {"release": "prometheus"}},
                "prometheusRule": {
                    "enabled": True,
                    "runbookUrl": "https://docs.example.com/runbooks.md",
                },
                "dashboard": {"enabled": False},
            }
        }
    ],
    "pod": [POD],
    "database": [at("config.history", DATABASE)],
    "database-off": [at("config.history", {**DATABASE, "enabled": False})],
}
SERVED: Final[dict[str, list[Values | Path]]] = {
    # A volume that both replicas can mount is what the examples need to go together.
    "all": [
        *(example(name) for name in names_of_examples()),
        {"persistence": {"accessMode": "ReadWriteMany"}},
    ],
    "found": [at("monitoring.dashboard.namespace", "cattle-dashboards")],
    "off": [{"monitoring": OFF}],
    "tls": [example("tls")],
    "no-roles": [example("tls"), {"rbac": {"create": False}}],
}
"""Where the cluster serves the API of the Prometheus Operator."""


@pytest.fixture(scope="module")
def plain(major: Major, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Objects]:
    return Helm(find_or_skip(major), tmp_path_factory.mktemp("plain")).template_each(PLAIN)


@pytest.fixture(scope="module")
def served(major: Major, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Objects]:
    helm = Helm(find_or_skip(major), tmp_path_factory.mktemp("served"))
    return helm.template_each(SERVED, monitoring=True)


def test_default_values_are_right(renderer: Helm, tmp_path: Path) -> None:
    objects = renderer.template()
    config = check(objects, tmp_path, scc=False)
    (exporter,) = config.exporters
    assert isinstance(exporter, SecretExporterConfig)
    assert (exporter.name, exporter.namespace) == ("scc", "cattle-telemetry-system")
    assert not {obj["kind"] for obj in objects} & {"PodMonitor", "PrometheusRule", "Secret"}
    assert container_of(objects)["image"] == f"telemetryd:{__version__}"
    pod = find(objects, "Deployment")["spec"]["template"]["spec"]
    assert pod["terminationGracePeriodSeconds"] == 30
    assert "0 chart(s) failed" in renderer.lint()


@pytest.mark.parametrize("name", names_of_examples())
def test_example_is_right(plain: dict[str, Objects], name: str, tmp_path: Path) -> None:
    # Those of all examples together are checked by the schema.
    check(plain[name], tmp_path, scc=name == "scc-operator", by_schema=False)


def test_every_example_goes_together_with_all_others(
    served: dict[str, Objects], tmp_path: Path
) -> None:
    objects = served["all"]
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
    environ = environ_of(objects)
    assert environ["HTTPS_PROXY"] == "http://proxy.example.com:3128"
    assert {"10.0.0.0/8", "fc00::/7", ".svc"} <= set(environ["NO_PROXY"].split(","))


@pytest.mark.parametrize("name", ["database", "database-off"])
def test_port_of_postgresql_is_let_out_while_the_history_is_kept_there(
    plain: dict[str, Objects], name: str, tmp_path: Path
) -> None:
    check_network(plain[name], config_of(plain[name], tmp_path))


def test_numbers_stay_whole_and_every_kind_of_value_survives(
    plain: dict[str, Objects], tmp_path: Path
) -> None:
    objects = plain["kinds"]
    config = check(objects, tmp_path, scc=False, by_schema=False)
    archive, off = config.exporters
    assert isinstance(archive, FileExporterConfig)
    assert (archive.keep, archive.jitter) == (1_000_000, 0.25)
    assert (off.name, off.enabled) == ("off", False)
    assert config.kubernetes.page_size == 10_000
    assert config.identity.product == EVERY_KIND["config"]["identity"]["product"]
    assert "1000000" in toml_of(objects)
    pod = find(objects, "Deployment")["spec"]["template"]["spec"]
    assert config.drain_timeout_s < pod["terminationGracePeriodSeconds"] == 96


def test_any_text_and_table_of_a_plug_in_survives(plain: dict[str, Objects]) -> None:
    found = tomllib.loads(toml_of(plain["plugin"]))["exporters"]
    (own,) = [each for each in found if each["name"] == "own"]
    assert own == {"name": "own", "type": "of-a-plug-in", **PLUGIN}
    assert isinstance(own["large"], int)


def test_numbers_of_the_command_line_stay_whole_too(renderer: Helm, tmp_path: Path) -> None:
    sets = ("config.kubernetes.page_size=10000", "config.exporters.scc.jitter=0", "replicas=3")
    objects = renderer.template(sets=sets)
    config = config_of(objects, tmp_path)
    assert config.kubernetes.page_size == 10_000
    assert config.exporters[0].jitter == 0
    assert find(objects, "Deployment")["spec"]["replicas"] == 3


def test_values_that_are_taken_away_leave_what_runs(
    plain: dict[str, Objects], tmp_path: Path
) -> None:
    check(plain["nulls"], tmp_path, scc=False, by_schema=False)


def test_no_exporter_at_all_is_written_as_such(plain: dict[str, Objects], tmp_path: Path) -> None:
    objects = plain["nothing"]
    assert tomllib.loads(toml_of(objects))["exporters"] == []
    check(objects, tmp_path, scc=False, by_schema=False)


def test_secret_of_an_exporter_that_is_off_is_only_read_and_marked(
    renderer: Helm, tmp_path: Path
) -> None:
    objects = renderer.template({"config": {"exporters": {"scc": {"enabled": False}}}})
    check(objects, tmp_path, scc=False, by_schema=False)
    rules = [rule for rule in find(objects, "Role")["rules"] if rule["resources"] == ["secrets"]]
    assert [rule["verbs"] for rule in rules] == [["get", "patch"]]


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (
            at("config.exporters.b", {"type": "secret"}),
            r"config\.exporters\.scc: Secret .* config\.exporters\.b",
        ),
        ({"podLabels": {"app.kubernetes.io/name": "a"}}, r"podLabels: the chart sets app\.kub"),
        (
            at("config.exporters.a", {"type": "file", "directory": "/data/a"}),
            r"config\.exporters\.a\.directory: /data/a is on no volume",
        ),
        (
            at(
                "config.exporters.a",
                {
                    "type": "http",
                    "url": "https://example.com",
                    "bearer_token_file": "/etc/telemetryd-credentials/b/token",
                },
            ),
            r"config\.exporters\.a\.bearer_token_file: there is no credentials\.b",
        ),
    ],
    ids=["one Secret", "label that selects", "no volume", "no credentials"],
)
def test_values_that_contradict_are_refused_by_name(
    renderer: Helm, values: Values, said: str
) -> None:
    with pytest.raises(HelmError, match=said):
        renderer.template(values)


def test_wrong_values_fail_and_helm_names_each_key(renderer: Helm) -> None:
    numbered = {f"wrong-{number}": name for number, name in enumerate(WRONG)}
    with pytest.raises(HelmError) as refused:
        renderer.template_each({each: [WRONG[name][0]] for each, name in numbered.items()})
    said = re.split(r"^(wrong-\d+):\n", str(refused.value), flags=re.MULTILINE)
    by_name = dict(zip(said[1::2], said[2::2], strict=True))
    for each, name in numbered.items():
        key = WRONG[name][1]
        place = f"/{key.replace('.', '/')}" if key else ""
        assert f"at '{place}'" in by_name[each], (name, by_name[each])


def test_images_come_from_the_registry_that_rancher_sets(plain: dict[str, Objects]) -> None:
    images = {name: container_of(plain[name])["image"] for name in ("rancher", "registry")}
    assert images == {
        "rancher": f"registry.example.com/telemetryd:{__version__}",
        "registry": "own.example.com:5000/mirror/telemetryd:1.2",
    }
    assert container_of(plain["digest"])["image"] == f"telemetryd@sha256:{'0' * 64}"


def test_monitors_are_found_by_rancher_monitoring(served: dict[str, Objects]) -> None:
    objects = served["found"]
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
    rules = find(objects, "PrometheusRule")
    alerts = [rule["alert"] for rule in rules["spec"]["groups"][0]["rules"] if "alert" in rule]
    assert len(alerts) == (MONITORING / "telemetryd.rules.yml").read_text().count("- alert: ")
    assert "runbook_url" not in json.dumps(rules)


def test_monitors_can_be_forced_and_left_out_and_have_links_that_work(
    plain: dict[str, Objects], served: dict[str, Objects]
) -> None:
    objects = plain["forced"]
    assert find(objects, "PodMonitor")["metadata"]["labels"]["release"] == "prometheus"
    links = re.findall(r'"runbook_url": "([^"]+)"', json.dumps(find(objects, "PrometheusRule")))
    assert links
    assert all(re.fullmatch(r"https://docs\.example\.com/runbooks\.md#\w+", link) for link in links)
    kinds = [obj["kind"] for obj in served["off"]]
    assert not {"PodMonitor", "PrometheusRule"} & set(kinds)
    assert kinds.count("ConfigMap") == 1


def test_prometheus_scrapes_over_tls_with_a_token_of_its_own(served: dict[str, Objects]) -> None:
    objects = served["tls"]
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


def test_without_roles_the_token_that_prometheus_shows_is_there_all_the_same(
    served: dict[str, Objects],
) -> None:
    objects = served["no-roles"]
    assert not any("Role" in obj["kind"] for obj in objects)
    (endpoint,) = find(objects, "PodMonitor")["spec"]["podMetricsEndpoints"]
    shown = endpoint["authorization"]["credentials"]["name"]
    assert find(objects, "Secret")["metadata"]["name"] == shown
    assert shown in {obj["metadata"]["name"] for obj in objects if obj["kind"] == "ServiceAccount"}


def test_a_change_of_the_configuration_restarts_the_pod_or_is_reloaded(
    plain: dict[str, Objects],
) -> None:
    def pod(name: str) -> Any:
        template = find(plain[name], "Deployment")["spec"]["template"]
        del template["metadata"]["labels"]["helm.sh/chart"]  # each variant is called otherwise
        return template

    assert pod("before") != pod("level")
    assert pod("live") == pod("live-level")


def test_extra_volumes_environment_and_scheduling_reach_the_pod(plain: dict[str, Objects]) -> None:
    objects = plain["pod"]
    template = find(objects, "Deployment")["spec"]["template"]
    pod, container = template["spec"], container_of(objects)
    assert pod["volumes"][-1]["name"] == container["volumeMounts"][-1]["name"] == "ca"
    assert container["env"][-1]["name"] == "SSL_CERT_FILE"
    assert container["envFrom"] == POD["extraEnvFrom"]
    assert pod["nodeSelector"] == {"kubernetes.io/os": "linux", "disk": "ssd"}
    assert [each["key"] for each in pod["tolerations"]] == ["cattle.io/os", "dedicated"]
    assert pod["priorityClassName"] == "system-cluster-critical"
    assert pod["imagePullSecrets"] == [{"name": "registry"}]
    assert template["metadata"]["labels"]["team"] == "a"
    strategy = find(objects, "Deployment")["spec"]["strategy"]
    assert strategy == {"type": "RollingUpdate", **POD["strategy"]}
    (secret,) = [obj for obj in objects if obj["kind"] == "Secret"]
    assert secret["metadata"]["name"] == "telemetryd-credentials-own"
    assert secret["stringData"] == {"token": "from values"}


SUBDOMAIN = r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*"
LONGEST_NAMESPACE = "n" * 63
RELEASES = {
    "blue": "blue-telemetryd",
    "123": "telemetryd-123",
    "telemetryd.v1": "telemetryd-v1",
    "r" * 53: f"{'r' * 53}-telemetry",
}


@pytest.mark.parametrize(
    "release",
    [pytest.param(each, marks=[] if "." in each else pytest.mark.long) for each in RELEASES],
)
def test_release_of_any_name_in_any_namespace_has_names_that_kubernetes_takes(
    renderer: Helm, release: str
) -> None:
    values = {"credentials": {"own": {"data": {"token": "t"}}}, "persistence": {"enabled": True}}
    given = (example("scc-operator"), example("tls"), values)
    objects = renderer.template(*given, release=release, namespace=LONGEST_NAMESPACE)
    for obj in objects:
        metadata = obj["metadata"]
        assert metadata["labels"]["app.kubernetes.io/instance"] == release
        if obj["kind"] in {"Service", "Deployment"}:
            assert metadata["name"] == RELEASES[release]
            assert re.fullmatch(r"[a-z]([-a-z0-9]{0,61}[a-z0-9])?", metadata["name"])
        assert len(metadata["name"]) <= 253
        assert re.fullmatch(SUBDOMAIN, metadata["name"])
        # Neither part of the name has a dot, so no other release has it.
        if metadata.get("namespace") != LONGEST_NAMESPACE:
            assert f"{RELEASES[release]}.{LONGEST_NAMESPACE}" in metadata["name"]
