"""Log lines on one stream: journald prefixes, JSON or text, whatever happens to the stream.

A call's message is constant: words, then fields, as in ``"relist resource=%s in_s=%.1f"``. Text and
journald lines show it so; JSON has a member for each field.

Nothing here raises into the daemon or blocks it: a line that can't be made is replaced, one that
can't be written is lost and counted. ``standardstreams`` writes the lines.
"""

import json
import logging
import math
import os
import re
import sys
import threading
import traceback
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from functools import lru_cache
from types import TracebackType
from typing import Any, Final, TextIO, TypeAlias

import orjson

from telemetryd.bounds import encodable, escaped
from telemetryd.redaction import OURS
from telemetryd.standardstreams import writer_of

OWN_LOGGER = "telemetryd"

FLUSH_S: Final = 0.4
"""At the end of a process, for the lines that are still to be written."""
COMPLAINT_S: Final = 5.0
"""For the message with which a command fails."""

MESSAGE_CHARS: Final = 4096
"""Of a record, whatever its arguments are."""
TRACE_CHARS: Final = 16_384
"""Of a traceback: its beginning, and its end, which has the error itself."""
_TRACE_END_CHARS: Final = 4096
RECENT_BYTES: Final = 256 * 1024
"""Of the newest lines that a process keeps in memory: more than a thousand."""

# syslog(3) priorities, as journald reads them in front of each line (sd-daemon(3))
_PRIORITIES = (
    (logging.CRITICAL, 2),
    (logging.ERROR, 3),
    (logging.WARNING, 4),
    (logging.INFO, 6),
)
_DEBUG_PRIORITY = 7

_FORM = re.compile(r"([^%]*?)((?: [a-z][a-z0-9_]*=%[.0-9]*[a-z])*)")
_FIELD = re.compile(r" (\w+)=(%[.0-9]*([a-z]))")
RESERVED: Final = frozenset({"time", "level", "logger", "message", "exception"})
"""Members of a JSON line that no field may have the name of."""
_MOST_IN_JSON = 2**53
"""Integers from here on aren't exact for every reader of JSON: they are texts."""


LineFormatter: TypeAlias = Callable[[logging.LogRecord], str]
"""Makes the text of a record without a line end: one line, or several with a traceback."""


def journald_lines(record: logging.LogRecord) -> str:
    """``<N>`` in front of each line, logger and message; journald knows the time itself."""
    prefix = f"<{_priority(record.levelno)}>"
    lines = (f"{_name(record)}: {_message(record)}", *_details(record))
    return "\n".join(prefix + line for line in lines)


def text_lines(record: logging.LogRecord) -> str:
    """For people at a terminal: time, level, logger, message, and an indented traceback."""
    head = f"{_time(record)} {record.levelname:<7} {_name(record)}: {_message(record)}"
    return "\n".join((head, *_details(record)))


def json_line(record: logging.LogRecord) -> str:
    """An object of ``time``, ``level``, ``logger``, ``message``, the fields, and ``exception``."""
    document: dict[str, Any] = {
        "time": _time(record),
        "level": record.levelname.lower(),
        "logger": _name(record),
        **_members(record),
    }
    if details := _trace(record):
        document["exception"] = encodable(details, 2 * TRACE_CHARS)
    line = orjson.dumps(document).decode()
    if line.isprintable():
        return line
    # Of what JSON leaves as it is, terminals obey some, and some turns the direction of text.
    return "".join(char if char.isprintable() else json.dumps(char)[1:-1] for char in line)


class RecentLines:
    """The newest records of this process as JSON lines, the oldest first; for a support bundle."""

    def __init__(self, limit_bytes: int = RECENT_BYTES) -> None:
        self._limit_bytes = limit_bytes
        self._lines: deque[bytes] = deque()
        self._size_bytes = 0
        self._lock = threading.Lock()

    def put(self, line: str) -> None:
        """Keep a line, and let the oldest go where there are too many."""
        kept = line.encode(errors="backslashreplace")
        with self._lock:
            self._lines.append(kept)
            self._size_bytes += len(kept)
            while self._size_bytes > self._limit_bytes:
                self._size_bytes -= len(self._lines.popleft())

    def take(self) -> list[bytes]:
        """A copy of them."""
        with self._lock:
            return list(self._lines)


RECENT: Final = RecentLines()
"""One, as logging is one."""


