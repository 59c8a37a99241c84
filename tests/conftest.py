"""Fixtures that every test may use."""

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest_plugins = ["tests.apiserver.plugin", "tests.clientgo.plugin", "tests.faults.plugin"]


@pytest.fixture
def anyio_backend() -> str:
    """The daemon runs on asyncio; so do its tests."""
    return "asyncio"


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
