"""The difference of two configurations, by keys and by exporters."""

import itertools
import re
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from telemetryd.config import Config, ConfigFile, ConfigSource
from telemetryd.config.diff import (
    RELOADABLE,
    RELOADABLE_ALONE,
    KeyChange,
    canonical,
    config_hash,
    diff_configs,
    render_changes,
)
from telemetryd.config.schema import Table, Variants, keys_of


def parse(text: str, **environ: str) -> Config:
    return ConfigSource(None, environ).parse_as_written(ConfigFile("t.toml", text))


def secret(name: str, **keys: str) -> str:
    given = {"secret": f'"s-{name}"', **keys}
    lines = (f"{key} = {value}\n" for key, value in given.items())
    return f'[[exporters]]\nname = "{name}"\ntype = "secret"\n' + "".join(lines)


def folder(name: str, **keys: str) -> str:
    return secret(name, directory=f'"/var/lib/{name}"', **keys).replace(
        'type = "secret"\n' + f'secret = "s-{name}"\n', 'type = "file"\n'
    )


def all_paths(declaration: type[Any] = Config, path: str = "") -> Iterator[str]:
    for key in keys_of(declaration):
        match key.kind:
            case Table(inner):
                yield from all_paths(inner, f"{path}{key.name}.")
            case Variants():
                pass
            case _:
                yield path + key.name


def test_same_file_has_no_difference() -> None:
    text = secret("a") + folder("b")
    diff = diff_configs(parse(text), parse(text))
    assert diff.untouched == ("a", "b")
    assert (diff.restart_only, diff.reloadable, diff.added, diff.removed) == ((), (), (), ())
    assert (diff.changed, diff.rescheduled) == ((), ())
    assert render_changes(diff) == ()


def test_ways_of_writing_make_no_difference() -> None:
    old = parse(
        'drain_timeout = "90s"\n' + secret("a", interval='"1m"', timeout='"10s"') + secret("b")
    )
    new = parse("# comment\n" + 'drain_timeout = "1m30s"\n' + secret("b", jitter="0") + secret("a"))
    diff = diff_configs(old, new)
    assert set(diff.untouched) == {"a", "b"}
    assert render_changes(diff) == ()
    assert config_hash(old) == config_hash(new)


@pytest.mark.parametrize(
    ("text", "paths"),
    [
        ('state_dir = "/elsewhere"', ["state_dir"]),
        ('[kubernetes]\npage_size = 7\nwatch_list = "off"\ncompression = true',
         ["kubernetes.page_size", "kubernetes.watch_list", "kubernetes.compression"]),
        ('[kubernetes]\nkubeconfig = "/k"\ncontext = "c"',
         ["kubernetes.kubeconfig", "kubernetes.context"]),
        ('[server]\nlisten = "127.0.0.1:1"', ["server.listen"]),
        ('[server]\ncontrol_socket = "/run/t.sock"', ["server.control_socket"]),
    ],
)  # fmt: skip
def test_keys_that_need_a_restart_are_listed(text: str, paths: list[str]) -> None:
    for old, new in itertools.permutations((parse(""), parse(text))):
        diff = diff_configs(old, new)
        assert [key.path for key in diff.restart_only] == paths
        assert diff.reloadable == ()


def test_keys_that_a_running_daemon_can_change_are_listed_with_their_values() -> None:
    text = """
        log_level = "debug"
        log_format = "json"
        drain_timeout = "5s"
        reload_on_change = true
        [identity]
        product = "secret-name"
        [privacy]
        server_url = "omit"
        cluster_ids = "omit"
    """
    diff = diff_configs(parse(""), parse(text))
    assert diff.restart_only == ()
    assert diff.reloadable == (
        KeyChange("log_level", "info", "debug"),
        KeyChange("log_format", "auto", "json"),
        KeyChange("drain_timeout", "20s", "5s"),
        KeyChange("reload_on_change", False, True),
        KeyChange("identity.product", None, "secret-name"),
        KeyChange("privacy.server_url", "send", "omit"),
        KeyChange("privacy.cluster_ids", "anonymous", "omit"),
    )
    assert render_changes(diff) == (
        'log_level changed from "info" to "debug"',
        'log_format changed from "auto" to "json"',
        'drain_timeout changed from "20s" to "5s"',
        "reload_on_change changed from false to true",
        "identity.product changed",
        'privacy.server_url changed from "send" to "omit"',
        'privacy.cluster_ids changed from "anonymous" to "omit"',
    )


