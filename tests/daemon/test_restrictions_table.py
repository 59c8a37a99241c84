"""Whatever happens to the configuration file: nothing is sent that was not sent before.

Every kind of restriction, every damage, every way by which a daemon comes to read the file again,
all with real processes. By default one kind meets some of the damages; by `make test-long` each
damage meets each kind at one reload by hand, and one kind in the slow ways; `make faults` runs the
whole product. What the files permit is tested in ``test_restrictions``, for all of them.
"""

import shutil
import signal
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from tests.daemon.damage import (
    DAMAGES,
    Fields,
    HttpReceiver,
    Process,
    Receivers,
    cuts_of,
    is_broken,
    restore,
    with_own_etc,
)
from tests.support.embedded import FleetServer, serve_fleet
from tests.support.processes import said

SELDOM = 'interval = "20s"\n'
SCC = f'[[exporters]]\nname = "scc"\ntype = "secret"\n{SELDOM}'
WEB = (
    f'[[exporters]]\nname = "web"\ntype = "http"\nurl = "URL/web"\nsplay_max = "0s"\n{SELDOM}'
    'format = "fleet"\n'
)
OTHER = f'[[exporters]]\nname = "other"\ntype = "secret"\n{SELDOM}'
KINDS = {
    "enabled": f"enabled = false\n{SCC}{WEB}",
    "server_url": f'{SCC}{WEB}[privacy]\nserver_url = "omit"\n',
    "cluster_ids": f'[privacy]\ncluster_ids = "omit"\n{SCC}{WEB}',
    "scc off": f"{WEB}{SCC}enabled = false\n",
    "web off": f"{SCC}{WEB}enabled = false\n",
    "no scc": f'{OTHER}format = "fleet"\nsecret = "other"\n{WEB}',
    "other at the end": f'{WEB}{OTHER}secret = "other"\nformat = "fleet"\n',
    "scc elsewhere": WEB.replace('"web"', '"scc"'),
}
EXAMPLE = "server_url"
WAYS = ("option", "variable", "system")
pytestmark = pytest.mark.timeout(900)

SYSTEM_FILE = "/etc/telemetryd/config.toml"


@dataclass
class Bench:
    """A file with a restriction, and what is sent under it.

    Attributes:
        before: Fields that each destination gets while the file is whole.
        digest: Of the configuration that is in force then.
        kept: A state folder that remembers it.
    """

    folder: Path
    content: bytes
    receivers: Receivers
    before: dict[str, Fields]
    digest: str = ""

    @property
    def file(self) -> Path:
        return self.folder / "etc" / "telemetryd" / "config.toml"

    @property
    def kept(self) -> Path:
        return self.folder / "kept"

    def damages(self) -> dict[str, Any]:
        return DAMAGES | cuts_of(self.content)

    def start(self, name: str, arguments: Sequence[str] = (), **options: Any) -> Process:
        """A daemon that remembers what one with the whole file did."""
        folder = self.folder / name
        shutil.rmtree(folder, ignore_errors=True)
        if self.kept.exists():
            shutil.copytree(self.kept, folder, ignore=shutil.ignore_patterns("*.sock"))
        return Process(folder, self.receivers.fleet.kubeconfig, arguments, **options)

    def start_whole(self, name: str) -> Process:
        """A daemon under the whole file, once it has sent whatever it sends."""
        restore(self.file, self.content)
        process = self.start(name, ["--config", str(self.file)])
        assert process.starts_or_ends() is None, process.log()
        for _ in range(2):
            process.settle()
        return process

    def assert_no_more(self, damage: str) -> None:
        """No destination got a field that it did not get under the whole file."""
        more = {
            where: sorted(fields - self.before.get(where, frozenset()))
            for where, fields in self.receivers.fields().items()
        }
        assert {where: fields for where, fields in more.items() if fields} == {}, damage


def errors_in(lines: list[dict[str, Any]]) -> list[str]:
    return [said(line) for line in lines if line["level"] not in {"info", "debug", "warning"}]


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FleetServer]:
    with serve_fleet(tmp_path_factory.mktemp("fleet"), clusters=2, nodes=2) as fleet:
        yield fleet


def make_bench(folder: Path, fleet: FleetServer, http: HttpReceiver, text: str) -> Bench:
    """Runs a daemon under the whole file once, and keeps its state."""
    receivers = Receivers(fleet, http)
    receivers.forget()
    bench = Bench(folder, text.replace("URL", http.url).encode(), receivers, {})
    bench.file.parent.mkdir(parents=True)
    process = bench.start_whole("first")
    try:
        bench.digest = process.status()["config"]["hash"]
    finally:
        assert process.stop() == 0, process.log()
    bench.before = receivers.fields()
    (folder / "first").rename(bench.kept)
    return bench


@pytest.fixture(
    params=[pytest.param(kind, marks=() if kind == EXAMPLE else pytest.mark.long) for kind in KINDS]
)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def http() -> Iterator[HttpReceiver]:
    with HttpReceiver().running() as http:
        yield http


@pytest.fixture(scope="module")
def made() -> dict[str, Bench]:
    """What the tests of a kind begin with."""
    return {}


