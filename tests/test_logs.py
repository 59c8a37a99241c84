"""Log lines of each format, and streams in every bad state."""

import ast
import io
import json
import logging
import math
import os
import pty
import re
import subprocess
import sys
import termios
import threading
import tracemalloc
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TextIO

import pytest
from hypothesis import given
from hypothesis import strategies as st

from telemetryd.logs import (
    RECENT,
    RECENT_BYTES,
    RESERVED,
    LineFormatter,
    RecentLines,
    choose_formatter,
    configure,
    is_journal,
    journald_lines,
    json_line,
    lines_lost,
    text_lines,
)
from telemetryd.redaction import OURS as REDACTOR
from tests.support.processes import said
from tests.support.waiting import until

FORMATTERS = (journald_lines, text_lines, json_line)
OURS = "telemetryd.informer.informer"


@pytest.fixture(autouse=True)
def _restored_loggers() -> Iterator[None]:
    root, own = logging.getLogger(), logging.getLogger("telemetryd")
    before = root.handlers[:], root.level, own.level
    # Under a test's DEBUG the client quietens this one by itself.
    logging.getLogger("kubernetes_asyncio").setLevel(logging.NOTSET)
    yield
    root.handlers[:], level, own_level = before
    root.setLevel(level)
    own.setLevel(own_level)


def record(
    message: object = "list failed resource=%s", *args: object, level: int = logging.INFO
) -> logging.LogRecord:
    made = logging.LogRecord(OURS, level, "informer.py", 7, message, args, None)
    made.created = 1_800_000_000.25
    return made


def fail(message: str) -> None:
    raise ValueError(message)


def failed(message: str = "boom") -> logging.LogRecord:
    made = record("run failed", level=logging.ERROR)
    try:
        fail(message)
    except ValueError:
        made.exc_info = sys.exc_info()
    return made


def written(log_format: str, emit: Callable[[logging.Logger], None], level: str = "info") -> str:
    stream = io.StringIO()
    configure(log_format, level, stream, {})
    emit(logging.getLogger(OURS))
    return stream.getvalue()


def journal_of(stream: TextIO) -> Mapping[str, str]:
    status = os.fstat(stream.fileno())
    return {"JOURNAL_STREAM": f"{status.st_dev}:{status.st_ino}"}


def test_text_has_time_level_logger_and_message() -> None:
    line = text_lines(record("synced resource=%s", "nodes"))
    assert line == f"2027-01-15T08:00:00.250Z INFO    {OURS}: synced resource=nodes"


def test_json_is_one_object() -> None:
    document = json.loads(json_line(record("synced resource=%s", "nodes")))
    assert document == {
        "time": "2027-01-15T08:00:00.250Z",
        "level": "info",
        "logger": OURS,
        "message": "synced",
        "resource": "nodes",
    }


def members(message: str, *args: object) -> dict[str, object]:
    """The message and the fields of a JSON line."""
    document = json.loads(json_line(record(message, *args)))
    return {key: document[key] for key in document if key not in {"time", "level", "logger"}}


def test_json_has_a_member_of_its_own_type_for_each_field() -> None:
    shown = members(
        "relist resource=%s why=%r in_s=%.1f count=%d done=%s at=%s",
        *("nodes", "it's over", 1.26, 3, True, None),
    )
    assert shown == {
        "message": "relist",
        "resource": "nodes",
        "why": "it's over",
        "in_s": 1.3,
        "count": 3,
        "done": True,
        "at": None,
    }


@pytest.mark.parametrize("value", [math.inf, math.nan])
def test_number_that_json_has_not_is_a_text(value: float) -> None:
    assert members("waits in_s=%.1f", value)["in_s"] == str(value)
    assert members("counts count=%d", 2**64)["count"] == str(2**64)


def test_message_that_is_not_words_and_fields_stays_whole() -> None:
    for message in ("%s", "secret=%s/x", "a=%s: and more", "a=%s b=1"):
        assert members(message, "text") == {"message": message % "text"}
    assert "(arguments can't be rendered)" in str(members("a count=%d", "x"))


def test_field_with_the_name_of_a_member_of_each_line_is_renamed() -> None:
    assert members("lost message=%s level=%d", "text", 3) == {
        "message": "lost",
        "message_": "text",
        "level_": 3,
    }


