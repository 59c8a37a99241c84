"""Kills writers of a folder with SIGKILL and looks at what they leave; prints a line of JSON.

A process of its own, for it forks: a writer starts within milliseconds.
"""

import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable
from functools import partial
from itertools import cycle
from pathlib import Path
from random import Random
from typing import Any

import anyio

from telemetryd.kube.requests import no_fence
from telemetryd.model import Payload
from tests.export.filebench import CONTEXT, check_folder, exporter, led_to, payload

KEEP = 4


def write_forever(folder: Path, payloads: Iterable[Payload], ready: int, **how: Any) -> None:
    """What the sink's worker thread does, over and over; between two calls there is no pause."""
    sink = exporter(folder, now=time.time, keep=KEEP, **how)
    os.write(ready, b".")
    for each in payloads:
        sink._export(each, no_fence)


def fork(body: Callable[[], None]) -> int:
    """Run the body as a child, which ends with status 0 only where it returns."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            body()
            status = 0
        finally:
            os._exit(status)
    return pid


def kill_at_random(folder: Path, times: int = 200) -> dict[str, int]:
    """Writers in a tight loop, each killed at some moment of its first milliseconds."""
    rng = Random(11)
    newest, written, halves = "", 0, 0
    started, ready = os.pipe()
    payloads = [payload(revision, time.time()) for revision in range(1, 101)]
    for number in range(times):
        compress = bool(number % 2)
        pid = fork(partial(write_forever, folder, cycle(payloads), ready, compress=compress))
        os.read(started, 1)
        time.sleep(rng.uniform(0.0, 0.006))
        os.kill(pid, signal.SIGKILL)
        assert os.waitpid(pid, 0)[1] == signal.SIGKILL, "the writer has failed"
        if folder.exists():
            halves += check_folder(folder, keep=KEEP)[1] > 0
        if newest:
            assert led_to(folder) >= newest
        if (folder / "latest").is_symlink():
            written += led_to(folder) != newest
            newest = led_to(folder)
    return {"killed": times, "written": written, "halves": halves}


def kill_at_each_step(folder: Path) -> dict[str, int]:
    """One write, killed at its first step, its second, and so on until it gets through."""
    steps, halves = 1, 0
    while True:
        pid = fork(partial(write_dying_at, folder, steps))
        status = os.waitpid(pid, 0)[1]
        if folder.exists():
            snapshots, temporary = check_folder(folder, keep=1)
            halves += temporary > 0
        if status == 0:
            return {"steps": steps, "halves": halves, "temporary": temporary, "kept": snapshots}
        assert status == signal.SIGKILL, "the writer has failed"
        steps += 1


def write_dying_at(folder: Path, step: int) -> None:
    """Write a snapshot in this process, which kills itself at that call of the system."""
    done = 0

    def count(event: str, _args: object) -> None:
        nonlocal done
        if threading.current_thread() is threading.main_thread():
            return
        if event == "open" or event.startswith(("os.", "fcntl.")):
            done += 1
            if done == step:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(count)
    sink = exporter(folder, now=time.time, keep=1)
    anyio.run(sink.export, payload(step, time.time()), CONTEXT)


if __name__ == "__main__":
    kills: dict[str, Callable[..., Any]] = {"random": kill_at_random, "steps": kill_at_each_step}
    kill = kills[sys.argv[1]]
    json.dump(kill(Path(sys.argv[2]), *map(int, sys.argv[3:])), sys.stdout)
