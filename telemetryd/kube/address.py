"""The address of an API server as client-go understands ``server`` of a kubeconfig."""

import ipaddress
import posixpath
import re
from contextlib import suppress
from urllib.parse import SplitResult, quote, unquote_to_bytes, urlsplit

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
