"""Log lines on one stream: journald prefixes, JSON or text, whatever happens to the stream.

What is logged, and when, is its writer's affair. Nothing here raises into the daemon: a line that
can't be made is replaced, one that can't be written is lost.
"""

import io
import logging
import os
import traceback
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Protocol, TextIO

import orjson

OWN_LOGGER = "telemetryd"

# syslog(3) priorities, as journald reads them in front of each line (sd-daemon(3))
_PRIORITIES = (
    (logging.CRITICAL, 2),
    (logging.ERROR, 3),
    (logging.WARNING, 4),
    (logging.INFO, 6),
)
_DEBUG_PRIORITY = 7


class LineFormatter(Protocol):
    """Makes the text of a record: one line, or several where the format has them."""

    def render(self, record: logging.LogRecord) -> str:
        """The record without a line end."""


class JournaldFormatter:
    """``<N>`` in front of each line; journald itself knows the time and the process."""

    def render(self, record: logging.LogRecord) -> str:
        """Logger, message, and the traceback on lines of its own."""
        prefix = f"<{_priority(record.levelno)}>"
        lines = (f"{record.name}: {_escape(_message(record))}", *_details(record))
        return "\n".join(prefix + line for line in lines)


class TextFormatter:
    """For people at a terminal: time, level, logger, message, and an indented traceback."""

    def render(self, record: logging.LogRecord) -> str:
        """One line, and one for each of the traceback."""
        head = f"{_time(record)} {record.levelname:<7} {record.name}: {_escape(_message(record))}"
        return "\n".join((head, *_details(record)))


class JsonFormatter:
    """One JSON object a line."""

    def render(self, record: logging.LogRecord) -> str:
        """``time``, ``level``, ``logger``, ``message``, and ``exception`` where there is one."""
        document = {
            "time": _time(record),
            "level": record.levelname.lower(),
            "logger": _encodable(record.name),
            "message": _encodable(_message(record)),
        }
        if details := _trace(record):
            document["exception"] = _encodable(details)
        return orjson.dumps(document).decode()


class StreamHandler(logging.Handler):
    """Writes records to a stream, and never raises.

    Attributes:
        lost: Records that could not be written.
    """

    def __init__(self, stream: TextIO, line_formatter: LineFormatter) -> None:
        super().__init__()
        self.lost = 0
        self._stream = stream
        self._line_formatter = line_formatter

    def emit(self, record: logging.LogRecord) -> None:
        """Write one record; a closed, full or broken stream loses it."""
        try:
            text = self._render(record) + "\n"
            _write(self._stream, text.encode(errors="backslashreplace"))
        except Exception:  # noqa: BLE001 - logging must not end what it watches
            self.lost += 1

    def _render(self, record: logging.LogRecord) -> str:
        try:
            return self._line_formatter.render(record)
        except Exception:  # noqa: BLE001 - an argument's own __str__ may raise anything
            text = f"message can't be rendered file={record.pathname} line={record.lineno}"
            plain = logging.LogRecord(
                record.name, record.levelno, record.pathname, record.lineno, text, None, None
            )
            return self._line_formatter.render(plain)


def configure(
    log_format: str, log_level: str, stream: TextIO, environ: Mapping[str, str]
) -> StreamHandler:
    """Send every log record to one stream, in place of whatever handled them before.

    Args:
        log_format: ``auto`` (journald prefixes where the stream is the journal's, text on a
            terminal, else JSON), ``json`` or ``text``.
        log_level: ``debug``, ``info``, ``warning`` or ``error``, for telemetryd's own loggers;
            those of libraries are held to warnings and worse, as theirs show response bodies.
        stream: Usually stderr.
        environ: For ``JOURNAL_STREAM``.

    Returns:
        The handler.
    """
    handler = StreamHandler(stream, choose_formatter(log_format, stream, environ))
    level = logging.getLevelNamesMapping()[log_level.upper()]
    root = logging.getLogger()
    for former in root.handlers[:]:
        root.removeHandler(former)
    root.addHandler(handler)
    root.setLevel(max(level, logging.WARNING))
    logging.getLogger(OWN_LOGGER).setLevel(level)
    return handler


def choose_formatter(log_format: str, stream: TextIO, environ: Mapping[str, str]) -> LineFormatter:
    """The formatter of a ``log_format``; ``auto`` looks at the stream."""
    if log_format == "auto" and is_journal(stream, environ):
        return JournaldFormatter()
    if log_format == "text" or (log_format == "auto" and _is_terminal(stream)):
        return TextFormatter()
    return JsonFormatter()


def is_journal(stream: TextIO, environ: Mapping[str, str]) -> bool:
    """Whether the stream is the one that ``$JOURNAL_STREAM`` names (systemd.exec(5)).

    The variable is inherited by processes whose stderr goes elsewhere, so the device and inode
    numbers in it must be the stream's.
    """
    device, _, inode = environ.get("JOURNAL_STREAM", "").partition(":")
    try:
        status = os.fstat(stream.fileno())
        return (int(device), int(inode)) == (status.st_dev, status.st_ino)
    except (OSError, ValueError):
        return False


def _is_terminal(stream: TextIO) -> bool:
    try:
        return stream.isatty()
    except (OSError, ValueError):
        return False


def _write(stream: TextIO, data: bytes) -> None:
    """Write unbuffered where possible: what a buffer can't flush would fail the exit too.

    Raises:
        BlockingIOError: The stream doesn't block and is full.
        OSError: It is broken; a closed one raises ValueError.
    """
    raw = getattr(getattr(stream, "buffer", None), "raw", None)
    if not isinstance(raw, io.RawIOBase):
        stream.write(data.decode())
        stream.flush()
        return
    rest = memoryview(data)
    while rest:
        written = raw.write(rest)
        if not written:
            raise BlockingIOError
        rest = rest[written:]


def _priority(level: int) -> int:
    return next((number for least, number in _PRIORITIES if level >= least), _DEBUG_PRIORITY)


def _time(record: logging.LogRecord) -> str:
    text = datetime.fromtimestamp(record.created, tz=UTC).isoformat(timespec="milliseconds")
    return text.replace("+00:00", "Z")


def _message(record: logging.LogRecord) -> str:
    """The message with its arguments, or without them where they don't fit it."""
    try:
        return record.getMessage()
    except Exception:  # noqa: BLE001 - an argument's own __str__ may raise anything
        return f"{record.msg} (arguments can't be rendered)"


def _trace(record: logging.LogRecord) -> str:
    """Traceback and stack of the record, empty where it has neither."""
    parts = []
    if record.exc_info and record.exc_info[0] is not None:
        parts.append("".join(traceback.format_exception(*record.exc_info)))
    elif record.exc_text:
        parts.append(record.exc_text)
    if record.stack_info:
        parts.append(record.stack_info)
    return "\n".join(part.rstrip("\n") for part in parts)


def _details(record: logging.LogRecord) -> list[str]:
    """The traceback's lines, indented so that none can pass for a record."""
    return ["  " + _escape(line) for line in _trace(record).splitlines()]


def _escape(text: str) -> str:
    """Line ends and control characters made visible: text of others must not forge lines."""
    if text.isprintable():
        return text
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode() for char in text
    )


def _encodable(text: str) -> str:
    """Lone surrogates, which UTF-8 doesn't have, made visible."""
    return text.encode(errors="backslashreplace").decode()
