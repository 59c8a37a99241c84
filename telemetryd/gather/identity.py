"""Who sends: the identity as settings, the namespace kube-system and the configuration have it.

It is read anew from what the informers hold, never frozen. The build commit, which has to be asked
for, doesn't belong here: see ``build_info``.
"""

import re
from dataclasses import dataclass
from typing import Final

from telemetryd.config import IdentityConfig
from telemetryd.gather import texts
from telemetryd.gather.features import product_name
from telemetryd.gather.project import KUBE_SYSTEM_NAME
from telemetryd.gather.publicurl import public_url
from telemetryd.informer.store import Reader
from telemetryd.model import NamespaceRecord, SettingRecord, Unreadable

# The form of RFC 4122 and of JSON Schema's format `uuid`. Other spellings that parsers take
# (braces, `urn:uuid:`, no hyphens) fail the schema, and what can't be parsed crashes the consumer.
_UUID: Final = re.compile(r"[0-9A-Fa-f]{8}(?:-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}")


@dataclass(frozen=True, slots=True)
class Discovered:
    """The identity but for the build commit, as far as it is known.

    Attributes:
        withheld: Names of the parts whose text may not leave as it is.
        missing: What is not there or invalid, each named with where to fix it; empty when whole.
    """

    install_uuid: str
    cluster_uuid: str
    server_url: str
    version: str
    product: str
    missing: tuple[str, ...]
    withheld: tuple[str, ...] = ()


class IdentitySource:
    """Reads the identity from the settings and the namespace kube-system.

    Overrides come first; None or empty leaves a part to what is discovered.
    """

    def __init__(
        self,
        *,
        settings: Reader[SettingRecord],
        kube_system: Reader[NamespaceRecord],
        overrides: IdentityConfig,
    ) -> None:
        self._settings = settings
        self._kube_system = kube_system
        self._overrides = overrides

    def override(self, overrides: IdentityConfig) -> None:
        """Put other overrides in force."""
        self._overrides = overrides

    @property
    def needs_kube_system(self) -> bool:
        """Whether the namespace is read at all: not where the configuration names the UUID."""
        return not self._overrides.cluster_uuid

    def current(self) -> Discovered:
        """The identity now, and what is missing of it."""
        missing: list[str] = []
        overrides = self._overrides
        install_uuid = self._uuid_or_setting(overrides.install_uuid, missing)
        cluster_uuid = self._cluster_uuid(missing)
        raw_url = overrides.server_url or self._setting("server-url", missing)
        server_url = public_url(raw_url)
        found_version = "" if overrides.version else self._setting("server-version", missing)
        found_version = texts.product_version(found_version)
        return Discovered(
            install_uuid=install_uuid,
            cluster_uuid=cluster_uuid,
            server_url=server_url,
            version=overrides.version or found_version,
            product=overrides.product or self._product(),
            missing=tuple(missing),
            withheld=find_withheld(server_url, raw_url, found_version),
        )

    def _product(self) -> str:
        """What the Rancher that runs calls itself, whatever version is configured."""
        version, build = (
            setting_value(self._settings, name)
            for name in ("server-version", "server-version-type")
        )
        return product_name(version, build)

    def _setting(self, name: str, missing: list[str]) -> str:
        record = self._settings.get(name)
        if isinstance(record, Unreadable):
            missing.append(f"setting {name}: unreadable")
            return ""
        if record is None or not record.value:
            missing.append(f"setting {name}")
            return ""
        return record.value

    def _uuid_or_setting(self, override: str | None, missing: list[str]) -> str:
        if override:
            return checked_uuid(override, "configuration identity.install_uuid", missing)
        value = self._setting("install-uuid", missing)
        return checked_uuid(value, "setting install-uuid", missing) if value else ""

    def _cluster_uuid(self, missing: list[str]) -> str:
        override = self._overrides.cluster_uuid
        if override:
            return checked_uuid(override, "configuration identity.cluster_uuid", missing)
        return kube_system_uuid(self._kube_system, missing)


def find_withheld(server_url: str, raw_url: str, found_version: str) -> tuple[str, ...]:
    """Which parts of an identity did not leave as they were found."""
    parts = {
        "server_url": bool(raw_url) and not server_url,
        "version": found_version == texts.OTHER,
    }
    return tuple(name for name, is_withheld in parts.items() if is_withheld)


def setting_value(settings: Reader[SettingRecord], name: str) -> str:
    """The effective value of a setting, empty where it is missing or can't be read."""
    record = settings.get(name)
    return record.value if isinstance(record, SettingRecord) else ""


def kube_system_uuid(kube_system: Reader[NamespaceRecord], missing: list[str]) -> str:
    """The namespace's UID; empty, and told in ``missing``, where it isn't there or isn't one."""
    record = kube_system.get(KUBE_SYSTEM_NAME)
    if isinstance(record, Unreadable):
        missing.append(f"namespace {KUBE_SYSTEM_NAME}: unreadable")
        return ""
    if record is None:
        missing.append(f"namespace {KUBE_SYSTEM_NAME}")
        return ""
    return checked_uuid(record.uid, f"namespace {KUBE_SYSTEM_NAME}", missing)


def checked_uuid(text: str, where: str, missing: list[str]) -> str:
    """The text; empty, and told in ``missing`` by where it is from, if it isn't a UUID."""
    if _UUID.fullmatch(text) is None:
        missing.append(f"{where}: not a UUID")
        return ""
    return text
