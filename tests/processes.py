"""What a test asks about a process from outside."""

from pathlib import Path
from typing import Any

from telemetryd.logs import RESERVED


def is_gone(process: int) -> bool:
    """Whether it has ended. Its parent, or who inherited it, may not have waited for it yet."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def whole_lines(log: Path) -> str:
    """What a process has logged so far, without the line that it may be writing."""
    text = log.read_text()
    return text[: text.rfind("\n") + 1]


def said(line: dict[str, Any]) -> str:
    """A JSON log line's message and fields, as in the text format but without quotes."""
    fields = (f"{key}={value}" for key, value in line.items() if key not in RESERVED)
    return " ".join((line["message"], *fields))
