"""Credentials in texts of others: found in each form in which they may come back."""

import base64
import json
import textwrap
import urllib.parse

import pytest
from hypothesis import given
from hypothesis import strategies as st

from telemetryd.errors import ConflictError, PermanentError, Reason
from telemetryd.export.exporter import ExporterSpec
from telemetryd.export.ledger import Ledger
from telemetryd.export.payloads.formats import PAYLOAD_FORMATS
from telemetryd.export.sinks.secretobject import parse_secret
from telemetryd.redaction import FRAGMENT, MARK, MOST_SENT, OURS, Redactor
from telemetryd.serve.page.status import render_status
from tests.serve.facts import Facts, busy_informer_stats, informer_status

TOKEN = "eyJhbGciOiJSUzI1NiIsImtpZCI6ImsxIn0.eyJzdWIiOiJzeXN0ZW06eCIsImV4cCI6MX0.c2lnbmF0dXJl-_AB"
HEADER = f"Bearer {TOKEN}"
ECHOES = {
    "raw": TOKEN,
    "header": f"Authorization: {HEADER}",
    "base64": base64.b64encode(TOKEN.encode()).decode(),
    "base64 of the header": base64.b64encode(HEADER.encode()).decode(),
    "base64 of the header's line": base64.b64encode(f"x Authorization: {HEADER}".encode()).decode(),
    "base64url": base64.urlsafe_b64encode(HEADER.encode()).decode().rstrip("="),
    "URL-escaped": urllib.parse.quote(HEADER, safe=""),
    "escaped throughout": "".join(f"%{ord(char):02x}" for char in TOKEN),
    "JSON escapes": "".join(f"\\u{ord(char):04x}" for char in TOKEN),
    "double JSON": json.dumps(json.dumps(base64.encodebytes(TOKEN.encode()).decode())),
    "HTML escapes": "".join(f"&#{ord(char)};" for char in TOKEN),
    "wrapped": "\r\n ".join(textwrap.wrap(TOKEN, 10)),
    "wrapped in a list": '", "'.join(textwrap.wrap(TOKEN, 5)),
    "other case": TOKEN.upper(),
    "beginning": TOKEN[:40],
    "middle": TOKEN[31:61],
    "end": TOKEN[-20:],
}


def remembering(*headers: str) -> Redactor:
    redactor = Redactor()
    for header in headers:
        redactor.remember(header)
    return redactor


@pytest.mark.parametrize("echo", ECHOES.values(), ids=ECHOES)
def test_token_is_taken_out_in_whatever_form_it_comes_back(echo: str) -> None:
    said = remembering(HEADER).redact(f"refused: {echo} is bad")
    assert MARK in said
    assert said.startswith("refused: ")
    assert said.endswith(" is bad")
    assert len(said) < len("refused:  is bad") + len(MARK) + 40, said


def test_password_and_its_header_are_taken_out() -> None:
    basic = base64.b64encode(b"admin:correct horse battery").decode()
    redactor = remembering(f"Basic {basic}")
    assert redactor.redact(f"Basic {basic}") == f"Basic {MARK}"
    assert redactor.redact("for admin: correct%20horse battery!") == f"for admin: {MARK}!"
    assert redactor.redact("a battery of tests") == "a battery of tests"


def test_words_that_a_token_begins_with_stay() -> None:
    redactor = remembering("Bearer kubeconfig-user-x2k4c:8fk2vxwlqnb5jx7h", "X-Key telemetry")
    for text in ("kubeconfig changed, its login is used", "telemetryd started", "ordinary text"):
        assert redactor.redact(text) == text


@given(st.integers(0, len(TOKEN)), st.integers(0, len(TOKEN)), st.text(max_size=30))
def test_no_long_piece_of_a_token_stays(start: int, end: int, around: str) -> None:
    said = remembering(HEADER).redact(f"{around}{TOKEN[start:end]}{around}")
    pieces = (TOKEN[at : at + FRAGMENT + 3] for at in range(len(TOKEN) - FRAGMENT - 2))
    assert not any(piece in said for piece in pieces)


@given(st.text())
def test_other_text_stays_as_it_is(text: str) -> None:
    assert remembering(HEADER).redact(text) == text


def test_last_used_tokens_are_remembered_old_and_new() -> None:
    redactor = remembering(*(f"Bearer {number:02}-{TOKEN[number:][::-1]}" for number in range(3)))
    assert redactor.redact(TOKEN[::-1]) == MARK
    for number in range(MOST_SENT):
        redactor.remember(HEADER)
        redactor.remember(f"Bearer other-{number}-{number * 7919:020}")
    assert redactor.redact(TOKEN) == MARK
    assert redactor.redact(TOKEN[::-1]) == TOKEN[::-1]


def test_token_of_someone_else_is_hidden_while_it_is_at_hand() -> None:
    redactor = Redactor()
    with redactor.hiding(TOKEN), redactor.hiding(TOKEN):
        assert redactor.redact(TOKEN) == MARK
    assert redactor.redact(TOKEN) == TOKEN


OWN = "Zm9yLXN1Y2Nlc3NmdWwtYW5zd2Vycw.dGhhdC1lY2hv-Q7"


@pytest.fixture
def sent() -> None:
    OURS.remember(f"Bearer {OWN}")


@pytest.mark.usefixtures("sent")
def test_resource_version_that_echoes_a_credential_is_shown_without_it() -> None:
    facts = Facts(informers=[(informer_status(resource_version=f"7{OWN}"), busy_informer_stats())])
    (informer,) = render_status(facts.status())["informers"]
    assert informer["resource_version"] == f"7{MARK}"


@pytest.mark.usefixtures("sent")
@pytest.mark.parametrize("kind", [PermanentError, ConflictError])
def test_error_of_an_exporter_that_quotes_a_credential_is_shown_without_it(
    kind: type[PermanentError],
) -> None:
    ledger = Ledger(ExporterSpec("e", "plugin", PAYLOAD_FORMATS["scc"].renderer()), lambda: 0.0)
    error = kind(Reason.CONFLICT, f"the answer was {OWN}")
    ledger.attempt_failed(error)
    ledger.run_failed(error)
    status = ledger.status(next_run_in_s=None, waiting_for="")
    assert status.last_error == f"the answer was {MARK}"
    assert OWN not in status.detail


@pytest.mark.usefixtures("sent")
def test_secret_that_echoes_a_credential_is_reported_without_it() -> None:
    manager = {
        "manager": f"m-{OWN}",
        "operation": "Update",
        "fieldsV1": {"f:data": {"f:payload": {}}},
    }
    metadata = {"uid": "u", "resourceVersion": "1", "managedFields": [manager]}
    found = parse_secret(json.dumps({"metadata": metadata, "type": f"x/{OWN}"}).encode())
    assert found.type == f"x/{MARK}"
    assert [other.manager for other in found.others] == [f"m-{MARK}"]