def test_each_member_is_redacted_and_all_together_are_bounded() -> None:
    with REDACTOR.hiding("hunter22hunter22"), REDACTOR.hiding("4711471147114711"):
        shown = members(
            "x a=%s b=%r c=%d", "is hunter22hunter22", ["hunter22hunter22"], 4711471147114711
        )
    assert shown["a"] == "is [redacted]"
    assert "hunter22" not in str(shown)
    assert shown["c"] == "[redacted]"
    line = json_line(record("x a=%s b=%s c=%r", *["\x00" * 5000] * 3))
    assert len(json.loads(line)["a"]) < 4200
    assert len(json.loads(line)["b"]) + len(json.loads(line)["c"]) < 100


FORM = re.compile(r"[^=%]*[^=%: ]((?: [a-z][a-z0-9_]*=%(?:\.\d)?[sdrf])*)")
LEVELS = frozenset({"debug", "info", "warning", "error", "exception", "critical", "log"})
HAND_ON = {"CrowdLog.log", "Security._tell", "StatusLog.run"}
"""They hand on a message that another call has, or make it of fields alone."""


def messages(node: ast.expr, names: Mapping[str, list[str]]) -> Sequence[str | None]:
    """The texts that an expression may be, None for what isn't constant."""
    match node:
        case ast.Constant(value=str(text)):
            return [text]
        case ast.IfExp():
            return [*messages(node.body, names), *messages(node.orelse, names)]
        case ast.Name() if node.id in names:
            return names[node.id]
    return [None]


def logged(tree: ast.Module) -> Iterator[tuple[int, str | None]]:
    """Line number and message of each log call of a module."""
    names: dict[str, list[str]] = {}
    for each in ast.walk(tree):
        if isinstance(each, ast.Assign) and isinstance(each.value, ast.Constant):
            for target in each.targets:
                if isinstance(target, ast.Name) and isinstance(each.value.value, str):
                    names.setdefault(target.id, []).append(each.value.value)
    skipped = {
        id(each)
        for owner in ast.walk(tree)
        if isinstance(owner, ast.ClassDef)
        for method in owner.body
        if isinstance(method, ast.FunctionDef | ast.AsyncFunctionDef)
        and f"{owner.name}.{method.name}" in HAND_ON
        for each in ast.walk(method)
    }
    for call in ast.walk(tree):
        if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Attribute):
            continue
        to, name = ast.unparse(call.func.value), call.func.attr
        is_log = name in LEVELS and (to.endswith(("log", "_lines", ".lines")) or "getLogger" in to)
        if id(call) in skipped or not (is_log or (name == "_tell" and skipped)):
            continue
        for message in messages(call.args[name == "log"], names):
            yield call.lineno, message


def test_every_log_call_has_constant_words_and_then_fields() -> None:
    package = Path(__file__).parents[1] / "telemetryd"
    bad, count = [], 0
    for file in sorted(package.rglob("*.py")):
        for line, message in logged(ast.parse(file.read_text())):
            count += 1
            found = FORM.fullmatch(message) if message is not None else None
            keys = re.findall(r" (\w+)=", found[1]) if found else ()
            if not found or RESERVED & set(keys) or len(set(keys)) < len(keys):
                bad.append(f"{file.relative_to(package)}:{line}: {message}")
    assert not bad, bad
    assert count > 100


@pytest.mark.parametrize(
    ("level", "priority"),
    [("DEBUG", 7), ("INFO", 6), ("WARNING", 4), ("ERROR", 3), ("CRITICAL", 2)],
)
def test_journald_has_the_priority_and_no_time(level: str, priority: int) -> None:
    made = record("synced", level=logging.getLevelNamesMapping()[level])
    assert journald_lines(made) == f"<{priority}>{OURS}: synced"


def test_traceback_has_the_journald_prefix_on_each_line() -> None:
    lines = journald_lines(failed("one\ntwo")).splitlines()
    assert lines[0] == f"<3>{OURS}: run failed"
    assert lines[-2:] == ["<3>  ValueError: one", "<3>  two"]
    assert all(line.startswith("<3>") for line in lines)


