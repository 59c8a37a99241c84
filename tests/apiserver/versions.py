"""The kube-apiservers that tests run on: their versions, where they are, and how they are built.

`python3 -m tests.apiserver.versions` builds them into the cache, or only those that are named:
`newest`, `oldest`, `kubectl`. Each folder beside this file pins one program by its `go.mod` and
`go.sum`.
"""

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, TypeAlias

from tests.support.gobuild import GoBuildError, build, cache, required

Age: TypeAlias = Literal["newest", "oldest"]

AGES: tuple[Age, ...] = ("newest", "oldest")
PROGRAMS = ("kube-apiserver", "etcd")

_HERE = Path(__file__).parent
_KUBERNETES = "k8s.io/kubernetes"
_ETCD = "go.etcd.io/etcd/server/v3"
_VERSION = "k8s.io/component-base/version"


def chosen() -> Age:
    """Returns which server the environment variable `APISERVER` chooses: the newest by default.

    Raises:
        ValueError: It names something else.
    """
    name = os.environ.get("APISERVER") or "newest"
    if name not in AGES:
        raise ValueError(f"APISERVER={name}: it is {' or '.join(AGES)}")
    return name


def version(age: Age) -> str:
    """Returns the pinned version, such as `1.37.2`."""
    return required(_HERE / age, _KUBERNETES)


def minor_of(age: Age) -> tuple[int, int]:
    """Returns the major and the minor version, such as (1, 37)."""
    major, minor, _ = version(age).split(".")
    return int(major), int(minor)


def folder(age: Age) -> Path:
    """Returns where `make apiserver` leaves that server, with a link to etcd beside it."""
    return cache() / "servers" / version(age)


def given() -> Path | None:
    """Returns `$KUBEBUILDER_ASSETS` where that holds both programs."""
    name = os.environ.get("KUBEBUILDER_ASSETS")
    return Path(name) if name and holds_programs(Path(name)) else None


def holds_programs(assets: Path) -> bool:
    """Tells whether the folder holds `kube-apiserver` and `etcd`."""
    return all(os.access(assets / name, os.X_OK) for name in PROGRAMS)


def find_assets() -> Path | None:
    """Returns the folder that holds `kube-apiserver` and `etcd`, or None.

    The order is `$KUBEBUILDER_ASSETS`, then what `make apiserver` left in the cache of the version
    that `APISERVER` chooses.
    """
    if (assets := given()) is not None:
        return assets
    cached = folder(chosen())
    return cached if holds_programs(cached) else None


def build_server(age: Age) -> None:
    """Builds etcd and that kube-apiserver into the cache, unless they are there.

    Raises:
        GoBuildError: Go is missing or too old, or a build failed.
    """
    etcd = cache() / "servers" / f"etcd-{required(_HERE / 'etcd', _ETCD)}" / "etcd"
    build(_HERE / "etcd", _ETCD, etcd)
    target = folder(age)
    target.mkdir(parents=True, exist_ok=True)
    link = target / f".etcd-{os.getpid()}"
    link.unlink(missing_ok=True)
    link.symlink_to(os.path.relpath(etcd, target))
    link.replace(target / "etcd")
    _build_kubernetes(age, "kube-apiserver")


def build_kubectl() -> None:
    """Builds the newest kubectl into the folder of the newest server.

    Raises:
        GoBuildError: Go is missing or too old, or the build failed.
    """
    _build_kubernetes("newest", "kubectl")


def _build_kubernetes(age: Age, program: str) -> None:
    number = version(age)
    major, minor, _ = number.split(".")
    fields = {"gitVersion": f"v{number}", "gitMajor": major, "gitMinor": minor}
    ldflags = " ".join(f"-X {_VERSION}.{name}={value}" for name, value in fields.items())
    build(_HERE / age, f"{_KUBERNETES}/cmd/{program}", folder(age) / program, ldflags=ldflags)


def main(names: Sequence[str]) -> int:
    """Builds what is named; the exit status is 1 where that failed."""
    if (assets := given()) is not None and not names:
        programs = " and ".join(PROGRAMS)
        sys.stdout.write(f"KUBEBUILDER_ASSETS={assets} holds {programs}: nothing to build\n")
        return 0
    try:
        for name in names or AGES:
            if name == "kubectl":
                build_kubectl()
            elif name in AGES:
                build_server(name)
            else:
                sys.stderr.write(f"{name}: it is newest, oldest or kubectl\n")
                return 1
    except GoBuildError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
