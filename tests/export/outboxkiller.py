"""Kills exporters with SIGKILL while they send, over and over on one spool; prints a line of JSON.

A process of its own, for it forks: an exporter starts within milliseconds. Its content changes with
every third run, whichever process makes it, and the last one has to deliver what is newest.
"""

import json
import mmap
import os
import signal
import struct
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import anyio

from telemetryd.config import HttpExporterConfig
from telemetryd.daemon.exporters import build_http
from telemetryd.export.engine.manager import ExporterManager
from telemetryd.export.exporter import ExportContext, Exporter, ExporterSpec, Outcome
from telemetryd.export.outbox.spool import SpoolFolder
from telemetryd.model import ExporterState, Payload, Snapshot
from tests.export.doubles import Source, render, running, snapshot
from tests.export.filekiller import fork
from tests.export.outbox.test_spool import DELIVERED, pending_payload


class Counting(Source):
    """A source whose content changes with every third snapshot, counted over all processes."""

    def __init__(self, counter: mmap.mmap) -> None:
        super().__init__()
        self._counter = counter

    def snapshot(self) -> Snapshot:
        (count,) = struct.unpack_from("Q", self._counter)
        struct.pack_into("Q", self._counter, 0, count + 1)
        revision = 1 + count // 3
        if revision != self.current.revision:
            self.current = snapshot(revision, nodes=revision)
        return self.current


class Telling:
    """A sink that tells a pipe when it is asked to send."""

    def __init__(self, exporter: Exporter, pipe: int) -> None:
        self._exporter = exporter
        self._pipe = pipe
        self.aclose = exporter.aclose

    async def export(self, payload: Payload, context: ExportContext) -> Outcome:
        os.write(self._pipe, b"!")
        return await self._exporter.export(payload, context)


async def send(source: Source, url: str, folder: Path, pipe: int, *, once: bool) -> None:
    """Export without a pause: for ever, or until something is delivered.

    A byte is written to the pipe when the manager runs and whenever a payload is sent.
    """
    config = HttpExporterConfig(name="it", url=url)
    manager = ExporterManager(
        source, now=time.time, rng=Random(1), drain_timeout_s=0.1, spool_dir=str(folder)
    )
    spec = ExporterSpec(
        name="it",
        type="http",
        render=render,
        retry_budget_s=0.0,
        destination="there",
        spooled=True,
    )
    manager.register(spec, Telling(build_http(config, now=time.time, environ={}), pipe))
    os.write(pipe, b".")
    async with running(manager):
        while not once or manager.status("it").last_success_at is None:
            await anyio.sleep(0.001)
            if manager.status("it").state in {ExporterState.IDLE, ExporterState.FAILED}:
                manager.trigger("it")


def look(folder: SpoolFolder) -> tuple[bool, bool]:
    """Whether something is pending, and whether a file was being written; nothing is ever half."""
    if not folder.path.exists():
        return False, False
    names = {path.name for path in folder.path.iterdir()}
    assert names <= {"pending", "state", ".pending.tmp", ".state.tmp"}, names
    contents = folder.peek()
    assert contents.damaged == ()
    return contents.pending is not None, any(name.startswith(".") for name in names)


def until(events: int, what: bytes) -> None:
    while os.read(events, 1) != what:
        pass


def measure_run(events: int) -> float:
    """How long a run takes on this machine now, in seconds."""
    until(events, b"!")
    began = time.monotonic()
    for _ in range(4):
        until(events, b"!")
    return (time.monotonic() - began) / 4


def kill_at_random(folder: Path, url: str, times: int = 200) -> dict[str, int]:
    """Exporters, each killed at some moment of its first milliseconds; the last one lives."""
    rng, spool = Random(13), SpoolFolder(str(folder), "it")
    counter, newest = mmap.mmap(-1, 8), Source()
    events, pipe = os.pipe()
    # Once in this process: those that are forked from it then have all that is made on first use.
    anyio.run(partial(send, newest, url, folder, pipe, once=True))
    run_s, left, halves = 0.0, 0, 0
    for number in range(-3, times):
        os.read(events, 1 << 16)
        pid = fork(
            partial(anyio.run, partial(send, Counting(counter), url, folder, pipe, once=False))
        )
        if number < 0:
            run_s = measure_run(events)
        else:
            # By turns from its start, when it writes, and from when it sends.
            until(events, b"!" if number % 2 else b".")
            time.sleep(rng.uniform(0.0, 1.5 * run_s))
        os.kill(pid, signal.SIGKILL)
        assert os.waitpid(pid, 0)[1] == signal.SIGKILL, "the exporter has failed"
        pending, half = look(spool)
        left += pending
        halves += half
        os.write(pipe, b".")
    revision = 2 + struct.unpack_from("Q", counter)[0]
    newest.current = snapshot(revision, nodes=revision)
    anyio.run(partial(send, newest, url, folder, pipe, once=True))
    pending, half = look(spool)
    return {"killed": times, "left": left, "halves": halves, "newest": revision, "at end": pending}


def kill_at_each_step(folder: Path) -> dict[str, Any]:
    """A payload stored over another and then settled, killed at its first step, its second, …"""
    spool, steps, kept = SpoolFolder(str(folder), "it"), 1, set()
    while True:
        spool.store(pending_payload(sequence=1))
        status = os.waitpid(fork(partial(replace_dying_at, spool, steps)), 0)[1]
        look(spool)
        contents = spool.load()
        kept.add(contents.pending.delivery.sequence if contents.pending else 0)
        if status == 0:
            return {"steps": steps, "kept": sorted(kept)}
        assert status == signal.SIGKILL, "the exporter has failed"
        steps += 1


def replace_dying_at(spool: SpoolFolder, step: int) -> None:
    """Store and settle in this process, which kills itself at that call of the system."""
    done = 0

    def count(event: str, _args: object) -> None:
        nonlocal done
        if threading.current_thread() is threading.main_thread() and (
            event == "open" or event.startswith("os.")
        ):
            done += 1
            if done == step:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(count)
    spool.store(pending_payload(sequence=2))
    spool.settle(DELIVERED)


if __name__ == "__main__":
    kills: dict[str, Callable[..., Any]] = {"random": kill_at_random, "steps": kill_at_each_step}
    kill = kills[sys.argv[1]]
    json.dump(kill(Path(sys.argv[2]), *sys.argv[3:4], *map(int, sys.argv[4:])), sys.stdout)
