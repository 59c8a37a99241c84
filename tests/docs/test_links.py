"""Every link of every page leads somewhere: to a file of the project, and to a heading in it."""

from pathlib import PurePosixPath

import pytest

from tests.docs.markdown import ROOT, anchors, links, pages

_ELSEWHERE = ("https://", "http://", "mailto:")


def broken(page: str) -> list[str]:
    """What is wrong with the links of a page."""
    wrong = []
    for link in links((ROOT / page).read_text()):
        if link.target.startswith(_ELSEWHERE):
            continue
        path, _, anchor = link.target.partition("#")
        target = (ROOT / page).parent / path if path else ROOT / page
        where = f"{page}:{link.line}: {link.target}"
        if not target.exists() or not target.resolve().is_relative_to(ROOT):
            wrong.append(f"{where}: no such file")
        elif anchor and anchor not in anchors(target.read_text()):
            wrong.append(f"{where}: no such heading")
    return wrong


@pytest.mark.parametrize("page", pages())
def test_every_link_leads_to_a_file_and_a_heading(page: str) -> None:
    assert not broken(page)


def test_every_page_of_docs_is_linked_from_their_index() -> None:
    index = ROOT / "docs" / "README.md"
    linked = {
        str(PurePosixPath("docs", link.target.partition("#")[0]))
        for link in links(index.read_text())
    }
    of_docs = {page for page in pages() if page.startswith("docs/")} - {"docs/README.md"}
    decisions = {page for page in of_docs if page.startswith("docs/decisions/0")}
    assert of_docs - decisions <= linked


def test_every_decision_is_linked_from_their_index() -> None:
    index = ROOT / "docs" / "decisions" / "README.md"
    linked = {link.target for link in links(index.read_text())}
    there = {path.name for path in index.parent.glob("0*.md")}
    assert there <= linked
