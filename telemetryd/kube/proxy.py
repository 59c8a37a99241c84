"""Which proxy the environment names for the API server.

``HTTPS_PROXY``, ``HTTP_PROXY`` and ``NO_PROXY`` count, in either case, as they do for kubectl;
``NO_PROXY`` takes host names, domains (``.svc``), addresses, and networks (``10.0.0.0/8``), which
Python's own reading of it lacks and which Rancher's documentation recommends. ``.netrc`` never
counts. A ``proxy-url`` of the kubeconfig goes before all of this.
"""

import ipaddress
from collections.abc import Mapping
from urllib.parse import urlsplit


def proxy_for(server: str, environ: Mapping[str, str]) -> str | None:
    """URL of the proxy to reach this server by, None for none."""
    parts = urlsplit(server)
    host = (parts.hostname or "").lower()
    if _is_excepted(host, parts.port, _value(environ, "no_proxy")):
        return None
    proxy = _value(environ, f"{parts.scheme}_proxy")
    if not proxy:
        return None
    return proxy if "://" in proxy else f"http://{proxy}"


def _value(environ: Mapping[str, str], name: str) -> str:
    return (environ.get(name) or environ.get(name.upper()) or "").strip()


def _is_excepted(host: str, port: int | None, no_proxy: str) -> bool:
    address = _address(host)
    if host == "localhost" or (address is not None and address.is_loopback):
        return True
    for entry in (part.strip().lower() for part in no_proxy.split(",")):
        if not entry:
            continue
        if entry == "*" or _is_in_network(address, entry):
            return True
        name, _, entry_port = entry.rpartition(":") if entry.count(":") == 1 else (entry, "", "")
        if entry_port and entry_port != str(port):
            continue
        suffix = name.removeprefix("*").removeprefix(".")
        if host == suffix and not name.startswith((".", "*.")):
            return True
        if suffix and host.endswith(f".{suffix}"):
            return True
    return False


def _address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        return None


def _is_in_network(
    address: ipaddress.IPv4Address | ipaddress.IPv6Address | None, entry: str
) -> bool:
    if address is None:
        return False
    try:
        return address in ipaddress.ip_network(entry, strict=False)
    except ValueError:
        return False
