"""The Go programs that telemetryd is compared with: where they are, and how they are built.

`python3 -m tests.clientgo.binaries` builds both into the cache.
"""

import os
import sys
from pathlib import Path

from tests.apiserver import versions
from tests.support.gobuild import GoBuildError, build, cache, required

_HERE = Path(__file__).parent


def clientgo() -> Path:
    """Where the program of this folder is; it is pinned by `go.mod` and `go.sum`."""
    version = required(_HERE, "k8s.io/client-go")
    return cache() / "servers" / f"client-go-{version}" / "clientgo"


def kubectl() -> Path:
    """Where kubectl is."""
    return versions.folder("newest") / "kubectl"


def are_built() -> bool:
    """Whether both are there."""
    return all(os.access(program, os.X_OK) for program in (clientgo(), kubectl()))


def main() -> int:
    """Build both; the exit status is 1 where that failed."""
    try:
        build(_HERE, ".", clientgo())
        versions.build_kubectl()
    except GoBuildError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
