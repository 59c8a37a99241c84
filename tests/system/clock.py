"""A wall clock that a test sets for one process while it runs; no other clock is moved."""

import os
from collections.abc import Mapping
from pathlib import Path

import pytest

_LIBRARIES = ("/usr/lib/*-linux-*/faketime", "/usr/lib64/faketime", "/usr/lib/faketime")
_WHERE = "libfaketime isn't installed (Debian package faketime)"


class WallClock:
    """The file that libfaketime reads at every look at the clock.

    Args:
        folder: Where it is kept.
    """

    def __init__(self, folder: Path) -> None:
        self._file = folder / "clock"
        self.step(0)

    def environ(self) -> Mapping[str, str]:
        """Variables under which a process lives by it; none where there is no libfaketime.

        CLOCK_MONOTONIC is left alone because of the variable, CLOCK_BOOTTIME in any case.
        """
        library = _find()
        if library is None:
            return {}
        return {
            "LD_PRELOAD": str(library),
            "FAKETIME_TIMESTAMP_FILE": str(self._file),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        }

    def step(self, hours: int) -> None:
        """Puts it so far ahead of the truth, or behind it."""
        self.set(hours * 3600)

    def set(self, seconds: int) -> None:
        """Puts it so many seconds ahead of the truth, or behind it."""
        new = self._file.with_suffix(".new")
        new.write_text(f"{seconds:+d}s\n")
        new.rename(self._file)


def require_steps() -> None:
    """Leaves the test out where no clock can be stepped, and fails in CI."""
    if _find() is None:
        assert os.environ.get("CI") != "true", _WHERE
        pytest.skip(_WHERE)


def _find() -> Path | None:
    for folder in _LIBRARIES:
        for found in Path("/").glob(f"{folder[1:]}/libfaketime.so.1"):
            return found
    return None
