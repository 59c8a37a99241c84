"""Whom a bearer token names, whatever it is made of."""

import json
from base64 import urlsafe_b64encode

import pytest
from hypothesis import given
from hypothesis import strategies as st

from telemetryd.kube.credentials import service_account_of


def token(claims: object) -> str:
    body = urlsafe_b64encode(json.dumps(claims).encode()).decode().rstrip("=")
    return f"Bearer e30.{body}.c2ln"


def test_token_of_a_service_account_names_it() -> None:
    header = token({"sub": "system:serviceaccount:ns:name", "aud": ["x"]})
    assert service_account_of(header) == ("ns", "name")


@pytest.mark.parametrize(
    "header",
    [
        None,
        "",
        "Bearer abc",
        "Bearer a.b.c",
        "Bearer a.é.c",
        "Basic e30.e30.e30",
        token({"sub": "somebody"}),
        token({"sub": "system:serviceaccount:ns"}),
        token({"sub": "system:serviceaccount:ns:name:more"}),
        token({"sub": 7}),
        token([]),
    ],
)
def test_anything_else_names_no_one(header: str | None) -> None:
    assert service_account_of(header) is None


@given(st.text())
def test_garbage_is_survived(text: str) -> None:
    assert service_account_of(f"Bearer {text}") is None or "." in text
