"""The epochs of leadership: the highest one seen anywhere, and the file that keeps it.

A receiver refuses payloads of a lower epoch than it has seen. A Lease can be deleted and created
again, and a state folder can be lost, so no single place is trusted to know the highest epoch.

The file has one line, ``telemetryd-epoch 1 7``: its format and the epoch. Before that format it was
the epoch alone.
"""

import errno
import logging
import math
import os
import re
from pathlib import Path
from typing import Final

import anyio

from telemetryd.atomicfile import explain_newer, write_file
from telemetryd.export.threads import StillHangingError, WorkerThread, shared_threads
from telemetryd.kube.files import read_small_file

log = logging.getLogger(__name__)

MAX_EPOCH: Final = 2**31 - 1
"""``leaseTransitions`` of ``coordination.k8s.io/v1`` is an int32."""

DISK_TIMEOUT_S: Final = 2.0
RETRY_S: Final = 30.0
_FORMAT: Final = 1
_LINE: Final = re.compile(r"(?:telemetryd-epoch ([0-9]{1,9})(?:\s+|$))?(.*)", re.DOTALL)
_REPLACED: Final = {errno.EINVAL, errno.ENXIO, errno.EFBIG, errno.ELOOP, errno.EACCES}
"""Errors of a pipe, a socket, a huge file, a link or a mode: the next write replaces what it is."""


class NewerEpochFileError(ValueError):
    """A later version wrote the file; the message says what to do."""


class Epochs:
    """The highest epoch that this process knows of.

    Attributes:
        highest: 0 if none was ever seen.
        raised: Set when ``highest`` rises, and then replaced.
    """

    __slots__ = ("highest", "raised")

    def __init__(self) -> None:
        self.highest = 0
        self.raised = anyio.Event()

    @property
    def next(self) -> int:
        """The epoch of a term that begins now."""
        return min(self.highest + 1, MAX_EPOCH)

    def saw(self, epoch: int) -> bool:
        """Note an epoch from anywhere; whether it is the highest. Impossible ones are ignored."""
        if not self.highest < epoch <= MAX_EPOCH:
            return False
        self.highest = epoch
        self.raised.set()
        self.raised = anyio.Event()
        return True


class EpochFile:
    """Keeps the highest epoch in a file; a disk that hangs or fails stops nothing else."""

    def __init__(self, path: str | None, epochs: Epochs) -> None:
        """Nothing is read before ``load``; ``path`` is None without a state folder."""
        self._path = None if path is None else Path(path)
        self._epochs = epochs
        self._thread = WorkerThread(shared_threads())
        self._stored = -1
        self._wrote = anyio.Event()
        self._trouble = ""

    async def load(self) -> None:
        """Read the file, within a time limit; ``run`` tries again if that fails."""
        if self._path is not None:
            await self._catch_up(self._path)

    async def run(self) -> None:
        """Write each higher epoch; returns only when cancelled."""
        while True:
            raised = self._epochs.raised
            kept = self._path is None or await self._catch_up(self._path)
            with anyio.move_on_after(math.inf if kept else RETRY_S):
                await raised.wait()

    async def keep(self, timeout_s: float) -> None:
        """Return when ``run`` has written the highest epoch, or after that time."""
        with anyio.move_on_after(timeout_s):
            while self._path is not None and self._stored < self._epochs.highest:
                await self._wrote.wait()

    async def _catch_up(self, path: Path) -> bool:
        """Read the file once and write a higher epoch; False if the disk fails."""
        try:
            with anyio.fail_after(DISK_TIMEOUT_S):
                if self._stored < 0:
                    # Before the first write: the file may know a higher epoch than the Lease.
                    self._stored = await self._thread.run(lambda: read_epoch(path))
                    self._epochs.saw(self._stored)
                if self._stored < (epoch := self._epochs.highest):
                    await self._thread.run(lambda: write_file(path, _render(epoch)))
                    self._stored = epoch
        except (TimeoutError, StillHangingError):
            self._fail("the disk takes too long: check the disk or the file server")
            return False
        except OSError as error:
            self._fail(f"{os.strerror(error.errno or 0)}: check state_dir")
            return False
        except NewerEpochFileError as error:
            self._fail(f"it {error}")
            self._path = None  # the file stays as it is; Lease and Secrets know the epoch too
            return True
        self._trouble = ""
        self._wrote.set()
        self._wrote = anyio.Event()
        return True

    def _fail(self, why: str) -> None:
        if why != self._trouble:
            log.warning("cannot keep the leadership epoch file=%s error=%r", self._path, why)
        self._trouble = why


def read_epoch(path: Path) -> int:
    """The epoch in a file, 0 if it is missing or damaged, which is logged. Blocks.

    Raises:
        OSError: The file can't be read, or is a folder.
        NewerEpochFileError: A later version wrote it.
    """
    try:
        content = read_small_file(str(path))
    except FileNotFoundError:
        return 0
    except OSError as error:
        if error.errno not in _REPLACED or not os.access(path.parent, os.X_OK):
            raise
        content = b""
    line = _LINE.fullmatch(content.decode("ascii", "replace").strip())
    version, text = line.groups("") if line else ("", "")
    if version and int(version) > _FORMAT:
        raise NewerEpochFileError(explain_newer(int(version), _FORMAT))
    epoch = parse_epoch(text)
    if epoch is None:
        log.warning("epoch file is damaged, ignoring it file=%s", path)
    return epoch or 0


def _render(epoch: int) -> bytes:
    return b"telemetryd-epoch %d %d\n" % (_FORMAT, epoch)


def parse_epoch(text: str) -> int | None:
    """An epoch in decimal, None for any other text."""
    if not (text.isascii() and text.isdigit()) or len(text) > len(str(MAX_EPOCH)):
        return None
    epoch = int(text)
    return epoch if epoch <= MAX_EPOCH else None
