"""Exporters that break the contract, each in one way."""

import asyncio
import socket
import time
from pathlib import Path
from threading import Event
from typing import Any

import anyio
import anyio.to_thread

from telemetryd.api import (
    ExportContext,
    NotLeading,
    Outcome,
    Payload,
    PermanentError,
    Reason,
    RetryableError,
)
from telemetryd.api.testing.contract import CONFIRMATIONS
from tests.api.testing.plugins import Behaviour, Memory, keep_the_contract


async def swallow_once(memory: Memory, payload: Payload, context: ExportContext) -> Outcome:
    try:
        await anyio.sleep(0)
    except asyncio.CancelledError:
        await anyio.sleep(0)
    return await keep_the_contract(memory, payload, context)


async def swallow_late(memory: Memory, payload: Payload, context: ExportContext) -> Outcome:
    """All but its last wait is right."""
    context.fence()
    memory.held.append(payload.body)
    await anyio.sleep(0)
    try:
        await anyio.sleep(0)
    except BaseException:  # noqa: BLE001
        return Outcome.WRITTEN
    return Outcome.WRITTEN


async def swallow_always(memory: Memory, payload: Payload, context: ExportContext) -> Outcome:
    context.fence()
    memory.held.append(payload.body)
    tries = 1
    while tries:
        try:
            await asyncio.sleep(0 if tries == 1 else 3600)
            tries = 0
        except asyncio.CancelledError:
            tries = 2
    return Outcome.WRITTEN


async def translate_cancellation(
    memory: Memory, payload: Payload, context: ExportContext
) -> Outcome:
    try:
        return await keep_the_contract(memory, payload, context)
    except asyncio.CancelledError as error:
        raise RetryableError(Reason.TIMEOUT, "cut off") from error


def needs_another(memory: Memory) -> bool:
    """Whether the slow step has not been confirmed yet: more of them only take time."""
    return len(memory.held) < CONFIRMATIONS


async def sleep_in_loop(memory: Memory, payload: Payload, context: ExportContext) -> Outcome:
    if needs_another(memory):
        time.sleep(0.6)
    return await keep_the_contract(memory, payload, context)


async def open_in_loop(memory: Memory, payload: Payload, context: ExportContext) -> Outcome:
    Path("/dev/null").read_bytes()
    return await keep_the_contract(memory, payload, context)


async def resolve_in_loop(memory: Memory, payload: Payload, context: ExportContext) -> Outcome:
    socket.getaddrinfo("127.0.0.1", 1)
    return await keep_the_contract(memory, payload, context)


async def wait_in_loop(memory: Memory, payload: Payload, context: ExportContext) -> Outcome:
    if needs_another(memory):
        Event().wait(0.6)  # no call that Python reports: only its length shows it
    return await keep_the_contract(memory, payload, context)


async def compute_in_loop(memory: Memory, payload: Payload, context: ExportContext) -> Outcome:
    until_s = time.thread_time() + 0.55
    while needs_another(memory) and time.thread_time() < until_s:
        pass
    return await keep_the_contract(memory, payload, context)


async def write_before_fence(memory: Memory, payload: Payload, context: ExportContext) -> Outcome:
    memory.held.append(payload.body)
    context.fence()
    return Outcome.WRITTEN


async def never_ask(memory: Memory, payload: Payload, context: ExportContext) -> Outcome:
    memory.held.append(payload.body)
    return Outcome.WRITTEN


async def write_though_refused(memory: Memory, payload: Payload, context: ExportContext) -> Outcome:
    try:
        context.fence()
    finally:
        memory.held.append(payload.body)
    return Outcome.WRITTEN


async def hide_refusal(memory: Memory, payload: Payload, context: ExportContext) -> Outcome:
    try:
        context.fence()
    except NotLeading as error:
        raise PermanentError(Reason.INTERNAL, "not now") from error
    memory.held.append(payload.body)
    return Outcome.WRITTEN


async def write_late_in_thread(memory: Memory, payload: Payload, context: ExportContext) -> Outcome:
    """The thread writes whatever the fence says, after its call was cut off."""

    def write() -> None:
        try:
            context.fence()
        except NotLeading:
            if not cut.is_set():
                raise
        memory.held.append(payload.body)

    cut = Event()
    try:
        await anyio.to_thread.run_sync(write, abandon_on_cancel=True)
    except asyncio.CancelledError:
        cut.set()
        raise
    return Outcome.WRITTEN


async def raise_foreign(memory: Memory, payload: Payload, context: ExportContext) -> Outcome:
    if memory.down:
        raise ConnectionRefusedError(111, "on purpose")
    return await keep_the_contract(memory, payload, context)


async def raise_internal(memory: Memory, payload: Payload, context: ExportContext) -> Outcome:
    if memory.down:
        raise PermanentError(Reason.INTERNAL, "on purpose")
    return await keep_the_contract(memory, payload, context)


async def raise_own_reason(memory: Memory, payload: Payload, context: ExportContext) -> Outcome:
    if memory.down:
        raise PermanentError("mine", "on purpose")  # type: ignore[arg-type]
    return await keep_the_contract(memory, payload, context)


async def succeed_always(memory: Memory, payload: Payload, context: ExportContext) -> Outcome:
    memory.down = False
    return await keep_the_contract(memory, payload, context)


async def raise_at_once(memory: Memory, payload: Payload, context: ExportContext) -> Outcome:
    raise KeyError("on purpose")


async def fail_at_once(memory: Memory, payload: Payload, context: ExportContext) -> Outcome:
    raise RetryableError(Reason.CONNECT, "nothing listens")


async def return_nothing(memory: Memory, payload: Payload, context: ExportContext) -> None:
    await keep_the_contract(memory, payload, context)


async def return_a_list(memory: Memory, payload: Payload, context: ExportContext) -> Any:
    await keep_the_contract(memory, payload, context)
    return []


async def write_pieces_in_thread(
    memory: Memory, payload: Payload, context: ExportContext
) -> Outcome:
    """The second piece is written though the fence has refused the first."""

    def write() -> None:
        for piece in (payload.body[:9], payload.body[9:]):
            try:
                context.fence()
            except NotLeading:
                if cut.is_set() and piece == payload.body[:9]:
                    continue
                raise
            memory.held.append(piece)

    cut = Event()
    try:
        await anyio.to_thread.run_sync(write, abandon_on_cancel=True)
    except asyncio.CancelledError:
        cut.set()
        raise
    return Outcome.WRITTEN


async def write_nothing(memory: Memory, payload: Payload, context: ExportContext) -> Outcome:
    context.fence()
    return Outcome.WRITTEN


async def hang(memory: Memory, payload: Payload, context: ExportContext) -> Outcome:
    await anyio.sleep_forever()
    return Outcome.WRITTEN


def hold_a_lock() -> Behaviour:
    busy = False

    async def behave(memory: Memory, payload: Payload, context: ExportContext) -> Outcome:
        nonlocal busy
        if busy:
            raise PermanentError(Reason.STORAGE, "the lock is held")
        busy = True
        found = await keep_the_contract(memory, payload, context)
        busy = False
        return found

    return behave
