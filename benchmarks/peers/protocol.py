"""The peers' side of the protocol."""

import json
import sys
from typing import Any

PLURALS = ("clusters", "nodes", "settings", "features", "projects")
GROUP, VERSION = "management.cattle.io", "v3"
PAGE_SIZE = 500


def begin() -> None:
    """All is loaded: say so, and wait for the start."""
    _tell({"event": "ready"})
    sys.stdin.readline()


def synced(nodes: int) -> None:
    """All is held: say so, and hold it until the end of stdin."""
    _tell({"event": "synced", "nodes": nodes})
    sys.stdin.read()


def _tell(message: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()
