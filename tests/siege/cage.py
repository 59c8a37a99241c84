"""A memory limit for one process: a cgroup of version 2 or 1, or none where neither can be had."""

import contextlib
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

Kind: TypeAlias = Literal["cgroup v2", "cgroup v1", "none"]

_LIMIT = {"cgroup v2": "memory.max", "cgroup v1": "memory.limit_in_bytes"}
_PEAK = {"cgroup v2": "memory.peak", "cgroup v1": "memory.max_usage_in_bytes"}
_EVENTS = {"cgroup v2": "memory.events", "cgroup v1": "memory.oom_control"}
_END_S = 10.0

# A shell that moves itself into the cgroup ($0) and then becomes the command.
_ENTER = 'echo $$ >"$0/cgroup.procs" && exec "$@"'


@dataclass(frozen=True, slots=True)
class Cage:
    """Where a process lives, and what the kernel says of its memory.

    Attributes:
        kind: Whose limit it is; with "none" nothing is limited, and the caller must look itself.
        folder: Of the cgroup; None without one.
        limit_bytes: The limit.
    """

    kind: Kind
    folder: Path | None
    limit_bytes: int

    @property
    def under(self) -> tuple[str, ...]:
        """What to put before a command so that it runs inside."""
        return () if self.folder is None else ("/bin/sh", "-c", _ENTER, str(self.folder))

    def peak_bytes(self) -> int | None:
        """The most it ever held, page cache included; None where the kernel doesn't say."""
        text = self._read(_PEAK)
        return int(text) if text else None

    def kills(self) -> int:
        """How many processes the kernel has killed for the limit."""
        for line in self._read(_EVENTS).splitlines():
            name, _, value = line.partition(" ")
            if name == "oom_kill":
                return int(value)
        return 0

    def describe(self) -> str:
        """In words, for the head of a report."""
        mib = self.limit_bytes // 2**20
        if self.folder is None:
            return f"no cgroup can be made here: {mib} MiB are not enforced, only sampled"
        return f"{self.kind}, {mib} MiB"

    def _read(self, names: dict[str, str]) -> str:
        if self.folder is None:
            return ""
        try:
            return (self.folder / names[self.kind]).read_text().strip()
        except OSError:  # `memory.peak` came with Linux 5.19
            return ""


@contextlib.contextmanager
def caged(limit_bytes: int) -> Iterator[Cage]:
    """Makes a cgroup with this limit, and removes it once it is empty."""
    kind, folder = _make(f"telemetryd-siege-{os.getpid()}-{time.monotonic_ns()}", limit_bytes)
    try:
        yield Cage(kind, folder, limit_bytes)
    finally:
        if folder is not None:
            _remove(folder)


def _make(name: str, limit_bytes: int) -> tuple[Kind, Path | None]:
    for kind, parent in _parents():
        folder = parent / name
        try:
            if kind == "cgroup v2":
                with contextlib.suppress(OSError):  # it may be on, or not be ours to switch on
                    (parent / "cgroup.subtree_control").write_text("+memory")
            folder.mkdir()
        except OSError:
            continue
        try:
            (folder / _LIMIT[kind]).write_text(str(limit_bytes))
        except OSError:
            folder.rmdir()
            continue
        return kind, folder
    return "none", None


def _parents() -> Iterator[tuple[Kind, Path]]:
    """Where a cgroup may be made: below our own first, then at the root of what is mounted."""
    own = {
        controllers: path
        for _, controllers, path in (
            line.split(":", 2) for line in Path("/proc/self/cgroup").read_text().splitlines()
        )
    }
    for line in Path("/proc/mounts").read_text().splitlines():
        _, mount, kind, options, *_ = line.split()
        if kind == "cgroup2":
            yield from (("cgroup v2", path) for path in _below(mount, own.get("", "/")))
        elif kind == "cgroup" and "memory" in options.split(","):
            path = next((own[each] for each in own if "memory" in each.split(",")), "/")
            yield from (("cgroup v1", path) for path in _below(mount, path))


def _below(mount: str, path: str) -> list[Path]:
    return list(dict.fromkeys([Path(mount, path.strip("/")), Path(mount)]))


def _remove(folder: Path) -> None:
    """Waits until its processes are gone; a cgroup that holds some can't be removed."""
    deadline = time.monotonic() + _END_S
    while True:
        try:
            folder.rmdir()
        except FileNotFoundError:
            return
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)
        else:
            return
