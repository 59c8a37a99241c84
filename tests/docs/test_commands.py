"""Every command of the documentation is run on a clean machine, and does what the page shows.

Each page has a machine of its own, on which its commands are run in their order. A page that
doesn't install telemetryd itself is for a reader who has it installed, and running where a command
asks the daemon or its pod. The few commands that can't be run here are in `NOT_RUN`.
"""

import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import pytest

from telemetryd.cli.arguments import build_parser
from telemetryd.config import parse_config
from tests.docs.cluster import demo_cluster, leave_out, real_cluster, uses_real
from tests.docs.commands import Command, commands_of, missing_output
from tests.docs.kubelet import Kubelet
from tests.docs.machine import TREE, Machine
from tests.docs.markdown import ROOT, pages
from tests.docs.notrun import NOT_RUN

QUICK = frozenset(
    {
        "docs/commands.md",
        "docs/configuration.md",
        "docs/troubleshooting.md",
    }
)
"""Pages whose commands are run by default; those of all others with the long tests."""

DAEMON = "telemetryd run"
_PORT = 10464
_SERVER = "https://10.0.0.1:6443"
_DEMO = "/tmp/telemetryd-demo-x1y2z3"
_INSTALLS = re.compile(r"^[$#] (pip|\S+/pip) install .*\.$", re.MULTILINE)
_INSTALLS_IN_CLUSTER = re.compile(r"^[$#] (helm (upgrade --)?install|kubectl apply) ", re.MULTILINE)
_ASKS_THE_DAEMON = re.compile(
    rf"telemetryd (ctl|healthcheck|spool list|support-bundle)\b|curl .*:{_PORT}\b"
    r"|/var/lib/telemetryd\b|telemetryd (report|history)\b(?!.*--(config|set))"
)
_READS_THE_HISTORY = re.compile(r"telemetryd (report|history)\b")
_FOREGROUND = re.compile(
    r"(?P<run>telemetryd (?:.* )?run\b.*)|(?P<demo>telemetryd demo(?!.*--duration).*)"
    r"|(?P<receiver>python3 receiver\.py)|(?P<forward>kubectl .*port-forward .*)"
)
_FOR_THE_POD = re.compile(r"kubectl .*\b(exec|logs|rollout|port-forward)\b")
_LOOKED = re.compile(r"^telemetryd_history_samples_total [1-9]", re.MULTILINE)
_ENDED = re.compile(
    r"^telemetryd_exporter_last_(?:success|failure)_timestamp_seconds\{", re.MULTILINE
)


@cache
def commands(page: str) -> tuple[Command, ...]:
    return tuple(commands_of(page, (ROOT / page).read_text()))


def without_remark(command: Command) -> str:
    """The text as a shell takes it."""
    return re.sub(r"\s+#\s.*$", "", command.text) if "\n" not in command.text else command.text