def test_traceback_is_indented_in_text_and_one_string_in_json() -> None:
    head, *rest = text_lines(failed("one\n2027 INFO forged")).splitlines()
    assert head.endswith("run failed")
    assert all(line.startswith("  ") for line in rest)
    document = json.loads(json_line(failed()))
    assert document["exception"].endswith("ValueError: boom")
    assert "\n" not in json_line(failed())


def test_chained_errors_and_stacks_are_shown() -> None:
    def emit(log: logging.Logger) -> None:
        try:
            try:
                fail("inner")
            except ValueError as error:
                raise TypeError("outer") from error
        except TypeError:
            log.exception("failed", stack_info=True)

    exception = json.loads(written("json", emit))["exception"]
    assert "ValueError: inner" in exception
    assert "TypeError: outer" in exception
    assert "Stack (most recent call last)" in exception


@pytest.mark.parametrize("formatter", FORMATTERS)
@given(message=st.text())
def test_any_message_stays_on_its_line(formatter: LineFormatter, message: str) -> None:
    line = formatter(record("%s", message))
    assert not {"\n", "\r"} & set(line)
    assert line.isprintable() or json.loads(line)
    assert line.encode()


class Hostile:
    def __str__(self) -> str:
        raise RuntimeError("no")

    __repr__ = __str__


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_what_cant_be_rendered_is_named_not_raised(log_format: str) -> None:
    def emit(log: logging.Logger) -> None:
        log.warning("too many %s", 1, 2)  # noqa: PLE1205 - that is the point
        log.warning("wrong type %d", "x")
        log.warning("hostile %s", Hostile())
        log.warning(Hostile())
        log.warning("\udc80 %s", {"\udc81": object()})

    lines = written(log_format, emit).splitlines()
    assert len(lines) == 5
    assert "too many %s (arguments can't be rendered)" in lines[0]
    assert "message can't be rendered file=" in lines[3]


def test_libraries_are_held_to_warnings_and_own_loggers_to_the_level() -> None:
    def emit(log: logging.Logger) -> None:
        log.debug("ours")
        for library in ("kubernetes_asyncio.client.rest", "aiohttp.server", "asyncio", "other"):
            logging.getLogger(library).info("response body: token")
            logging.getLogger(library).warning("careful")

    assert written("text", emit, "debug").count("careful") == 4
    assert "token" not in written("text", emit, "debug")
    assert "ours" in written("text", emit, "debug")
    assert "ours" not in written("text", emit, "info")
    assert written("text", emit, "error") == ""


def test_configuring_again_replaces_the_handler() -> None:
    first, second = io.StringIO(), io.StringIO()
    configure("json", "info", first, {})
    configure("text", "info", second, {})
    logging.getLogger(OURS).info("once")
    assert first.getvalue() == ""
    assert second.getvalue().count("once") == 1


def test_auto_is_journald_only_where_the_stream_is_the_journals(tmp_path: Path) -> None:
    with (tmp_path / "journal").open("w") as journal, (tmp_path / "other").open("w") as other:
        environ = journal_of(journal)
        assert choose_formatter("auto", journal, environ) is journald_lines
        assert choose_formatter("auto", other, environ) is json_line
        assert choose_formatter("json", journal, environ) is json_line
        assert choose_formatter("text", journal, environ) is text_lines


@pytest.mark.parametrize("value", ["", "1", "1:", ":1", "a:b", "1:2:3", "-1:-1", "9" * 5000 + ":1"])
def test_broken_journal_stream_is_no_journal(value: str, tmp_path: Path) -> None:
    with (tmp_path / "file").open("w") as file:
        assert not is_journal(file, {"JOURNAL_STREAM": value})
    assert not is_journal(file, {"JOURNAL_STREAM": "1:2"})
    assert not is_journal(io.StringIO(), {"JOURNAL_STREAM": "1:2"})


def test_auto_is_text_on_a_terminal() -> None:
    ours, theirs = pty.openpty()
    with os.fdopen(theirs, "w") as terminal:
        assert choose_formatter("auto", terminal, {}) is text_lines
    os.close(ours)
    assert choose_formatter("auto", terminal, {}) is json_line


