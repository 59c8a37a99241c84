"""Any files in the spool: what is good is delivered, and what isn't is put aside."""

import json
import logging
import os
import shutil
import socket
import tempfile
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from random import Random
from typing import Any, Final

import anyio
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule
from hypothesis.stateful import run_state_machine_as_test as run_machine

from telemetryd.config import Config, HttpExporterConfig
from telemetryd.daemon.exporters import build_http
from telemetryd.daemon.spoolcommands import export_spool, read_spool, render_table
from telemetryd.export.engine.manager import ExporterManager
from telemetryd.export.outbox.spool import MAX_SEQUENCE, PendingPayload, SpoolFolder
from telemetryd.model import Delivery, ExporterState, Payload
from tests.export.doubles import INSTALL_UUID, Source, running, spec
from tests.fuzz.budget import budget, fuzzing, patient
from tests.support.receiver import receiving
from tests.support.waiting import until_async

pytestmark = [patient, fuzzing]

MACHINES = 12
STEPS = 8
SPOILT, GOOD = "spoilt", "good"
NOW_S = 1_790_000_000.0
EPOCH = 2
LONGEST_MESSAGE = 1000

LABEL: Final[dict[str, Any]] = {
    "installation_id": INSTALL_UUID,
    "destination": "there",
    "sequence": 7,
    "epoch": 2,
    "collected_at": NOW_S,
    "digest": "digest-1",
    "content_type": "application/json",
    "revision": 3,
    "exporter": SPOILT,
    "format": "scc",
    "omitted": [],
}
NOTE: Final[dict[str, Any]] = {
    "installation_id": INSTALL_UUID,
    "destination": "there",
    "sequence": 7,
    "epoch": 2,
    "digest": "ab",
    "at": NOW_S,
    "exporter": SPOILT,
}
_ODD: st.SearchStrategy[Any] = st.sampled_from([
    None, True, -1, 0, 1, MAX_SEQUENCE, MAX_SEQUENCE - 1, 2**63, 2**31, 2**70, 1e308, -1e308, 1.5,
    1e18, "", "x", "a\r\nX-Evil: b", "\0", "\ud7ff", "\U0001f600", "../..", "x" * 5000, [],
    ["server_url"], ["server_url", "cluster_ids"], [1], {}, "fleet", "scc", SPOILT, GOOD,
    "application/json",
])  # fmt: skip
FILES = st.sampled_from([
    "pending", "state", "pending.corrupt", "state.corrupt", "pending.corrupt.2", ".pending.tmp",
    ".state.tmp", "pending~", "core", "\udcff", "\u00fc", "-rf", "a\nb",
])  # fmt: skip
FOLDERS = st.sampled_from([
    ".hidden", "%", "%00", "%2", "%ff", "%2F", "..%2F..", "a b", "\udcfe", "x" * 60, "spoilt ",
    "\n",
])  # fmt: skip
KINDS = st.sampled_from(
    ["folder", "full folder", "dangling", "loop", "link", "fifo", "socket", "big"]
)


def framed(content: bytes, version: int = 1) -> bytes:
    """Content under a right checksum."""
    return b"telemetryd-spool %d %b\n%b" % (version, sha256(content).hexdigest().encode(), content)


def payload(body: bytes, sequence: int) -> PendingPayload:
    """Of the fleet as it is, so that no newer one takes its place."""
    return PendingPayload(
        payload=Payload(
            body=body,
            content_type="application/json",
            digest="digest-1",
            revision=3,
            schema_valid=True,
            schema_error="",
        ),
        delivery=Delivery(at=NOW_S, sequence=sequence, epoch=EPOCH),
        installation_id=INSTALL_UUID,
        destination="there",
    )


SAID = ("spooled file is damaged", "spooled file of a later version")
"""How errors about files that this version can't read begin."""


