"""Stops a daemon at one point of one write; Python imports this first where PYTHONPATH has it.

A test arms it by a file in ``$FREEZING``: which request by words of its body, whether before its
bytes leave or after, and how many such to let pass. ``frozen`` appears just before the process
stops itself, and ``sent`` when the bytes have left.
"""

import json
import os
import signal
from pathlib import Path

from aiohttp.abc import AbstractStreamWriter

from telemetryd.kube.requests import FencedBody

_FOLDER = Path(os.environ["FREEZING"])
_ARMED = _FOLDER / "armed"
_pass = FencedBody._ask
_write = FencedBody.write_with_length
_held: list[FencedBody] = []


def _stop(body: FencedBody, when: str) -> None:
    try:
        armed = json.loads(_ARMED.read_text())
    except FileNotFoundError:
        return
    if armed["when"] != when or armed["words"].encode() not in body._value:
        return
    if armed["skip"]:
        _ARMED.write_text(json.dumps({**armed, "skip": armed["skip"] - 1}))
        return
    _ARMED.unlink()
    _held.append(body)
    (_FOLDER / "frozen").touch()
    os.kill(os.getpid(), signal.SIGSTOP)


def _pass_and_stop(body: FencedBody) -> None:
    _pass(body)
    _stop(body, "before")


async def _write_and_stop(
    body: FencedBody, writer: AbstractStreamWriter, content_length: int | None
) -> None:
    await _write(body, writer, content_length)
    _stop(body, "after")
    if body in _held:
        (_FOLDER / "sent").touch()


FencedBody._ask = _pass_and_stop  # type: ignore[assignment, method-assign]
FencedBody.write_with_length = _write_and_stop  # type: ignore[assignment, method-assign]
