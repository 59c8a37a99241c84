"""Where the configuration is found, and all that a file can be."""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from telemetryd.config import (
    Config,
    ConfigFile,
    ConfigSource,
    ListenAddress,
    PrivacyConfig,
    SecretExporterConfig,
    ServerConfig,
    find_config,
    load_config,
    parse_config,
)
from telemetryd.errors import ConfigError

OTHER_USER = 65534
NOTHING: Mapping[str, str] = {}


def problems(text: str, environ: Mapping[str, str] = NOTHING) -> list[str]:
    with pytest.raises(ConfigError) as raised:
        parse_config(text, "t.toml", environ)
    return [str(problem) for problem in raised.value.problems]


def parse(text: str) -> Config:
    return parse_config(text, "t.toml", {})


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b" \t\r\n\n",
        b"# enabled = false\n  # more",
        b"\xef\xbb\xbf",
        b"\xef\xbb\xbf#\n",
        b"[privacy]\n",
        b"# cut behind a head\r\n[kubernetes] # which\r\n\n[server]",
    ],
)
def test_file_without_a_statement_is_an_error(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "config.toml"
    file.write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        load_config(file, {})
    (problem,) = caught.value.problems
    assert str(problem).startswith(f"{file}: holds no statement: write it again")


def test_no_file_is_the_defaults() -> None:
    assert load_config(None, {}) == parse("")
    assert replace(parse(""), state_dir=None, server=ServerConfig()) == Config()


def test_defaults_are_one_secret_exporter() -> None:
    (exporter,) = Config().exporters
    assert exporter == SecretExporterConfig(name="scc")
    assert (exporter.name, exporter.type) == ("scc", "secret")


def test_option_comes_before_environment_before_system_file(tmp_path: Path) -> None:
    system = tmp_path / "config.toml"
    environ = {"TELEMETRYD_CONFIG": "from-environment"}
    assert find_config("option", environ, system_path=system) == Path("option")
    assert find_config(None, environ, system_path=system) == Path("from-environment")
    assert find_config(None, {"TELEMETRYD_CONFIG": ""}, system_path=system) is None
    system.touch()
    assert find_config(None, {}, system_path=system) == system


def test_dangling_link_as_system_file_isnt_taken_for_none(tmp_path: Path) -> None:
    system = tmp_path / "config.toml"
    system.symlink_to(tmp_path / "gone")
    assert find_config(None, {}, system_path=system) == system
    with pytest.raises(ConfigError, match="doesn't exist"):
        load_config(system, {})


def test_system_file_behind_a_file_is_none(tmp_path: Path) -> None:
    (tmp_path / "etc").touch()
    assert find_config(None, {}, system_path=tmp_path / "etc" / "config.toml") is None


def test_empty_option_is_refused() -> None:
    with pytest.raises(ConfigError, match="--config: is empty"):
        find_config("", {})


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\xff", "isn't UTF-8 (at line 1)"),
        (b"# a\n# b\n\xc3(", "isn't UTF-8 (at line 3)"),
        (b"x = ", "isn't valid TOML: Invalid value (at line 1, the end)"),
        (b"\n\nx y", "(at line 3, column 3)"),
        (b"a = 1\na = 1", "Cannot overwrite a value (at line 2"),
        (b"a = " + b"[" * 5000, "nested too deeply"),
        (b"a = " + b"9" * 5000, "isn't valid TOML"),
        (b"\x00", "isn't valid TOML"),
        (b"#" * (1024 * 1024 + 1), "larger than 1 MiB"),
    ],
)
def test_unreadable_content_is_named_with_its_file(
    tmp_path: Path, content: bytes, message: str
) -> None:
    file = tmp_path / "config.toml"
    file.write_bytes(content)
    with pytest.raises(ConfigError) as raised:
        load_config(file, {})
    (problem,) = raised.value.problems
    assert problem.where == str(file)
    assert message in problem.message


def test_byte_order_mark_is_skipped(tmp_path: Path) -> None:
    file = tmp_path / "config.toml"
    file.write_bytes(b'\xef\xbb\xbflog_level = "debug"\r\n')
    assert load_config(file, {}).log_level == "debug"