class Reader:
    """Does what a page says."""

    def __init__(self, machine: Machine, server: str, kubelet: Kubelet | None, page: str) -> None:
        self._machine = machine
        self._server = server
        self._kubelet = kubelet
        self._installs = _INSTALLS.search(page) is not None
        self._in_cluster = _INSTALLS_IN_CLUSTER.search(page) is not None
        if not self._installs:
            machine.give_program()

    def do(self, command: Command) -> None:
        """One command."""
        if command.begins:
            self._machine.cwd = TREE
        text = self._placed(without_remark(command))
        if text in NOT_RUN:
            return
        if self._kubelet and _FOR_THE_POD.match(text):
            self._sync_pod(self._kubelet)
        if (found := _FOREGROUND.fullmatch(text)) is not None:
            self._start(command, text, str(found.lastgroup))
            return
        if command.writes and not self._installs:
            self._machine.stop("run")  # a daemon of another configuration is another daemon
        in_pod = self._kubelet is not None and self._kubelet.has_pod
        if not (self._installs or in_pod) and _ASKS_THE_DAEMON.search(text):
            self._ensure_daemon()
            if _READS_THE_HISTORY.search(text):
                self._machine.wait("run", "a look for the history", self._has_looked)
        self._run(command, text)

    def _sync_pod(self, kubelet: Kubelet) -> None:
        """Where the page doesn't install it in the cluster, its reader has done so."""
        self._machine.stop("run")  # its port is the pod's
        if not self._in_cluster:
            done = self._machine.run(f"kubectl apply -k {TREE}/deploy/base")
            assert done.returncode == 0, done.stderr
            self._in_cluster = True
        kubelet.sync()

    def _run(self, command: Command, text: str) -> None:
        done = self._machine.run(text)
        said = f"{done.stdout}\n{done.stderr}"
        assert done.returncode == command.status, f"{command.where}: {text}\n{said}"
        missing = missing_output(self._shown(command), said)
        assert not missing, f"{command.where}: {text}\n{said}\ndoes not show {missing}"
        if self._kubelet and text.startswith(("kubectl delete", "helm ")):
            self._kubelet.end_deleted()

    def _start(self, command: Command, text: str, name: str) -> None:
        machine = self._machine
        machine.start(name, text)
        machine.wait(
            name, text, lambda: not missing_output(self._shown(command), machine.log(name))
        )
        if name == "run":
            machine.wait(name, "a first export", self._has_tried)

    def _ensure_daemon(self) -> None:
        if not self._machine.runs("run"):
            self._machine.start("run", DAEMON)
            self._machine.wait("run", "a first export", self._has_tried)

    def _has_tried(self) -> bool:
        return _ENDED.search(self._machine.get("/metrics", _PORT)[1]) is not None

    def _has_looked(self) -> bool:
        return _LOOKED.search(self._machine.get("/metrics", _PORT)[1]) is not None

    def _shown(self, command: Command) -> tuple[str, ...]:
        return tuple(self._placed(line).replace(_SERVER, self._server) for line in command.output)

    def _placed(self, text: str) -> str:
        """The demo names its folder at random; pages show one such name."""
        found = [*self._machine.at("/tmp").glob("telemetryd-demo-*")]
        return text.replace(_DEMO, f"/tmp/{found[0].name}") if found else text


@contextmanager
def reading(page: str) -> Iterator[Reader]:
    """A reader of that text, at a clean machine."""
    if os.geteuid():
        leave_out("a clean machine is made of namespaces, which takes root")
    with tempfile.TemporaryDirectory(prefix="td-", dir="/tmp") as name:
        machine = Machine(Path(name))
        try:
            if uses_real(page):
                installed = not (_INSTALLS.search(page) or _INSTALLS_IN_CLUSTER.search(page))
                with real_cluster(machine, installed=installed) as (url, kubelet):
                    yield Reader(machine, url, kubelet, page)
            else:
                with demo_cluster(machine, Path(name)) as url:
                    yield Reader(machine, url, None, page)
        finally:
            machine.close()


@pytest.mark.timeout(900)  # some pages make virtual environments, which is slow on a busy machine
@pytest.mark.parametrize(
    "page",
    [
        pytest.param(page, marks=() if page in QUICK else pytest.mark.long)
        for page in pages()
        if any(without_remark(each) not in NOT_RUN for each in commands(page))
    ],
)
def test_commands_of_a_page_do_what_it_says(page: str) -> None:
    with reading((ROOT / page).read_text()) as reader:
        for command in commands(page):
            reader.do(command)


def test_every_command_that_is_not_run_is_on_a_page_and_has_a_reason() -> None:
    shown = {without_remark(each) for page in pages() for each in commands(page)}
    assert {*NOT_RUN} - shown == set()
    assert all(NOT_RUN.values())


def test_every_command_of_telemetryd_on_every_page_is_one_that_it_takes() -> None:
    found = 0
    for command in (each for page in pages() for each in commands(page)):
        for words in command.simple_commands():
            own = words[words.index("--") + 1 :] if "--" in words else words
            if own[:1] == ["telemetryd"] and own[1:] != ["--version"]:
                found += 1
                assert callable(build_parser().parse_args(own[1:]).command), command.where
    assert found > 30


def test_every_configuration_that_a_page_writes_is_valid() -> None:
    written = [
        each
        for page in pages()
        for each in commands(page)
        if each.writes.endswith(".toml") and Path(each.writes).name != "pyproject.toml"
    ]
    assert written
    for command in written:
        text = "\n".join(command.text.splitlines()[1:-1])
        assert parse_config(text, command.where, {}), command.where
