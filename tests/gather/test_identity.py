"""The identity: where each part is from, and what is named where one is missing or invalid."""

import jsonschema
import pytest

from telemetryd.config import IdentityConfig
from telemetryd.errors import UnreadableReason
from telemetryd.gather.identity import IdentitySource
from telemetryd.model import NamespaceRecord, Unreadable
from tests.gather.readers import CLUSTER_UUID, INSTALL_UUID, Fleet

OTHER_UUID = "11111111-2222-4333-8444-555555555555"
UNREADABLE = Unreadable("uid", UnreadableReason.TYPE)
NOT_UUIDS = ["", "x", INSTALL_UUID[:-1], INSTALL_UUID + "\n", "{" + INSTALL_UUID + "}"]
NOT_UUIDS += [INSTALL_UUID.replace("-", ""), "urn:uuid:" + INSTALL_UUID, " " + INSTALL_UUID]


def source(fleet: Fleet, overrides: IdentityConfig | None = None) -> IdentitySource:
    return IdentitySource(
        settings=fleet.settings,
        kube_system=fleet.kube_system,
        overrides=overrides or IdentityConfig(),
    )


def test_every_part_is_found_in_settings_and_kube_system() -> None:
    found = source(Fleet()).current()
    assert (found.install_uuid, found.cluster_uuid) == (INSTALL_UUID, CLUSTER_UUID)
    assert (found.server_url, found.version) == ("https://rancher.example.org", "v2.15.0")
    assert (found.product, found.missing) == ("rancher-prime", ())


def test_changes_are_seen_at_once() -> None:
    fleet = Fleet()
    identity = source(fleet)
    identity.current()
    fleet.set("server-url", "https://other.example.org")
    fleet.set("server-version", "v2.16.0")
    fleet.kube_system.put("kube-system", NamespaceRecord(uid=OTHER_UUID))
    found = identity.current()
    assert (found.server_url, found.version) == ("https://other.example.org", "v2.16.0")
    assert found.cluster_uuid == OTHER_UUID


def test_overrides_go_first_and_need_no_source() -> None:
    fleet = Fleet()
    fleet.settings.refill({})
    fleet.kube_system.refill({})
    overrides = IdentityConfig(
        install_uuid=OTHER_UUID,
        cluster_uuid=INSTALL_UUID,
        server_url="https://named.example.org",
        version="v1.2.3",
        product="mine",
    )
    identity = source(fleet, overrides)
    found = identity.current()
    assert found.missing == ()
    assert not identity.needs_kube_system
    assert (found.install_uuid, found.cluster_uuid) == (OTHER_UUID, INSTALL_UUID)
    assert (found.server_url, found.version) == ("https://named.example.org", "v1.2.3")
    assert found.product == "mine"


def test_everything_missing_is_named() -> None:
    fleet = Fleet()
    fleet.settings.refill({})
    fleet.kube_system.refill({})
    assert source(fleet).current().missing == (
        "setting install-uuid",
        "namespace kube-system",
        "setting server-url",
        "setting server-version",
    )


@pytest.mark.parametrize("name", ["install-uuid", "server-url", "server-version"])
def test_a_setting_that_is_empty_or_unreadable_is_named(name: str) -> None:
    fleet = Fleet()
    fleet.set(name, "")
    assert source(fleet).current().missing == (f"setting {name}",)
    fleet.settings.put(name, UNREADABLE)
    assert source(fleet).current().missing == (f"setting {name}: unreadable",)


@pytest.mark.parametrize("text", NOT_UUIDS[1:])
def test_an_install_uuid_that_is_none_is_named(text: str) -> None:
    fleet = Fleet()
    fleet.set("install-uuid", text)
    found = source(fleet).current()
    assert (found.install_uuid, found.missing) == ("", ("setting install-uuid: not a UUID",))


@pytest.mark.parametrize("text", NOT_UUIDS)
def test_a_cluster_uuid_that_is_none_is_named(text: str) -> None:
    fleet = Fleet()
    fleet.kube_system.put("kube-system", NamespaceRecord(uid=text))
    assert source(fleet).current().missing == ("namespace kube-system: not a UUID",)


def test_an_unreadable_kube_system_is_named() -> None:
    fleet = Fleet()
    fleet.kube_system.put("kube-system", UNREADABLE)
    assert source(fleet).current().missing == ("namespace kube-system: unreadable",)


def test_an_override_that_is_no_uuid_is_named() -> None:
    overrides = IdentityConfig(install_uuid="x", cluster_uuid="y")
    assert source(Fleet(), overrides).current().missing == (
        "configuration identity.install_uuid: not a UUID",
        "configuration identity.cluster_uuid: not a UUID",
    )


@pytest.mark.parametrize("text", [INSTALL_UUID, INSTALL_UUID.upper()])
def test_a_uuid_is_kept_as_given_and_holds_in_json_schema(text: str) -> None:
    fleet = Fleet()
    fleet.set("install-uuid", text)
    found = source(fleet).current()
    assert found.install_uuid == text
    checker = jsonschema.Draft202012Validator.FORMAT_CHECKER
    jsonschema.validate(text, {"type": "string", "format": "uuid"}, format_checker=checker)