def test_directory_and_unusable_paths_are_named(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path, message in (
        (tmp_path / "pipe", "isn't a regular file: name a TOML file"),
        (Path("/dev/zero"), "isn't a regular file"),
        (tmp_path, "is a directory"),
        (tmp_path / "gone", "doesn't exist"),
        (Path("a\0b"), "can't be read"),
        (tmp_path / ("a" * 300), "can't be read"),
    ):
        with pytest.raises(ConfigError, match=message):
            load_config(path, {})


@contextmanager
def not_root() -> Iterator[int]:
    """As a user who may not read everything."""
    user = os.geteuid()
    if user == 0:
        os.seteuid(OTHER_USER)
    try:
        yield os.geteuid()
    finally:
        os.seteuid(user)


def test_unreadable_file_names_the_user_and_isnt_taken_for_none(tmp_path: Path) -> None:
    system = tmp_path / "closed" / "config.toml"
    system.parent.mkdir(mode=0o000)
    with not_root() as user:
        assert find_config(None, {}, system_path=system) == system
        with pytest.raises(ConfigError, match=f"can't be read by user {user}"):
            load_config(system, {})


def test_every_problem_is_reported_in_the_order_of_the_file() -> None:
    text = """
    log_levl = "info"
    drain_timeout = "5"
    [server]
    listen = "a:b"
    [kubernetes]
    page_size = "3"
    [[exporters]]
    name = "a"
    type = "secret"
    interval = "5s"
    timeout = "5s"
    retry_base = "40s"
    [[exporters]]
    name = "a"
    type = "secrt"
    directory = "/the/key/of/another/type"
    [[exporters]]
    type = "secret"
    name = "secretrequest/x"
    jitter = 0.6
    """
    told = problems(text, {"TELEMETRYD_LISTEN": "x"})
    starts = [
        't.toml:2: log_levl: unknown key; did you mean "log_level"?',
        't.toml:3: drain_timeout: "5" has no unit: write "5s"',
        't.toml:5: server.listen: is "a:b"',
        '$TELEMETRYD_LISTEN: is "x"',
        't.toml:7: kubernetes.page_size: is "3"',
        "t.toml:12: exporters.a.timeout: must be shorter than interval",
        "t.toml:13: exporters.a.retry_base: must not be longer than retry_cap",
        't.toml:16: exporters.a.type: is "secrt": must be "secret", "file", "http", "otlp"; did ',
        't.toml:15: exporters.a.name: "a" is the name of the exporter on line 8 too',
        't.toml:20: exporters[#3].name: is "secretrequest/x"',
        "t.toml:21: exporters[#3].jitter: is 0.6",
        't.toml:18: exporters[#3].secret: "cattle-telemetry-system/rancher-scc-telemetry" is the ',
    ]
    assert len(told) == len(starts)
    for line, start in zip(told, starts, strict=True):
        assert line.startswith(start)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("exporters = {}", "exporters: is a table: must be an array of tables"),
        ("[exporters]\nname='a'", "must be an array of tables: write [[exporters]]"),
        ("exporters = [1]", "exporters[#1]: is 1: must be a table"),
        ("kubernetes = 1", "kubernetes: is 1: must be a table: write [kubernetes]"),
        ("[[exporters]]", "exporters[#1].type: is missing"),
        ("[[exporters]]\ntype='secret'", "exporters[#1].name: is missing"),
        ("[[exporters]]\ntype=1\nname='a'", "exporters.a.type: is 1"),
        (
            "[[exporters]]\ntype='files'\nname='a'",
            'must be "secret", "file", "http", "otlp"; did you mean "file"?',
        ),
        ("[server]\ncontrol_sock='x'", "server.control_sock: unknown key"),
        ("xyzzy = true", "xyzzy: unknown key: known here are enabled, log_level, "),
        ("enabled = 'no'", 'enabled: is "no": must be true or false, without quotes'),
        (
            "[kubernetes]\nsource='k3s'",
            'kubernetes.source: is "k3s": must be one of "auto", "rancher"',
        ),
        ("'a b\\n' = 1", '"a b\\\\n": unknown key'),
        ("[identity]\ninstall_uuid=''", "identity.install_uuid: is"),
        ("log_level = 2020-01-01", "log_level: is an array or a date"),
    ],
)
def test_wrong_shape_is_named(text: str, message: str) -> None:
    told = problems(text)
    assert any(message in line for line in told), told


