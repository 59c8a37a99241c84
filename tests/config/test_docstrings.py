"""Docstrings of tables, those of other distributions included: they may lack one, or have any."""

from dataclasses import dataclass

import pytest

from telemetryd.config.docstrings import attributes_of, lead_of


@dataclass
class Documented:
    """What it is,
    on ``two`` lines.

    Attributes:
        first: Said on
            two lines.
        second: Said.

    More.
    """

    first: int
    second: int


@dataclass
class Derived(Documented):
    """More.

    Attributes:
        second: Said otherwise.
    """


@dataclass
class Undocumented:
    first: int


@dataclass
class Otherwise:
    """It.

    Attributes:
    first : int
        As NumPy writes it.
    """

    first: int


def test_lead_is_the_first_paragraph_in_markdown() -> None:
    assert lead_of(Documented) == "What it is, on `two` lines."


def test_attributes_are_those_of_the_class_and_its_bases() -> None:
    assert attributes_of(Documented) == {"first": "Said on two lines.", "second": "Said."}
    assert attributes_of(Derived) == {"first": "Said on two lines.", "second": "Said otherwise."}


def test_class_without_a_docstring_says_nothing() -> None:
    assert (lead_of(Undocumented), attributes_of(Undocumented)) == ("", {})


@pytest.mark.parametrize("kind", [Otherwise, int])
def test_docstring_of_another_style_says_what_can_be_read(kind: type) -> None:
    assert "first" not in attributes_of(kind)
