"""What variables and ``--set`` set: every key, their order, restrictions, and what names no key."""

from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from telemetryd.config import (
    Assignment,
    Config,
    ConfigFile,
    ConfigSource,
    HttpExporterConfig,
    SecretExporterConfig,
    find_control_socket,
)
from telemetryd.config.diff import canonical
from telemetryd.config.exporters import EXPORTER_TYPES
from telemetryd.config.overrides import variable_of
from telemetryd.config.restrictions import decide, how_to_end, restrict
from telemetryd.config.schema import Key, Table, Variants, keys_of
from telemetryd.config.values import (
    Boolean,
    Choice,
    Duration,
    Integer,
    Number,
    render_duration,
)
from telemetryd.errors import ConfigError

NOTHING: Mapping[str, str] = {}
HTTP = '[[exporters]]\nname = "my-http"\ntype = "http"\nurl = "https://a.example"\n'


def source(environ: Mapping[str, str] = NOTHING, *assigned: str) -> ConfigSource:
    pairs = (each.partition("=") for each in assigned)
    given = tuple(Assignment("--set", key, text) for key, _, text in pairs)
    return ConfigSource(None, environ, assignments=given)


def parse(text: str, environ: Mapping[str, str] = NOTHING, *assigned: str) -> Config:
    return source(environ, *assigned).parse_as_written(ConfigFile("c.toml", text))


def problems(text: str, environ: Mapping[str, str] = NOTHING, *assigned: str) -> list[str]:
    with pytest.raises(ConfigError) as raised:
        parse(text, environ, *assigned)
    return [str(problem) for problem in raised.value.problems]


def another(key: Key) -> str:  # noqa: PLR0911 - one a kind
    """A value of this key other than its default, as a variable holds it."""
    match key.kind:
        case Boolean():
            return "false" if key.default else "true"
        case Choice(words):
            return next(word for word in words if word != key.default)
        case Integer(minimum, _):
            return str(minimum + 1)
        case Number(_, maximum):
            return str(maximum)
        case Duration() if key.name in {"timeout", "retry_base", "retry_period"}:
            return "3s"
        case Duration() if key.name == "keep_daily":
            return "6y"
        case Duration(minimum_s=minimum_s) if minimum_s > 13:
            return render_duration(minimum_s * 2)
        case Duration():
            return "13s"
    return {
        "listen": ":7",
        "enabled": "yes",
        "namespace": "n",
        "name": "n",
        "secret": "s",
        "max_bytes": "7KiB",
        "install_uuid": "6f1e1c2e-3f3b-4a53-9d5f-0d9d2a3b4c5d",
        "cluster_uuid": "6f1e1c2e-3f3b-4a53-9d5f-0d9d2a3b4c5d",
        "server_url": "https://b.example",
        "url": "https://b.example",
        "endpoint": "https://b.example",
        "kubeconfig": "k",
        "context": "true",
        "version": "2.15",
        "git_hash": "1e5",
        "product": "1",
    }.get(key.name, "/d/f")


def plain_keys(declaration: type[Any] = Config, *path: str) -> list[tuple[tuple[str, ...], Key]]:
    found = []
    for key in keys_of(declaration):
        match key.kind:
            case Table(inner):
                found += plain_keys(inner, key.name)
            case Variants():
                continue
            case _:
                found.append(((*path, key.name), key))
    return found


PLAIN = {".".join(path): (path, key) for path, key in plain_keys() if path != ("enabled",)}
OF_EXPORTERS = {
    f"{declared.type}.{key.name}": (declared, key)
    for declared in EXPORTER_TYPES
    for key in keys_of(declared)
    if key.name != "name" and (declared.type, key.name) != ("otlp", "format")
}
"""Keys that can be given another value."""
NEEDED = {
    "secret": "",
    "file": 'directory = "/d"\n',
    "http": 'url = "https://a.example"\n',
    "otlp": 'endpoint = "https://a.example"\n',
}
BESIDE = {  # what a key makes no sense without
    "history.store": {"TELEMETRYD_HISTORY__DSN_FILE": "/d"},
    "history.dsn_file": {"TELEMETRYD_HISTORY__STORE": "postgresql"},
    "server.tls_cert_file": {"TELEMETRYD_SERVER__TLS_KEY_FILE": "/k"},
    "server.tls_key_file": {"TELEMETRYD_SERVER__TLS_CERT_FILE": "/c"},
    "server.client_ca_file": {
        "TELEMETRYD_SERVER__TLS_CERT_FILE": "/c",
        "TELEMETRYD_SERVER__TLS_KEY_FILE": "/k",
    },
    "client_key_file": {"TELEMETRYD_EXPORTERS__MY_EX__CLIENT_CERT_FILE": "/c"},
}


