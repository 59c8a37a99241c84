"""What a test asks about processes that it isn't the parent of."""

from pathlib import Path


def is_gone(process: int) -> bool:
    """Whether it has ended. Its parent, or who inherited it, may not have waited for it yet."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True
