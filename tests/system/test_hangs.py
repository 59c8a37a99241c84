"""Whatever a daemon reads from or writes to may hang: it costs what needs it, and nothing else."""

import fcntl
import itertools
import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import pytest

from tests.apiserver.admin import Admin
from tests.apiserver.process import ApiServer
from tests.faults.proxy import FaultProxy
from tests.support.control import ctl
from tests.support.daemon import TOP_LEVEL, Daemon
from tests.support.sink import Sink, receiving
from tests.system.rancher import Rancher, facts, recount

EXPORTERS = """
[[exporters]]
name = "scc"
type = "secret"
interval = "1s"
quiet_period = "1s"

[[exporters]]
name = "receiver"
type = "http"
url = "{url}"
interval = "1s"
"""

FAILING = "".join(
    f"""
[[exporters]]
name = "failing-{number:02}-{"x" * 40}"
type = "file"
directory = "/dev/null/{number}"
interval = "1h"
"""
    for number in range(70)
)
"""All are named in the line that SIGUSR1 asks for: a few hundred of these are more than is kept."""

PATIENCE_S = 60.0
REREAD_S = 150.0
"""Tokens and CAs are looked at once a minute."""
INTERVAL_S = 1.0
RETRY_S = 10.0
"""Between two reads of what a damaged state folder may remember."""

BOTH = 2
REJECTED = 'telemetryd_config_reloads_total{result="failure",trigger="signal"}'
LOST = "telemetryd_log_lines_lost_total"

_numbers = itertools.count(5000)