def value_at(config: Any, path: Sequence[str]) -> object:
    found = canonical(config)
    for name in path:
        found = found[name]
    return found


@pytest.mark.parametrize("name", PLAIN)
def test_every_key_can_be_set_by_its_variable_and_by_set(name: str) -> None:
    path, key = PLAIN[name]
    text = another(key)
    beside = BESIDE.get(name, {})
    by_variable = parse("", {variable_of(path): text, **beside})
    by_option = parse("", beside, f"{name}={text}")
    assert value_at(by_variable, path) == value_at(by_option, path) != value_at(Config(), path)


@pytest.mark.parametrize("name", OF_EXPORTERS)
def test_every_key_of_an_exporter_can_be_set_by_its_name(name: str) -> None:
    declared, key = OF_EXPORTERS[name]
    file = f'[[exporters]]\nname = "my-ex"\ntype = "{declared.type}"\n{NEEDED[declared.type]}'
    if name == "secret.format":
        file += 'secret = "mine"\n'
    text, beside = another(key), BESIDE.get(key.name, {})
    (plain,) = parse(file).exporters
    (by_variable,) = parse(
        file, {f"TELEMETRYD_EXPORTERS__MY_EX__{key.name.upper()}": text, **beside}
    ).exporters
    (by_option,) = parse(file, beside, f"exporters.my-ex.{key.name}={text}").exporters
    assert getattr(by_variable, key.attribute) == getattr(by_option, key.attribute)
    assert getattr(by_variable, key.attribute) != getattr(plain, key.attribute)


def test_format_has_no_meaning_for_metrics_wherever_it_is_set() -> None:
    file = f'[[exporters]]\nname = "my-ex"\ntype = "otlp"\n{NEEDED["otlp"]}'
    by_variable = problems(file, {"TELEMETRYD_EXPORTERS__MY_EX__FORMAT": "fleet"})
    by_option = problems(file, NOTHING, "exporters.my-ex.format=fleet")
    for said in (by_variable, by_option):
        (line,) = said
        assert line.endswith("has no meaning for metrics: leave it out")


def test_option_beats_variable_beats_file_beats_default() -> None:
    file, environ = "[kubernetes]\npage_size = 1", {"TELEMETRYD_KUBERNETES__PAGE_SIZE": "2"}
    assert parse("").kubernetes.page_size == 500
    assert parse(file).kubernetes.page_size == 1
    assert parse(file, environ).kubernetes.page_size == 2
    assert parse(file, environ, "kubernetes.page_size=3").kubernetes.page_size == 3
    assert (
        parse(file, environ, *(f"kubernetes.page_size={n}" for n in "34")).kubernetes.page_size == 4
    )
    assert parse(file, {"TELEMETRYD_KUBERNETES__PAGE_SIZE": ""}).kubernetes.page_size == 1


def test_variable_of_the_listen_address_that_has_no_table_is_the_weaker_one() -> None:
    environ = {"TELEMETRYD_SERVER__LISTEN": ":1", "TELEMETRYD_LISTEN": ":2"}
    assert parse("", environ).server.listen_port == 1
    assert parse("", {"TELEMETRYD_LISTEN": ":2"}).server.listen_port == 2


def test_implied_exporter_can_be_set_without_a_file() -> None:
    (scc,) = parse("", {"TELEMETRYD_EXPORTERS__SCC__INTERVAL": "5m"}).exporters
    assert scc == SecretExporterConfig(name="scc", interval_s=300.0)


def test_key_that_an_exporter_needs_may_come_from_a_variable() -> None:
    file = '[[exporters]]\nname = "a--b"\ntype = "http"\n'
    (found,) = parse(file, {"TELEMETRYD_EXPORTERS__A__B__URL": "https://x.example"}).exporters
    assert found == HttpExporterConfig(name="a--b", url="https://x.example")


@pytest.mark.parametrize(
    "name", ["SERVICE_HOST", "SERVICE_PORT_HTTP", "PORT", "PORT_10464_TCP_ADDR"]
)
def test_variables_that_kubernetes_adds_for_a_service_are_left_alone(name: str) -> None:
    assert parse("", {f"TELEMETRYD_{name}": "tcp://10.0.0.1"}) == parse("")