def test_no_exporters_can_be_asked_for() -> None:
    assert parse("exporters = []").exporters == ()


def test_timeout_follows_a_short_interval() -> None:
    text = "[[exporters]]\nname='a'\ntype='secret'\n"
    assert parse(text).exporters[0].timeout_s == 10
    assert parse(text + "interval='5s'").exporters[0].timeout_s == 2.5
    assert parse(text + "interval='5s'\ntimeout='4s'").exporters[0].timeout_s == 4


def test_broken_interval_isnt_blamed_on_timeout() -> None:
    text = "[[exporters]]\nname='a'\ntype='secret'\ninterval='x'\ntimeout='50m'"
    assert len(problems(text)) == 1


def test_all_values_arrive() -> None:
    config = parse(
        """
        log_format = "json"
        drain_timeout = "5s"
        [kubernetes]
        kubeconfig = "~/k"
        context = "c"
        page_size = 50
        compression = true
        [identity]
        product = "rancher"
        [server]
        listen = "[::1]:0"
        [[exporters]]
        name = "a"
        type = "secret"
        enabled = false
        interval = "1h30m"
        jitter = 0.5
        splay_max = "0s"
        retry_budget = "0s"
        namespace = "n"
        secret = "s.t"
        takeover = true
        quiet_period = "1m"
        """
    )
    assert (config.log_format, config.drain_timeout_s) == ("json", 5.0)
    assert (config.kubernetes.kubeconfig, config.kubernetes.context) == ("~/k", "c")
    assert (config.kubernetes.page_size, config.kubernetes.compression) == (50, True)
    assert config.identity.product == "rancher"
    assert (config.server.listen_host, config.server.listen_port) == ("::1", 0)
    assert config.exporters == (
        SecretExporterConfig(
            name="a",
            enabled=False,
            interval_s=5400.0,
            jitter=0.5,
            retry_budget_s=0.0,
            namespace="n",
            secret="s.t",
            takeover=True,
            quiet_period_s=60.0,
        ),
    )


def test_environment_overrides_the_file_unless_empty() -> None:
    text = 'log_level = "error"\n[server]\nlisten = "127.0.0.1:1"'
    environ = {"TELEMETRYD_LOG_LEVEL": "debug", "TELEMETRYD_LISTEN": ":2"}
    config = parse_config(text, "t.toml", environ)
    assert (config.log_level, config.server.listen) == ("debug", ListenAddress("", 2))
    config = parse_config(text, "t.toml", dict.fromkeys(environ, ""))
    assert (config.log_level, config.server.listen) == ("error", ListenAddress("127.0.0.1", 1))


def test_broken_environment_is_named_without_a_file() -> None:
    with pytest.raises(ConfigError, match=r'^\$TELEMETRYD_LOG_LEVEL: is "loud": must be one of'):
        load_config(None, {"TELEMETRYD_LOG_LEVEL": "loud"})


@pytest.mark.parametrize("secret", ["rancher-scc-telemetry", "rancher-scc-metrics"])
def test_secret_of_the_scc_payload_takes_no_other_format(secret: str) -> None:
    text = f"[[exporters]]\nname = 'a'\ntype = 'secret'\nsecret = '{secret}'\n"
    assert parse(text + "format = 'scc'").exporters[0].format == "scc"
    printed = problems(text + "format = 'fleet'")
    assert len(printed) == 1
    assert printed[0].startswith("t.toml:4: exporters.a.secret: is read by what takes format")
    for other in (
        "type = 'secret'\nsecret = 'mine'",
        "type = 'file'\ndirectory = '/var/lib/rancher-scc-telemetry'",
    ):
        config = parse(f"[[exporters]]\nname = 'a'\nformat = 'fleet'\n{other}")
        assert config.exporters[0].format == "fleet"