def test_key_of_a_table_that_needs_a_restart_may_be_reloadable_alone() -> None:
    text = """
        [server]
        expose_payload = true
        expose_history = true
        tls_cert_file = "/c"
        tls_key_file = "/k"
        client_ca_file = "/a"
        kubernetes_auth = true
    """
    diff = diff_configs(parse(""), parse(text))
    assert diff.restart_only == ()
    assert render_changes(diff) == (
        "server.tls_cert_file changed",
        "server.tls_key_file changed",
        "server.client_ca_file changed",
        "server.kubernetes_auth changed from false to true",
        "server.expose_payload changed from false to true",
        "server.expose_history changed from false to true",
    )


def test_every_key_is_either_reloadable_or_needs_a_restart() -> None:
    """A key that nobody thought of here needs a restart: listing it in full makes one think."""
    needs_restart = {path for path in all_paths() if path.partition(".")[0] not in RELOADABLE}
    assert needs_restart >= RELOADABLE_ALONE
    needs_restart -= RELOADABLE_ALONE
    assert needs_restart == {
        "state_dir",
        "kubernetes.kubeconfig",
        "kubernetes.context",
        "kubernetes.source",
        "kubernetes.page_size",
        "kubernetes.watch_list",
        "kubernetes.compression",
        "leader_election.enabled",
        "leader_election.namespace",
        "leader_election.name",
        "leader_election.lease_duration",
        "leader_election.renew_deadline",
        "leader_election.retry_period",
        "server.listen",
        "server.control_socket",
    }


def test_variable_that_overrides_a_key_overrides_it_on_both_sides() -> None:
    environ = {"TELEMETRYD_LOG_LEVEL": "error", "TELEMETRYD_LISTEN": ":1"}
    old = parse("", **environ)
    new = parse('log_level = "debug"\n[server]\nlisten = ":2"', **environ)
    diff = diff_configs(old, new)
    assert (diff.reloadable, diff.restart_only) == ((), ())


def test_exporters_are_distinguished_by_name() -> None:
    old = parse(
        secret("kept")
        + secret("gone")
        + secret("moved")
        + secret("slower", interval='"60s"')
        + secret("quicker", interval='"4s"')
        + secret("retyped")
    )
    new = parse(
        folder("retyped")
        + secret("quicker", interval='"2s"')
        + secret("slower", interval='"2m"')
        + secret("moved", secret='"elsewhere"', interval='"2s"')
        + folder("new")
        + secret("kept")
    )
    diff = diff_configs(old, new)
    assert diff.untouched == ("kept",)
    assert [exporter.name for exporter in diff.removed] == ["gone"]
    assert [(exporter.name, exporter.type) for exporter in diff.added] == [("new", "file")]
    assert [change.config.name for change in diff.changed] == ["retyped", "moved"]
    # The quicker one's timeout follows its interval, where none is given.
    assert [(change.config.name, change.keys) for change in diff.rescheduled] == [
        ("quicker", (KeyChange("interval", "4s", "2s"), KeyChange("timeout", "2s", "1s"))),
        ("slower", (KeyChange("interval", "1m", "2m"),)),
    ]
    assert render_changes(diff) == (
        "exporter gone removed",
        "exporter new added (file)",
        "exporter retyped replaced (type)",
        "exporter moved replaced (interval, timeout, secret)",
        'exporter quicker rescheduled (interval from "4s" to "2s", timeout from "2s" to "1s")',
        'exporter slower rescheduled (interval from "1m" to "2m")',
    )