class StreamHandler(logging.Handler):
    """Writes records to a stream, and neither raises nor waits for it."""

    def __init__(self, stream: TextIO | None, line_formatter: LineFormatter) -> None:
        """Write nothing yet."""
        super().__init__()
        self._lost = 0
        self._stream = stream
        self._line_formatter = line_formatter
        self._writer = None if stream is None else writer_of(stream)
        if self._writer is not None:
            self._writer.notice = self._notice

    @property
    def lost(self) -> int:
        """Records that could not be written, to this stream and by whatever handler."""
        return self._lost if self._writer is None else self._writer.lost

    def emit(self, record: logging.LogRecord) -> None:
        """Have one record written; a closed, full or broken stream loses it."""
        try:
            line = self._render(record, self._line_formatter)
            is_json = self._line_formatter is json_line
            RECENT.put(line if is_json else self._render(record, json_line))
            text = line + "\n"
            if self._writer is not None:
                self._writer.put(text.encode(errors="backslashreplace"))
            elif self._stream is not None:
                self._stream.write(text)
                self._stream.flush()
            else:
                self._lost += 1
        except Exception:  # noqa: BLE001 - logging must not end what it watches
            self._lost += 1

    def flush(self) -> None:
        """Wait for what isn't written yet, but not for long; called at the process's end."""
        self.drain(FLUSH_S)

    def drain(self, timeout_s: float) -> bool:
        """Wait until every record is written or lost; False if that takes longer."""
        return self._writer is None or self._writer.drain(timeout_s)

    def _notice(self, missing: int) -> bytes:
        record = logging.LogRecord(
            __name__, logging.WARNING, __file__, 0, "log lines lost count=%d", (missing,), None
        )
        return (self._line_formatter(record) + "\n").encode()

    def _render(self, record: logging.LogRecord, line_formatter: LineFormatter) -> str:
        try:
            return line_formatter(record)
        except Exception:  # noqa: BLE001 - an argument's own __str__ may raise anything
            text = f"message can't be rendered file={record.pathname} line={record.lineno}"
            plain = logging.LogRecord(
                record.name, record.levelno, record.pathname, record.lineno, text, None, None
            )
            return line_formatter(plain)


def configure(
    log_format: str, log_level: str, stream: TextIO | None, environ: Mapping[str, str]
) -> StreamHandler:
    """Send every log record to one stream, in place of whatever handled them before.

    Args:
        log_format: ``auto`` (journald prefixes where the stream is the journal's, text on a
            terminal, else JSON), ``json`` or ``text``.
        log_level: ``debug``, ``info``, ``warning`` or ``error``, for telemetryd's own loggers;
            those of libraries are held to warnings and worse, as theirs show response bodies.
        stream: Usually stderr; None where that is closed.
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


def lines_lost() -> int:
    """Lines that could not be written since the process began."""
    handlers = logging.getLogger().handlers
    return sum(handler.lost for handler in handlers if isinstance(handler, StreamHandler))


def say(text: str) -> None:
    """Write lines to stderr as they are, after all that was logged; never raises.

    They are waited for within ``COMPLAINT_S``: a process that fails may end right afterwards.
    """
    stream = sys.stderr
    writer = None if stream is None else writer_of(stream)
    try:
        if writer is not None:
            writer.put(f"{text}\n".encode(errors="backslashreplace"))
            writer.drain(COMPLAINT_S)
        elif stream is not None:
            stream.write(f"{text}\n")
            stream.flush()
    except Exception:  # noqa: BLE001, S110 - there is no other place to report it
        pass


def say_fatal(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Write the traceback of an error that ends the process: a ``sys.excepthook``."""
    say("".join(traceback.format_exception(kind, error, trace)).rstrip("\n"))


def take_over_stderr() -> None:
    """Have all that Python itself writes to stderr go the way of log lines, which never blocks."""
    sys.excepthook = say_fatal
    sys.unraisablehook = _log_unraisable
    threading.excepthook = _log_thread_error
    logging.captureWarnings(capture=True)


def _log_unraisable(args: "sys.UnraisableHookArgs") -> None:
    error = args.exc_value
    logging.getLogger(__name__).error(
        "error in cleanup ignored in=%r", args.object, exc_info=error or False
    )


def _log_thread_error(args: threading.ExceptHookArgs) -> None:
    error = args.exc_value
    name = args.thread.name if args.thread else ""
    logging.getLogger(__name__).error("thread failed name=%s", name, exc_info=error or False)


def choose_formatter(
    log_format: str, stream: TextIO | None, environ: Mapping[str, str]
) -> LineFormatter:
    """The formatter of a ``log_format``; ``auto`` looks at the stream."""
    if log_format == "auto" and is_journal(stream, environ):
        return journald_lines
    if log_format == "text" or (log_format == "auto" and _is_terminal(stream)):
        return text_lines
    return json_line