def test_closed_stream_loses_lines_and_nothing_else(capfd: pytest.CaptureFixture[str]) -> None:
    stream = io.StringIO()
    handler = configure("text", "info", stream, {})
    stream.close()
    logging.getLogger(OURS).error("lost")
    assert handler.lost == 1
    assert capfd.readouterr() == ("", "")


def test_full_disk_loses_lines_and_nothing_else() -> None:
    with open("/dev/full", "w") as full:  # noqa: PTH123 - a device
        handler = configure("text", "info", full, {})
        logging.getLogger(OURS).error("lost")
        logging.getLogger(OURS).error("lost too")
        handler.flush()
    assert handler.lost == 2


def test_full_pipe_that_doesnt_block_loses_lines_and_nothing_else() -> None:
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    with os.fdopen(writing, "w") as pipe:
        handler = configure("text", "info", pipe, {})
        while not handler.lost:
            logging.getLogger(OURS).error("x" * 10_000)
    os.close(reading)


def test_pipe_without_a_reader_blocks_no_caller_and_says_later_what_is_missing() -> None:
    reading, writing = os.pipe()
    with os.fdopen(writing, "w") as pipe:
        handler = configure("text", "info", pipe, {})
        count = 0
        while handler.lost < 100:  # the pipe is full, then the queue
            logging.getLogger(OURS).error("number=%d %s", count, "x" * 1000)
            count += 1
        received: list[bytes] = []
        with os.fdopen(reading, "rb") as read_end:
            reader = threading.Thread(target=lambda: received.extend(read_end))
            reader.start()
            until(lambda: handler.drain(1.0))
            logging.getLogger(OURS).error("number=%d", count)
            until(lambda: handler.drain(1.0))
            pipe.close()
            reader.join()
    lines = b"".join(received).decode().splitlines()
    # In order, each gap with its notice. The queue can be full once before the pipe is.
    due = lost = 0
    for line in lines:
        if "log lines lost" in line:
            gap = int(line.split("count=")[1])
            due, lost = due + gap, lost + gap
        else:
            assert int(line.split("number=")[1].split()[0]) == due
            due += 1
    assert due == count + 1
    assert lost == handler.lost


def test_disk_that_is_full_for_a_while_is_followed_by_the_number_of_lost_lines(
    tmp_path: Path,
) -> None:
    with (tmp_path / "log").open("w") as log, open("/dev/full", "w") as full:  # noqa: PTH123
        handler = configure("json", "info", log, {})
        logging.getLogger(OURS).error("before")
        handler.flush()
        kept = os.dup(log.fileno())
        os.dup2(full.fileno(), log.fileno())
        for _ in range(3):
            logging.getLogger(OURS).error("lost")
        handler.flush()
        os.dup2(kept, log.fileno())
        os.close(kept)
        logging.getLogger(OURS).error("after")
        handler.flush()
    messages = [said(json.loads(line)) for line in (tmp_path / "log").read_text().splitlines()]
    assert messages == ["before", "log lines lost count=3", "after"]


def test_closed_stderr_loses_lines_and_counts_them() -> None:
    handler = configure("auto", "info", None, {"JOURNAL_STREAM": "1:2"})
    logging.getLogger(OURS).error("lost")
    assert handler.lost == lines_lost() == 1


def test_another_handler_of_a_stream_goes_on_with_its_lines_and_its_count(tmp_path: Path) -> None:
    with (tmp_path / "log").open("w") as log, open("/dev/full", "w") as full:  # noqa: PTH123
        configure("json", "info", full, {}).emit(record())
        again = configure("text", "info", full, {})
        again.flush()
        assert again.lost == 1
        configure("json", "info", log, {}).emit(record("first"))
        other = configure("text", "info", log, {})
        other.emit(record("second"))
        other.flush()
    first, second = (tmp_path / "log").read_text().splitlines()
    assert "first" in first
    assert second.endswith("second")


PROGRAM = """
import logging, os, sys
from telemetryd.logs import configure
configure(sys.argv[1], "info", sys.stderr, os.environ)
log = logging.getLogger("telemetryd.x")
for _ in range(3):
    log.error("line")
sys.exit(7)
"""


def run(log_format: str, stderr: int, **environ: str) -> int:
    return subprocess.run(
        [sys.executable, "-c", PROGRAM, log_format],
        stderr=stderr,
        env={**os.environ, **environ},
        cwd=Path(__file__).parents[1],
        check=False,
        timeout=60,
    ).returncode


