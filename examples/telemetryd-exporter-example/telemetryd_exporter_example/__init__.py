"""An exporter for telemetryd, as an example: appends each payload to a file, one a line."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, ClassVar

from telemetryd.api import (
    AbsolutePath,
    Boolean,
    BuildContext,
    ExportContext,
    ExporterConfig,
    Outcome,
    Payload,
    PermanentError,
    Reason,
    RetryableError,
    StillHangingError,
    Unique,
    WorkerThread,
)

_FOR_A_PERSON = (FileNotFoundError, IsADirectoryError, NotADirectoryError, PermissionError)


@dataclass(frozen=True, slots=True, kw_only=True)
class LinesConfig(ExporterConfig):
    """``[[exporters]]`` of type ``lines``.

    Attributes:
        path: The file; its folder must exist.
        sync: Wait until each line is on the disk.
    """

    UNIQUE: ClassVar[tuple[Unique, ...]] = (*ExporterConfig.UNIQUE, Unique(("path",), "path"))

    type: ClassVar[str] = "lines"
    path: Annotated[str, AbsolutePath()]
    sync: Annotated[bool, Boolean()] = True


class LinesExporter:
    """Appends to the file, in a thread: a disk may hang."""

    def __init__(self, config: LinesConfig) -> None:
        """Nothing is opened yet."""
        self._path = config.path
        self._sync = config.sync
        self._thread = WorkerThread()

    async def export(self, payload: Payload, context: ExportContext) -> Outcome:
        """Append the payload.

        Raises:
            RetryableError: Another attempt in this run may succeed.
            PermanentError: A person must fix the path first.
        """
        append = partial(self._append, payload.body, context.fence)
        try:
            await self._thread.run(append)
        except StillHangingError as error:
            message = f"an earlier write to {self._path} still hangs: check the disk"
            raise RetryableError(Reason.STORAGE, message) from error
        except OSError as error:
            kind = PermanentError if isinstance(error, _FOR_A_PERSON) else RetryableError
            message = f"can't write to {self._path}: {error.strerror}"
            raise kind(Reason.STORAGE, message) from error
        return Outcome.WRITTEN

    async def aclose(self) -> None:
        """Nothing is held between exports."""

    def _append(self, body: bytes, fence: Callable[[], None]) -> None:
        opened = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        with os.fdopen(opened, "ab") as file:
            fence()
            file.write(body + b"\n")
            file.flush()
            if self._sync:
                os.fsync(file.fileno())


class _Lines:
    config = LinesConfig

    def build(self, config: Any, context: BuildContext) -> LinesExporter:  # noqa: ARG002
        """The exporter of one table."""
        return LinesExporter(config)


LINES = _Lines()
