"""SECURITY.md and CONTRIBUTING.md lead to what is there."""

import re
from pathlib import Path

import pytest

from supply.lock import ROOT
from tests.apiserver import versions as kubernetes
from tests.charts import versions as helm
from tests.gather.upstream import TAGS
from tests.supply.conftest import pythons_of_classifiers

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


def test_tested_versions_are_those_that_tests_use() -> None:
    text = (ROOT / "docs" / "install.md").read_text()
    section = text.partition("tested versions")[2].partition("\n\n")[0]
    rows = [[cell.strip() for cell in line.split("|")[1:3]] for line in section.splitlines()[2:]]
    ranchers = [tag for tag in TAGS if tag != "main"]
    helms = sorted(map(helm.version, helm.MAJORS))
    assert rows == [
        ["Kubernetes", ", ".join(kubernetes.version(age) for age in reversed(kubernetes.AGES))],
        ["Rancher", f"{ranchers[0]} to {ranchers[-1]}"],
        ["Python", ", ".join(pythons_of_classifiers())],
        ["Helm", ", ".join(helms)],
    ]
