"""Addresses: of an API server, as client-go understands them, and of the proxy on the way.

``HTTPS_PROXY``, ``HTTP_PROXY`` and ``NO_PROXY`` count, else their names in small letters.
``NO_PROXY`` is read as Go's ``httpproxy`` package and ``NewProxierWithNoProxyCIDR`` of
k8s.io/apimachinery read it. ``.netrc`` never counts. A ``proxy-url`` of the kubeconfig goes before
all of this.
"""

import base64
import ipaddress
import posixpath
import re
from collections.abc import Mapping
from contextlib import suppress
from typing import Final, NamedTuple
from urllib.parse import SplitResult, quote, unquote_to_bytes, urlsplit

from telemetryd.errors import ConfigError, Problem

_RIGHT = 'must be a URL such as "https://rancher.example.com"'
_HAS_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_LABEL = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?")
_MAX_NAME = 254
_PATH = "/:@!$&'()*+,;="
_BAD_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")


def parse_server(server: str) -> str:
    """The URL of an API server: without scheme it is http, and a query or fragment doesn't count.

    As for client-go, a ``#`` behind a path is one of the path's characters.

    Raises:
        ValueError: No request can go there; the message doesn't show the value.
    """
    if not server.isprintable():
        raise ValueError(f"has control characters: {_RIGHT}")
    has_scheme = _HAS_SCHEME.match(server) is not None
    try:
        parts = urlsplit(server if has_scheme else f"http://{server}")
        host, port = parts.hostname, parts.port
    except ValueError:
        raise ValueError(f"isn't an http or https URL with a host: {_RIGHT}") from None
    if parts.scheme not in {"http", "https"} or not host or port == 0:
        raise ValueError(f"isn't an http or https URL with a host: {_RIGHT}")
    if not has_scheme and parts.path not in {"", "/"}:
        raise ValueError(f"has a path but no scheme: {_RIGHT}")
    if " " in parts.netloc:
        raise ValueError(f"has spaces: {_RIGHT}")
    if "@" in parts.netloc:
        raise ValueError("has credentials: put them into the user of the kubeconfig")
    _check_host(host, parts)
    path, (before, mark, fragment) = parts.path, server.partition("#")
    if path and "?" not in before:
        path += mark + fragment
    return f"{parts.scheme}://{parts.netloc.removesuffix(':')}{_clean(path)}"


def _clean(path: str) -> str:
    """A path as client-go joins it: unescaped, without double slashes and a slash at its end.

    Raises:
        ValueError: It has an escape that can't be one.
    """
    if _BAD_ESCAPE.search(path):
        raise ValueError("has a % in its path without two hexadecimal digits: write %25")
    joined = posixpath.normpath(b"/" + unquote_to_bytes(path).lstrip(b"/"))
    return quote(joined, safe=_PATH).rstrip("/")


def may_carry_credentials(url: str) -> bool:
    """Whether a credential may be sent there: with TLS, or without leaving this machine.

    client-go sends none without TLS, to loopback addresses neither. A proxy beside telemetryd may
    want one, and no other machine can read it.
    """
    parts = urlsplit(url)
    if parts.scheme == "https" or parts.hostname == "localhost":
        return True
    try:
        return ipaddress.ip_address(parts.hostname or "").is_loopback
    except ValueError:
        return False


def server_name(server: str, configured: str | None, *, verify: bool) -> str | None:
    """The name to ask for and to check, as client-go writes it; None for the URL's own.

    A full name has no dot at its end, an address no brackets, and IPv4 in IPv6 is IPv4. No
    certificate is good for an address with a zone, so the zone stays where it is checked.
    """
    host = urlsplit(server).hostname or ""
    name = (configured or host).rstrip(".").removeprefix("[").removesuffix("]")
    if not configured and not verify:
        name = name.partition("%")[0]
    with suppress(ValueError):
        mapped = getattr(ipaddress.ip_address(name), "ipv4_mapped", None)
        name = str(mapped) if mapped else name
    return name if configured or name != host else None


def host_header(server: str) -> tuple[tuple[str, str], ...]:
    """The header that keeps an IPv6 zone to ourselves, as Go does; empty where there is none."""
    before, percent, after = urlsplit(server).netloc.partition("%")
    return (("Host", f"{before}]{after.partition(']')[2]}"),) if percent else ()


def _check_host(host: str, parts: SplitResult) -> None:
    if parts.netloc.startswith("["):
        address, percent, zone = host.partition("%25")
        if "%" in address:
            raise ValueError("has an IPv6 zone without %25: write [fe80::1%25eth0]")
        try:
            ipaddress.IPv6Address(address)
        except ValueError:
            raise ValueError(f"has an IPv6 address that isn't one: {_RIGHT}") from None
        if percent and not zone:
            raise ValueError("has an empty IPv6 zone: write [fe80::1%25eth0]")
        return
    try:
        ipaddress.IPv4Address(host)
    except ValueError:
        pass
    else:
        return
    try:
        name = host if host.isascii() else host.encode("idna").decode()
    except UnicodeError:
        raise ValueError(f"has a host that can't be a DNS name: {_RIGHT}") from None
    labels = name.removesuffix(".").split(".")
    if len(name) > _MAX_NAME or not all(map(_LABEL.fullmatch, labels)):
        raise ValueError(f"has a host that can't be a DNS name: {_RIGHT}")
    if "".join(labels).isdigit():
        raise ValueError(f"has a host that is neither an IPv4 address nor a DNS name: {_RIGHT}")


Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

_RIGHT_PROXY = 'must be the URL of an http or https proxy such as "http://proxy.example.com:3128"'
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
        return _RIGHT_PROXY
    if parts.scheme.startswith("socks"):
        return "is a SOCKS proxy, which isn't supported: give an http or https proxy in front of it"
    if parts.scheme not in _PORTS or not usable or not url.isprintable() or " " in url:
        return _RIGHT_PROXY
    if not _USER.fullmatch(parts.netloc.rpartition("@")[0]):
        return "has a user or password with special characters: write each as %XX of its UTF-8"
    return None


def address_of(proxy: str | None) -> ProxyAddress:
    """The address of a proxy, its user and password as a Basic header."""
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
