"""Fixtures that every test may use."""

import gc
import logging
import os
import signal
import sys
import tempfile
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

from tests.support.sampling import FEW

if TYPE_CHECKING:
    from xdist.remote import Producer

    from tests.support.scheduling import ServerScheduling

pytest_plugins = [
    "tests.apiserver.plugin",
    "tests.clientgo.plugin",
    "tests.faults.plugin",
    "tests.support.postgres",
]


# Each of hundreds of processes would compile the package again, and each worker all tests.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

# A shell has what it runs in the background ignore SIGINT, and so would every program of a test.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

_MEMORY = Path("/dev/shm")
_ROOM_BYTES = 4 << 30


def _has_room(folder: Path) -> bool:
    """Whether the files of a whole run fit in there, and may be executed."""
    try:
        found = os.statvfs(folder)
    except OSError:
        return False
    is_usable = os.access(folder, os.W_OK | os.X_OK) and not found.f_flag & os.ST_NOEXEC
    return is_usable and found.f_bavail * found.f_frsize >= _ROOM_BYTES


# Tests make tens of thousands of small files: on a disk each costs time, and waits for others.
if "TMPDIR" not in os.environ and _has_room(_MEMORY):
    os.environ["TMPDIR"] = os.fspath(_MEMORY)
    tempfile.tempdir = None

# Other tests share the machine, so no example has a deadline.
settings.register_profile("all", settings(), deadline=None)
settings.register_profile("few", settings(), deadline=None, max_examples=FEW)
settings.register_profile("slow", settings(), print_blob=True)
settings.load_profile("few")

LONGEST = (
    "tests/system/test_history_replicas.py",
    "tests/daemon/test_secrets_process.py",
    "tests/system/test_confused_deputy.py",
    "tests/system/test_rotation.py",
    "tests/daemon/test_history_process.py",
    "tests/system/test_replicas.py",
    "tests/system/test_late_writes.py",
    "tests/system/test_hangs.py",
    "tests/daemon/test_restrictions_table.py",
    "tests/docs/test_commands.py",
    "tests/system/test_opt_out.py",
    "tests/daemon/test_hostile_texts.py",
    "tests/informer/test_growth.py",
    "tests/daemon/test_security_process.py",
    "tests/clientgo/test_kubeconfigs.py",
    "tests/clientgo/test_users.py",
    "tests/clientgo/test_servers.py",
    "tests/control/secretrequest/test_cluster.py",
    "tests/system/test_main_job.py",
    "tests/browser/test_status_page.py",
    "tests/browser/test_history_page.py",
)
"""Files of a quarter of a minute and more, in the order in which they begin: no worker is left
with one."""

SERVED = (
    "tests/apiserver/test_process.py",
    "tests/charts/test_combinations.py",
    "tests/charts/test_installed.py",
    "tests/contract/",
    "tests/daemon/test_preview.py",
    "tests/deploy/",
    "tests/doctor/test_command.py",
    "tests/export/sinks/test_contention.py",
    "tests/export/sinks/test_secret",
    "tests/faults/",
    "tests/image/test_container.py",
    "tests/monitoring/test_live.py",
    "tests/system/",
    "tests/upgrade/test_replicas.py",
)
"""What the paths of files that need a kube-apiserver begin with."""


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(
    config: pytest.Config, log: "Producer"
) -> "ServerScheduling | None":
    """Has two workers take what needs an API server, so that no more than two are started."""
    if config.getvalue("dist") != "loadfile":
        return None
    from tests.support.scheduling import ServerScheduling  # noqa: PLC0415 - not without xdist

    return ServerScheduling(config, SERVED, log)


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
    served = {"apiserver", "own_apiserver"}
    needy = {item.location[0] for item in items if served & set(getattr(item, "fixturenames", ()))}
    if missing := sorted(file for file in needy if not file.startswith(SERVED)):
        raise pytest.UsageError(f"name in SERVED of tests/conftest.py: {', '.join(missing)}")


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
