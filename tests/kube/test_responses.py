"""What an answer means, whatever it looks like."""

import json
from base64 import b64encode

import pytest
from hypothesis import given
from hypothesis import strategies as st

from telemetryd.errors import (
    BadResponse,
    Conflict,
    Denier,
    Forbidden,
    Gone,
    Invalid,
    KubeError,
    NotFound,
    Reason,
    Throttled,
    Unauthorized,
    Unavailable,
)
from telemetryd.kube.responses import (
    error_for,
    error_of_event,
    explain_denial,
    parse_retry_after,
    parse_status,
)
from tests.informer.samples import DEEP, status


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (301, BadResponse),
        (400, Invalid),
        (401, Unauthorized),
        (403, Forbidden),
        (404, NotFound),
        (405, Invalid),
        (409, Conflict),
        (410, Gone),
        (413, Invalid),
        (422, Invalid),
        (429, Throttled),
        (500, Unavailable),
        (503, Unavailable),
        (504, Unavailable),
    ],
)
def test_status_code_gives_its_error(code: int, kind: type[KubeError]) -> None:
    parsed = parse_status(json.dumps(status(code, "Why", "text")).encode())
    error = error_for(code, "GET /x", parsed)
    assert type(error) is kind
    assert (error.status, error.reason) == (code, "Why")
    assert str(error) == f"GET /x: {code} text"


def test_causes_and_retry_after_come_from_the_status() -> None:
    body = status(
        429, "TooManyRequests", retryAfterSeconds=4, causes=[{"reason": "R", "field": "f"}, 7]
    )
    error = error_for(429, "x", parse_status(json.dumps(body).encode()))
    assert isinstance(error, Throttled)
    assert error.retry_after_s == 4.0
    assert error.has_cause("R")
    assert len(error.causes) == 1


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, None),
        ("0", 0.0),
        (" 7 ", 7.0),
        ("29", 29.0),
        ("600", 30.0),
        ("9" * 400, 30.0),
        ("-1", None),
        ("1.5", None),
        ("soon", None),
        ("", None),
        ("٣", None),
        ("Thu, 01 Jan 1970 00:16:50 GMT", 10.0),
        ("Thu, 01 Jan 1970 00:16:30 GMT", 0.0),
        ("Thu, 01 Jan 2070 00:00:00 GMT", 30.0),
        ("Thu, 01 Jan 1970 00:16:50", 10.0),
        ("Thu, 99 Jan 1970 00:00:00 GMT", None),
    ],
)
def test_retry_after_is_read_in_each_form(value: str | None, expected: float | None) -> None:
    assert parse_retry_after(value, 1000.0) == expected


@given(st.text())
def test_retry_after_of_any_text_is_none_or_within_30_s(value: str) -> None:
    seconds = parse_retry_after(value, 1000.0)
    assert seconds is None or 0.0 <= seconds <= 30.0


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>",
        b"[]",
        b"null",
        b'{"kind":"Secret"}',
        b'{"kind":"Status","message":"\xff"}',
        b'{"kind":"Status","details":' + DEEP.encode() + b"}",
    ],
)
def test_body_that_is_no_status_gives_none(body: bytes) -> None:
    assert parse_status(body) is None


@pytest.mark.parametrize(
    "body",
    [
        {"code": "500", "reason": 7, "message": [], "details": []},
        {"code": True, "details": {"causes": {}, "retryAfterSeconds": "x"}},
        {"code": None, "details": {"causes": [None, {"reason": 7}], "retryAfterSeconds": 10**300}},
        {"details": {"retryAfterSeconds": -3}},
    ],
)
def test_status_with_wrong_types_is_read_as_far_as_it_goes(body: dict[str, object]) -> None:
    parsed = parse_status(json.dumps({"kind": "Status", **body}).encode())
    assert parsed
    assert (parsed.code, parsed.reason, parsed.message) == (None, "", "")


@pytest.mark.parametrize("raw", [b"{}", b"null", b"x", b'{"kind":"Status"}', b'{"code":200}'])
def test_error_event_without_a_code_is_a_500(raw: bytes) -> None:
    error = error_of_event(raw, "watch")
    assert isinstance(error, Unavailable)
    assert (error.status, error.kind) == (500, Reason.SERVER)


