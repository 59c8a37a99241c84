"""Locks that another process holds, as this user or as another."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

OTHER_USER = 65534

_HOLD = """
import fcntl, os, sys
path, user = sys.argv[1], int(sys.argv[2])
os.setgroups([])
os.setgid(user)
os.setuid(user)
held = os.open(path, os.O_RDONLY if path == "." else os.O_RDWR | os.O_CREAT, 0o600)
fcntl.flock(held, fcntl.LOCK_EX)
print("held", flush=True)
sys.stdin.read()
"""


@contextmanager
def holding(path: Path, user: int) -> Iterator[None]:
    """A process of that user locks the file or folder, until the block is left."""
    # The folders above may be closed to that user.
    folder, name = (path, ".") if path.is_dir() else (path.parent, path.name)
    command = [sys.executable, "-c", _HOLD, name, str(user)]
    with subprocess.Popen(
        command, cwd=folder, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield
        assert process.poll() is None
        process.communicate()
