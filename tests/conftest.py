"""Fixtures that every test may use."""

import gc
import logging
import os
import sys
import tempfile
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from tests.support.sampling import FEW

pytest_plugins = ["tests.apiserver.plugin", "tests.clientgo.plugin", "tests.faults.plugin"]


# Each of hundreds of processes would compile the package again, and each worker all tests.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

# Other tests share the machine, so no example has a deadline.
settings.register_profile("all", settings(), deadline=None)
settings.register_profile("few", settings(), deadline=None, max_examples=FEW)
settings.register_profile("slow", settings(), print_blob=True)
settings.load_profile("few")

LONGEST = (
    "tests/system/test_rotation.py",
    "tests/system/test_hangs.py",
    "tests/system/test_late_writes.py",
    "tests/daemon/test_restrictions_table.py",
    "tests/docs/test_commands.py",
    "tests/system/test_confused_deputy.py",
    "tests/system/test_replicas.py",
    "tests/daemon/test_secrets_process.py",
    "tests/system/test_rancher_serves.py",
    "tests/cli/test_commands.py",
    "tests/daemon/test_disclosure_oracle.py",
    "tests/system/test_opt_out_replicas.py",
    "tests/system/test_request_targets.py",
    "tests/daemon/test_security_process.py",
    "tests/system/test_main_job.py",
    "tests/benchmarks/test_smoke.py",
)
"""Files of a minute and more, in the order in which they begin: no worker is left with one."""


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Leaves what is collected out of the garbage collector's work.

    Each worker holds half a million objects of it, which live as long as itself, and a full
    collection that looks at them takes half a second.
    """
    gc.disable()
    try:
        return (yield)
    finally:
        gc.enable()
        gc.freeze()


@pytest.hookimpl(trylast=True)  # once they are shuffled
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Puts the tests of the longest files before all others."""
    rank = {file: number for number, file in enumerate(LONGEST)}
    items.sort(key=lambda item: rank.get(item.location[0], len(rank)))


@pytest.fixture
def anyio_backend() -> str:
    """The daemon runs on asyncio; so do its tests."""
    return "asyncio"


@pytest.fixture(autouse=True)
def _loggers_as_they_were() -> Iterator[None]:
    """A command that runs in this process sets up its own logging, which is its test's alone."""
    root, own = logging.getLogger(), logging.getLogger("telemetryd")
    handlers, levels = root.handlers[:], (root.level, own.level)
    yield
    root.handlers[:] = handlers
    root.setLevel(levels[0])
    own.setLevel(levels[1])


@pytest.fixture
def short_path() -> Iterator[Path]:
    """A folder for sockets, whose paths must not be as long as those of ``tmp_path``."""
    with tempfile.TemporaryDirectory(prefix="td-", dir="/tmp") as folder:
        yield Path(folder)


@pytest.fixture(scope="session", autouse=True)
def _own_runtime_directory() -> Iterator[None]:
    """Daemons that tests start by the way have their control socket away from the machine's own."""
    with (
        tempfile.TemporaryDirectory(prefix="td-", dir="/tmp") as folder,
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setenv("RUNTIME_DIRECTORY", os.fspath(folder))
        for name in ("DO_NOT_TRACK", "TELEMETRYD_ENABLED"):
            patch.delenv(name, raising=False)
        yield
