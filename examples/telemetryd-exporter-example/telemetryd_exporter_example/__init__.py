"""An exporter for telemetryd, as an example: appends each payload to a file, one a line.

An entry point in the group ``telemetryd.exporters`` leads to ``LINES``, which says how its table in
the configuration is validated and what is built of one. telemetryd does the rest: it schedules,
retries, cuts off what takes too long, shows the state and counts.
"""

import os
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import anyio.to_thread

from telemetryd.config import ExporterConfig
from telemetryd.config.schema import Unique
from telemetryd.config.storage import AbsolutePath
from telemetryd.config.values import Boolean
from telemetryd.errors import PermanentError, Reason, RetryableError
from telemetryd.export.exporter import BuildContext, ExportContext, Exporter, Outcome
from telemetryd.model import Payload

_PERMANENT = (FileNotFoundError, IsADirectoryError, NotADirectoryError, PermissionError)


@dataclass(frozen=True, slots=True, kw_only=True)
class LinesConfig(ExporterConfig):
    """``[[exporters]]`` of type ``lines``: each key is annotated with what it may be.

    Attributes:
        path: The file; its folder must exist.
        sync: Wait until each line is on the disk.
    """

    UNIQUE: ClassVar[tuple[Unique, ...]] = (*ExporterConfig.UNIQUE, Unique(("path",), "path"))

    type: ClassVar[str] = "lines"
    path: Annotated[str, AbsolutePath()]
    sync: Annotated[bool, Boolean()] = True


class LinesExporter:
    """Appends to the file. It does I/O only, and raises what telemetryd knows what to do about."""

    def __init__(self, config: LinesConfig) -> None:
        """Nothing is opened yet."""
        self._path = config.path
        self._sync = config.sync

    async def export(self, payload: Payload, context: ExportContext) -> Outcome:  # noqa: ARG002
        """Append the payload.

        Raises:
            RetryableError: Another attempt in this run may succeed.
            PermanentError: Somebody has to do something first.
        """
        try:
            await anyio.to_thread.run_sync(self._append, payload.body, abandon_on_cancel=True)
        except OSError as exc:
            kind = PermanentError if isinstance(exc, _PERMANENT) else RetryableError
            raise kind(Reason.STORAGE, f"can't write to {self._path}: {exc.strerror}") from exc
        return Outcome.WRITTEN

    async def aclose(self) -> None:
        """Nothing is held between exports."""

    def _append(self, body: bytes) -> None:
        opened = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        with os.fdopen(opened, "ab") as file:
            file.write(body + b"\n")
            file.flush()
            if self._sync:
                os.fsync(file.fileno())


class _Lines:
    config = LinesConfig

    def build(self, config: Any, context: BuildContext) -> Exporter:  # noqa: ARG002
        """The exporter of one table; nothing is touched yet, for a reload may build it in vain."""
        return LinesExporter(config)


LINES = _Lines()
