"""Which addresses are asked for a build commit, in every notation that a socket can be given."""

import socket

import pytest

from telemetryd.gather.build_info import GuardedSockets, is_same_server, why_refused


@pytest.mark.parametrize(
    ("address", "why"),
    [
        ("127.255.255.254", "an address of this machine"),
        ("0.0.0.0", "an address of this machine"),
        ("0.1.2.3", "an address of this machine"),
        ("::", "an address of this machine"),
        ("::1", "an address of this machine"),
        ("::ffff:127.0.0.1", "an address of this machine"),
        ("64:ff9b::7f00:1", "an address of this machine"),
        ("2002:7f00:1::", "an address of this machine"),
        ("169.254.169.254", "a link-local address"),
        ("::ffff:169.254.169.254", "a link-local address"),
        ("64:ff9b::a9fe:a9fe", "a link-local address"),
        ("fe80::1%eth0", "a link-local address"),
        ("fd00:ec2::254", "a metadata service of a cloud"),
        ("100.100.100.200", "a metadata service of a cloud"),
        ("224.0.0.1", "a multicast address"),
        ("ff02::1", "a multicast address"),
        ("255.255.255.255", "a reserved address"),
    ],
)
def test_address_that_is_nobodys_rancher_is_refused(address: str, why: str) -> None:
    assert why_refused(address) == why


@pytest.mark.parametrize(
    "address",
    ["10.43.0.1", "192.168.1.5", "203.0.113.7", "fd12::7", "2001:db8::1", "64:ff9b::a00:1"],
)
def test_address_that_a_rancher_may_have_is_asked(address: str) -> None:
    assert why_refused(address) == ""


def test_socket_is_made_only_for_an_address_that_may_be_asked() -> None:
    guard = GuardedSockets()
    kind = socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, ""
    guard.open((*kind, ("10.43.0.1", 443))).close()
    assert guard.refused == ""
    with pytest.raises(PermissionError, match="link-local"):
        guard.open((*kind, ("169.254.169.254", 80)))
    assert guard.refused == "169.254.169.254, a link-local address"


@pytest.mark.parametrize(
    ("url", "other", "same"),
    [
        ("https://rancher.example", "https://RANCHER.example:443/k8s/clusters/local", True),
        ("http://127.0.0.1:8080/", "http://127.0.0.1:8080", True),
        ("http://127.0.0.1:8080", "http://127.0.0.1:8081", False),
        ("http://127.0.0.1", "https://127.0.0.1", False),
        ("http://x:99999", "http://x:99999", False),
        ("", "", False),
    ],
)
def test_servers_are_the_same_by_host_and_port(url: str, other: str, same: bool) -> None:
    assert is_same_server(url, other) is same
