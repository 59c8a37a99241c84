"""Makes the generated parts of the documentation and of the chart: ``make docs``.

A generated page begins with prose of its own, which stays; what follows the mark is made. On the
pages of ``BLOCKS`` what is made stands between two marks each.
"""

import json
import re
from collections.abc import Callable
from pathlib import Path

from supply.shell import write_files
from telemetryd.config.jsonschema import config_schema
from tests.clientgo.differences import render_differences
from tests.docs.collected import BLOCKS as COLLECTED
from tests.docs.commandline import render_commands, render_globals
from tests.docs.configuration import render_configuration
from tests.docs.metrics import render_metrics
from tests.docs.values import FILES

DOCS = Path(__file__).parents[2] / "docs"
MARK = "<!-- What follows is made by `make docs`: edit what it is made of. -->"
PAGES: dict[str, Callable[[], str]] = {
    "configuration.md": render_configuration,
    "login.md": render_differences,
    "metrics.md": render_metrics,
}
BLOCKS: dict[str, dict[str, Callable[[], str]]] = {
    "collected.md": COLLECTED,
    "commands.md": {"commands": render_commands, "globals": render_globals},
}
SCHEMA = DOCS.parent / "config.schema.json"

_BLOCK = re.compile(
    r"(<!-- `make docs` makes this: ([\w-]+) -->\n\n).*?(\n<!-- end -->)", re.DOTALL
)


def render_page(name: str) -> str:
    """A page as it should be: its prose, the mark, and what is made."""
    text = (DOCS / name).read_text()
    if (made := BLOCKS.get(name)) is not None:
        found = [block[2] for block in _BLOCK.finditer(text)]
        assert found == [*made], f"docs/{name} has other marks, or in another order: {found}"
        return _BLOCK.sub(lambda block: f"{block[1]}{made[block[2]]()}{block[3]}", text)
    prose, mark, _ = text.partition(MARK)
    assert mark, f"docs/{name} has no mark where its generated part begins"
    return f"{prose}{MARK}\n\n{PAGES[name]()}"


def render_schema() -> str:
    """The JSON Schema of the configuration file."""
    return json.dumps(config_schema(), indent=2, ensure_ascii=False) + "\n"


def main() -> None:
    """Write every page, schema and file, and what shells know of the commands."""
    write_files()
    SCHEMA.write_text(render_schema())
    for name in (*PAGES, *BLOCKS):
        (DOCS / name).write_text(render_page(name))
    for path, render in FILES.items():
        path.write_text(render())


if __name__ == "__main__":
    main()
