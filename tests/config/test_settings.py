"""Which keys need which others; ``config.example.toml`` has every key with its default."""

import re
from pathlib import Path
from typing import Any

import pytest

from telemetryd.config import Config, parse_config
from telemetryd.config.schema import Table, Variants, keys_of
from telemetryd.errors import ConfigError

CERT = 'tls_cert_file = "/c.crt"'
KEY = 'tls_key_file = "/c.key"'
CLIENT_CA = 'client_ca_file = "/ca.crt"'
TOKENS = "kubernetes_auth = true"


def parse(*lines: str, listen: str = "127.0.0.1:1") -> Config:
    return parse_config("\n".join(("[server]", *lines)), "c", {"TELEMETRYD_LISTEN": listen})


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ((CERT,), "server.tls_cert_file: is a certificate without its key: give tls_key_file too"),
        ((KEY,), "server.tls_key_file: is the key of no certificate: give tls_cert_file too"),
        (
            (CLIENT_CA,),
            (
                "server.client_ca_file: has no meaning on plain http: give tls_cert_file and "
                "tls_key_file too"
            ),
        ),
        (
            ('tls_cert_file = "c.crt"', KEY),
            ('server.tls_cert_file: must be an absolute path such as "/var/lib/telemetryd/scc"'),
        ),
    ],
)
def test_key_that_lacks_another_is_one_error_that_names_it(
    lines: tuple[str, ...], expected: str
) -> None:
    with pytest.raises(ConfigError) as refused:
        parse(*lines)
    assert str(refused.value) == f"c:2: {expected}"


@pytest.mark.parametrize("listen", [":1", "0.0.0.0:1", "[::]:1", "10.0.0.1:1", "name.example:1"])
def test_tokens_in_clear_text_are_refused_where_others_could_read_them(listen: str) -> None:
    with pytest.raises(ConfigError) as refused:
        parse(TOKENS, listen=listen)
    (problem,) = refused.value.problems
    assert problem.key == "server.kubernetes_auth"
    assert "clear text: give tls_cert_file and tls_key_file too" in problem.message
    assert parse(TOKENS, CERT, KEY, listen=listen).server.kubernetes_auth


@pytest.mark.parametrize("listen", ["127.0.0.1:1", "127.9.9.9:1", "[::1]:1", "localhost:1"])
def test_tokens_may_be_asked_for_on_loopback_without_tls(listen: str) -> None:
    assert parse(TOKENS, listen=listen).server.kubernetes_auth


EXAMPLE = Path(__file__).parents[2] / "config.example.toml"


def accepted_keys(declaration: type[Any], table: str = "") -> set[str]:
    """``table.key`` of everything the declaration accepts, tables themselves left out."""
    found: set[str] = set()
    for key in keys_of(declaration):
        match key.kind:
            case Table(inner):
                found |= accepted_keys(inner, key.name)
            case Variants(variants=variants):
                for variant in variants:
                    found |= accepted_keys(variant, key.name) | {f"{key.name}.type"}
            case _:
                found.add(f"{table}.{key.name}")
    return found


def shown_keys(text: str) -> set[str]:
    found, table = set(), ""
    for line in text.splitlines():
        if heading := re.match(r"\[+([a-z_]+)\]+", line):
            table = heading[1]
        elif key := re.match(r"(?:# )?([a-z_]+) = ", line):
            found.add(f"{table}.{key[1]}")
    return found


def test_example_equals_the_defaults() -> None:
    assert parse_config(EXAMPLE.read_text(), "config.example.toml", {}) == parse_config("", "", {})


def test_example_shows_exactly_the_accepted_keys() -> None:
    assert shown_keys(EXAMPLE.read_text()) == accepted_keys(Config)


def test_every_shown_key_has_a_comment() -> None:
    for line in EXAMPLE.read_text().splitlines():
        if re.match(r"(?:# )?[a-z_]+ = ", line):
            assert re.search(r" = (\"[^\"]*\"|\S+) +# .", line), line


def test_example_with_its_comments_removed_is_accepted() -> None:
    text = re.sub(r"^# (\[|[a-z_]+ = )", r"\1", EXAMPLE.read_text(), flags=re.MULTILINE)
    text = text.replace('store = "sqlite"', 'store = "postgresql"')  # whose key dsn_file is
    config = parse_config(text, "config.example.toml", {})
    assert config.kubernetes.context == "production"
    assert config.identity.server_url == "https://rancher.example.com"
    assert [exporter.type for exporter in config.exporters] == ["secret", "file", "http", "otlp"]
