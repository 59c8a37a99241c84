"""The Helms that tests run: their versions, where they are, and how they are built.

`python3 -m tests.charts.versions` builds both into the cache. Each folder beside this file pins one
by its `go.mod` and `go.sum`. Both name the same versions of what they share, so that the second
build finds most packages built.
"""

import os
import sys
from pathlib import Path
from typing import Final, Literal, TypeAlias

from tests.support.gobuild import GoBuildError, build, cache, required

Major: TypeAlias = Literal[3, 4]

MAJORS: Final[tuple[Major, ...]] = (4, 3)

_HERE = Path(__file__).parent


def version(major: Major) -> str:
    """Returns the pinned version, such as `4.3.1`."""
    return required(_HERE / f"helm{major}", f"helm.sh/helm/v{major}")


def program(major: Major) -> Path:
    """Returns where `make helm` leaves it."""
    return cache() / "servers" / f"helm-{version(major)}" / "helm"


def find_program(major: Major) -> Path | None:
    """Returns it where it has been built."""
    found = program(major)
    return found if os.access(found, os.X_OK) else None


def build_program(major: Major) -> None:
    """Builds it into the cache, unless it is there.

    Raises:
        GoBuildError: Go is missing or too old, or the build failed.
    """
    path = f"helm.sh/helm/v{major}"
    field = f"-X {path}/internal/version.version=v{version(major)}"
    build(_HERE / f"helm{major}", f"{path}/cmd/helm", program(major), ldflags=field)


def main() -> int:
    """Builds both, one after the other; the exit status is 1 where that failed."""
    try:
        for major in MAJORS:
            build_program(major)
    except GoBuildError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