@pytest.fixture(scope="module")
def rancher(admin: Admin) -> Iterator[Rancher]:
    """A small fleet, which tests add to."""
    with Rancher.built(admin, clusters=2, nodes=2) as fleet:
        yield fleet


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What makes paths hang, compiled."""
    compiler = shutil.which("cc")
    assert compiler, "no C compiler: install gcc (on Debian: apt-get install gcc libc6-dev)"
    made = tmp_path_factory.mktemp("library") / "hanging.so"
    source = Path(__file__).with_name("hanging.c")
    subprocess.run(
        [compiler, "-shared", "-fPIC", "-fno-builtin", "-O1", "-o", made, source, "-ldl"],
        check=True,
        timeout=60,
    )
    return made


@dataclass
class Disk:
    """A folder that can be made to hang for those who have the library."""

    library: Path
    folder: Path
    _flag: Path = field(init=False)

    def __post_init__(self) -> None:
        self.folder.mkdir()
        self._flag = self.folder.with_name("hangs")

    @property
    def environ(self) -> dict[str, str]:
        """Variables of a process that uses the disk."""
        return {
            "LD_PRELOAD": str(self.library),
            "HANGS_UNDER": str(self.folder),
            "HANGS_WHILE": str(self._flag),
        }

    def hang(self) -> None:
        """From now on nothing comes back."""
        self._flag.touch()

    def has_kept(self, path: Path) -> bool:
        """Whether something has been asked of this path since it hangs."""
        return self.kept(path) > 0

    def kept(self, path: Path) -> int:
        """How many calls about this path hang, each in a thread of its own."""
        return self._flag.read_text().splitlines().count(str(path))

    def recover(self) -> None:
        """All that hangs comes back."""
        self._flag.unlink(missing_ok=True)


@pytest.fixture
def disk(library: Path, short_path: Path) -> Iterator[Disk]:
    """One that works, to begin with."""
    made = Disk(library, short_path / "disk")
    try:
        yield made
    finally:
        made.recover()


@pytest.fixture
def sink() -> Iterator[Sink]:
    """The receiver."""
    with receiving() as made:
        yield made


@contextmanager
def ended_in_the_end(daemon: Daemon) -> Iterator[Daemon]:
    """The daemon, which must not outlive the test; SIGTERM has to end it well."""
    try:
        yield daemon
        assert daemon.stop() == 0, daemon.log()[-4000:]
    finally:
        if daemon.process.poll() is None:
            daemon.process.kill()
            daemon.process.wait()


def wait_for(daemon: Daemon, what: str, probe: Callable[[], object], timeout_s: float) -> None:
    daemon.wait_for(what, probe, timeout_s)


def assert_tells(daemon: Daemon, folder: Path | None = None) -> str:
    """`/livez` and `ctl status` answer; what the latter prints.

    Args:
        daemon: The daemon.
        folder: Of its control socket, where that isn't beside its log.
    """
    wait_for(daemon, "/livez", lambda: daemon.get("/livez")[0] == 200, PATIENCE_S)
    shown = run_ctl(daemon, folder, "status")
    assert shown.returncode == 0, shown.stderr
    assert "receiver" in shown.stdout
    return shown.stdout


def run_ctl(
    daemon: Daemon, folder: Path | None, command: str
) -> "subprocess.CompletedProcess[str]":
    runtime = folder or daemon.log_file.parent
    return ctl(command, config=daemon.config_file, RUNTIME_DIRECTORY=str(runtime))


def assert_goes_on(
    daemon: Daemon, rancher: Rancher, sink: Sink, folder: Path | None = None
) -> None:
    """It tells how it is, and a change of the fleet reaches the Secret and the receiver."""
    assert_tells(daemon, folder)
    began_s = time.monotonic()
    rancher.add_node("local", next(_numbers))
    expected = recount(rancher.admin)

    def is_exported() -> bool:
        payload = rancher.payload()
        return payload is not None and facts(payload) == expected

    wait_for(daemon, "the change in the Secret", is_exported, PATIENCE_S)
    wait_for(daemon, "the change at the receiver", lambda: sink.posts(began_s), PATIENCE_S)


@pytest.mark.long
@pytest.mark.timeout(420)
def test_standard_error_without_a_reader(
    rancher: Rancher, apiserver: ApiServer, short_path: Path, sink: Sink
) -> None:
    unread, stderr = os.pipe()
    fcntl.fcntl(stderr, fcntl.F_SETPIPE_SZ, 4096)
    kubeconfig = apiserver.kubeconfig(short_path / "kubeconfig")
    config = EXPORTERS.format(url=sink.url("receiver")) + FAILING
    try:
        with ended_in_the_end(Daemon(short_path, kubeconfig, config, stderr=stderr)) as daemon:
            wait_for(daemon, "the start", daemon.ready, PATIENCE_S)

            def is_lost() -> bool:
                daemon.signal(signal.SIGHUP)
                for _ in range(50):
                    daemon.signal(signal.SIGUSR1)
                    time.sleep(0.005)
                return (daemon.metric(LOST) or 0) > 0

            wait_for(daemon, "lines that are lost", is_lost, 4 * PATIENCE_S)
            assert_goes_on(daemon, rancher, sink)
    finally:
        os.close(stderr)
        os.close(unread)


def test_state_folder_that_hangs(
    rancher: Rancher, apiserver: ApiServer, short_path: Path, sink: Sink, disk: Disk
) -> None:
    kubeconfig = apiserver.kubeconfig(short_path / "kubeconfig")
    config = EXPORTERS.format(url=sink.url("receiver"))
    environ = {**disk.environ, "STATE_DIRECTORY": str(disk.folder)}
    with ended_in_the_end(Daemon(short_path, kubeconfig, config, environ=environ)) as daemon:
        wait_for(daemon, "the start", daemon.ready, PATIENCE_S)
        assert_goes_on(daemon, rancher, sink)
        disk.hang()
        assert_goes_on(daemon, rancher, sink)


@pytest.mark.long
@pytest.mark.timeout(300)
def test_state_folder_that_hangs_from_the_start_keeps_collection_off(
    rancher: Rancher, apiserver: ApiServer, short_path: Path, sink: Sink, disk: Disk
) -> None:
    """It may hold an opt-out: until it can be read, nothing is sent."""
    kubeconfig = apiserver.kubeconfig(short_path / "kubeconfig")
    config = EXPORTERS.format(url=sink.url("receiver"))
    environ = {**disk.environ, "STATE_DIRECTORY": str(disk.folder)}
    memory = disk.folder / "restrictions.json"
    began_s, before = time.monotonic(), rancher.secret()
    disk.hang()
    with ended_in_the_end(Daemon(short_path, kubeconfig, config, environ=environ)) as daemon:
        wait_for(daemon, "the start", lambda: daemon.get("/livez")[0] == 200, PATIENCE_S)
        assert disk.has_kept(memory)
        said = assert_tells(daemon)
        assert "off" in said
        assert f"{memory}: can't be read within 5 s: check the disk" in said
        time.sleep(4 * INTERVAL_S)
        assert daemon.get("/status.json")[0] == 200
        assert (sink.posts(began_s), rancher.secret()) == ([], before)
        disk.recover()
        wait_for(daemon, "the end of the hang", daemon.ready, PATIENCE_S)
        assert_goes_on(daemon, rancher, sink)


@pytest.mark.long
@pytest.mark.timeout(300)
def test_state_folder_that_hangs_for_good_does_not_hold_up_the_end(
    rancher: Rancher, apiserver: ApiServer, short_path: Path, sink: Sink, disk: Disk
) -> None:
    kubeconfig = apiserver.kubeconfig(short_path / "kubeconfig")
    config = EXPORTERS.format(url=sink.url("receiver"))
    folder, memory = str(disk.folder), disk.folder / "restrictions.json"
    environ = {**disk.environ, "STATE_DIRECTORY": folder, "RUNTIME_DIRECTORY": folder}
    disk.hang()
    with ended_in_the_end(Daemon(short_path, kubeconfig, config, environ=environ)) as daemon:
        wait_for(daemon, "the start", lambda: daemon.get("/livez")[0] == 200, PATIENCE_S)
        time.sleep(2 * RETRY_S)
        hung, settled = disk.kept(memory), threads_of(daemon)
        assert hung
        time.sleep(2 * RETRY_S)
        assert disk.kept(memory) == hung, "no further read while one hangs"
        wait_for(daemon, "no more threads", lambda: threads_of(daemon) <= settled, PATIENCE_S)
        assert daemon.get("/livez")[0] == 200
        assert "no control socket" in daemon.whole_log()


@pytest.mark.long
@pytest.mark.timeout(300)
def test_configuration_file_that_hangs_rejects_reloads_within_their_deadline(
    rancher: Rancher, apiserver: ApiServer, short_path: Path, sink: Sink, disk: Disk
) -> None:
    kubeconfig = apiserver.kubeconfig(short_path / "kubeconfig")
    config = EXPORTERS.format(url=sink.url("receiver"))
    environ = {**disk.environ, "RUNTIME_DIRECTORY": str(short_path)}
    top_level = TOP_LEVEL + "reload_on_change = true\n"
    daemon = Daemon(disk.folder, kubeconfig, config, top_level, environ=environ)
    with ended_in_the_end(daemon):
        wait_for(daemon, "the start", daemon.ready, PATIENCE_S)
        disk.hang()

        def assert_rejected() -> None:
            rejected = run_ctl(daemon, short_path, "reload")
            assert rejected.returncode == 1, rejected.stdout
            assert "can't be read within 10 s: check its file system" in rejected.stderr

        assert_rejected()
        # The reload's read and that of the watch for changes.
        wait_for(daemon, "both", lambda: disk.kept(daemon.config_file) == BOTH, PATIENCE_S)
        settled = threads_of(daemon)
        assert_rejected()
        rejections = daemon.metric(REJECTED) or 0
        daemon.signal(signal.SIGHUP)
        again = "the end of the reload by a signal"
        wait_for(daemon, again, lambda: (daemon.metric(REJECTED) or 0) > rejections, PATIENCE_S)
        assert disk.kept(daemon.config_file) == BOTH, "no further read while one hangs"
        wait_for(daemon, "no more threads", lambda: threads_of(daemon) <= settled, PATIENCE_S)
        assert_goes_on(daemon, rancher, sink, short_path)
        disk.recover()
        reloaded = run_ctl(daemon, short_path, "reload")
        assert reloaded.returncode == 0, reloaded.stderr
        disk.hang()
        daemon.signal(signal.SIGHUP)
        wait_for(daemon, "a read", lambda: disk.has_kept(daemon.config_file), PATIENCE_S)


def threads_of(daemon: Daemon) -> int:
    """How many threads the process has now; those that are idle end after some seconds."""
    return len(list(Path(f"/proc/{daemon.process.pid}/task").iterdir()))


@pytest.mark.long
@pytest.mark.timeout(600)
def test_token_file_and_ca_that_hang(
    rancher: Rancher, apiserver: ApiServer, short_path: Path, sink: Sink, disk: Disk
) -> None:
    token, ca = disk.folder / "token", disk.folder / "ca.crt"
    token.write_text(apiserver.admin_token)
    kubeconfig = apiserver.kubeconfig(short_path / "kubeconfig")
    proxy = FaultProxy(apiserver.url, apiserver.ca_file, short_path)
    shutil.copy(proxy.ca, ca)
    document = json.loads(kubeconfig.read_text())
    document["users"][0]["user"] = {"tokenFile": str(token)}
    config = EXPORTERS.format(url=sink.url("receiver"))
    with proxy.running() as line:
        cluster = {**line.cluster(), "certificate-authority": str(ca)}
        document["clusters"][0]["cluster"] = cluster
        kubeconfig.write_text(json.dumps(document))
        daemon = Daemon(short_path, kubeconfig, config, environ=disk.environ)
        with ended_in_the_end(daemon):
            wait_for(daemon, "the start", daemon.ready, PATIENCE_S)
            assert_goes_on(daemon, rancher, sink)
            disk.hang()
            for path in (token, ca):
                wait_for(daemon, f"a look at {path}", partial(disk.has_kept, path), REREAD_S)
            for kept in ("the last good token stays", "keeping the old ones"):
                wait_for(daemon, kept, lambda: kept in daemon.log(), REREAD_S)  # noqa: B023
            line.cut()  # what comes now needs new connections, made with the old CA
            assert_goes_on(daemon, rancher, sink)


SECURE = """
[[exporters]]
name = "secure"
type = "http"
url = "{url}/receiver"
ca_file = "{ca_file}"
interval = "2s"
timeout = "1s"
retry_base = "100ms"
retry_budget = "2s"
"""


@pytest.mark.long
@pytest.mark.parametrize("from_the_start", [True, False])
def test_ca_file_of_an_exporter_that_hangs(
    rancher: Rancher,
    apiserver: ApiServer,
    short_path: Path,
    sink: Sink,
    disk: Disk,
    *,
    from_the_start: bool,
) -> None:
    ca = disk.folder / "ca.crt"
    shutil.copy(apiserver.ca_file, ca)
    kubeconfig = apiserver.kubeconfig(short_path / "kubeconfig")
    config = EXPORTERS.format(url=sink.url("receiver"))
    config += SECURE.format(url=apiserver.url, ca_file=ca)
    if from_the_start:
        disk.hang()
    with ended_in_the_end(Daemon(short_path, kubeconfig, config, environ=disk.environ)) as daemon:
        wait_for(daemon, "the start", daemon.ready, PATIENCE_S)

        def failed(reason: str) -> Callable[[], bool]:
            return lambda: daemon.exporter("secure")["last_error_reason"] == reason

        # There is nothing at the other end that takes payloads, but its certificate is trusted.
        if not from_the_start:
            wait_for(daemon, "an answer", failed("auth"), PATIENCE_S)
            disk.hang()
        assert_goes_on(daemon, rancher, sink)
        wait_for(daemon, "an attempt that fails", failed("timeout"), PATIENCE_S)
        assert_goes_on(daemon, rancher, sink)
        if from_the_start:
            disk.recover()
            wait_for(daemon, "an answer", failed("auth"), PATIENCE_S)
