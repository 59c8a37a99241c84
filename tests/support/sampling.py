"""Which members of a wide table `make test` tries; `make slow` tries the rest of it."""

from collections.abc import Iterable

import pytest
from _pytest.mark.structures import ParameterSet


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
