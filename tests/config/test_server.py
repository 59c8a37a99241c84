"""``[server]``: which keys need which others."""

import pytest

from telemetryd.config import Config, parse_config
from telemetryd.errors import ConfigError

CERT = 'tls_cert_file = "/c.crt"'
KEY = 'tls_key_file = "/c.key"'
CLIENT_CA = 'client_ca_file = "/ca.crt"'
TOKENS = "kubernetes_auth = true"


def parse(*lines: str, listen: str = "127.0.0.1:1") -> Config:
    return parse_config("\n".join(("[server]", *lines)), "c", {"TELEMETRYD_LISTEN": listen})


@pytest.mark.parametrize(
    ("lines", "told"),
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
    lines: tuple[str, ...], told: str
) -> None:
    with pytest.raises(ConfigError) as refused:
        parse(*lines)
    assert str(refused.value) == f"c:2: {told}"


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
