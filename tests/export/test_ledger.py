"""What exporters wait for: a source that is wrong is named at once, or in the status of all."""

from collections.abc import Callable
from random import Random
from typing import Any

import anyio
import pytest

from telemetryd.errors import NotReady
from telemetryd.export.engine.manager import ExporterManager
from telemetryd.model import ExporterState
from tests.export.doubles import Sink, Source, manager_of, running, spec

pytestmark = pytest.mark.anyio


class WithoutSnapshot:
    async def wait_ready(self) -> None:
        """At once."""


class WithoutWaiting:
    def snapshot(self) -> None:
        raise NotReady(("informer nodes",))


@pytest.mark.parametrize(
    ("source", "missing"),
    [
        (WithoutSnapshot(), "WithoutSnapshot is no snapshot source: it has no snapshot()"),
        (WithoutWaiting(), "WithoutWaiting is no snapshot source: it has no wait_ready()"),
        (None, "NoneType is no snapshot source: it has no snapshot()"),
    ],
)
def test_source_without_a_method_is_refused_by_its_name(source: Any, missing: str) -> None:
    with pytest.raises(TypeError) as raised:
        ExporterManager(source, now=lambda: 0.0, rng=Random(1))
    assert str(raised.value) == missing


class WrongSource(Source):
    """Its snapshot is there, but its ``wait_ready`` does as the test says."""

    def __init__(self, wait: Callable[[], Any]) -> None:
        super().__init__()
        self._wait = wait

    def wait_ready(self) -> Any:
        return self._wait()


async def raise_type_error() -> None:
    raise TypeError("on purpose")


async def raise_nothing_missing() -> None:
    raise NotReady(())


@pytest.mark.parametrize(
    ("wait", "detail"),
    [
        (anyio.sleep_forever, "wait_ready() of the snapshot source"),
        (raise_nothing_missing, "wait_ready() of the snapshot source"),
        (raise_type_error, "the snapshot source, which fails: TypeError: on purpose"),
        (
            lambda: None,
            (
                "the snapshot source, which fails: TypeError: object NoneType can't be used in "
                "'await' expression"
            ),
        ),
    ],
)
async def test_exporter_says_what_is_wrong_with_a_source_that_never_becomes_ready(
    wait: Callable[[], Any], detail: str
) -> None:
    manager = manager_of(WrongSource(wait))
    manager.register(spec(), Sink())
    async with running(manager):
        while manager.status("scc").detail != detail:
            assert manager.status("scc").detail in {"", "wait_ready() of the snapshot source"}
            await anyio.sleep(0.01)
        assert manager.status("scc").state is ExporterState.WAITING


async def test_source_that_waits_for_nothing_by_name_is_waited_for_all_the_same() -> None:
    source = Source()
    source.wait_for("")
    manager = manager_of(source)
    manager.register(spec(), Sink())
    async with running(manager):
        await anyio.sleep(0)
        assert manager.status("scc").detail == "a snapshot"


async def test_problem_of_a_source_is_over_once_it_is_ready(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("telemetryd.export.ledger._RETRY_S", 0.01)
    failures = [TypeError("on purpose")]

    async def wait() -> None:
        if failures:
            raise failures.pop()

    sink, manager = Sink(), manager_of(WrongSource(wait))
    manager.register(spec(), sink)
    async with running(manager):
        while not sink.starts:
            await anyio.sleep(0.01)
    assert not failures


@pytest.mark.parametrize(
    ("made", "missing"),
    [
        (None, "exporter 'scc': NoneType has no export() and no aclose()"),
        (WithoutSnapshot(), "exporter 'scc': WithoutSnapshot has no export() and no aclose()"),
    ],
)
def test_object_that_is_no_exporter_is_not_registered(made: Any, missing: str) -> None:
    manager = manager_of(Source())
    with pytest.raises(TypeError) as raised:
        manager.register(spec(), made)
    assert str(raised.value) == missing
    assert not manager.has("scc")
