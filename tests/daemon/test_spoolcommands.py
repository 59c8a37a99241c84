"""`telemetryd spool`, beside the files that a daemon leaves."""

import json
import logging
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import anyio.to_thread
import pytest

from telemetryd.cli import run_command
from telemetryd.daemon.signals import EarlySignals
from telemetryd.export.outbox.spool import SpoolFolder
from telemetryd.logs import OWN_LOGGER
from tests.export.outbox.test_spool import DELIVERED, pending_payload
from tests.support import starter
from tests.support.receiver import receiving, status

pytestmark = pytest.mark.anyio

BODY = b'{"a":1}'


@dataclass
class Bench:
    """A configuration with an http exporter, and its spool."""

    folder: Path
    output: pytest.CaptureFixture[bytes]
    url: str = "http://127.0.0.1:1/"
    top_level: str = ""
    privacy: str = ""
    exporter: str = ""

    def keep(self, exporter: str, sequence: int) -> Path:
        spool = SpoolFolder(str(self.folder / "state" / "spool"), exporter)
        spool.store(pending_payload(BODY, sequence))
        return spool.path / "pending"

    def configure(self) -> str:
        config = self.folder / "config.toml"
        config.write_text(
            f'{self.top_level}state_dir = "{self.folder}/state"\n{self.privacy}'
            f'[[exporters]]\nname = "receiver"\ntype = "http"\nurl = "{self.url}"\n'
            f"{self.exporter}"
        )
        return str(config)

    async def spool(self, command: str, *rest: str) -> "subprocess.CompletedProcess[bytes]":
        """Run one command to its end, in a thread: it has an event loop of its own."""
        arguments = ["spool", command, "--config", self.configure(), *rest]
        status = await anyio.to_thread.run_sync(run_command, arguments, EarlySignals())
        output, errors = self.output.readouterr()
        return subprocess.CompletedProcess(arguments, status, output, errors)


@pytest.fixture
def bench(tmp_path: Path, capsysbinary: pytest.CaptureFixture[bytes]) -> Iterator[Bench]:
    root, own = logging.getLogger(), logging.getLogger(OWN_LOGGER)
    handlers, levels = list(root.handlers), (root.level, own.level)
    yield Bench(tmp_path, capsysbinary)
    root.handlers[:] = handlers
    root.setLevel(levels[0])
    own.setLevel(levels[1])


async def test_list_shows_what_waits_and_what_cannot_be_read(bench: Bench) -> None:
    assert (await bench.spool("list")).stdout == b""
    bench.keep("receiver", 1_790_000_000_123)
    broken = bench.keep("broken", 5)
    broken.write_bytes(b"x")
    done = await bench.spool("list")
    assert done.returncode == 0
    assert [line.split() for line in done.stdout.decode().splitlines()] == [
        ["EXPORTER", "SEQUENCE", "COLLECTED", "BYTES", "DIGEST", "CORRUPT"],
        ["broken", "-", "-", "-", "-", "1"],
        ["receiver", "1790000000123", "2026-09-21T14:13:20Z", "7", "ab", "0"],
    ]
    documents = json.loads((await bench.spool("list", "--json")).stdout)
    assert documents[1] == {
        "exporter": "receiver",
        "corrupt_files": 0,
        "sequence": 1_790_000_000_123,
        "epoch": 2,
        "collected_at": "2026-09-21T14:13:20Z",
        "bytes": 7,
        "content_type": "application/json",
        "digest": "ab",
    }
    assert broken.read_bytes() == b"x"


async def test_payload_that_is_delivered_is_not_listed(bench: Bench) -> None:
    """A crash came between the note of the delivery and the removal of the payload."""
    path = bench.keep("receiver", 7)
    left = path.read_bytes()
    SpoolFolder(str(path.parent.parent), "receiver").settle(DELIVERED)
    path.write_bytes(left)
    assert (await bench.spool("list")).stdout == b""
    bench.keep("receiver", 8)
    assert b" 8 " in (await bench.spool("list")).stdout


async def test_payload_made_under_weaker_privacy_is_neither_listed_nor_copied_nor_sent(
    bench: Bench,
) -> None:
    bench.keep("receiver", 7)
    out = bench.folder / "out"
    assert (await bench.spool("export", str(out))).returncode == 0
    bench.privacy = '[privacy]\nserver_url = "omit"\n'
    assert (await bench.spool("list")).stdout == b""
    refused = await bench.spool("export", str(bench.folder / "again"), "receiver")
    assert refused.returncode == 1
    async with receiving() as receiver:
        bench.url = receiver.url
        done = await bench.spool("replay", str(out))
    assert done.returncode == 1
    assert b'made without [privacy] server_url = "omit": it is not sent' in done.stderr
    assert receiver.requests == []


@pytest.mark.parametrize("off", ["collection", "exporter"])
async def test_replay_sends_nothing_while_it_is_off(bench: Bench, off: str) -> None:
    bench.keep("receiver", 7)
    out = bench.folder / "out"
    assert (await bench.spool("export", str(out))).returncode == 0
    if off == "collection":
        bench.top_level = "enabled = false\n"
    else:
        bench.exporter = "enabled = false\n"
    async with receiving() as receiver:
        bench.url = receiver.url
        done = await bench.spool("replay", str(out))
    assert done.returncode == 1
    said = (
        b"switched off by enabled = false" if off == "collection" else b"is off (enabled = false)"
    )
    assert said in done.stderr
    assert receiver.requests == []