@pytest.mark.parametrize(
    ("environ", "assigned", "said"),
    [
        ({"TELEMETRYD_LOG_LEVL": "x"}, (), "_LEVL: unknown variable; did you mean TELEMETRYD_LOG"),
        ({"TELEMETRYD_SERVER_LISTEN": "x"}, (), "did you mean TELEMETRYD_SERVER__LISTEN?"),
        ({"TELEMETRYD_FOO_SERVICE_HOST": "x"}, (), "set enableServiceLinks to false"),
        ({"TELEMETRYD_XYZZY_42": "x"}, (), "unknown variable: write TELEMETRYD_KEY"),
        ({"TELEMETRYD_": "x"}, (), "$TELEMETRYD_: unknown variable"),
        ({"TELEMETRYD_server__listen": "x"}, (), "did you mean TELEMETRYD_SERVER__LISTEN?"),
        ({"TELEMETRYD_EXPORTERS": "x"}, (), "unknown variable"),
        ({"TELEMETRYD_EXPORTERS__SCC": "x"}, (), "unknown variable"),
        ({"TELEMETRYD_EXPORTERS__SCC__INTERVL": "x"}, (), 'unknown key; did you mean "interval"?'),
        ({"TELEMETRYD_EXPORTERS__SC__INTERVAL": "x"}, (), 'no exporter "sc": the file has "scc"'),
        ({"TELEMETRYD_EXPORTERS__SCC__TYPE": "http"}, (), "must be written in the file"),
        ({"TELEMETRYD_KUBERNETES__PAGE_SIZE": "x"}, (), 'S__PAGE_SIZE: is "x"'),
        ({"TELEMETRYD_KUBERNETES__PAGE_SIZE": "0"}, (), "be a whole number from 1 to 10000"),
        ({"TELEMETRYD_DRAIN_TIMEOUT": "5"}, (), '"5" has no unit: write "5s"'),
        ({"TELEMETRYD_RELOAD_ON_CHANGE": "maybe"}, (), 'is "maybe": must be true or false'),
        ({}, ("listen=:1",), "--set listen: unknown key; did you mean server.listen?"),
        ({}, ("kubernetes.page=1",), "did you mean kubernetes.page_size?"),
        ({}, ("xyzzy=1",), "unknown key: write KEY, TABLE.KEY or exporters.NAME.KEY"),
        ({}, ("exporters=[]",), "unknown key"),
        ({}, ("server={}",), "unknown key"),
        ({}, ("kubernetes.page_size=0",), "--set kubernetes.page_size: is "),
        ({}, ("exporters.scc.timeout=2m",), "--set exporters.scc.timeout: must be shorter than"),
        ({}, ("exporters.scc.name=x",), "the name of an exporter must be written in the file"),
        ({}, ("log_level=info\nenabled = false",), "--set log_level: is "),
    ],
)  # fmt: skip
def test_what_is_wrong_is_one_line_that_names_the_source(
    environ: dict[str, str], assigned: tuple[str, ...], said: str
) -> None:
    (line,) = problems("", environ, *assigned)
    assert said in line
    assert line.startswith(("$", "--set "))


def test_rule_names_the_source_of_the_other_value() -> None:
    (line,) = problems(HTTP + 'timeout = "9s"', {"TELEMETRYD_EXPORTERS__MY_HTTP__INTERVAL": "5s"})
    assert line.startswith("c.toml:5: exporters.my-http.timeout: must be shorter than interval")
    assert line.endswith("(interval is set by $TELEMETRYD_EXPORTERS__MY_HTTP__INTERVAL)")


def test_file_is_judged_too_where_it_is_overridden() -> None:
    assert problems("log_level = 1", {"TELEMETRYD_LOG_LEVEL": "info"})[0].startswith("c.toml:1: ")


@pytest.mark.parametrize("name", ["bearer_token_file", "url"])
def test_credential_in_a_variable_is_not_shown(name: str) -> None:
    environ = {f"TELEMETRYD_EXPORTERS__MY_HTTP__{name.upper()}": "ghp_S3cretOfSomebody42"}
    (line,) = problems(HTTP, environ)
    assert "S3cret" not in line


