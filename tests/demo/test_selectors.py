"""Selectors: the grammar that clients of the API use."""

import pytest

from telemetryd.demo.objects import StoredObject
from telemetryd.demo.selectors import parse_selector
from telemetryd.demo.status import BadRequest

STORED = StoredObject("ns/one", 5, "u", {"odd": "1", "app.io/x": "y"}, b"{}")


@pytest.mark.parametrize(
    ("labels", "fields", "expected"),
    [
        ("", "", True),
        ("odd=1", "", True),
        ("odd == 1,app.io/x=y", "", True),
        ("odd=2", "", False),
        ("odd!=2", "", True),
        ("gone!=2", "", True),
        ("odd", "", True),
        ("!odd", "", False),
        ("!gone", "", True),
        ("odd in (1, 3),app.io/x", "", True),
        ("odd notin (1,3)", "", False),  # codespell:ignore notin
        ("", "metadata.name=one", True),
        ("", "metadata.name!=one", False),
        ("", "metadata.namespace=ns,metadata.name=one", True),
        ("odd=1", "metadata.name=two", False),
    ],
)
def test_selector_matches_as_kubernetes_does(labels: str, fields: str, expected: bool) -> None:
    assert parse_selector(labels, fields).matches(STORED) is expected


def test_nothing_matches_what_does_not_exist() -> None:
    assert not parse_selector("", "").matches(None)


@pytest.mark.parametrize(
    ("labels", "fields"), [("===", ""), ("a in b", ""), ("", "garbage"), ("", "spec.x=1")]
)
def test_unreadable_selector_is_a_bad_request(labels: str, fields: str) -> None:
    with pytest.raises(BadRequest):
        parse_selector(labels, fields)