@pytest.mark.parametrize(
    ("key", "said"),
    [
        ("enabled", "collection is switched off by a remembered opt-out"),
        ("telemetry-opt", "collection is switched off by a remembered opt-out"),
        ("exporters.receiver.enabled", "exporter 'receiver' is off"),
        ("privacy.cluster_ids", 'made without [privacy] cluster_ids = "omit": it is not sent'),
        ("$DO_NOT_TRACK", "collection is switched off by $DO_NOT_TRACK"),
        ("damaged", "restrictions.json: is damaged"),
    ],
)
async def test_replay_sends_nothing_that_is_forbidden_here_though_the_file_does_not_say_so(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, key: str, said: str
) -> None:
    bench.keep("receiver", 7)
    out = bench.folder / "out"
    assert (await bench.spool("export", str(out))).returncode == 0
    if key.startswith("$"):
        monkeypatch.setenv(key.removeprefix("$"), "1")
    else:
        entry = {"source": "file", "key": key, "where": "/etc/c.toml", "since": 1.0}
        document = {"version": 1, "restrictions": [] if key == "damaged" else [entry]}
        text = json.dumps(document)[: 9 if key == "damaged" else None]
        (bench.folder / "state" / "restrictions.json").write_text(text)
    async with receiving() as receiver:
        bench.url = receiver.url
        done = await bench.spool("replay", str(out))
    assert done.returncode == 1
    assert said in done.stderr.decode()
    assert receiver.requests == []
    listed = await bench.spool("list")
    shown = key not in {"privacy.cluster_ids", "damaged"}
    assert (b"receiver" in listed.stdout) == shown, "what must not leave is not shown either"


async def test_exported_payloads_are_replayed_as_they_would_have_been_sent(bench: Bench) -> None:
    bench.keep("receiver", 7)
    out = bench.folder / "usb" / "out"
    done = await bench.spool("export", str(out))
    assert (done.returncode, done.stdout) == (0, b"receiver-7.json 7\n")
    assert (out / "receiver-7.json").read_bytes() == BODY
    assert {path.name for path in out.iterdir()} == {"receiver-7.json", "manifest.json"}
    async with receiving() as receiver:
        bench.url = receiver.url
        done = await bench.spool("replay", str(out))
        assert (done.returncode, done.stdout, done.stderr) == (
            0,
            b"receiver-7.json delivered\n",
            b"",
        )
        again = await bench.spool("replay", str(out / "manifest.json"))
        assert again.returncode == 0
    assert [request.body for request in receiver.requests] == [BODY, BODY]
    assert {request.key for request in receiver.requests} == {"8d6f8b1e:7"}
    assert receiver.requests[0].headers["telemetryd-epoch"] == "2"
    assert receiver.requests[0].headers["telemetryd-collected-at"] == "2026-09-21T14:13:20Z"
    spool = SpoolFolder(str(bench.folder / "state" / "spool"), "receiver")
    assert spool.peek().pending is not None, "the daemon's files are only read"


async def test_replay_tells_what_was_refused_and_sends_the_rest(bench: Bench) -> None:
    bench.keep("receiver", 7)
    bench.keep("other", 8)
    out = bench.folder / "out"
    await bench.spool("export", str(out))
    async with receiving(status(400)) as receiver:
        bench.url = receiver.url
        refused = await bench.spool("replay", str(out))
        assert refused.returncode == 1
        assert b"no exporter 'other' of type http is configured" in refused.stderr
        assert receiver.requests == []
        done = await bench.spool("replay", str(out), "--exporter", "receiver")
    assert done.returncode == 1
    assert done.stdout == b"other-8.json delivered\n"
    assert done.stderr.startswith(b"telemetryd: receiver-7.json: the receiver answers 400")
    assert [request.sequence for request in receiver.requests] == [7, 8]


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        ("alter", "receiver-7.json isn't what was exported"),
        ("remove", "receiver-7.json can't be read: No such file"),
        ("escape", "names a file outside of its folder"),
        ("garbage", "isn't a manifest"),
        ("version", "has format 2, of a later telemetryd"),
    ],
)
async def test_export_that_was_spoilt_is_refused_before_anything_is_sent(
    bench: Bench, spoil: str, said: str
) -> None:
    bench.keep("receiver", 7)
    out = bench.folder / "out"
    await bench.spool("export", str(out))
    manifest, payload = out / "manifest.json", out / "receiver-7.json"
    text = manifest.read_text()
    match spoil:
        case "alter":
            payload.write_bytes(b'{"a":2}')
        case "remove":
            payload.unlink()
        case "escape":
            manifest.write_text(text.replace("receiver-7.json", "../secret"))
        case "garbage":
            manifest.write_text(text[:-9])
        case _:
            manifest.write_text(text.replace('"telemetryd_spool": 1', '"telemetryd_spool": 2'))
    done = await bench.spool("replay", str(out))
    assert done.returncode == 1
    assert said in done.stderr.decode()


async def test_export_never_touches_another_export_and_names_what_has_nothing(
    bench: Bench,
) -> None:
    bench.keep("receiver", 7)
    out = bench.folder / "out"
    nothing = await bench.spool("export", str(out), "receiver", "other")
    assert nothing.returncode == 1
    assert b"no pending payload of exporter other" in nothing.stderr
    assert not out.exists()
    assert (await bench.spool("export", str(out), "receiver")).returncode == 0
    second = await bench.spool("export", str(out))
    assert second.returncode == 1
    assert b"holds an export already" in second.stderr


async def test_spool_that_cannot_be_read_and_a_bad_configuration_have_their_exit_status(
    bench: Bench,
) -> None:
    (bench.folder / "state").mkdir()
    (bench.folder / "state" / "spool").write_text("a file")
    done = await bench.spool("list")
    assert done.returncode == 1
    assert b"can't be read: Not a directory" in done.stderr
    bench.url = "nonsense"
    assert (await bench.spool("list")).returncode == 78


def test_wrong_usage_has_its_exit_status() -> None:
    assert starter.run("spool", "export").returncode == 64