def is_journal(stream: TextIO | None, environ: Mapping[str, str]) -> bool:
    """Whether the stream is the one that ``$JOURNAL_STREAM`` names (systemd.exec(5)).

    The variable is inherited by processes whose stderr goes elsewhere, so the device and inode
    numbers in it must be the stream's.
    """
    device, _, inode = environ.get("JOURNAL_STREAM", "").partition(":")
    if stream is None:
        return False
    try:
        status = os.fstat(stream.fileno())
        return (int(device), int(inode)) == (status.st_dev, status.st_ino)
    except (OSError, ValueError):
        return False


def _is_terminal(stream: TextIO | None) -> bool:
    try:
        return stream is not None and stream.isatty()
    except (OSError, ValueError):
        return False


def _priority(level: int) -> int:
    return next((number for least, number in _PRIORITIES if level >= least), _DEBUG_PRIORITY)


def _time(record: logging.LogRecord) -> str:
    text = datetime.fromtimestamp(record.created, tz=UTC).isoformat(timespec="milliseconds")
    return text.replace("+00:00", "Z")


def _name(record: logging.LogRecord) -> str:
    return escaped(record.name, MESSAGE_CHARS)


@lru_cache(maxsize=256)
def _form(message: str) -> tuple[str, tuple[tuple[str, str, str], ...]]:
    """The words of a constant message, and of each field its key, ``%.1f`` and ``f``."""
    form = _FORM.fullmatch(message)
    return (form[1], tuple(_FIELD.findall(form[2]))) if form else ("", ())


def _members(record: logging.LogRecord) -> dict[str, Any]:
    """The message and its fields; the whole line as the message where it isn't of that form."""
    values = record.args
    if isinstance(record.msg, str) and isinstance(values, tuple) and values:
        words, fields = _form(record.msg)
        if len(fields) == len(values):
            members: dict[str, Any] = {"message": _bounded(words)}
            left = MESSAGE_CHARS
            with suppress(Exception):  # an argument's own __str__ may raise anything
                for (key, conversion, kind), value in zip(fields, values, strict=True):
                    member = _member(conversion, kind, value, left)
                    members[f"{key}_" if key in RESERVED else key] = member
                    left = max(0, left - len(str(member)))
                return members
    return {"message": _text(record)}


def _member(conversion: str, kind: str, value: object, limit: int) -> Any:
    """A field's value as JSON has it: numbers as numbers unless a credential is in them."""
    if isinstance(value, str) and (kind == "s" or (kind == "r" and value.isprintable())):
        text = str(value)
    else:
        text = conversion % (value,)
    if kind not in "sr":
        value = float(text) if kind in "efg" else int(text)
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int | float) and OURS.redact(text) == text:
        if isinstance(value, int) and abs(value) < _MOST_IN_JSON:
            return int(value)
        if isinstance(value, float) and math.isfinite(value):
            return float(value)
    return _bounded(text, limit)


def _text(record: logging.LogRecord) -> str:
    """The message with its arguments, or without them where they don't fit it."""
    try:
        text = record.getMessage()
    except Exception:  # noqa: BLE001 - an argument's own __str__ may raise anything
        text = f"{record.msg} (arguments can't be rendered)"
    return _bounded(text)


def _bounded(text: str, limit: int = MESSAGE_CHARS) -> str:
    # Redacted before it is cut, but not all of it: to search a text of any length takes any time.
    shown = OURS.redact(text[: 2 * MESSAGE_CHARS])
    left_out = len(text) - limit
    if left_out > 0:
        shown = f"{shown[:limit]}… ({left_out} more characters)"
    return shown.encode(errors="backslashreplace").decode()


def _message(record: logging.LogRecord) -> str:
    """The same in one line: text of others must not forge lines."""
    return escaped(_text(record), 2 * MESSAGE_CHARS)


def _trace(record: logging.LogRecord) -> str:
    """Traceback and stack of the record, empty where it has neither."""
    parts = []
    if record.exc_info and record.exc_info[0] is not None:
        parts.append("".join(traceback.format_exception(*record.exc_info)))
    elif record.exc_text:
        parts.append(record.exc_text)
    if record.stack_info:
        parts.append(record.stack_info)
    trace = "\n".join(part.rstrip("\n") for part in parts)
    left_out = len(trace) - TRACE_CHARS
    if left_out > 0:
        begin, end = trace[: TRACE_CHARS - _TRACE_END_CHARS], trace[-_TRACE_END_CHARS:]
        trace = f"{begin}\n… ({left_out} characters left out)\n{end}"
    return OURS.redact(trace)


def _details(record: logging.LogRecord) -> list[str]:
    """The traceback's lines, indented so that none can pass for a record."""
    return ["  " + escaped(line, TRACE_CHARS) for line in _trace(record).splitlines()]
