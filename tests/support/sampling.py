"""How much of wide tables and of properties `make test` tries; other targets try all of it."""

from collections.abc import Iterable
from typing import Final

import pytest
from _pytest.mark.structures import ParameterSet
from hypothesis import settings

FEW: Final = 25
"""Examples that `make test` tries of a property; `make test-long` tries ``MANY``."""
MANY: Final = 100


def sampled(names: Iterable[str], *always: str) -> list[ParameterSet]:
    """The names as parameters; all but those tried always are marked as slow.

    Raises:
        AssertionError: One of those tried always is not among the names.
    """
    listed = list(names)
    assert set(always) <= set(listed), set(always) - set(listed)
    return [
        pytest.param(name, id=name, marks=() if name in always else pytest.mark.slow)
        for name in listed
    ]


def examples(most: int) -> int:
    """Of a property with a number of its own: that many, or the share of it that is tried here."""
    return -(-most * settings().max_examples // MANY)
