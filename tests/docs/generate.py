"""Makes the generated parts of the documentation anew: ``make docs``.

A generated page begins with prose of its own, which stays; what follows the mark is made.
"""

from collections.abc import Callable
from pathlib import Path

from tests.docs.configuration import render_configuration
from tests.docs.metrics import render_metrics

DOCS = Path(__file__).parents[2] / "docs"
MARK = "<!-- What follows is made by `make docs`: edit what it is made of. -->"
PAGES: dict[str, Callable[[], str]] = {
    "configuration.md": render_configuration,
    "metrics.md": render_metrics,
}


def render_page(name: str) -> str:
    """A page as it should be: its prose, the mark, and what is made."""
    prose, mark, _ = (DOCS / name).read_text().partition(MARK)
    assert mark, f"docs/{name} has no mark where its generated part begins"
    return f"{prose}{MARK}\n\n{PAGES[name]()}"


def main() -> None:
    """Write every page."""
    for name in PAGES:
        (DOCS / name).write_text(render_page(name))


if __name__ == "__main__":
    main()
