"""`values.schema.json`: what it accepts, what it refuses and with which key, without a Helm."""

import json
from copy import deepcopy
from typing import Any

import pytest
import yaml
from jsonschema import Draft7Validator

from telemetryd import __version__
from telemetryd.config.schema import Table, Variants, keys_of
from telemetryd.config.settings import Config
from telemetryd.config.values import InvalidValue, Kind
from tests.charts.helm import EXAMPLES, example
from tests.docs.values import CHART

Values = dict[str, Any]

SAMPLES: tuple[Any, ...] = (
    True,
    0,
    1,
    7,
    500,
    1_000_000,
    -3,
    0.25,
    1.5,
    "",
    "auto",
    "rancher",
    "secret",
    "5",
    "60s",
    "30m",
    "0s",
    "soon",
    "10MiB",
    "0MiB",
    "10MB",
    "/var/lib/telemetryd/a",
    "relative/path",
    "/a/../b",
    "/..a/./b//c",
    "https://example.com:8443/a",
    "https://user@example.com",
    "ftp://example.com",
    "6f1e1c2e-3f3b-4a53-9d5f-0d9d2a3b4c5d",
    "a.b",
    "Capital",
    "   ",
    "two\nlines",
    "/two\nlines",
    "next\u0085line",
    [],
    {},
)


def load(text: str) -> Values:
    parse: Any = yaml.safe_load
    values: Values = parse(text)
    return values


DEFAULTS = load((CHART / "values.yaml").read_text())
SCHEMA = json.loads((CHART / "values.schema.json").read_text())
VALIDATOR = Draft7Validator(SCHEMA)


def merged(*given: Values) -> Values:
    """The chart's values with these in their places, as Helm does."""
    result = deepcopy(DEFAULTS)
    for each in given:
        _merge(result, deepcopy(each))
    return result


def _merge(into: Values, given: Values) -> None:
    for key, value in given.items():
        if value is None and key in into:
            del into[key]
        elif isinstance(value, dict) and isinstance(into.get(key), dict):
            _merge(into[key], value)
        else:
            into[key] = value


def at(path: str, value: Any) -> Values:
    """Values with this one alone."""
    *parents, last = path.split(".")
    result: Values = {last: value}
    for parent in reversed(parents):
        result = {parent: result}
    return result


def errors(values: Values) -> list[str]:
    """Where the schema finds something wrong."""
    found = VALIDATOR.iter_errors(values)
    return sorted(".".join(map(str, error.absolute_path)) for error in found)


def names_of_examples() -> list[str]:
    return sorted(path.stem for path in EXAMPLES.glob("*.yaml"))


def test_schema_is_one_and_accepts_the_default_values_and_every_example() -> None:
    Draft7Validator.check_schema(SCHEMA)
    assert not errors(DEFAULTS)
    for name in names_of_examples():
        assert not errors(merged(load(example(name).read_text()))), name


def test_every_value_of_the_chart_is_known_to_the_schema() -> None:
    assert set(DEFAULTS) == set(SCHEMA["properties"])
    for name, known in SCHEMA["properties"].items():
        if (
            name not in {"config", "credentials", "strategy"}
            and known.get("additionalProperties") is False
        ):
            assert set(DEFAULTS[name]) == set(known["properties"]), name


def test_chart_is_of_this_version_and_marked_for_rancher_apps() -> None:
    chart = load((CHART / "Chart.yaml").read_text())
    assert chart["version"] == chart["appVersion"] == __version__
    marks = chart["annotations"]
    assert marks["catalog.cattle.io/namespace"] == "cattle-telemetry-system"
    assert marks["catalog.cattle.io/release-name"] == "telemetryd"
    assert marks["catalog.cattle.io/kube-version"] == chart["kubeVersion"]
    assert all(isinstance(value, str) for value in marks.values())


def test_every_question_asks_for_a_value_that_the_schema_knows_with_its_default() -> None:
    questions = load((CHART / "questions.yaml").read_text())["questions"]
    asked = [*questions, *(sub for each in questions for sub in each.get("subquestions", ()))]
    for question in asked:
        place: Any = SCHEMA
        for name in question["variable"].split("."):
            place = place["properties"][name]
        for value in (question["default"], *question.get("options", ())):
            assert not errors(merged(at(question["variable"], value))), question


INJECTED: Values = {
    "cattle": {
        "clusterId": "local",
        "clusterName": "local",
        "rkePathPrefix": "",
        "rkeWindowsPathPrefix": "",
        "systemDefaultRegistry": "registry.example.com",
        "systemProjectId": "p-abcde",
        "url": "https://rancher.example.com",
        "windows": {"enabled": True},
    },
    "systemDefaultRegistry": "registry.example.com",
}
"""What Rancher Apps adds to the values, as its form for charts does."""


def test_rancher_apps_may_add_global_values() -> None:
    assert not errors(merged({"global": INJECTED}))
    without = {**INJECTED, "cattle": {**INJECTED["cattle"], "systemDefaultRegistry": None}}
    assert not errors(merged({"global": without}))


