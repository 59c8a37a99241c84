"""What every payload is made with: canonical bytes, the digest found at a destination, dates."""

import json
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from telemetryd.errors import PermanentError, Reason
from telemetryd.export.payloads.payload import (
    around,
    canonical_bytes,
    document_digest,
    is_uuid,
    parse_digest,
    parse_rfc3339,
    render_rfc3339,
)
from tests.export.doubles import EPOCH_S, INSTALL_UUID

values = st.one_of(st.integers(-(2**40), 2**40), st.text(max_size=5), st.booleans(), st.none())
documents = st.dictionaries(st.text(max_size=12), st.lists(values, max_size=2), max_size=6)


@given(documents, st.sampled_from(["delivery", "timestamp", "a"]), values)
def test_a_spliced_key_stands_where_the_whole_document_has_it(
    document: dict[str, Any], key: str, value: Any
) -> None:
    document.pop(key, None)
    whole = orjson.dumps({**document, key: value}, option=orjson.OPT_SORT_KEYS)
    assert orjson.dumps(value, option=orjson.OPT_SORT_KEYS).join(around(document, key)) == whole


@pytest.mark.parametrize("value", [2**64, "\ud800", object()], ids=["large", "surrogate", "type"])
def test_what_json_cannot_hold_is_an_internal_error(value: object) -> None:
    for write in (canonical_bytes, document_digest):
        with pytest.raises(PermanentError, match="can't be written as JSON") as caught:
            write({"a": value})
        assert caught.value.reason is Reason.INTERNAL


@given(documents)
def test_digest_is_read_whatever_the_delivery_says_but_for_another_digest(
    document: dict[str, Any],
) -> None:
    facts = {key: document[key] for key in document if key not in {"delivery", "timestamp"}}
    digest = sha256(orjson.dumps(facts, option=orjson.OPT_SORT_KEYS)).hexdigest()
    delivery = {"timestamp": "2026-09-21T14:13:20Z", "sequence": 7, "epoch": 0, "digest": digest}
    body = json.dumps({**facts, "delivery": delivery}).encode()
    assert parse_digest(body) == (digest, EPOCH_S)
    altered: Any
    for altered in ({**delivery, "digest": "0" * 64}, {"sequence": 7}, "delivered", None, []):
        assert parse_digest(json.dumps({**facts, "delivery": altered}).encode()) is None


@pytest.mark.parametrize("timestamp", [None, 7, "yesterday", ["2026-09-21T14:13:20Z"]])
def test_delivery_without_a_date_has_none(timestamp: object) -> None:
    digest = document_digest({"a": 1})
    delivery = {"digest": digest, "timestamp": timestamp}
    assert parse_digest(orjson.dumps({"a": 1, "delivery": delivery})) == (digest, None)


def test_digest_key_beside_the_timestamp_is_a_fact_like_any_other() -> None:
    document = {"digest": "abc", "timestamp": "2026-09-21T14:13:20Z"}
    assert parse_digest(orjson.dumps(document)) == (document_digest({"digest": "abc"}), EPOCH_S)


@pytest.mark.parametrize(
    ("text", "right"),
    [
        (INSTALL_UUID, True),
        (INSTALL_UUID.upper(), True),
        (INSTALL_UUID + "\n", False),
        ("{" + INSTALL_UUID + "}", False),
        ("urn:uuid:" + INSTALL_UUID, False),
        (INSTALL_UUID.replace("-", ""), False),
        ("", False),
    ],
)
def test_only_the_form_of_the_schema_is_a_uuid(text: str, right: bool) -> None:
    assert is_uuid(text) is right


@pytest.mark.parametrize(
    "body",
    [b"", b"not json", b"[]", b"1", b"null", b'{"a":' * 3000, b"[" * 3000, b"\xff\xfe"],
)
def test_bytes_that_are_no_document_have_no_digest(body: bytes) -> None:
    assert parse_digest(body) is None


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2026-09-21T14:13:20Z", EPOCH_S),
        ("2026-09-21T16:13:20+02:00", EPOCH_S),
        ("2026-09-21T14:13:20.5Z", EPOCH_S + 0.5),
        ("2026-09-21T14:13:20", None),
        ("2026-09-21", None),
        ("", None),
    ],
)
def test_rfc3339_is_read_with_its_zone(text: str, expected: float | None) -> None:
    assert parse_rfc3339(text) == expected


@given(st.floats(0, 4e9))
def test_rfc3339_is_written_in_utc_to_the_second(now_s: float) -> None:
    text = render_rfc3339(now_s)
    assert text == datetime.fromtimestamp(int(now_s), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


@pytest.mark.parametrize("depth", [300, 900, 5000])
def test_digest_of_bytes_nested_deeper_than_ours_is_none(depth: int) -> None:
    assert parse_digest(b'{"a":' + b"[" * depth + b"]" * depth + b"}") is None
