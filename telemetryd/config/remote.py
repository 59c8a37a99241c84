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
    """Where OTLP metrics go: an endpoint without a path is a base, one with a path is the place.

    The path is that of the OTLP specification, "OTLP/HTTP Request".
    """
    return endpoint if urlsplit(endpoint).path.strip("/") else endpoint.rstrip("/") + _METRICS_PATH


def is_loopback(host: str) -> bool:
    """Whether a host or IP address is this machine's loopback, by its looks alone."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"
