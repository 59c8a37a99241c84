"""Every command of the documentation is run, and does what the page shows.

Each page has a sandbox of its own, in which its commands are run in their order. What can't be run
here is in ``declared``; a command that is neither there nor among ``PROGRAMS`` fails.
"""

import re
import tempfile
from collections.abc import Iterator
from functools import cache, partial
from pathlib import Path

import pytest

from telemetryd.cli.arguments import build_parser
from telemetryd.config import parse_config
from tests.docs.commands import Command, NoSuchForm, commands_of, missing_output
from tests.docs.declared import find_declared
from tests.docs.markdown import ROOT, pages
from tests.docs.sandbox import PLACES, PORT, Sandbox, sandbox

PROGRAMS = frozenset(
    {
        "base64",
        "cat",
        "chmod",
        "cp",
        "curl",
        "grep",
        "head",
        "install",
        "mkdir",
        "openssl",
        "pip",
        "python3",
    }
    | {"sed", "sha256sum", "tar", "telemetryd"}
)
"""What is run for real. None of them may be given a path outside of the sandbox."""

QUICK = frozenset(
    {
        "benchmarks/README.md",
        "docs/configuration.md",
        "docs/library.md",
        "docs/metrics.md",
        "docs/monitoring.md",
        "docs/troubleshooting.md",
    }
)
"""Pages whose commands are run by default; of all others the commands' forms are looked at."""

_ASKS_THE_DAEMON = re.compile(
    rf"telemetryd (ctl|healthcheck|spool list|support-bundle)\b|curl .*:{PORT}\b"
)
_FOREGROUND = re.compile(r"telemetryd run( --dry-run)?( --config \S+)?")
_ABSOLUTE = re.compile(r"(?:^|[\s=>])(/[^\s:]*)")
_ANYWHERE = ("/dev/null", *PLACES)


@pytest.fixture
def machine() -> Iterator[Sandbox]:
    with (
        tempfile.TemporaryDirectory(prefix="td-", dir="/tmp") as folder,
        sandbox(Path(folder)) as made,
    ):
        yield made


@cache
def commands(page: str) -> tuple[Command, ...]:
    return tuple(commands_of(page, (ROOT / page).read_text()))


def perform(command: Command, machine: Sandbox) -> None:
    """Run a command of a page, or check what is declared for it."""
    if command.begins:
        machine.cwd = machine.tree
    if command.writes:
        machine.stop()  # a daemon of another configuration is another daemon
    if command.programs() == ["cd"]:
        ((_, folder),) = command.simple_commands()
        machine.cwd = machine.cwd / folder
        return
    check = find_declared(command)
    programs = command.programs()[1 if check else 0 :]
    unknown = [program for program in programs if not is_known(program, machine)]
    if unknown:
        raise NoSuchForm(f"{command.where}: teach the tests of docs about {unknown}")
    if check is not None:
        check(command, machine, partial(run, command, machine))
    elif _FOREGROUND.fullmatch(command.text.partition(" #")[0].strip()):
        machine.start(command.text)
    else:
        run(command, machine, command.text)


def is_known(program: str, machine: Sandbox) -> bool:
    """Whether it may be run: a usual program, or what a page has installed."""
    if "/" not in program:
        return program in PROGRAMS
    return program.startswith(PLACES)


def run(command: Command, machine: Sandbox, text: str) -> None:
    """Run the text, and hold it against what the page says of the command."""
    outside = [
        path
        for path in _ABSOLUTE.findall(text.partition("\n")[0])
        if not path.startswith(_ANYWHERE)
    ]
    if outside:
        raise NoSuchForm(f"{command.where}: {outside} isn't in the sandbox: see PLACES")
    if _ASKS_THE_DAEMON.search(text):
        machine.ensure_daemon()
    done = machine.run(text)
    said = f"{done.stdout}\n{done.stderr}"
    assert done.returncode == command.status, f"{command.where}: {text}\n{said}"
    shown = tuple(map(machine.place, command.output))
    assert not missing_output(shown, said), f"{command.where}: {text}\n{said}"


@pytest.mark.timeout(900)  # one page makes a virtual environment, which is slow on a busy machine
@pytest.mark.parametrize(
    "page",
    [
        pytest.param(page, marks=() if page in QUICK else pytest.mark.long)
        for page in pages()
        if commands(page)
    ],
)
def test_commands_of_a_page_do_what_it_says(page: str, machine: Sandbox) -> None:
    for command in commands(page):
        perform(command, machine)


def test_every_command_of_telemetryd_on_every_page_is_one_that_it_takes() -> None:
    found = 0
    for command in (each for page in pages() for each in commands(page)):
        for words in command.simple_commands():
            own = words[words.index("--") + 1 :] if "--" in words else words
            if own[:1] == ["telemetryd"]:
                found += 1
                assert callable(build_parser().parse_args(own[1:]).command), command.where
    assert found > 30


def test_every_configuration_that_a_page_writes_is_valid() -> None:
    written = [each for page in pages() for each in commands(page) if each.writes.endswith(".toml")]
    assert written
    for command in written:
        if command.writes.endswith("pyproject.toml"):
            continue
        text = "\n".join(command.text.splitlines()[1:-1])
        assert parse_config(text, command.where, {}), command.where
