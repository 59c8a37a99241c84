"""The file sink: keeps the newest payload, and those before it, as dated snapshots in a folder.

How the folder holds them is ``snapshots``'s affair; when it is called, and how often again, the
manager's.
"""

import errno
import os
from collections.abc import Callable
from functools import partial

from telemetryd.errors import ExportError, PermanentError, Reason, RetryableError
from telemetryd.export.exporter import ExportContext, Outcome
from telemetryd.export.payloads.payload import parse_digest
from telemetryd.export.sinks.snapshots import SnapshotFolder, open_snapshots
from telemetryd.export.turn import StillHangingError, Turn
from telemetryd.kube.fence import Fence
from telemetryd.limiter import Limiter
from telemetryd.model import Payload

_SLACK_BYTES = 4096
"""What equal content may differ by in size: its timestamp and how it was delivered."""

_ACCESS = "let user {user} write there, or configure another directory"

_PERMANENT = {
    errno.EACCES: _ACCESS,
    errno.EPERM: _ACCESS + ", on a file system that has symbolic links",
    errno.EROFS: "mount it writable (under systemd: name it in ReadWritePaths=), or configure "
    "another directory",
    errno.ENOTDIR: "move away the file that stands there, or configure another directory",
    errno.ELOOP: "fix the links that lead to it, or configure another directory",
    errno.ENAMETOOLONG: "configure another directory",
}
"""The fix of what stays wrong until somebody does something."""

_RETRYABLE = {
    errno.ENOSPC: "free space or inodes there, or set a lower keep or max_bytes",
    errno.EDQUOT: "raise the quota, or set a lower keep or max_bytes",
    errno.EIO: "look after the disk or its server",
    errno.ENOENT: "it was removed meanwhile, or is a link that leads nowhere",
}
"""The fix of what may be over with the next attempt; errors in neither table may be, too."""


class FileExporter:
    """Writes payloads to a folder, where ``latest`` doesn't lead to the same content already.

    Each call looks at what the folder really holds, so that what was deleted or altered is written
    again. All I/O is done in a worker thread. One that is cut off there goes on, for it can't be
    ended: it finishes what it writes, where the fence still lets it, or leaves nothing; and no
    other starts before it is back.
    """

    def __init__(
        self,
        *,
        name: str,
        directory: str,
        keep: int,
        max_bytes: int | None,
        compress: bool,
        max_silence_s: float,
        now: Callable[[], float],
        threads: Limiter,
    ) -> None:
        """A sink for that folder; nothing is opened or made yet.

        Args:
            name: The exporter's, with which the names of its snapshots begin.
            directory: Absolute path of the folder.
            keep: So many snapshots stay, 1 at least.
            max_bytes: So much all of them may take, None for no limit; the newest stays anyhow.
            compress: Write gzip.
            max_silence_s: After so many seconds an unchanged payload is written again.
            now: Unix time in seconds; called from the worker thread.
            threads: Shared by all such sinks: few write at a time.
        """
        self._name = name
        self._directory = directory
        self._keep = keep
        self._max_bytes = max_bytes
        self._compress = compress
        self._max_silence_s = max_silence_s
        self._now = now
        self._turn = Turn(threads)

    async def export(self, payload: Payload, context: ExportContext) -> Outcome:
        """Make ``latest`` lead to the payload, and drop the oldest snapshots beyond the limits.

        Raises:
            NotLeading: The fence refuses: nothing can be seen of the payload.
            RetryableError: The disk is full or fails, another writer is at work in the folder, or
                an earlier write still hangs.
            PermanentError: The folder can't be written to until somebody fixes that.
        """
        try:
            return await self._turn.take(partial(self._export, payload, context.fence))
        except StillHangingError as exc:
            raise RetryableError(
                Reason.STORAGE,
                f"an earlier write to {self._directory} still hangs: look after the disk or its "
                "server",
            ) from exc
        except OSError as exc:
            raise self._translate(exc) from exc

    async def aclose(self) -> None:
        """Nothing is held between exports."""

    def _export(self, payload: Payload, fence: Fence) -> Outcome:
        now_s = self._now()
        with open_snapshots(self._directory, self._name) as folder:
            # First too, or runs that all die before their end would fill the disk.
            folder.drop_excess(keep=self._keep, max_bytes=self._max_bytes)
            if not self._is_due(folder, payload, now_s):
                return Outcome.UNCHANGED
            folder.write(payload.body, compress=self._compress, now_s=now_s, fence=fence)
            folder.drop_excess(keep=self._keep, max_bytes=self._max_bytes)
        return Outcome.WRITTEN

    def _is_due(self, folder: SnapshotFolder, payload: Payload, now_s: float) -> bool:
        """Whether the content has changed, or has been there for long enough."""
        limit_bytes = 2 * len(payload.body) + _SLACK_BYTES
        found = folder.read_latest(limit_bytes, compressed=self._compress)
        content = None if found is None else parse_digest(found)
        if content is None or content[0] != payload.digest:
            return True
        written_at = content[1]
        return written_at is None or abs(now_s - written_at) >= self._max_silence_s

    def _translate(self, exc: OSError) -> ExportError:
        number = exc.errno or 0
        what = f"can't write to {self._directory}: {os.strerror(number)}"
        if (fix := _PERMANENT.get(number)) is not None:
            return PermanentError(Reason.STORAGE, f"{what}: {fix.format(user=os.geteuid())}")
        return RetryableError(
            Reason.STORAGE, ": ".join(filter(None, (what, _RETRYABLE.get(number))))
        )
