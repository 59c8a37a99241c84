"""Which proxy the environment names for the API server.

``HTTPS_PROXY``, ``HTTP_PROXY`` and ``NO_PROXY`` count, in either case, as they do for kubectl;
``NO_PROXY`` takes host names, domains (``.svc``), addresses, and networks (``10.0.0.0/8``), which
Python's own reading of it lacks and which Rancher's documentation recommends. ``.netrc`` never
counts. A ``proxy-url`` of the kubeconfig goes before all of this.
"""

import ipaddress
from collections.abc import Mapping
from urllib.parse import urlsplit

from telemetryd.errors import ConfigError, Problem


def proxy_for(server: str, environ: Mapping[str, str]) -> str | None:
    """URL of the proxy to reach this server by, None for none.

    Raises:
        ConfigError: The variable that counts holds none that can be used.
    """
    parts = urlsplit(server)
    host = (parts.hostname or "").lower()
    if _is_excepted(host, parts.port, _value(environ, "no_proxy")[1]):
        return None
    variable, proxy = _value(environ, f"{parts.scheme}_proxy")
    if not proxy:
        return None
    url = proxy if "://" in proxy else f"http://{proxy}"
    why = what_is_wrong_with_proxy(url)
    if why is not None:
        raise ConfigError(Problem(f"${variable}", "", why))
    return url


def what_is_wrong_with_proxy(url: object) -> str | None:
    """What is wrong with the URL of a proxy, None where nothing is; never shows it.

    It may hold user and password, unlike other URLs.
    """
    right = 'must be the URL of an http or https proxy such as "http://proxy.example.com:3128"'
    if not isinstance(url, str) or not url.isprintable() or " " in url:
        return right
    try:
        parts = urlsplit(url)
        usable = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:
        usable = False
    return None if usable else right


def _value(environ: Mapping[str, str], name: str) -> tuple[str, str]:
    """The variable that counts, and its value."""
    for variable in (name, name.upper()):
        value = environ.get(variable, "").strip()
        if value:
            return variable, value
    return name, ""


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