def kinds() -> list[tuple[str, Kind[Any]]]:
    """Every key of the file by its place in the values, but for the name of an exporter."""
    found: list[tuple[str, Kind[Any]]] = []
    for key in keys_of(Config):
        match key.kind:
            case Table(declaration):
                found += _kinds_of(declaration, f"config.{key.name}")
            case Variants() as variants:
                for variant in variants.variants:
                    found += _kinds_of(variant, f"config.exporters.{variant.type}")
            case kind:
                found.append((f"config.{key.name}", kind))
    return [(path, kind) for path, kind in found if not path.endswith(".name") or path in NAMES]


def _kinds_of(declaration: type[Any], path: str) -> list[tuple[str, Kind[Any]]]:
    return [
        (f"{path}.{key.name}", key.kind)
        for key in keys_of(declaration)
        if isinstance(key.kind, Kind)
    ]


NAMES = {"config.leader_election.name"}
COARSE = {"config.server.listen"}
"""Stricter than the file: in a pod it listens on every address."""


def schema_of(path: str) -> Values:
    """What the schema says of one key."""
    _, *parents, last = path.split(".")
    match parents:
        case ["exporters", variant]:
            place = SCHEMA["definitions"][f"exporter-{variant}"]
        case _:
            place = SCHEMA["properties"]["config"]
            for parent in parents:
                place = place["properties"][parent]
    found: Values = place["properties"][last]
    return found


@pytest.mark.parametrize(
    ("path", "kind"), [pytest.param(*each, id=each[0]) for each in kinds() if each[0] not in COARSE]
)
def test_schema_accepts_for_a_key_just_what_the_file_does(path: str, kind: Kind[Any]) -> None:
    validator = VALIDATOR.evolve(schema=schema_of(path))
    for sample in SAMPLES:
        try:
            kind.parse(sample)
            valid = True
        except InvalidValue:
            valid = False
        assert validator.is_valid(sample) == valid, (path, sample)


WRONG: dict[str, tuple[Values, str]] = {
    "unknown value": ({"replica": 2}, ""),
    "unknown key of the file": ({"config": {"log_levle": "info"}}, "config"),
    "unknown key of an exporter": (
        at("config.exporters.scc.secretName", "a"),
        "config.exporters.scc",
    ),
    "no such level": (at("config.log_level", "loud"), "config.log_level"),
    "duration without a unit": (
        at("config.exporters.scc.interval", "60"),
        "config.exporters.scc.interval",
    ),
    "listens on loopback": (at("config.server.listen", "127.0.0.1:10464"), "config.server.listen"),
    "exporter without its type": (
        at("config.exporters.new", {"interval": "60s"}),
        "config.exporters.new",
    ),
    "exporter without its directory": (
        at("config.exporters.new", {"type": "file"}),
        "config.exporters.new",
    ),
    "name that can be no exporter's": (
        at("config.exporters", {"A_b": {"type": "secret"}}),
        "config.exporters",
    ),
    "table that is taken away": ({"monitoring": None}, ""),
    "two replicas on a volume for one": (
        {"replicas": 2, "persistence": {"enabled": True}},
        "replicas",
    ),
    "rolling update on a volume for one": (
        {
            "strategy": {"type": "RollingUpdate"},
            "persistence": {"enabled": True},
            **at("config.leader_election.enabled", True),
        },
        "strategy.type",
    ),
    "two replicas that both export": (
        {"replicas": 2, **at("config.leader_election.enabled", False)},
        "config.leader_election.enabled",
    ),
    "rolling update without a leader": ({"strategy": {"type": "RollingUpdate"}}, "strategy.type"),
    "tokens in clear text": (at("config.server.kubernetes_auth", True), "tls.secretName"),
    "clients' authority without TLS": (at("tls.clientCA", True), "tls.secretName"),
    "file with clients' authority without TLS": (
        at("config.server.client_ca_file", "/a/ca.crt"),
        "tls.secretName",
    ),
    "claim that nothing mounts": (at("persistence.existingClaim", "mine"), "persistence.enabled"),
    "variable that is a number": (
        {"extraEnv": [{"name": "A", "value": 5}]},
        "extraEnv.0.value",
    ),
    "text on two lines": (at("config.identity.product", "a\nb"), "config.identity.product"),
    "registry with a scheme": (
        at("image.registry", "https://registry.example.com"),
        "image.registry",
    ),
    "Secret that cannot be": (at("tls.secretName", "My Secret"), "tls.secretName"),
    "certificate without its key": (at("config.server.tls_cert_file", "/a"), "config.server"),
    "credentials of two kinds": (
        at("credentials.a", {"secretName": "a", "configMap": "b"}),
        "credentials.a",
    ),
    "token on plain http": (
        at(
            "config.exporters.a",
            {"type": "http", "url": "http://example.com", "bearer_token_file": "/t"},
        ),
        "config.exporters.a.url",
    ),
    "token on plain http, whose scheme is written large": (
        at(
            "config.exporters.a",
            {"type": "http", "url": "HTTP://example.com", "bearer_token_file": "/t"},
        ),
        "config.exporters.a.url",
    ),
    "address range without its length": (
        at("networkPolicy.cidrs", ["10.0.0.1"]),
        "networkPolicy.cidrs.0",
    ),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_wrong_values_are_refused_at_their_key(wrong: str) -> None:
    values, key = WRONG[wrong]
    assert key in errors(merged(values))


def test_null_removes_an_exporter_and_gives_a_key_its_default() -> None:
    assert not errors(merged(at("config.exporters", {"scc": None, "other": None})))
    assert not errors(merged(at("config.log_level", None)))
