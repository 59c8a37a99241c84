"""Bounds of texts: short, printable, and still different where what they stand for is."""

import json

from hypothesis import given
from hypothesis import strategies as st

from telemetryd.bounds import (
    CONDITION_CHARS,
    IDENTIFIER_CHARS,
    URL_CHARS,
    VERSION_CHARS,
    document,
    escaped,
    free_text,
    identifier,
    url,
    version,
)

TEXTS = st.text(max_size=2000) | st.text(min_size=1, max_size=3).map(lambda text: text * 1000)


@given(TEXTS)
def test_any_text_becomes_short_and_printable(text: str) -> None:
    for shown in (identifier(text), free_text(text), escaped(text, 300)):
        assert shown.isprintable()
        assert len(shown) <= max(IDENTIFIER_CHARS, 330)
        shown.encode()


@given(TEXTS)
def test_free_text_applied_twice_changes_nothing(text: str) -> None:
    once = free_text(text, CONDITION_CHARS)
    assert free_text(once, CONDITION_CHARS) == once


@given(TEXTS, TEXTS)
def test_different_identifiers_stay_different(one: str, other: str) -> None:
    assert (identifier(one) == identifier(other)) == (one == other)


def test_names_of_objects_stay_as_they_are() -> None:
    for name in ("a" * 253, "cluster-m-1", "u-1", "2026-11-29T14:45:23Z"):
        assert identifier(name) == name


def test_message_becomes_one_short_line() -> None:
    assert free_text("a\nb\x1b[31m\u202e\udc80") == "a b [31m  "
    assert len(free_text("x" * 10_000)) == 301


def test_url_that_is_too_long_stays_too_long() -> None:
    assert len(url("x" * 10**6)) == URL_CHARS + 1


def test_version_is_cut() -> None:
    assert version("x" * 10**6) == "x" * VERSION_CHARS
    assert version(None) == ""


def test_what_is_left_out_of_a_shown_text_is_counted() -> None:
    assert escaped("x" * 100, 10) == "xxxxxxxxxx… (90 more characters)"
    assert escaped("\x00\u202e", 100) == r"\x00\u202e"


def test_document_with_any_text_can_be_encoded() -> None:
    given = {"a\udc80": ["x" * 10**6, ("\udcff", 1, None, True)], "b": {"c": 1.5}}
    shown = document(given)
    assert shown["a\\udc80"][1] == ["\\udcff", 1, None, True]
    assert len(json.dumps(shown, ensure_ascii=False).encode()) < 10_000
