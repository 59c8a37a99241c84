"""Resource versions compare only where that is certain."""

import pytest

from telemetryd.informer.apply import is_older


@pytest.mark.parametrize(
    ("version", "held", "older"),
    [
        ("9", "10", True),
        ("10", "9", False),
        ("10", "10", False),
        ("19", "20", True),
        ("09", "10", False),
        ("0", "1", False),
        ("9", "1a", False),
        ("", "1", False),
        ("9", "", False),
        ("٣", "9", False),
        ("99999999999999999999998", "99999999999999999999999", True),
    ],
)
def test_versions_compare_only_as_plain_decimals(version: str, held: str, older: bool) -> None:
    assert is_older(version, held) is older