def test_process_whose_stderr_has_no_reader_ends_with_its_own_status() -> None:
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    while True:
        try:
            os.write(writing, b"x" * 4096)
        except BlockingIOError:
            break
    os.set_blocking(writing, True)
    assert run("text", writing) == 7
    os.close(reading)
    os.close(writing)


def test_terminal_stopped_by_its_user_blocks_nothing() -> None:
    ours, theirs = pty.openpty()
    termios.tcflow(theirs, termios.TCOOFF)  # what Ctrl-S does
    assert run("text", theirs) == 7
    os.close(ours)
    os.close(theirs)


def test_broken_pipe_doesnt_change_the_exit_status() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    assert run("text", writing) == 7
    os.close(writing)


def test_process_under_the_journal_writes_prefixes(tmp_path: Path) -> None:
    journal = tmp_path / "journal"
    with journal.open("w") as file:
        assert run("auto", file.fileno(), **journal_of(file)) == 7
    assert journal.read_text() == "<3>telemetryd.x: line\n" * 3


def test_process_without_a_terminal_writes_json(tmp_path: Path) -> None:
    plain = tmp_path / "plain"
    with plain.open("w") as file:
        assert run("auto", file.fileno(), JOURNAL_STREAM="1:2") == 7
    lines = plain.read_text().splitlines()
    assert [json.loads(line)["message"] for line in lines] == ["line"] * 3
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT[\d:.]+Z", json.loads(lines[0])["time"])


@pytest.mark.parametrize("formatter", FORMATTERS, ids=lambda each: each.__name__)
def test_message_and_traceback_of_any_length_are_bounded(formatter: LineFormatter) -> None:
    assert len(formatter(record("failed error=%r", "\x00" * 10**6))) < 10_000
    text = formatter(failed("y" * 10**6 + " the end"))
    assert len(text) < 40_000
    assert "characters left out" in text
    assert "the end" in text


def test_json_escapes_what_a_terminal_would_obey() -> None:
    line = json_line(record("a\x9b31m\u202eb\U000e0001"))
    assert line.isprintable()
    assert json.loads(line)["message"] == "a\x9b31m\u202eb\U000e0001"


@pytest.mark.parametrize("log_format", ["json", "text", "auto"])
def test_newest_lines_are_kept_as_json_whatever_the_format(log_format: str) -> None:
    marker = f"kept as {log_format} for=%s"
    written(log_format, lambda log: log.info(marker, "a bundle"))
    line = json.loads(RECENT.take()[-1])
    assert (line["message"], line["for"]) == (f"kept as {log_format}", "a bundle")
    assert {"time", "level", "logger"} <= line.keys()


def test_line_that_no_stream_takes_is_kept_too() -> None:
    configure("json", "info", None, {})
    logging.getLogger(OURS).warning("nothing is open number=%d", 7)
    assert json.loads(RECENT.take()[-1])["message"] == "nothing is open"


def test_kept_lines_are_the_newest_and_have_a_bound() -> None:
    recent = RecentLines(100)
    for number in range(1000):
        recent.put(f"{number:010}")
    assert recent.take() == [f"{number:010}".encode() for number in range(990, 1000)]
    recent.put("x" * 101)
    assert recent.take() == []
    recent.put("\udc80 ü")
    assert recent.take() == [b"\\udc80 \xc3\xbc"]


def test_kept_lines_cost_little_more_than_their_bytes() -> None:
    lines = [
        json_line(record("list failed resource=%s in_s=%.1f", f"n{n}", n)) for n in range(3000)
    ]
    tracemalloc.start()
    try:
        recent = RecentLines()
        for line in lines:
            recent.put(line)
        cost, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(recent.take()) > 1000
    assert RECENT_BYTES * 0.99 < cost < RECENT_BYTES * 1.4, cost


def test_kept_lines_survive_writers_in_many_threads() -> None:
    recent = RecentLines(10_000)

    def write() -> None:
        for _ in range(2000):
            recent.put("y" * 50)

    threads = [threading.Thread(target=write) for _ in range(4)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        assert len(recent.take()) <= 200
    assert len(recent.take()) == 200
