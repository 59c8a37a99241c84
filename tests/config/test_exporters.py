"""Exporters that send to other sites: their keys, and what must hold between them."""

import pytest

from telemetryd.config import Config, HttpExporterConfig, OtlpExporterConfig, parse_config
from telemetryd.config.exporters import is_in_clear
from telemetryd.errors import ConfigError


def parse(*tables: str) -> Config:
    text = "".join(f'[[exporters]]\nname = "e{i}"\n{table}\n' for i, table in enumerate(tables))
    return parse_config(text, "t.toml", {})


def http(**keys: str) -> str:
    given = {"url": '"https://receiver.example/in"', **keys}
    return 'type = "http"\n' + "\n".join(f"{key} = {value}" for key, value in given.items())


def otlp(**keys: str) -> str:
    given = {"endpoint": '"https://otel.example:4318"', **keys}
    return 'type = "otlp"\n' + "\n".join(f"{key} = {value}" for key, value in given.items())


def test_defaults_are_those_of_the_contract() -> None:
    first, second = parse(http(), otlp()).exporters
    assert first == HttpExporterConfig(name="e0", url="https://receiver.example/in")
    assert second == OtlpExporterConfig(name="e1", endpoint="https://otel.example:4318")
    assert (first.compress, first.spool) == (True, True)
    assert (first.splay_max_s, second.splay_max_s) == (300.0, 300.0)
    assert (first.jitter, first.interval_s, first.timeout_s) == (0.0, 60.0, 10.0)


@pytest.mark.parametrize(
    ("table", "problem"),
    [
        (http(url='"http://a.example"', bearer_token_file='"/t"'), "bearer_token_file: would be"),
        (http(url='"http://a.example"', headers_file='"/t"'), "headers_file: would be readable"),
        (otlp(endpoint='"http://10.0.0.1:4318"', headers_file='"/t"'), "headers_file: would be"),
        (http(url='"http://localhost"', ca_file='"/t"'), "ca_file: has no meaning on plain http"),
        (http(url='"http://[::1]"', client_cert_file='"/t"'), "client_cert_file: has no meaning"),
        (http(client_key_file='"/t"'), "client_key_file: is the key of no certificate"),
        (http(url='"https://me:hunter2@a.example"'), "url: has credentials, a query or a frag"),
        (http(url='"https://a.example/?token=hunter2"'), "url: has credentials, a query or a frag"),
        (http(url='"ftp://a.example"'), "url: isn't an http or https URL"),
        (http(token='"hunter2"'), "token: unknown key"),
        (http(bearer_token_file='"token"'), "bearer_token_file: must be"),
        (otlp(format='"fleet"'), "format: has no meaning for metrics: leave it out"),
        (otlp(spool="true"), "spool: unknown key"),
        ('type = "http"', "url: is missing"),
        ('type = "otlp"', "endpoint: is missing"),
    ],
)
def test_what_makes_no_sense_or_gives_a_secret_away_is_refused(table: str, problem: str) -> None:
    with pytest.raises(ConfigError) as raised:
        parse(table)
    (found,) = raised.value.problems
    assert f"exporters.e0.{problem}" in str(found)
    assert "hunter2" not in str(raised.value)


@pytest.mark.parametrize("url", ["https://a.example", "http://127.0.0.1:1", "http://localhost"])
def test_credentials_may_go_over_tls_and_to_this_machine(url: str) -> None:
    assert parse(http(url=f'"{url}"', bearer_token_file='"/t"'))
    assert not is_in_clear(url)


@pytest.mark.parametrize("endpoint", ["https://c/", "https://c", "https://c/v1/metrics"])
def test_two_endpoints_that_mean_one_place_are_refused(endpoint: str) -> None:
    other = otlp(endpoint='"https://c/v1/metrics/"')
    with pytest.raises(ConfigError, match=r"of exporters\.e0 too: each needs its own"):
        parse(otlp(endpoint=f'"{endpoint}"'), other)


@pytest.mark.parametrize("table", [http(), otlp()])
def test_two_exporters_to_one_place_are_refused(table: str) -> None:
    with pytest.raises(ConfigError, match=r"of exporters\.e0 too: each needs its own"):
        parse(table, table)
