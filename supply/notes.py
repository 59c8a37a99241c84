"""The notes of a release: its files, its images by digest, and what has changed."""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from supply.lock import ROOT

NAME = "RELEASE-NOTES.md"
CHANGELOG = ROOT / "CHANGELOG.md"

_KINDS = {
    ".whl": "Python package, for `pip install`",
    ".tar.gz": "source archive",
    ".tgz": "Helm chart",
    "index.yaml": "index of these files as a Helm repository",
    "icon.svg": "icon to which the index leads",
    ".cdx.json": "bill of materials, CycloneDX",
    ".deb": "Debian package, for the distribution and machine type in its name",
    ".tar": "image, for `docker load`, `podman load` or `ctr images import`",
}
_WITHOUT_IMAGE = (
    "There is no image among these files: the release was built with `IMAGE=no`. Build one from the"
    " source archive, as docs/install.md says."
)
_WITHOUT_DEB = "There is no Debian package among these files: the release was built with `DEB=no`."


@dataclass(frozen=True, slots=True)
class Commit:
    """What is released.

    Attributes:
        revision: Its hash.
        time: Unix time in seconds, the time of every file that is built.
    """

    version: str
    revision: str
    time: int


def render(
    commit: Commit, files: Iterable[str], images: Mapping[str, str], base: str | None
) -> str:
    """The notes in Markdown.

    Args:
        commit: What is released.
        files: Names of what was built.
        images: The id of each image, a digest, by the name of its archive.
        base: The base of the images, by its digest; None where there is no image.
    """
    return "\n".join(_lines(commit, [*files], images, base)) + "\n"


def _lines(
    commit: Commit, files: list[str], images: Mapping[str, str], base: str | None
) -> Iterator[str]:
    date = datetime.fromtimestamp(commit.time, UTC).date()
    yield from (f"# telemetryd {commit.version}", "", f"Commit {commit.revision} of {date}.")
    yield from ("", "| file | what it is |", "|---|---|")
    yield from (f"| {name} | {_kind_of(name)} |" for name in files)
    yield from ("", "`sha256sum --check SHA256SUMS` checks the files.")
    if base is None:
        yield from ("", _WITHOUT_IMAGE)
    else:
        yield from ("", f"The images are built on {base}.", "")
        yield from ("| image | its id, which an engine shows once it is loaded |", "|---|---|")
        yield from (f"| {name} | {digest} |" for name, digest in images.items())
    if not any(name.endswith(".deb") for name in files):
        yield from ("", _WITHOUT_DEB)
    yield from ("", "## Changes", "", changes_of(commit.version, CHANGELOG.read_text()))


def _kind_of(name: str) -> str:
    return next(text for end, text in _KINDS.items() if name.endswith(end))


def changes_of(version: str, changelog: str) -> str:
    """The section of a version, without its heading.

    A version without a section has not been released: then it is what is unreleased, and says so.
    """
    sections = {
        match[1]: match[2].strip()
        for match in re.finditer(r"(?ms)^## \[([^\]]+)\][^\n]*\n(.*?)(?=^## |\Z)", changelog)
    }
    if version in sections:
        return sections[version]
    notice = f"CHANGELOG.md has no section for {version} yet. This is what it has as unreleased."
    return f"{notice}\n\n{sections.get('Unreleased', '')}"
