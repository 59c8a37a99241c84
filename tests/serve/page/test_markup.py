"""HTML by construction: what is text stays text. Numbers and times in words."""

from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as st

from telemetryd.serve.page.markup import (
    Markup,
    date_of,
    escape,
    every,
    join,
    size_of,
    span,
    tag,
    time_of,
)
from tests.serve.facts import NOW


class Reader(HTMLParser):
    """What a browser would see of one element."""

    def __init__(self, markup: str) -> None:
        super().__init__()
        self.seen: list[str] = []
        self.text = ""
        self.attributes: dict[str, str | None] = {}
        self.feed(markup)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append(tag)
        self.attributes.update(attrs)

    def handle_data(self, data: str) -> None:
        self.text += data

    def handle_comment(self, data: str) -> None:
        self.seen.append("comment")

    def handle_decl(self, decl: str) -> None:
        self.seen.append("declaration")

    def handle_pi(self, data: str) -> None:
        self.seen.append("instruction")


@given(text=st.text(st.characters(codec=None)), value=st.text(st.characters(codec=None)))
def test_any_text_and_attribute_make_no_element_and_can_be_sent(text: str, value: str) -> None:
    markup = tag("p", text, title=value)
    markup.encode()
    read = Reader(markup)
    assert read.seen == ["p"]
    assert list(read.attributes) == ["title"]
    shown = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
    assert read.text == shown


def test_controls_and_marks_of_direction_are_shown_by_their_escapes() -> None:
    assert escape("a\x00b\u202ec\nd") == r"a\x00b\u202ec\nd"


def test_markup_stands_as_it_is_and_void_elements_have_no_end() -> None:
    assert tag("p", tag("b", "1 < 2"), " & ") == "<p><b>1 &lt; 2</b> &amp; </p>"
    assert tag("br") == "<br>"
    assert join(("<", Markup("<i></i>"))) == "&lt;<i></i>"


def test_attributes_may_be_absent_without_value_or_named_as_words_of_python() -> None:
    given = tag("a", class_="x", aria_label="y", hidden=True, open=False, title=None)
    assert given == '<a class="x" aria-label="y" hidden></a>'


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(-1, "0 seconds"), (1, "1 second"), (59.9, "59 seconds"), (60, "1 minute"),
     (61, "1 minute 1 second"), (3600, "1 hour"), (3661, "1 hour 1 minute"), (86400, "1 day"),
     (90000, "1 day 1 hour"), (400 * 86400, "400 days")],
)  # fmt: skip
def test_spans_have_their_two_largest_units(seconds: float, text: str) -> None:
    assert span(seconds) == text
    assert text.startswith(span(seconds, rough=True))


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.5, "every 0.5 seconds"), (1, "every second"), (60, "every minute"),
     (90, "every 1 minute 30 seconds"), (3600, "every hour"), (7200, "every 2 hours")],
)  # fmt: skip
def test_intervals_are_said_as_people_say_them(seconds: float, text: str) -> None:
    assert every(seconds) == text


@pytest.mark.parametrize(
    ("size", "text"),
    [(0, "0 bytes"), (1, "1 byte"), (10239, "10,239 bytes"), (10240, "10 KiB"),
     (10 * 2**20 - 1, "10,240 KiB"), (10 * 2**20, "10 MiB")],
)  # fmt: skip
def test_sizes_have_the_unit_that_fits(size: int, text: str) -> None:
    assert size_of(size) == text


def test_times_have_their_distance_and_utc() -> None:
    assert time_of(NOW - 20, NOW) == (
        '<time datetime="2027-01-15T07:59:40.000Z">20 seconds ago '
        "<small>07:59:40 UTC</small></time>"
    )
    assert ">in 40 seconds <small>08:00:40 UTC<" in time_of(NOW + 40, NOW)
    assert ">now <small>08:00:00 UTC<" in time_of(NOW + 0.2, NOW)
    assert ">8 hours ago <small>2027-01-14 23:59 UTC<" in time_of(NOW - 8 * 3600 - 60, NOW)
    assert time_of(None, NOW) == '<span class="quiet">never</span>'
    assert (
        date_of(NOW) == '<time datetime="2027-01-15T08:00:00.000Z">2027-01-15 08:00:00 UTC</time>'
    )
