"""The check of the contract: each way to break it is found and named, and a good one passes."""

import asyncio
from collections.abc import Callable
from functools import partial
from pathlib import Path
from threading import Event
from typing import Any

import anyio
import pytest

from telemetryd.api import (
    BuildContext,
    ConfigError,
    ExportContext,
    Outcome,
    Payload,
    Problem,
)
from telemetryd.api.testing import check_exporter
from telemetryd.config import FileExporterConfig, HttpExporterConfig
from telemetryd.daemon.exporters import ExporterFactory
from tests.api.testing import wrong
from tests.api.testing.plugins import Behaviour, Memory, Writer, keep_the_contract
from tests.docs.markdown import ROOT, blocks
from tests.support.receiver import Verdict, receiving_in_threads

pytestmark = pytest.mark.anyio

FAILS = {"place": "down"}
WRONG = {"place": "elsewhere"}


async def breaches(memory: Any, **given: Any) -> list[str]:
    """What the check finds, a line each; none where it passes."""
    try:
        await check_exporter(
            memory, {}, **{"delivered": memory.delivered, "patience_s": 3.0, **given}
        )
    except AssertionError as found:
        first, *lines = str(found).splitlines()
        assert first == "the exporter breaks its contract:"
        return [line.removeprefix("- ") for line in lines]
    return []


async def test_exporter_that_keeps_the_contract_passes() -> None:
    memory = Memory(keep_the_contract)
    assert not await breaches(memory, failing=[FAILS], refused=[WRONG, {"unknown": 1}])
    assert len(memory.held) > 2


class Unclosed:
    async def export(self, payload: Payload, context: ExportContext) -> Outcome:
        raise NotImplementedError


async def test_exporter_that_leaves_a_task_behind_is_named() -> None:
    tasks: list[asyncio.Task[None]] = []

    async def behave(memory: Memory, payload: Payload, context: ExportContext) -> Outcome:
        if not tasks:
            tasks.append(asyncio.get_running_loop().create_task(write_later()))
        return await keep_the_contract(memory, payload, context)

    async def write_later() -> None:
        await asyncio.sleep(3600)

    found = await breaches(Memory(behave))
    tasks[0].cancel()
    assert len(found) == 1
    assert found[0].startswith("after aclose() tasks go on (")
    assert "write_later" in found[0]


@pytest.mark.parametrize(
    ("behave", "breach"),
    [
        (
            wrong.swallow_once,
            "swallows its cancellation at its wait number 1: let it through",
        ),
        (
            wrong.swallow_late,
            "swallows its cancellation at its wait number 2: let it through",
        ),
        (wrong.swallow_always, "export() swallows its cancellation at its wait number 1"),
        (wrong.translate_cancellation, "into RetryableError: cut off: let it through"),
        (wrong.sleep_in_loop, "export() blocks the event loop"),
        (wrong.open_in_loop, "export() blocks the event loop, opens /dev/null at "),
        (wrong.resolve_in_loop, "export() blocks the event loop, asks for an address at "),
        (wrong.wait_in_loop, "export() blocks the event loop for 0.5 s and more: use a thread"),
        (wrong.compute_in_loop, "export() blocks the event loop for 0.5 s and more: use a thread"),
        (wrong.write_before_fence, "export() writes before it calls context.fence()"),
        (wrong.never_ask, "export() never calls context.fence()"),
        (wrong.never_ask, "export() writes though context.fence() refuses"),
        (wrong.write_though_refused, "export() writes though context.fence() refuses"),
        (wrong.hide_refusal, "export() keeps what the fence raises: let it through"),
        (wrong.write_late_in_thread, "export() writes in a thread after it was cut off"),
        (
            wrong.raise_foreign,
            "raises ConnectionRefusedError: [Errno 111] on purpose with",
        ),
        (wrong.raise_internal, "export() raises PermanentError: on purpose with"),
        (wrong.raise_own_reason, "export() raises PermanentError: on purpose with"),
        (wrong.succeed_always, "with {'place': 'down'}: it must raise"),
        (wrong.raise_at_once, "export() raises KeyError: 'on purpose'"),
        (wrong.fail_at_once, "it can't deliver with its table: RetryableError: nothing listens"),
        (
            wrong.return_nothing,
            "returns None: return Outcome.WRITTEN or Outcome.UNCHANGED",
        ),
        (wrong.return_a_list, "export() returns []: return Outcome.WRITTEN or Outcome.UNCHANGED"),
        (wrong.write_nothing, "export() writes nothing that delivered() sees"),
    ],
    ids=lambda given: given.__name__ if callable(given) else "",
)
async def test_exporter_that_breaks_the_contract_is_named_with_its_breach(
    behave: Behaviour, breach: str
) -> None:
    found = await breaches(Memory(behave), failing=[FAILS])
    assert any(breach in line for line in found), found


