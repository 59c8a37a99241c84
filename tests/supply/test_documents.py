"""SECURITY.md and CONTRIBUTING.md lead to what is there."""

import re
from pathlib import Path

import pytest

from supply.lock import ROOT

MAKEFILE = (ROOT / "Makefile").read_text()


@pytest.fixture(params=["SECURITY.md", "CONTRIBUTING.md", "docs/licences.md"])
def page(request: pytest.FixtureRequest) -> Path:
    return ROOT / str(request.param)


def test_every_link_leads_to_a_file(page: Path) -> None:
    links = re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text())
    assert links
    assert not [link for link in links if not (page.parent / link).exists()]


def test_every_target_that_is_named_exists(page: Path) -> None:
    named = set(re.findall(r"`make ([a-z-]+)|^\$ make ([a-z-]+)", page.read_text(), re.MULTILINE))
    targets = {name for pair in named for name in pair if name}
    assert targets
    assert not [name for name in targets if f"\n{name}:" not in MAKEFILE]
