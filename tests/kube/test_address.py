"""``server`` of a kubeconfig; each expectation was compared with client-go 0.37."""

import pytest

from telemetryd.kube.address import may_carry_credentials, parse_server


@pytest.mark.parametrize(
    ("server", "url"),
    [
        ("https://h", "https://h"),
        ("HTTPS://H:6443", "https://H:6443"),
        ("https://h/k8s/clusters/c-1/", "https://h/k8s/clusters/c-1"),
        ("https://h/", "https://h"),
        ("https://h//a///b/../c", "https://h/a/c"),
        ("https://h/a%2Fb%20%C3%A4", "https://h/a/b%20%C3%A4"),
        ("h:6443", "http://h:6443"),
        ("127.0.0.1:6443", "http://127.0.0.1:6443"),
        ("10.0.0.1", "http://10.0.0.1"),
        ("localhost", "http://localhost"),
        ("https://h:", "https://h"),
        ("https://h/a?x=1#y", "https://h/a"),
        ("https://h/a b", "https://h/a%20b"),
        ("https://h.example.", "https://h.example."),
        ("https://a_b.c", "https://a_b.c"),
        ("https://b\u00fccher.example", "https://b\u00fccher.example"),
        ("https://[::1]:6443", "https://[::1]:6443"),
        ("https://[fe80::1%25eth0]:6443", "https://[fe80::1%25eth0]:6443"),
        ("https://0x7f.1", "https://0x7f.1"),
    ],
)
def test_server_is_completed(server: str, url: str) -> None:
    assert parse_server(server) == url


@pytest.mark.parametrize(
    ("server", "says"),
    [
        ("", "with a host"),
        ("https://", "with a host"),
        ("//h:1", "with a host"),
        ("ftp://h", "http or https"),
        ("https:h", "with a host"),
        ("https:/h", "no scheme"),
        ("h/a", "no scheme"),
        ("https://h:0", "with a host"),
        ("https://h:99999", "with a host"),
        ("https://h:x", "with a host"),
        ("https://h ", "spaces"),
        ("https://h\n", "control characters"),
        ("https://me:SENTINEL@h", "credentials"),
        ("https://[::1", "with a host"),
        ("https://[fe80::1%eth0]:6443", "%25"),
        ("https://[fe80::1%25]:6443", "empty IPv6 zone"),
        ("https://h/%zz", "hexadecimal"),
        ("https://127.1:6443", "neither an IPv4 address nor a DNS name"),
        ("https://1.2.3.4.5", "neither"),
        ("https://127.0.0.01", "neither"),
        ("https://2130706433", "neither"),
        ("https://a..b", "can't be a DNS name"),
        ("https://-a.b", "can't be a DNS name"),
        ("https://a-.b", "can't be a DNS name"),
        ("https://a%20b", "can't be a DNS name"),
        (f"https://{'a' * 64}.b", "can't be a DNS name"),
        ("https://" + "a." * 127 + "b", "can't be a DNS name"),
    ],
)
def test_url_that_can_not_work_is_refused_at_once_with_the_reason(server: str, says: str) -> None:
    with pytest.raises(ValueError, match=r"^(isn't|has)") as caught:
        parse_server(server)
    assert says in str(caught.value)
    assert "SENTINEL" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "may"),
    [
        ("https://api.example.com", True),
        ("http://api.example.com", False),
        ("http://10.0.0.1", False),
        ("http://localhost:8001", True),
        ("http://127.0.0.1:8001", True),
        ("http://[::1]:8001", True),
    ],
)
def test_credential_leaves_this_machine_over_tls_only(url: str, may: bool) -> None:
    assert may_carry_credentials(url) is may
