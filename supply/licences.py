"""Writes `docs/licences.md`: under which licence each part of an installation comes.

python -m supply.licences
"""

import sys
from collections.abc import Iterable

from supply.lock import ROOT, LockError
from supply.parts import Part, parts

PAGE = ROOT / "docs" / "licences.md"

_HEAD = """\
# Licences

telemetryd is under [Apache-2.0](../LICENSE). What it needs to run, in the versions of
`requirements.lock`, is under the licences below, as each distribution's metadata names them. Their
texts come with them, in the `*.dist-info` folders of an installation and of the image.
`make licences` writes this page.

| distribution | version | licence | what it is |
|---|---|---|---|
"""


def render(found: Iterable[Part]) -> str:
    """The page, the same bytes for the same parts."""
    rows = [f"| {each.name} | {each.version} | {each.licence} | {each.summary} |" for each in found]
    return _HEAD + "\n".join(rows) + "\n"


def main() -> None:
    """Write the page."""
    PAGE.write_text(render(parts()))


if __name__ == "__main__":
    try:
        main()
    except LockError as error:
        sys.exit(f"supply.licences: {error}")
