"""The proxy that the environment names for a URL, by kubectl's rules.

``HTTPS_PROXY``, ``HTTP_PROXY`` and ``NO_PROXY`` count, else their names in small letters.
``NO_PROXY`` is read as Go's ``httpproxy`` package and ``NewProxierWithNoProxyCIDR`` of
k8s.io/apimachinery read it. ``.netrc`` never counts. A ``proxy-url`` of the kubeconfig goes before
all of this.
"""

import base64
import ipaddress
import re
from collections.abc import Mapping
from typing import Final, NamedTuple
from urllib.parse import unquote_to_bytes, urlsplit

from telemetryd.errors import ConfigError, Problem

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

_RIGHT = 'must be the URL of an http or https proxy such as "http://proxy.example.com:3128"'
_PORTS = {"http": "80", "https": "443"}
_USER = re.compile(r"(?:[A-Za-z0-9._:~!$&'()*+,;=@-]|%[0-9A-Fa-f]{2})*")
_ZEROS = re.compile(r"(?<![0-9a-f:])0+(?=[0-9])")
_MAPPED_BITS = 96
"""Before the IPv4 address in an IPv6 address that holds one."""


class ProxyAddress(NamedTuple):
    """The URL of a proxy without its login, and the headers that hold the login."""

    url: str | None
    headers: dict[str, str]

    def __repr__(self) -> str:
        return f"ProxyAddress({self.url})"


DIRECT: Final = ProxyAddress(None, {})
"""No proxy."""


def proxy_for(url: str, environ: Mapping[str, str]) -> str | None:
    """URL of the proxy for requests to this URL, None for none.

    Args:
        url: Of a server, http or https.
        environ: Environment variables.

    Raises:
        ConfigError: The variable that counts can't be used.
    """
    parts = urlsplit(url)
    variable, proxy = _value(environ, f"{parts.scheme}_proxy")
    if not proxy:
        return None
    if parts.scheme == "http" and environ.get("REQUEST_METHOD"):
        why = "can't be trusted beside $REQUEST_METHOD, as in CGI: unset one of the two"
        raise ConfigError(Problem(f"${variable}", "", why))
    host = parts.netloc.rpartition("@")[2]
    host = host[1:].partition("]")[0] if host.startswith("[") else host.partition(":")[0]
    host = host.replace("%25", "%")
    port = str(parts.port or _PORTS[parts.scheme])
    if _is_excepted(host, port, environ):
        return None
    proxy = proxy if "://" in proxy else f"http://{proxy}"
    why_not = what_is_wrong_with_proxy(proxy)
    if why_not is not None:
        raise ConfigError(Problem(f"${variable}", "", why_not))
    return proxy


def what_is_wrong_with_proxy(url: str) -> str | None:
    """What is wrong with the URL of a proxy, None where nothing is; never shows it.

    It may hold user and password, unlike other URLs.
    """
    try:
        parts = urlsplit(url)
        usable = bool(parts.hostname) and parts.port != 0
    except ValueError:
        return _RIGHT
    if parts.scheme.startswith("socks"):
        return "is a SOCKS proxy, which isn't supported: give an http or https proxy in front of it"
    if parts.scheme not in _PORTS or not usable or not url.isprintable() or " " in url:
        return _RIGHT
    if not _USER.fullmatch(parts.netloc.rpartition("@")[0]):
        return "has a user or password with special characters: write each as %XX of its UTF-8"
    return None


def address_of(proxy: str | None) -> ProxyAddress:
    """The address of a proxy, its user and password as a Basic header.

    Args:
        proxy: URL that ``what_is_wrong_with_proxy`` has checked, None for none.
    """
    if proxy is None:
        return DIRECT
    parts = urlsplit(proxy)
    login, at, host = parts.netloc.rpartition("@")
    if not at:
        return ProxyAddress(proxy, {})
    user, _, password = login.partition(":")
    # The bytes as they are escaped, in whatever encoding: aiohttp's own way is Latin-1.
    raw = unquote_to_bytes(user) + b":" + unquote_to_bytes(password)
    value = f"Basic {base64.b64encode(raw).decode()}"
    url = parts._replace(netloc=host).geturl()
    return ProxyAddress(url, {"Proxy-Authorization": value})


def _value(environ: Mapping[str, str], name: str) -> tuple[str, str]:
    """The variable that counts, and its value."""
    for variable in (name.upper(), name):
        value = environ.get(variable, "").strip()
        if value:
            return variable, value
    return name.upper(), ""


def _is_excepted(host: str, port: str, environ: Mapping[str, str]) -> bool:
    host = _ascii(host)
    address = _address(host)
    if host == "localhost" or (address is not None and address.is_loopback):
        return True
    no_proxy = environ.get("NO_PROXY") or environ.get("no_proxy") or ""
    return any(
        _matches(entry.strip().lower(), host.lower(), port, address)
        for entry in no_proxy.split(",")
    )


def _matches(entry: str, host: str, port: str, address: Address | None) -> bool:
    """Whether an entry of NO_PROXY, in small letters, excepts a host."""
    if entry == "*":
        return True
    network = _network(entry)
    if network is not None:
        return address is not None and address in network
    name, only_port = _split(entry)
    if not name or (only_port and only_port != port):
        return False
    literal = None if "%" in name else _address(name)
    if literal is not None or address is not None:
        return literal == address
    suffix = name.removeprefix("*") if name.startswith("*.") else name
    suffix = _ascii(suffix)
    if suffix.startswith("."):
        return host.endswith(suffix)
    return host == suffix or host.endswith(f".{suffix}")


def _split(entry: str) -> tuple[str, str]:
    """Host and port of an entry; it is the host as a whole where Go finds no port in it."""
    found = re.fullmatch(r"\[([^\[\]]*)\]:([^\[\]:]*)|([^\[\]:]*):([^\[\]:]*)", entry)
    if found is None:
        return entry, ""
    return (found[1] or "", found[2]) if found[1] is not None else (found[3], found[4])


def _ascii(name: str) -> str:
    """A name as it goes over the wire; as it is where it can't."""
    if name.isascii():
        return name
    try:
        labels = [label.encode("idna").decode() if label else "" for label in name.split(".")]
    except UnicodeError:
        return name
    return ".".join(labels)


def _address(text: str) -> Address | None:
    """An IP address without its zone; one of IPv4 in IPv6 counts as IPv4."""
    try:
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return address


def _network(text: str) -> Network | None:
    """A network, whose numbers may begin with zeros."""
    start, slash, bits = _ZEROS.sub("", text).partition("/")
    if not slash or not (bits.isascii() and bits.isdigit()):
        return None
    try:
        network = ipaddress.ip_network(f"{start}/{bits}", strict=False)
    except ValueError:
        return None
    mapped = network.network_address
    if isinstance(mapped, ipaddress.IPv6Address) and mapped.ipv4_mapped is not None:
        rest = network.prefixlen - _MAPPED_BITS
        return ipaddress.ip_network(f"{mapped.ipv4_mapped}/{rest}") if rest >= 0 else None
    return network