@pytest.fixture
def bench(
    tmp_path_factory: pytest.TempPathFactory,
    fleet: FleetServer,
    http: HttpReceiver,
    made: dict[str, Bench],
    kind: str,
) -> Bench:
    if kind not in made:
        made[kind] = make_bench(tmp_path_factory.mktemp("bench"), fleet, http, KINDS[kind])
    bench = replace(made[kind])
    bench.receivers.forget()
    restore(bench.file, bench.content)
    return bench


def reload(process: Process, trigger: str) -> list[dict[str, Any]]:
    """What the log says of one reload."""
    since = len(process.lines())

    def seen() -> list[dict[str, Any]]:
        lines = process.lines(since=since)
        logged = [said(each) for each in lines]
        done = tuple(f"config {what} trigger={trigger} " for what in ("rejected", "reloaded"))
        return lines if any(each.startswith(done) for each in logged) else []

    match trigger:
        case "signal":
            process.process.send_signal(signal.SIGHUP)
        case "control":
            process.ask("reload")
    found: list[dict[str, Any]] = process.until(f"a reload by {trigger}", seen, may_end=False)
    return found


def check_reloads(bench: Bench, process: Process, trigger: str, damages: Sequence[str]) -> None:
    """Damages the file, reloads, and puts it back, once for each damage."""
    for damage in damages:
        bench.damages()[damage](bench.file, bench.content)
        errors = errors_in(reload(process, trigger))
        if is_broken(damage, bench.content) or errors:
            (error,) = errors
            assert str(bench.file) in error, damage
            assert process.status()["config"]["hash"] == bench.digest, damage
        else:
            process.settle()
        bench.assert_no_more(damage)
        restore(bench.file, bench.content)
        assert errors_in(reload(process, trigger)) == [], damage
        assert process.status()["config"]["hash"] == bench.digest, damage
    process.settle()
    bench.assert_no_more("at the end")


def check_restarts(bench: Bench, way: str, damages: Sequence[str]) -> None:
    """Starts a daemon on the damaged file, once for each damage."""
    ways: dict[str, dict[str, Any]] = {
        "option": {"arguments": ["--config", str(bench.file)]},
        "variable": {"environ": {"TELEMETRYD_CONFIG": str(bench.file)}},
        "system": {"under": with_own_etc(bench.folder / "etc")},
    }
    file = SYSTEM_FILE if way == "system" else str(bench.file)
    for damage in damages:
        restore(bench.file, bench.content)
        bench.damages()[damage](bench.file, bench.content)
        process = bench.start("again", **ways[way])
        try:
            ended = process.starts_or_ends()
            if ended is not None:
                assert ended == 78, process.log()
                logged = process.log().splitlines()  # a line for each thing that is wrong with it
                assert logged, damage
                assert all(each.startswith(f"{file}:") for each in logged), logged
            else:
                gone = damage in {"removed", "renamed"} and way == "system"
                assert gone or not is_broken(damage, bench.content), damage
                process.settle()
        finally:
            status = process.stop()
        assert status in {0, 78}, process.log()
        bench.assert_no_more(damage)


def reload_by_hand(bench: Bench, damages: dict[str, Sequence[str]]) -> None:
    process = bench.start_whole("daemon")
    try:
        for trigger, chosen in damages.items():
            check_reloads(bench, process, trigger, chosen)
    finally:
        assert process.stop() == 0, process.log()


def watch_file(bench: Bench, damages: Sequence[str]) -> None:
    bench.content = b"reload_on_change = true\n" + bench.content
    process = bench.start_whole("daemon")
    try:
        bench.digest = process.status()["config"]["hash"]
        cuts = bench.damages()
        check_reloads(bench, process, "file", [each for each in damages if each in cuts])
    finally:
        assert process.stop() == 0, process.log()


def own_part(bench: Bench, kind: str) -> list[str]:
    """The damages that this kind meets by default; together the kinds meet all of them."""
    damages = list(bench.damages())
    return damages[list(KINDS).index(kind) :: len(KINDS)]


@pytest.mark.parametrize("kind", [EXAMPLE])
def test_damaged_file_permits_nothing_at_a_reload(bench: Bench, kind: str) -> None:
    damages = own_part(bench, kind)
    reload_by_hand(bench, {"signal": damages[::2], "control": damages[1::2]})


@pytest.mark.long
def test_damaged_file_permits_nothing_at_a_reload_by_hand(bench: Bench) -> None:
    damages = list(bench.damages())
    reload_by_hand(bench, {"signal": damages[::2], "control": damages[1::2]})


@pytest.mark.long
def test_damaged_file_permits_nothing_where_changes_are_noticed(bench: Bench, kind: str) -> None:
    watch_file(bench, own_part(bench, kind))


def test_damaged_file_permits_nothing_at_a_restart(bench: Bench, kind: str) -> None:
    for number, damage in enumerate(own_part(bench, kind)):
        check_restarts(bench, WAYS[(number + list(KINDS).index(kind)) % len(WAYS)], [damage])


@pytest.mark.faults
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("trigger", ["signal", "control", "file"])
def test_every_damage_permits_nothing_at_any_reload(bench: Bench, trigger: str) -> None:
    damages = list(bench.damages())
    if trigger == "file":
        watch_file(bench, damages)
    else:
        reload_by_hand(bench, {trigger: damages})


@pytest.mark.faults
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("way", WAYS)
def test_every_damage_permits_nothing_at_any_restart(bench: Bench, way: str) -> None:
    check_restarts(bench, way, list(bench.damages()))
