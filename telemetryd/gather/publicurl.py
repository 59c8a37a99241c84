"""Rancher's URL as it may leave: scheme, host, port and path, and nothing that could be a secret.

Rancher's own code sends the setting as it is; user information, query and fragment never leave
here.
"""

import re
from ipaddress import IPv6Address
from typing import Final

MAX_URL_CHARS: Final = 2048
_MAX_PORT: Final = 65535

_PARTS: Final = re.compile(r"(https?)://([^/?#]*)([^?#]*)(.*)", re.IGNORECASE)
_HOST: Final = re.compile(
    r"(?:\[(?P<ipv6>[0-9A-Fa-f:.]{2,45})\]|[A-Za-z0-9](?:[A-Za-z0-9._-]{0,252}))"
    r"(?::(?P<port>[0-9]{1,5}))?"
)
_PATH: Final = re.compile(r"(?:/[A-Za-z0-9._~-]+)*/?")
_AT: Final = re.compile(r"@|%(?:25)*40", re.IGNORECASE)


def public_url(text: str) -> str:
    """The part of a URL that may leave; a path with anything unusual in it is left out.

    Returns:
        Empty where the text isn't an http or https URL, or where it isn't certain which part of it
        is user information: after a ``/`` or ``?`` in a password, what is left reads like a host.
    """
    text = text.strip(" ")
    if len(text) > MAX_URL_CHARS or "\\" in text or not text.isprintable():
        return ""
    found = _PARTS.fullmatch(text)
    if found is None:
        return ""
    scheme, authority, path, rest = found.groups()
    if _AT.search(path + rest):
        return ""
    place = _ascii(authority.rpartition("@")[2])
    host = _HOST.fullmatch(place)
    if host is None or int(host["port"] or 0) > _MAX_PORT or not _is_ipv6(host["ipv6"]):
        return ""
    kept = path if _PATH.fullmatch(path) else ""
    return f"{scheme.lower()}://{place}{kept}"


def _ascii(place: str) -> str:
    """A host name in any script as the name server knows it; empty where it can't be."""
    if place.isascii():
        return place
    try:
        return place.encode("idna").decode("ascii")
    except UnicodeError:
        return ""


def _is_ipv6(text: str | None) -> bool:
    if text is None:
        return True
    try:
        IPv6Address(text)
    except ValueError:
        return False
    return True