class Heard(logging.Handler):
    """What the daemon would have logged."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)

    def judge(self) -> None:
        for record in self.records:
            assert record.exc_info is None, record.getMessage()
            assert len(record.getMessage()) <= LONGEST_MESSAGE
            if record.levelno >= logging.ERROR:
                assert record.getMessage().startswith(SAID), record.getMessage()
        self.records.clear()


def put(path: Path, kind: str) -> None:
    """Something else than a file, in the place of one."""
    remove(path)
    match kind:
        case "folder":
            path.mkdir()
        case "full folder":
            path.mkdir()
            (path / "file").touch()
        case "dangling":
            path.symlink_to("/nonexistent/file")
        case "loop":
            path.symlink_to(path.name)
        case "link":
            path.symlink_to("/proc/self/environ")
        case "fifo":
            os.mkfifo(path)
        case "socket":
            with socket.socket(socket.AF_UNIX) as bound:
                bound.bind(str(path))
        case _:
            path.touch()
            os.truncate(path, 2**40)


def remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


class Spool(RuleBasedStateMachine):
    """A spool folder that somebody spoils between the starts of a daemon with two exporters."""

    def __init__(self) -> None:
        super().__init__()
        self.root = Path(tempfile.mkdtemp(prefix="td-", dir="/tmp"))
        self.spool = self.root / "spool"
        self.folder = SpoolFolder(str(self.spool), SPOILT).path
        self.folder.mkdir(parents=True)
        self.good: bytes | None = None
        self.heard = Heard()
        log = logging.getLogger("telemetryd")
        log.addHandler(self.heard)
        log.setLevel(logging.DEBUG)

    def teardown(self) -> None:
        try:
            self.start()
        finally:
            logging.getLogger("telemetryd").removeHandler(self.heard)
            shutil.rmtree(self.root)

    # -- what may happen to files

    @rule(
        name=FILES, content=st.binary(max_size=200), whole=st.booleans(), version=st.integers(0, 3)
    )
    def write(self, name: str, content: bytes, whole: bool, version: int) -> None:
        """Bytes that are not ours."""
        remove(self.folder / name)
        (self.folder / name).write_bytes(framed(content, version) if whole else content)

    @rule(changes=st.dictionaries(st.sampled_from([*LABEL, "more"]), _ODD, max_size=3),
          body=st.binary(max_size=50) | st.just(b'{"schema_version":1}'))  # fmt: skip
    def label(self, changes: dict[str, Any], body: bytes) -> None:
        """A pending payload of another version, whose checksum is right."""
        remove(self.folder / "pending")
        label = json.dumps({**LABEL, **changes}).encode()
        (self.folder / "pending").write_bytes(framed(label + b"\n" + body))

    @rule(changes=st.dictionaries(st.sampled_from([*NOTE, "more"]), _ODD, max_size=3))
    def note(self, changes: dict[str, Any]) -> None:
        """A note of a delivery, whose checksum is right."""
        remove(self.folder / "state")
        (self.folder / "state").write_bytes(framed(json.dumps({**NOTE, **changes}).encode()))

    @rule(name=st.sampled_from(["pending", "state"]), place=st.floats(0, 1, exclude_max=True),
          flip=st.integers(0, 255), cut=st.booleans())  # fmt: skip
    def spoil(self, name: str, place: float, flip: int, cut: bool) -> None:
        """One byte of a file, or its end."""
        path = self.folder / name
        if path.is_symlink() or not path.is_file() or path.stat().st_size > 2**20:
            return
        content = bytearray(path.read_bytes())
        if content:
            content[int(place * len(content))] ^= flip
            path.write_bytes(content[: int(place * len(content))] if cut else content)

    @rule(name=FILES.filter(lambda name: not name.endswith(".tmp")), kind=KINDS)
    def replace(self, name: str, kind: str) -> None:
        put(self.folder / name, kind)

    @rule(name=FOLDERS, kind=KINDS | st.just("file"))
    def litter(self, name: str, kind: str) -> None:
        """Something beside the folders of the exporters."""
        put(self.spool / name, kind)

    @precondition(lambda self: self.good is None)
    @rule(body=st.binary(min_size=1, max_size=100))
    def keep(self, body: bytes) -> None:
        """A good payload, which an earlier daemon could not deliver."""
        folder = SpoolFolder(str(self.spool), GOOD)
        last = folder.peek().delivered
        self.good = b'{"good":"' + body.hex().encode() + b'"}'
        folder.store(payload(self.good, last.sequence + 1 if last else 1))

    # -- what must come of it

    @rule()
    def look(self) -> None:
        """By hand, beside the daemon: what is good is listed and copied, and nothing is changed."""
        config = Config(state_dir=str(self.root))
        before = sorted(self.folder.iterdir())
        found = read_spool(config)
        assert all(line.isprintable() for line in render_table(found).split("\n"))
        copies = self.root / "copies"
        entries = export_spool(found, copies, [])
        assert self.good is None or GOOD in {each.exporter for each in entries}
        shutil.rmtree(copies, ignore_errors=True)
        assert sorted(self.folder.iterdir()) == before

    @rule()
    def start(self) -> None:
        """A daemon, until both exporters have delivered."""
        bodies = anyio.run(self._serve)
        if self.good is not None:
            assert self.good in bodies
            self.good = None
        for name in (SPOILT, GOOD):
            contents = SpoolFolder(str(self.spool), name).peek()
            assert contents.pending is None
            assert contents.damaged == ()
            assert contents.delivered is not None
        self.heard.judge()

    async def _serve(self) -> list[bytes]:
        async with receiving() as receiver:
            manager = ExporterManager(
                Source(),
                now=lambda: NOW_S,
                rng=Random(7),
                epoch=lambda: EPOCH,
                drain_timeout_s=5.0,
                spool_dir=str(self.spool),
                require_leading=lambda: None,
                saw_epoch=lambda _epoch: None,
                omitted=frozenset,
            )
            for name in (SPOILT, GOOD):
                config = HttpExporterConfig(name=name, url=receiver.url, compress=False)
                manager.register(
                    spec(name, verifies_destination=False, destination="there", spooled=True),
                    build_http(config, now=lambda: NOW_S, environ={}),
                )
            async with running(manager):
                await until_async(lambda: all(map(_is_over(manager), (SPOILT, GOOD))))
                for name in (SPOILT, GOOD):
                    status = manager.status(name)
                    assert status.state is ExporterState.IDLE, status.last_error
        return [request.body for request in receiver.requests]


def _is_over(manager: ExporterManager) -> Callable[[str], bool]:
    over = {ExporterState.IDLE, ExporterState.FAILED}

    def judge(name: str) -> bool:
        status = manager.status(name)
        return status.last_attempt_at is not None and status.state in over

    return judge


def test_any_files_in_the_spool_keep_nothing_good_from_being_delivered() -> None:
    run_machine(Spool, settings=budget(MACHINES, stateful_step_count=STEPS))