def test_options_take_toml_and_plain_text() -> None:
    config = parse("", {}, 'log_level="debug"', "identity.version='1'", "identity.product=2.15")
    assert (config.log_level, config.identity.version, config.identity.product) == (
        "debug",
        "1",
        "2.15",
    )


STRICTER = [
    ('[privacy]\nserver_url = "omit"', "privacy.server_url", "send", "omit"),
    ('[privacy]\ncluster_ids = "omit"', "privacy.cluster_ids", "anonymous", "omit"),
    (HTTP + "enabled = false", "exporters.my-http.enabled", "true", "false"),
    ("enabled = false", "enabled", "true", "false"),
]


def is_restricted(config: Config, key: str) -> bool:
    if key.startswith("privacy."):
        return key.removeprefix("privacy.") in config.privacy.omitted
    return not (config if key == "enabled" else config.exporters[0]).enabled


@pytest.mark.parametrize(("file", "key", "open_", "strict"), STRICTER)
def test_strictest_restriction_of_all_sources_holds(
    file: str, key: str, open_: str, strict: str
) -> None:
    neutral = HTTP if "exporters" in key else ""
    environ = variable_of(tuple(key.split(".")))
    cases: list[tuple[str, dict[str, str], tuple[str, ...]]]
    cases = [(file, {}, (f"{key}={open_}",)), (neutral, {}, (f"{key}={strict}",))]
    if key != "enabled":  # whose variable only switches off: test_restrictions
        cases += [
            (file, {environ: open_}, ()),
            (neutral, {environ: strict}, (f"{key}={open_}",)),
            (neutral, {environ: strict}, ()),
            (neutral, {environ: open_}, (f"{key}={strict}",)),
        ]
    for text, variables, assigned in cases:
        place, read = source(variables, *assigned), ConfigFile("c.toml", text)
        config = place.parse_as_written(read)
        assert is_restricted(config, key)
        decision = decide(place.statements(read), (), at=1.0)
        assert key in {each.key for each in decision.effective}
        assert is_restricted(restrict(parse(neutral), decision.effective), key)


def test_conflict_with_a_restriction_is_reported() -> None:
    place = source({"TELEMETRYD_PRIVACY__SERVER_URL": "omit"}, "privacy.server_url=send")
    (line,) = place.conflicts(ConfigFile("c.toml", ""))
    assert line == (
        "--set privacy.server_url has no effect: $TELEMETRYD_PRIVACY__SERVER_URL restricts "
        "privacy.server_url, and the strictest holds"
    )
    place = source({}, "privacy.server_url=send")
    (line,) = place.conflicts(ConfigFile("c.toml", '[privacy]\nserver_url = "omit"'))
    assert ": c.toml:2 restricts" in line


def test_restriction_from_above_the_file_ends_with_it_and_says_how() -> None:
    place = source({"TELEMETRYD_PRIVACY__SERVER_URL": "omit"}, "enabled=false")
    decision = decide(place.statements(ConfigFile("c.toml", "")), (), at=1.0)
    assert {how_to_end(each) for each in decision.effective} == {
        "take $TELEMETRYD_PRIVACY__SERVER_URL out of the environment and restart",
        "take --set enabled out of the command line and restart",
    }
    assert decision.remembered == ()


def test_choice_of_the_file_may_move_to_a_variable() -> None:
    """What the file once said is still said: the file wasn't cut."""
    exporter = '[[exporters]]\nname = "a"\ntype = "secret"\n'
    before = decide(
        source().statements(ConfigFile("c.toml", exporter + 'secret = "s"')), (), at=1.0
    )
    place = source({"TELEMETRYD_EXPORTERS__A__SECRET": "s"})
    after = decide(place.statements(ConfigFile("c.toml", exporter)), before.remembered, at=2.0)
    assert after.missing == ()
    cut = decide(source().statements(ConfigFile("c.toml", exporter)), before.remembered, at=2.0)
    assert [each.key for each in cut.missing] == ["exporters.a.secret"]


def test_control_socket_is_found_by_what_is_set_above_a_broken_file() -> None:
    place = ConfigSource(
        "/none/config.toml",
        {"TELEMETRYD_STATE_DIR": "/s"},
        assignments=(Assignment("--set", "server.control_socket", "/c.sock"),),
    )
    assert find_control_socket(place).paths == ("/c.sock",)
    place = ConfigSource("/none/config.toml", {"TELEMETRYD_STATE_DIR": "/s"})
    assert find_control_socket(place).paths == ("/s/control.sock",)
