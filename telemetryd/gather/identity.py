"""The sender's identity, from settings, the namespace kube-system and the configuration.

Its URL leaves as scheme, host, port and path only: user information, query and fragment, which may
hold secrets and which Rancher's own code sends, are removed. ``build_info`` gets the build commit.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import IPv6Address
from typing import Final

from telemetryd.config import IdentityConfig
from telemetryd.gather import texts
from telemetryd.gather.features import product_name
from telemetryd.gather.project import KUBE_SYSTEM_NAME, setting_value
from telemetryd.informer.store import Reader
from telemetryd.model import NamespaceRecord, SettingRecord, Unreadable

# The form of RFC 4122 and of JSON Schema's format `uuid`. Other forms that parsers accept (braces,
# `urn:uuid:`, no hyphens) fail the schema, and a text that isn't a UUID crashes the consumer.
_UUID: Final = re.compile(r"[0-9A-Fa-f]{8}(?:-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}")


@dataclass(frozen=True, slots=True)
class Discovered:
    """The identity without the build commit, as far as it is known.

    Attributes:
        withheld: Names of the parts whose text may not leave as it is.
        missing: Missing or invalid parts, each named by where to fix it; empty if complete.
    """

    install_uuid: str
    cluster_uuid: str
    server_url: str
    version: str
    product: str
    missing: tuple[str, ...]
    withheld: tuple[str, ...] = ()


def discover(
    settings: Reader[SettingRecord],
    kube_system: Reader[NamespaceRecord],
    overrides: IdentityConfig,
) -> Discovered:
    """The identity now, from the settings and the namespace kube-system.

    An override that is neither None nor empty comes first.
    """
    missing: list[str] = []

    def setting(name: str) -> str:
        record = settings.get(name)
        if isinstance(record, SettingRecord) and record.value:
            return record.value
        why = ": unreadable" if isinstance(record, Unreadable) else ""
        missing.append(f"setting {name}{why}")
        return ""

    def installation() -> str:
        value = setting("install-uuid")
        return checked_uuid(value, "setting install-uuid", missing) if value else ""

    install_uuid = uuid_of(overrides, "install_uuid", installation, missing)
    cluster_uuid = uuid_of(
        overrides, "cluster_uuid", lambda: kube_system_uuid(kube_system, missing), missing
    )
    raw_url = overrides.server_url or setting("server-url")
    server_url = public_url(raw_url)
    found_version = texts.product_version("" if overrides.version else setting("server-version"))
    # The product name of the Rancher that runs, whatever version is configured.
    version, build = (
        setting_value(settings, name) for name in ("server-version", "server-version-type")
    )
    return Discovered(
        install_uuid=install_uuid,
        cluster_uuid=cluster_uuid,
        server_url=server_url,
        version=overrides.version or found_version,
        product=overrides.product or product_name(version, build),
        missing=tuple(missing),
        withheld=find_withheld(server_url, raw_url, found_version),
    )


def uuid_of(
    overrides: IdentityConfig, key: str, find: Callable[[], str], missing: list[str]
) -> str:
    """The override of this key where there is one, else the UUID that is found."""
    override: str | None = getattr(overrides, key)
    if not override:
        return find()
    return checked_uuid(override, f"configuration identity.{key}", missing)


def find_withheld(server_url: str, raw_url: str, found_version: str) -> tuple[str, ...]:
    """Names of the parts of an identity that do not leave as they were found."""
    parts = {
        "server_url": bool(raw_url) and not server_url,
        "version": found_version == texts.OTHER,
    }
    return tuple(name for name, is_withheld in parts.items() if is_withheld)


def kube_system_uuid(kube_system: Reader[NamespaceRecord], missing: list[str]) -> str:
    """The namespace's UID; empty, with an entry in ``missing``, if there is no valid one."""
    record = kube_system.get(KUBE_SYSTEM_NAME)
    if isinstance(record, Unreadable):
        missing.append(f"namespace {KUBE_SYSTEM_NAME}: unreadable")
        return ""
    if record is None:
        missing.append(f"namespace {KUBE_SYSTEM_NAME}")
        return ""
    return checked_uuid(record.uid, f"namespace {KUBE_SYSTEM_NAME}", missing)


def checked_uuid(text: str, where: str, missing: list[str]) -> str:
    """The text; empty, with an entry in ``missing`` about where it is from, if it is no UUID."""
    if _UUID.fullmatch(text) is None:
        missing.append(f"{where}: not a UUID")
        return ""
    return text


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
    """The part of a URL that may leave; an unusual path is left out.

    Returns:
        Empty if the text isn't an http or https URL, or if it isn't certain which part of it is
        user information: after a ``/`` or ``?`` in a password, the rest looks like a host.
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
    """A host name in any script in the form of DNS; empty if it has none."""
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