async def test_fence_refuses_every_piece_of_a_thread_that_was_cut_off() -> None:
    assert not await breaches(Memory(wrong.write_pieces_in_thread))


async def test_step_that_is_slow_only_once_is_the_machines() -> None:
    slow = [0.6]

    async def behave(memory: Memory, payload: Payload, context: ExportContext) -> Outcome:
        if slow:
            Event().wait(slow.pop())
        return await keep_the_contract(memory, payload, context)

    assert not await breaches(Memory(behave))
    assert not slow


async def test_exporter_that_hangs_is_cut_off_and_named() -> None:
    found = await breaches(Memory(wrong.hang), patience_s=0.2)
    assert found == ["export() doesn't end within 0.2 s"]


async def test_exporter_that_holds_what_a_cancelled_call_took_is_named() -> None:
    found = await breaches(Memory(wrong.hold_a_lock()))
    assert any("the lock is held" in line for line in found), found


async def test_line_that_blocks_is_the_authors_own() -> None:
    found = await breaches(Memory(wrong.open_in_loop))
    line = wrong.open_in_loop.__code__.co_firstlineno + 1
    where = f"{wrong.__file__}:{line}"
    assert f"export() blocks the event loop, opens /dev/null at {where}: use a thread" in found


class Plugin(Memory):
    """A plug-in whose ``build`` does as the test says."""

    def __init__(self, build: Callable[[Any], Any]) -> None:
        super().__init__(keep_the_contract)
        self._build = build

    def build(self, config: Any, context: BuildContext) -> Any:
        return self._build(self)


class BadlyClosed(Writer):
    async def aclose(self) -> None:
        raise OSError("on purpose")


class SlowlyClosed(Writer):
    async def aclose(self) -> None:
        Event().wait(0.6)


class NeverClosed(Writer):
    async def aclose(self) -> None:
        await anyio.sleep_forever()


class Synchronous(Writer):
    def export(self, payload: Payload, context: ExportContext) -> Any:
        context.fence()
        self.memory.held.append(payload.body)
        return Outcome.WRITTEN


def write_at_build(plugin: Plugin) -> Writer:
    plugin.held.append(b"built")
    return Writer(plugin)


def raise_at_build(plugin: Plugin) -> Writer:
    raise OSError("on purpose")


def refuse_at_build(plugin: Plugin) -> Writer:
    raise ConfigError(Problem("exporter it", "place", "is no place"))


@pytest.mark.parametrize(
    ("build", "breach"),
    [
        (lambda _: Unclosed(), "build() made no exporter: Unclosed has no aclose()"),
        (lambda _: None, "build() made no exporter: NoneType has no export() and no aclose()"),
        (BadlyClosed, "aclose() doesn't end well: OSError: on purpose"),
        (SlowlyClosed, "aclose() blocks the event loop for 0.5 s and more: use a thread"),
        (NeverClosed, "aclose() doesn't end well: CancelledError"),
        (Synchronous, "export() raises TypeError: it is not async: write async def"),
        (write_at_build, "build() writes: a reload may build an exporter in vain"),
        (raise_at_build, "build() raises OSError: on purpose: raise ConfigError"),
        (refuse_at_build, "it can't be built of its table: exporter it: place: is no place"),
    ],
)
async def test_plugin_that_builds_something_wrong_is_named(
    build: Callable[[Any], Any], breach: str
) -> None:
    found = await breaches(Plugin(build), patience_s=1.0)
    assert any(breach in line for line in found), found


