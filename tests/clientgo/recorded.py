"""What client-go does with each case, as it was recorded: what telemetryd is compared with.

Go programs take most of the time of a comparison, and do the same each time. `make test-long` runs
them on every case and fails where one does something else than is recorded here;
`python -m tests.clientgo --record` writes it again.
"""

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, Final

FILE: Final = Path(__file__).with_name("recorded.json")
"""An object with a line for each case: its name and the facts of its outcome."""


@cache
def facts() -> Mapping[str, dict[str, Any]]:
    """Of client-go's outcome, by the name of the case."""
    found: dict[str, dict[str, Any]] = json.loads(FILE.read_text())
    return found


def write(found: Mapping[str, dict[str, Any]]) -> None:
    """Put these in place of what is recorded."""
    lines = [
        f"{json.dumps(name)}: {json.dumps(each, sort_keys=True)}" for name, each in found.items()
    ]
    FILE.write_text("{\n" + ",\n".join(lines) + "\n}\n")
