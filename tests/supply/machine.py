"""This machine's root file system with a layer in memory above it, to install packages in.

Programs run in it by chroot. What they write goes into the layer, and goes with it. It needs root.
"""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_SET_UP = """
set -e
mount -t tmpfs tmpfs "$0"
mkdir "$0/upper" "$0/work" "$0/root"
mount -t overlay overlay -o "lowerdir=/,upperdir=$0/upper,workdir=$0/work" "$0/root"
mount --rbind /dev "$0/root/dev"
mount -t proc proc "$0/root/proc"
echo ready
exec sleep infinity
"""
RUN_S = 120.0


class Machine:
    """One that is set up.

    Args:
        folder: Where the layer is, in a mount namespace of its own.
        process: Which holds that namespace.
    """

    def __init__(self, folder: Path, process: int) -> None:
        self._folder = folder
        self._enter = ["nsenter", f"--mount=/proc/{process}/ns/mnt", "--"]

    def run(self, *command: str, content: bytes | None = None) -> str:
        """What a command in it printed on both streams; fails with it otherwise."""
        status, said = self.attempt(*command, content=content)
        assert status == 0, f"{command}: {said}"
        return said

    def attempt(self, *command: str, content: bytes | None = None) -> tuple[int, str]:
        """The exit status of a command in it, and what it printed on both streams."""
        done = subprocess.run(
            [*self._enter, "chroot", str(self._folder / "root"), *command],
            env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "DEBIAN_FRONTEND": "noninteractive"},
            input=content or b"",
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            check=False,
            timeout=RUN_S,
        )
        return done.returncode, done.stdout.decode()

    def write(self, path: str, content: bytes) -> None:
        """Write a file in it."""
        self.run("sh", "-c", 'cat >"$0"', path, content=content)

    def left(self, name: str) -> list[str]:
        """Paths of that pattern which the machine that it is made of doesn't have."""
        upper = str(self._folder / "upper")
        command = [*self._enter, "find", upper, "-name", name, "-printf", "%P\\n"]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        return sorted(done.stdout.splitlines())


@contextmanager
def machine(folder: Path) -> Iterator[Machine]:
    """One while the context is open.

    Args:
        folder: An empty one.
    """
    assert os.geteuid() == 0, "mounting a layer needs root"
    with subprocess.Popen(
        ["unshare", "--mount", "--propagation", "private", "sh", "-c", _SET_UP, str(folder)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
    ) as holder:
        try:
            assert holder.stdout is not None
            assert holder.stdout.readline() == "ready\n"
            yield Machine(folder, holder.pid)
        finally:
            holder.kill()
