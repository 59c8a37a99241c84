"""The file sink: keeps the newest payload, and earlier ones, as dated snapshots in a folder."""

import errno
import os
from collections.abc import Callable
from dataclasses import InitVar, dataclass, field
from functools import partial

from telemetryd.errors import ExportError, PermanentError, Reason, RetryableError
from telemetryd.export.exporter import ExportContext, Outcome
from telemetryd.export.payloads.payload import parse_digest
from telemetryd.export.sinks.snapshots import SnapshotFolder, open_snapshots
from telemetryd.export.threads import StillHangingError, WorkerThread
from telemetryd.kube.requests import Fence
from telemetryd.limiter import Limiter
from telemetryd.model import Payload

_SLACK_BYTES = 4096
"""By how much equal content may differ in size: its timestamp and delivery."""

_ACCESS = "let user {user} write there, or configure another directory"

_PERMANENT = {
    errno.EACCES: _ACCESS,
    errno.EPERM: _ACCESS + ", on a file system that has symbolic links",
    errno.EROFS: "mount it writable (under systemd: name it in ReadWritePaths=), or configure "
    "another directory",
    errno.ENOTDIR: "move away the file that is there, or configure another directory",
    errno.ELOOP: "fix the links that lead to it, or configure another directory",
    errno.ENAMETOOLONG: "configure another directory",
}
"""The fixes of errors that stay until a person acts."""

_RETRYABLE = {
    errno.ENOSPC: "free space or inodes there, or set a lower keep or max_bytes",
    errno.EDQUOT: "raise the quota, or set a lower keep or max_bytes",
    errno.EIO: "check the disk or the file server",
    errno.ENOENT: "it was removed meanwhile, or is a link that leads nowhere",
}
"""The fixes of errors that may be gone at the next attempt, as may errors in neither table."""


@dataclass(slots=True, eq=False, kw_only=True)
class FileExporter:
    """Writes payloads to a folder, unless ``latest`` already leads to the same content.

    Each call reads the folder, so that what was deleted or altered is written again. All I/O is in
    a worker thread. A call that is cut off goes on there, because it can't be ended: it finishes
    its write where the fence allows that, or leaves nothing. No other starts before it returns.

    Attributes:
        name: The exporter's; the names of its snapshots begin with it.
        keep: How many snapshots stay, at least 1.
        max_bytes: Their total size, None for no limit; the newest always stays.
        max_silence_s: After so many seconds an unchanged payload is written again.
        now: Unix time in seconds; called from the worker thread.
        threads: Limits how many sinks write at a time.
    """

    name: str
    directory: str
    keep: int
    max_bytes: int | None
    compress: bool
    max_silence_s: float
    now: Callable[[], float]
    threads: InitVar[Limiter]
    _thread: WorkerThread = field(init=False)

    def __post_init__(self, threads: Limiter) -> None:
        self._thread = WorkerThread(threads)

    async def export(self, payload: Payload, context: ExportContext) -> Outcome:
        """Make ``latest`` lead to the payload, and drop the oldest snapshots beyond the limits.

        Raises:
            NotLeading: The fence refuses; no part of the payload is visible.
            RetryableError: The disk is full or fails, another writer uses the folder, or an earlier
                write still hangs.
            PermanentError: A person must fix the folder.
        """
        try:
            return await self._thread.run(partial(self._export, payload, context.fence))
        except StillHangingError as exc:
            raise RetryableError(
                Reason.STORAGE,
                f"an earlier write to {self.directory} still hangs: check the disk or the file "
                "server",
            ) from exc
        except OSError as exc:
            raise self._translate(exc) from exc

    async def aclose(self) -> None:
        """Nothing is held between exports."""

    def _export(self, payload: Payload, fence: Fence) -> Outcome:
        now_s = self.now()
        with open_snapshots(self.directory, self.name) as folder:
            # Also first, or runs that all die before their end would fill the disk.
            folder.drop_excess(keep=self.keep, max_bytes=self.max_bytes)
            if not self._is_due(folder, payload, now_s):
                return Outcome.UNCHANGED
            folder.write(payload.body, compress=self.compress, now_s=now_s, fence=fence)
            folder.drop_excess(keep=self.keep, max_bytes=self.max_bytes)
        return Outcome.WRITTEN

    def _is_due(self, folder: SnapshotFolder, payload: Payload, now_s: float) -> bool:
        """Whether the content has changed, or is older than the longest silence."""
        limit_bytes = 2 * len(payload.body) + _SLACK_BYTES
        found = folder.read_latest(limit_bytes, compressed=self.compress)
        content = None if found is None else parse_digest(found)
        if content is None or content[0] != payload.digest:
            return True
        written_at = content[1]
        return written_at is None or abs(now_s - written_at) >= self.max_silence_s

    def _translate(self, exc: OSError) -> ExportError:
        number = exc.errno or 0
        what = f"can't write to {self.directory}: {os.strerror(number)}"
        if (fix := _PERMANENT.get(number)) is not None:
            return PermanentError(Reason.STORAGE, f"{what}: {fix.format(user=os.geteuid())}")
        return RetryableError(
            Reason.STORAGE, ": ".join(filter(None, (what, _RETRYABLE.get(number))))
        )