def test_every_other_key_of_an_exporter_replaces_it() -> None:
    old = parse(secret("a"))
    for keys in (
        {"enabled": "false"},
        {"max_silence": '"1h"'},
        {"jitter": "0.1"},
        {"splay_max": '"1s"'},
        {"retry_base": '"2s"'},
        {"retry_cap": '"20s"'},
        {"retry_budget": '"20s"'},
        {"namespace": '"other"'},
        {"takeover": "true"},
        {"quiet_period": '"1m"'},
    ):
        diff = diff_configs(old, parse(secret("a", interval='"59s"', **keys)))
        assert [change.config.name for change in diff.changed] == ["a"], keys
        assert not diff.rescheduled


def test_renamed_exporter_is_one_removed_and_one_added() -> None:
    diff = diff_configs(parse(secret("a")), parse(secret("b", secret='"s-a"')))
    assert [exporter.name for exporter in diff.removed] == ["a"]
    assert [exporter.name for exporter in diff.added] == ["b"]


def test_default_exporter_is_as_good_as_a_written_one() -> None:
    written = parse(secret("scc", secret='"rancher-scc-telemetry"'))
    assert diff_configs(parse(""), written).untouched == ("scc",)
    none = parse("exporters = []")
    assert [exporter.name for exporter in diff_configs(written, none).removed] == ["scc"]


def test_values_are_shown_as_the_file_has_them() -> None:
    text = '[server]\nlisten = "[::1]:7"\ncontrol_socket = "/run/t.sock"'
    values = canonical(parse('log_level = "debug"\ndrain_timeout = "90s"\n' + text))
    assert values["drain_timeout"] == "1m30s"
    assert values["server"] == {
        "listen": "[::1]:7",
        "control_socket": "/run/t.sock",
        "tls_cert_file": None,
        "tls_key_file": None,
        "client_ca_file": None,
        "kubernetes_auth": False,
        "expose_payload": False,
        "expose_history": False,
    }
    assert parse(f'drain_timeout = "{values["drain_timeout"]}"').drain_timeout_s == 90


def test_hash_has_48_bits_and_follows_every_value() -> None:
    texts = ("", 'log_level = "debug"', secret("scc"), folder("scc"), secret("scc", keep="1"))
    hashes = {config_hash(parse(text)) for text in texts if "keep" not in text}
    assert len(hashes) == 4
    assert all(0 <= value < 1 << 48 and int(float(value)) == value for value in hashes)


names = st.lists(st.sampled_from("abcdef"), unique=True, max_size=6)
intervals = st.sampled_from(['"5s"', '"60s"', '"1m"'])
kinds = st.sampled_from([secret, folder])


@st.composite
def configs(draw: st.DrawFn) -> Config:
    tables = [draw(kinds)(name, interval=draw(intervals)) for name in draw(names)]
    return parse("".join(tables) or "exporters = []")


@given(configs(), configs())
def test_each_exporter_falls_under_one_heading(old: Config, new: Config) -> None:
    diff = diff_configs(old, new)
    removed = {exporter.name for exporter in diff.removed}
    headings = [
        {exporter.name for exporter in diff.added},
        {change.config.name for change in diff.changed},
        {change.config.name for change in diff.rescheduled},
        set(diff.untouched),
    ]
    assert sum(map(len, headings)) == len(new.exporters)
    assert set().union(*headings) == {exporter.name for exporter in new.exporters}
    assert removed | set().union(*headings[1:]) == {exporter.name for exporter in old.exporters}
    same = old.exporters == new.exporters or sorted(
        old.exporters, key=lambda each: each.name
    ) == sorted(new.exporters, key=lambda each: each.name)
    assert same == (render_changes(diff) == ())
    assert same == (config_hash(old) == config_hash(new))
    lines = render_changes(diff)
    assert all(re.fullmatch(r"exporter [a-f] \w+( \(.+\))?", line) for line in lines)
