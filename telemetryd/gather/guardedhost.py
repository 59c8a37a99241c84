"""Keeps requests for Rancher's build commit away from this machine's and the cloud's own addresses.

Users who may edit the setting ``server-url`` choose the host. Names must be resolved, and addresses
have many notations, so the check is on the address of the socket itself.
"""

import socket
from ipaddress import (
    IPv4Address,
    IPv6Address,
    IPv6Network,
    ip_address,
    ip_network,
)
from typing import Any, Final
from urllib.parse import urlsplit

_NAT64: Final = IPv6Network("64:ff9b::/96")
"""RFC 6052: an IPv4 address in its last 32 bits."""

_THIS_NETWORK: Final = ip_network("0.0.0.0/8")

_METADATA: Final = frozenset(
    map(ip_address, ("fd00:ec2::254", "100.100.100.200", "168.63.129.16", "192.0.0.192"))
)
"""Metadata services of AWS, Alibaba Cloud, Azure and Oracle that aren't link-local."""

_PORTS: Final = {"http": 80, "https": 443}


class GuardedSockets:
    """Makes the sockets of a connector, unless their address must not be used.

    Attributes:
        refused: The last refused address, and why; empty if there was none.
    """

    def __init__(self) -> None:
        self.refused = ""

    def open(self, address: Any) -> socket.socket:
        """A socket for one resolved address, as from ``socket.getaddrinfo``.

        Raises:
            PermissionError: The address must not be used.
        """
        family, kind, protocol, _, place = address
        if why := why_refused(str(place[0])):
            self.refused = f"{place[0]}, {why}"
            raise PermissionError(self.refused)
        return socket.socket(family, kind, protocol)


def why_refused(text: str) -> str:
    """Why an IP address must not be used; empty if it may."""
    address = _unwrapped(ip_address(text))
    if address.is_loopback or address.is_unspecified or address in _THIS_NETWORK:
        return "an address of this machine"
    if address.is_link_local:
        return "a link-local address"
    if address in _METADATA:
        return "a metadata service of a cloud"
    if address.is_multicast:
        return "a multicast address"
    return "a reserved address" if address.is_reserved else ""


def is_same_server(url: str, other: str) -> bool:
    """Whether both URLs name the same host and port."""
    try:
        return bool(url) and _place(url) == _place(other)
    except ValueError:
        return False


def _place(url: str) -> tuple[str | None, int | None]:
    parts = urlsplit(url)
    return parts.hostname, parts.port or _PORTS.get(parts.scheme)


def _unwrapped(address: IPv4Address | IPv6Address) -> IPv4Address | IPv6Address:
    """The IPv4 address that an IPv6 address contains, otherwise the address itself."""
    if isinstance(address, IPv4Address):
        return address
    if address in _NAT64:
        return IPv4Address(int(address) & 0xFFFFFFFF)
    return address.ipv4_mapped or address.sixtofour or address
