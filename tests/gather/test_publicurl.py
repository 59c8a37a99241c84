"""Rancher's URL: what may leave of it, whatever the setting holds."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from telemetryd.gather.publicurl import public_url


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
