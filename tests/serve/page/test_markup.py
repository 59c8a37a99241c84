"""HTML by construction: what is text stays text."""

from html.parser import HTMLParser

from hypothesis import given
from hypothesis import strategies as st

from telemetryd.serve.page.tables import Markup, escape, join, tag


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
