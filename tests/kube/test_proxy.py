"""The environment's proxies, as kubectl reads them."""

import pytest

from telemetryd.errors import ConfigError
from telemetryd.kube.proxy import proxy_for

SERVER = "https://10.43.0.1:443"


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
    ],
)
def test_no_proxy_excepts_names_domains_addresses_and_networks(
    server: str, no_proxy: str, excepted: bool
) -> None:
    environ = {"HTTPS_PROXY": "http://proxy:3128", "NO_PROXY": no_proxy}
    assert (proxy_for(server, environ) is None) is excepted


def test_proxy_is_that_of_the_scheme_and_small_letters_win() -> None:
    environ = {"HTTPS_PROXY": "http://upper", "https_proxy": "lower:1", "HTTP_PROXY": "http://h"}
    assert proxy_for(SERVER, environ) == "http://lower:1"
    assert proxy_for("http://10.0.0.1", environ) == "http://h"
    assert proxy_for("http://10.0.0.1", {}) is None


@pytest.mark.parametrize("variable", ["HTTPS_PROXY", "https_proxy"])
@pytest.mark.parametrize(
    "value",
    ["socks5://me:SENTINEL@host", "http://", "http://:3128", "host:99999", "http://[::1", "a b"],
)
def test_proxy_that_can_not_be_one_names_its_variable(variable: str, value: str) -> None:
    with pytest.raises(ConfigError) as caught:
        proxy_for(SERVER, {variable: value})
    (problem,) = caught.value.problems
    assert problem.where == f"${variable}"
    assert "http or https proxy" in problem.message
    assert "SENTINEL" not in str(caught.value)
    assert proxy_for(SERVER, {variable: value, "NO_PROXY": "*"}) is None