def test_default_secret_takes_no_other_format_either() -> None:
    (printed,) = problems("[[exporters]]\nname = 'a'\ntype = 'secret'\nformat = 'fleet'")
    assert "exporters.a.secret: " in printed


def test_privacy_sends_everything_by_default() -> None:
    assert parse("").privacy == PrivacyConfig(server_url="send", cluster_ids="anonymous")
    text = "[privacy]\nserver_url = 'omit'\ncluster_ids = 'omit'"
    assert parse(text).privacy == PrivacyConfig(server_url="omit", cluster_ids="omit")
    told = problems("[privacy]\nserver_url = 'hash'\ncluster_ids = 'names'")
    assert [line.partition(": is")[0] for line in told] == [
        "t.toml:2: privacy.server_url",
        "t.toml:3: privacy.cluster_ids",
    ]


def test_two_secrets_in_different_namespaces_are_two() -> None:
    text = """
    [[exporters]]
    name = "a"
    type = "secret"
    [[exporters]]
    name = "b"
    type = "secret"
    namespace = "other"
    """
    assert [exporter.name for exporter in parse(text).exporters] == ["a", "b"]


_KEYS = st.sampled_from([
    "log_level", "drain_timeout", "kubernetes", "identity", "server", "exporters", "listen",
    "name", "type", "interval", "timeout", "page_size", "install_uuid", "'odd key'", "x",
])  # fmt: skip
_VALUES = st.sampled_from([
    '"60s"', '"secret"', "true", "1", "-1", "0.5", "nan", "[]", "[1]", "{}", "{name='a'}",
    "[{type='secret', name='a'}, {type='secret', name='b'}]", "2020-01-01", "07:32:00",
    "'''\n'''", '"\\u0000"', "0x" + "f" * 5000, "1e999", '"127.0.0.1:0"',
])  # fmt: skip
_LINES = st.one_of(
    st.builds("{} = {}".format, _KEYS, _VALUES),
    st.builds("[{}]".format, _KEYS),
    st.builds("[[{}]]".format, _KEYS),
    st.builds("{}.{} = {}".format, _KEYS, _KEYS, _VALUES),
)


@given(st.one_of(st.text(), st.lists(_LINES).map("\n".join)))
@example("a.b=1\na=1")
def test_any_text_is_a_configuration_or_a_config_error(text: str) -> None:
    try:
        result: Config | list[str] = parse_config(text, "t.toml", {})
    except ConfigError as error:
        result = [str(problem) for problem in error.problems]
    assert result
    assert isinstance(result, Config) or not any("\n" in line for line in result)


def test_equal_values_and_all_that_a_start_asks_for_are_one_object() -> None:
    """A thousand exporters have nearly everything in common, and are read six times."""
    text = "".join(
        f'[[exporters]]\nname = "{name}"\ntype = "secret"\nsecret = "{name}"\nnamespace = "some"\n'
        'interval = "7s"\n'
        for name in ("one", "other")
    )
    source, file = ConfigSource(None, {}), ConfigFile("t.toml", text)
    one, other = source.parse_as_written(file).exporters
    assert isinstance(one, SecretExporterConfig)
    assert isinstance(other, SecretExporterConfig)
    assert one.namespace is other.namespace
    assert one.secret is one.name
    assert (one.interval_s, one.timeout_s) == (7.0, 3.5)
    assert one.interval_s is other.interval_s
    assert one.timeout_s is other.timeout_s
    assert source.parse(file).exporters[0] is one
    assert source.statements(file) is source.statements(file)


def test_other_content_is_read_again() -> None:
    source = ConfigSource(None, {})
    levels = [
        source.parse_as_written(ConfigFile("t.toml", f'log_level = "{level}"')).log_level
        for level in ("debug", "error", "debug")
    ]
    assert levels == ["debug", "error", "debug"]