async def test_table_that_should_be_refused_and_is_not_is_named() -> None:
    found = await breaches(Memory(keep_the_contract), refused=[{"place": "down"}])
    assert found == ["{'place': 'down'} is accepted: give the key a kind or a Rule"]


async def test_error_of_build_for_a_wrong_table_must_be_one_of_the_configuration() -> None:
    found = await breaches(Plugin(raise_at_build), refused=[{"place": "down"}])
    assert "build() raises OSError: on purpose for {'place': 'down'}" in found[0]


@pytest.mark.parametrize("config", [None, dict, ExportContext])
async def test_plugin_without_a_class_of_tables_is_named(config: Any) -> None:
    memory = Memory(keep_the_contract, config=config)
    (found,) = await breaches(memory)
    assert "the plug-in's config isn't a dataclass derived from ExporterConfig" in found


class Own:
    """A type of telemetryd's own, as a plug-in."""

    def __init__(self, config: Any) -> None:
        self.config = config

    def build(self, config: Any, context: BuildContext) -> Any:
        return ExporterFactory(None, now=context.now).build(config)[1]  # type: ignore[arg-type]


async def test_file_exporter_of_telemetryd_keeps_the_contract(tmp_path: Path) -> None:
    folder, full = tmp_path / "kept", tmp_path / "file"
    full.write_text("")

    def delivered() -> bytes:
        latest = folder / "latest"
        return latest.read_bytes() if latest.exists() else b""

    await check_exporter(
        Own(FileExporterConfig),
        {"directory": str(folder)},
        delivered=delivered,
        failing=[{"directory": str(full)}, {"directory": "/proc/kept"}],
        refused=[{"directory": "kept"}, {"keep": 0}, {"max_bytes": "10"}],
    )
    assert delivered()


async def test_http_exporter_of_telemetryd_keeps_the_contract(tmp_path: Path) -> None:
    taken: list[bytes] = []
    token = tmp_path / "token"
    token.write_text("x" * 20)

    def answer(request: Any) -> Verdict:
        taken.append(request.body)
        return Verdict(200)

    with receiving_in_threads(answer) as url:
        await check_exporter(
            Own(HttpExporterConfig),
            {"url": url, "bearer_token_file": str(token)},
            delivered=partial(list, taken),
            failing=[{"url": "http://127.0.0.1:1/"}, {"bearer_token_file": "/nonexistent"}],
            refused=[{"url": "http://u:p@x/"}, {"client_key_file": "/x"}],
        )
    assert len(taken) > 2


async def test_plugin_of_the_page_that_sends_over_http_keeps_the_contract() -> None:
    page = (ROOT / "docs" / "writing-an-exporter.md").read_text()
    (code,) = (text for block in blocks(page) if "class Hook:" in (text := "\n".join(block.lines)))
    module: dict[str, Any] = {"__name__": "hook"}
    exec(code, module)
    taken: list[bytes] = []

    def answer(request: Any) -> Verdict:
        if request.target == "/down":
            return Verdict(503)
        taken.append(request.body)
        return Verdict(204)

    with receiving_in_threads(answer) as url:
        await check_exporter(
            module["Hook"](),
            {"url": f"{url}/up"},
            delivered=partial(list, taken),
            failing=[{"url": f"{url}/down"}, {"url": "http://127.0.0.1:1/"}],
            refused=[{"url": "ftp://x/"}, {"ca_file": "/x"}, {"bearer_token_file": "token"}],
        )
    assert len(taken) > 2
