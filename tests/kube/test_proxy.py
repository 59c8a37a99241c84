"""The environment's proxies, as kubectl reads them."""

import base64

import pytest

from telemetryd.errors import ConfigError
from telemetryd.kube.address import address_of, proxy_for, what_is_wrong_with_proxy

SERVER = "https://10.43.0.1:443"
API = "https://api.example.test"


@pytest.mark.parametrize(
    ("server", "no_proxy", "excepted"),
    [
        (SERVER, "", False),
        (SERVER, "10.0.0.0/8", True),
        (SERVER, "192.168.0.0/16", False),
        (SERVER, "10.43.0.1", True),
        (SERVER, "10.43.0.1:443", True),
        (SERVER, "10.43.0.1:6443", False),
        (SERVER, "*", True),
        ("https://[fd00::1]:6443", "fd00::/8", True),
        ("https://kubernetes.default.svc", ".svc,.cluster.local", True),
        ("https://kubernetes.default.svc", " x , default.svc ", True),
        ("https://kubernetes.default.svc", "svc.example", False),
        ("https://example.com", ".example.com", False),
        ("https://example.com", "example.com", True),
        ("https://a.EXAMPLE.com", "*.Example.com", True),
        ("https://notexample.com", "example.com", False),
        ("https://localhost:6443", "", True),
        ("https://127.0.0.1:6443", "", True),
        ("https://[::1]:6443", "", True),
        ("https://[::ffff:127.0.0.1]", "", True),
        ("https://LOCALHOST", "", False),
        ("https://foo.localhost", "", False),
        (API, "api.example.test", True),
        (API, "api.example.test:443", True),
        (API, ".example.test:443", True),
        (API, "*.example.test:443", True),
        (API, "example.test:443", True),
        (API, "example.test:6443", False),
        (API, "example.test:", True),
        (API, "example.test:abc", False),
        (f"{API}:6443", "example.test:443", False),
        (f"{API}:6443", "example.test:6443", True),
        ("http://api.example.test", "example.test:80", True),
        (API, ":443", False),
        (API, "*:443", False),
        (API, "*example.test", False),
        (API, ".", False),
        (API, "test", True),
        (API, "API.Example.TEST", True),
        (API, "api.example.test.", False),
        ("https://api.example.test.", "api.example.test.", True),
        ("https://api.example.test.", "api.example.test", False),
        (API, "https://api.example.test", False),
        (API, "x, *", True),
        ("https://b\u00fccher.example", "b\u00fccher.example", True),
        ("https://b\u00fccher.example", "xn--bcher-kva.example", True),
        ("https://xn--bcher-kva.example", "B\u00dcCHER.example", True),
        ("https://a.b\u00fccher.example", ".b\u00fccher.example", True),
        (SERVER, "010.043.0.0/16", True),
        (SERVER, "10.0.0.0/255.0.0.0", False),
        (SERVER, "10.43.0.1/33", False),
        (SERVER, "10.", False),
        (SERVER, "0.0.0.0/0", True),
        (SERVER, "::/0", False),
        (SERVER, "::ffff:10.43.0.1", True),
        (SERVER, "::ffff:10.0.0.0/104", True),
        ("https://[::ffff:10.43.0.1]", "10.43.0.1", True),
        ("https://[fd00::1]:6443", "fd00::1", True),
        ("https://[fd00::1]:6443", "[fd00::1]:6443", True),
        ("https://[fd00::1]:6443", "[fd00::1]:443", False),
        ("https://[fd00::1]:6443", "[fd00::1]", False),
        ("https://[fe80::1%25eth0]", "fe80::1", True),
        ("https://[fe80::1%25eth0]", "fe80::1%eth0", False),
        ("https://[fe80::1%25eth0]", "fe80::/10", True),
    ],
)
def test_no_proxy_excepts_names_domains_addresses_and_networks(
    server: str, no_proxy: str, excepted: bool
) -> None:
    proxies = {"HTTPS_PROXY": "http://proxy:3128", "HTTP_PROXY": "http://proxy:3128"}
    for name in ("NO_PROXY", "no_proxy"):
        assert (proxy_for(server, proxies | {name: no_proxy}) is None) is excepted


def test_no_proxy_in_capital_letters_goes_first() -> None:
    environ = {"HTTPS_PROXY": "http://proxy", "NO_PROXY": "other", "no_proxy": "*"}
    assert proxy_for(SERVER, environ) == "http://proxy"


def test_http_proxy_is_refused_where_a_request_may_have_set_it() -> None:
    environ = {"HTTP_PROXY": "http://proxy", "HTTPS_PROXY": "http://other", "REQUEST_METHOD": "GET"}
    assert proxy_for(SERVER, environ) == "http://other"
    with pytest.raises(ConfigError, match="REQUEST_METHOD"):
        proxy_for("http://10.0.0.1", environ)


@pytest.mark.parametrize(
    ("proxy", "address", "raw"),
    [
        ("http://proxy:3128", "http://proxy:3128", None),
        ("http://me:secret@proxy:3128", "http://proxy:3128", b"me:secret"),
        ("http://user:p%E2%82%ACss@proxy", "http://proxy", b"user:p\xe2\x82\xacss"),
        ("http://u%3Aser:p%40s%2Fs@proxy", "http://proxy", b"u:ser:p@s/s"),
        ("http://user:p@ss@proxy", "http://proxy", b"user:p@ss"),
        ("http://user:%FF@proxy", "http://proxy", b"user:\xff"),
        ("http://user@[::1]:1", "http://[::1]:1", b"user:"),
    ],
)
def test_user_and_password_go_to_the_proxy_as_the_bytes_that_are_escaped(
    proxy: str, address: str, raw: bytes | None
) -> None:
    assert what_is_wrong_with_proxy(proxy) is None
    url, headers = address_of(proxy)
    assert url == address
    sent = headers.get("Proxy-Authorization", "Basic ").removeprefix("Basic ")
    assert base64.b64decode(sent) == (raw or b"")


def test_proxy_is_that_of_the_scheme_and_capital_letters_win() -> None:
    environ = {"HTTPS_PROXY": "upper:1", "https_proxy": "http://lower", "HTTP_PROXY": "http://h"}
    assert proxy_for(SERVER, environ) == "http://upper:1"
    assert proxy_for(SERVER, {"https_proxy": "lower:1"}) == "http://lower:1"
    assert proxy_for("http://10.0.0.1", environ) == "http://h"
    assert proxy_for("http://10.0.0.1", {}) is None


@pytest.mark.parametrize("variable", ["HTTPS_PROXY", "https_proxy"])
@pytest.mark.parametrize(
    "value",
    [
        "socks5://me:SENTINEL@host",
        "http://",
        "http://:3128",
        "host:99999",
        "http://[::1",
        "a b",
        "http://me:SENTINEL\N{EURO SIGN}@host",
        "http://me:SENTINEL%zz@host",
    ],
)
def test_proxy_that_can_not_be_one_names_its_variable(variable: str, value: str) -> None:
    with pytest.raises(ConfigError) as caught:
        proxy_for(SERVER, {variable: value})
    (problem,) = caught.value.problems
    assert problem.where == f"${variable}"
    assert "http or https proxy" in problem.message or "%XX" in problem.message
    assert "SENTINEL" not in str(caught.value)
    assert proxy_for(SERVER, {variable: value, "NO_PROXY": "*"}) is None
