"""Operations counted, not timed: a measure of work that is the same on every machine."""

import gc
import sys
from collections import Counter
from collections.abc import Callable
from types import FrameType
from typing import Any


def calls_of(work: Callable[[], object]) -> int:
    """How many functions are called, of Python and of C."""
    made = 0

    def profile(_frame: FrameType, event: str, _argument: object) -> None:
        nonlocal made
        made += event in {"call", "c_call"}

    before = sys.getprofile()
    gc.disable()  # what it would end belongs to other tests, and their calls would count
    sys.setprofile(profile)
    try:
        work()
    finally:
        sys.setprofile(before)
        gc.enable()
    return made


def lines_of(work: Callable[[], object], *files: str) -> Counter[str]:
    """How many lines of these files run, by the name of the function."""
    lines: Counter[str] = Counter()

    def trace(frame: FrameType, event: str, _argument: object) -> Any:
        if not frame.f_code.co_filename.endswith(files):
            return None
        if event == "line":
            lines[frame.f_code.co_name] += 1
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        work()
    finally:
        sys.settrace(before)
    return lines
