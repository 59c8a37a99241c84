"""The identity: where each part is from, and what is named where one is missing or invalid."""

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from telemetryd.config import IdentityConfig
from telemetryd.errors import UnreadableReason
from telemetryd.gather.identity import Discovered, discover, public_url
from telemetryd.model import NamespaceRecord, Unreadable
from tests.gather.readers import CLUSTER_UUID, INSTALL_UUID, Fleet

OTHER_UUID = "11111111-2222-4333-8444-555555555555"
UNREADABLE = Unreadable("uid", UnreadableReason.TYPE)
NOT_UUIDS = ["", "x", INSTALL_UUID[:-1], INSTALL_UUID + "\n", "{" + INSTALL_UUID + "}"]
NOT_UUIDS += [INSTALL_UUID.replace("-", ""), "urn:uuid:" + INSTALL_UUID, " " + INSTALL_UUID]


def found_in(fleet: Fleet, overrides: IdentityConfig | None = None) -> Discovered:
    return discover(fleet.settings, fleet.kube_system, overrides or IdentityConfig())


def test_every_part_is_found_in_settings_and_kube_system() -> None:
    found = found_in(Fleet())
    assert (found.install_uuid, found.cluster_uuid) == (INSTALL_UUID, CLUSTER_UUID)
    assert (found.server_url, found.version) == ("https://rancher.example.org", "v2.15.0")
    assert (found.product, found.missing) == ("rancher-prime", ())


def test_changes_are_seen_at_once() -> None:
    fleet = Fleet()
    found_in(fleet)
    fleet.set("server-url", "https://other.example.org")
    fleet.set("server-version", "v2.16.0")
    fleet.kube_system.put("kube-system", NamespaceRecord(uid=OTHER_UUID))
    found = found_in(fleet)
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
    found = found_in(fleet, overrides)
    assert found.missing == ()
    assert (found.install_uuid, found.cluster_uuid) == (OTHER_UUID, INSTALL_UUID)
    assert (found.server_url, found.version) == ("https://named.example.org", "v1.2.3")
    assert found.product == "mine"


def test_everything_missing_is_named() -> None:
    fleet = Fleet()
    fleet.settings.refill({})
    fleet.kube_system.refill({})
    assert found_in(fleet).missing == (
        "setting install-uuid",
        "namespace kube-system",
        "setting server-url",
        "setting server-version",
    )


@pytest.mark.parametrize("name", ["install-uuid", "server-url", "server-version"])
def test_a_setting_that_is_empty_or_unreadable_is_named(name: str) -> None:
    fleet = Fleet()
    fleet.set(name, "")
    assert found_in(fleet).missing == (f"setting {name}",)
    fleet.settings.put(name, UNREADABLE)
    assert found_in(fleet).missing == (f"setting {name}: unreadable",)


@pytest.mark.parametrize("text", NOT_UUIDS[1:])
def test_an_install_uuid_that_is_none_is_named(text: str) -> None:
    fleet = Fleet()
    fleet.set("install-uuid", text)
    found = found_in(fleet)
    assert (found.install_uuid, found.missing) == ("", ("setting install-uuid: not a UUID",))


@pytest.mark.parametrize("text", NOT_UUIDS)
def test_a_cluster_uuid_that_is_none_is_named(text: str) -> None:
    fleet = Fleet()
    fleet.kube_system.put("kube-system", NamespaceRecord(uid=text))
    assert found_in(fleet).missing == ("namespace kube-system: not a UUID",)


def test_an_unreadable_kube_system_is_named() -> None:
    fleet = Fleet()
    fleet.kube_system.put("kube-system", UNREADABLE)
    assert found_in(fleet).missing == ("namespace kube-system: unreadable",)


def test_an_override_that_is_no_uuid_is_named() -> None:
    overrides = IdentityConfig(install_uuid="x", cluster_uuid="y")
    assert found_in(Fleet(), overrides).missing == (
        "configuration identity.install_uuid: not a UUID",
        "configuration identity.cluster_uuid: not a UUID",
    )


@pytest.mark.parametrize("text", [INSTALL_UUID, INSTALL_UUID.upper()])
def test_a_uuid_is_kept_as_given_and_holds_in_json_schema(text: str) -> None:
    fleet = Fleet()
    fleet.set("install-uuid", text)
    found = found_in(fleet)
    assert found.install_uuid == text
    checker = jsonschema.Draft202012Validator.FORMAT_CHECKER
    jsonschema.validate(text, {"type": "string", "format": "uuid"}, format_checker=checker)


@pytest.mark.parametrize(
    "text",
    [
        "https://rancher.example.com",
        "https://rancher.example.com/",
        "http://127.0.0.1:8080",
        "https://rancher.example.com:8443/some/path",
        "https://[2001:db8::1]:8443",
        "https://Rancher.Example.com",
        "https://localhost",
    ],
)
def test_ordinary_url_leaves_as_it_is(text: str) -> None:
    assert public_url(text) == text


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("http://USER:PASS@host/PATH?q#f", "http://host/PATH"),
        ("HTTPS://USER:PASS@host", "https://host"),
        ("https://USER@host:8443/a", "https://host:8443/a"),
        ("https://USER:P@SS@host", "https://host"),
        ("https://USER:PASS@[2001:db8::1]:8443/", "https://[2001:db8::1]:8443/"),
        ("https://USER:PA%2FSS@host", "https://host"),
        ("https://host?token=SECRET", "https://host"),
        ("https://host#SECRET", "https://host"),
        ("https://host/a;SECRET=1/b", "https://host"),
        ("https://host/USER:PASS", "https://host"),
        ("https://host/a%20SECRET", "https://host"),
        ("  https://host/ ", "https://host/"),
        ("https://rancher.münchen.example", "https://rancher.xn--mnchen-3ya.example"),
    ],
)
def test_secrets_are_left_out(text: str, said: str) -> None:
    assert public_url(text) == said


@pytest.mark.parametrize(
    "text",
    [
        "",
        "rancher.example.com",
        "//USER@host",
        "USER:PASS@host",
        "javascript:alert(1)",
        "ftp://USER:PASS@host",
        "https://",
        "https://USER:PASS@",
        "https://USER:12/SECRET@host",
        "https://USER:12?SECRET@host",
        "https://USER:12#SECRET@host",
        "https://USER/SECRET%40host",
        "https://USER/SECRET%2540host",
        "https://USER%40host",
        "https://USER:PASS%40host/",
        "https://host\\@other",
        "https:\\\\USER@host",
        "https://host\x00",
        "https://ho\nst",
        "https://host name",
        "https://host:99999",
        "https://[2001:db8::zz]",
        "https://[fe80::1%25eth0]",
        "https://[SECRET]",
        "https://host/" + "a" * 2048,
        "https://" + "a" * 300,
        "https://\u202eevil",
    ],
)
def test_what_is_no_certain_url_sends_nothing(text: str) -> None:
    assert public_url(text) == ""


@given(
    st.text(st.characters(exclude_characters="/?#\\@%", codec="utf-8"), min_size=1),
    st.text(st.characters(exclude_characters="/?#\\@%", codec="utf-8"), min_size=1),
)
def test_neither_user_nor_password_ever_leaves(user: str, password: str) -> None:
    said = public_url(f"https://{user}:{password}@host.invalid/path?{password}#{user}")
    assert said in {"", "https://host.invalid/path"}
