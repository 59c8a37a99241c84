"""What an address of the configuration means for what is sent there; nothing is looked up."""

import ipaddress
from urllib.parse import urlsplit

_METRICS_PATH = "/v1/metrics"


def is_in_clear(url: str) -> bool:
    """Whether others can read what is sent there: plain http that leaves this machine."""
    parts = urlsplit(url)
    return parts.scheme == "http" and not is_loopback(parts.hostname or "")


def is_over_tls(url: str) -> bool:
    """Whether certificates have a meaning there."""
    return urlsplit(url).scheme == "https"


def metrics_url(endpoint: str) -> str:
    """Where OTLP metrics go: under the endpoint, unless its path names the place already.

    The path is that of the OTLP specification, "OTLP/HTTP Request". Backends document their
    endpoint as a base, with a path of their own or without.
    """
    base = endpoint.rstrip("/")
    return base if urlsplit(base).path.endswith(_METRICS_PATH) else base + _METRICS_PATH


def why_unbindable(host: str) -> str:  # noqa: PLR0911 - one line a case
    """Why no machine can listen there, with what would be right; empty for all other hosts.

    Args:
        host: A name, or an IP address with a zone or without.
    """
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return ""
    if address.is_multicast:
        return "a multicast address is no address of this machine: name one that it has"
    if isinstance(address, ipaddress.IPv4Address):
        reserved = address.is_reserved or (int(address) >> 24 == 0 and not address.is_unspecified)
        return "a reserved address is never a machine's: name one that it has" if reserved else ""
    if address.ipv4_mapped is not None:
        return f"write the IPv4 address alone: {address.ipv4_mapped}"
    if address.is_link_local and address.scope_id is None:
        return f'a link-local address needs its interface, as in "[{host}%eth0]"'
    if address.scope_id is not None and not address.is_link_local:
        return f"only link-local addresses have a zone: leave %{address.scope_id} out"
    return ""


def is_loopback(host: str) -> bool:
    """Whether a host or IP address is this machine's loopback, by its looks alone."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"