def test_error_event_with_a_code_is_that_error() -> None:
    raw = json.dumps(status(410, "Expired", "too old")).encode()
    assert isinstance(error_of_event(raw, "watch"), Gone)


_OBJECT = 'secrets "x" is forbidden: '
_RBAC = 'User "system:serviceaccount:a:b" cannot patch resource "secrets" in API group ""'


@pytest.mark.parametrize(
    ("code", "message", "kind", "denier"),
    [
        (403, f'{_OBJECT}{_RBAC} in the namespace "n"', Forbidden, Denier.AUTHORIZER),
        (403, f"secrets is forbidden: {_RBAC}", Forbidden, Denier.AUTHORIZER),
        (403, 'forbidden: User "a\\"b" cannot get path "/v"', Forbidden, Denier.AUTHORIZER),
        (403, _OBJECT.rstrip(), Forbidden, Denier.AUTHORIZER),
        (403, f"{_OBJECT}RBAC: role not found", Forbidden, Denier.AUTHORIZER),
        (403, f"{_OBJECT}exceeded quota: q, used: secrets=0", Forbidden, Denier.QUOTA),
        (403, f"{_OBJECT}failed quota: q: must specify x", Forbidden, Denier.QUOTA),
        (403, f"{_OBJECT}status unknown for quota: q", Forbidden, Denier.QUOTA),
        (403, f"{_OBJECT}insufficient quota to match these scopes", Forbidden, Denier.QUOTA),
        (422, f"{_OBJECT}ValidatingAdmissionPolicy 'p' denied", Forbidden, Denier.POLICY),
        (413, "ValidatingAdmissionPolicy 'p' with binding 'b' x", Forbidden, Denier.POLICY),
        (409, 'admission webhook "w" denied the request', Forbidden, Denier.WEBHOOK),
        (403, f'admission webhook "w" denied: {_OBJECT}{_RBAC}', Forbidden, Denier.WEBHOOK),
        (429, 'admission webhook "w" denied the request', Throttled, Denier.WEBHOOK),
        (500, 'Internal error: failed calling webhook "w": x', Unavailable, Denier.WEBHOOK),
        (403, f"{_OBJECT}it is being terminated", Forbidden, Denier.ADMISSION),
        (403, "Access denied", Forbidden, Denier.UNKNOWN),
        (403, "", Forbidden, Denier.UNKNOWN),
        (403, 'forbidden: User "system:anonymous" cannot get path "/"', Unauthorized, None),
        (401, "Unauthorized", Unauthorized, Denier.UNKNOWN),
        (422, 'Secret "x" is invalid', Invalid, Denier.UNKNOWN),
    ],
)
def test_message_shows_what_denied(
    code: int, message: str, kind: type[KubeError], denier: Denier | None
) -> None:
    body = json.dumps(status(code, "Reason", message)).encode()
    error = error_for(code, "PATCH /x", parse_status(body))
    assert type(error) is kind
    assert denier in {None, error.denier}
    assert error.said == message
    fixes = explain_denial(error, "write it", grant="GRANT")
    assert ("GRANT" in fixes) is (error.denier is Denier.AUTHORIZER)


def test_denial_quotes_no_content_of_a_secret() -> None:
    content = b64encode(b"what the Secret holds; " * 14).decode()
    message = f'admission webhook "w" denied the request: data is {content}'
    error = error_for(403, "x", parse_status(json.dumps(status(403, "", message)).encode()))
    assert str(error) == 'x: 403 admission webhook "w" denied the request: data is …'


def test_refusal_of_ranchers_proxy_is_read_as_a_status() -> None:
    message = f"{_OBJECT}{_RBAC}"
    body = {"type": "error", "status": 403, "code": "Forbidden", "message": message}
    error = error_for(403, "x", parse_status(json.dumps(body).encode()))
    assert (error.denier, error.said) == (Denier.AUTHORIZER, message)
