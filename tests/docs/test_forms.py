"""How commands are read from pages, and that one which fails is noticed."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.docs.commands import Command, NoSuchForm, commands_of, missing_output
from tests.docs.markdown import anchors
from tests.docs.test_commands import Reader, reading


def parsed(*lines: str) -> list[Command]:
    block = "\n".join(("```console", *lines, "```"))
    return list(commands_of("page.md", f"# Page\n\n{block}\n"))


@pytest.fixture(scope="module")
def reader() -> Iterator[Reader]:
    with reading("") as made:
        yield made


def test_commands_come_with_their_further_lines_and_their_output() -> None:
    one, two, three = parsed(
        "$ telemetryd payload \\",
        "    --format fleet   # a remark",
        "{",
        "# cat > file <<'END'",
        "$ not a command",
        "END",
        "$ head file | grep not",
    )
    assert one.text == "telemetryd payload --format fleet   # a remark"
    assert one.output == ("{",)
    assert one.programs() == ["telemetryd"]
    assert two.text == "cat > file <<'END'\n$ not a command\nEND"
    assert three.programs() == ["head", "grep"]
    assert three.where == "page.md:10"


def test_status_that_is_announced_is_that_of_the_last_command() -> None:
    text = "<!-- exits 1 -->\n```console\n$ telemetryd run\n$ telemetryd doctor\n```\n"
    assert [command.status for command in commands_of("page.md", text)] == [0, 1]


def test_block_without_a_command_is_refused() -> None:
    with pytest.raises(NoSuchForm, match=r"page\.md:4: a console block begins with a command"):
        parsed("telemetryd run")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("telemetryd schema --format unheard-of", ()),
        ("telemetryd --version", ("another 0.1.0",)),
        ("unheard-of --option", ()),
        ("telemetryd schema | unheard-of", ()),
        ("cat config.toml", ()),
        ("cp config.example.toml /etc/telemetryd/config.toml", ()),
        ("pip install unheard-of", ()),
        ("curl -sf http://203.0.113.1", ()),
    ],
)
def test_command_that_fails_or_says_something_else_is_reported(
    text: str, shown: tuple[str, ...], reader: Reader
) -> None:
    (command,) = parsed(f"$ {text}", *shown)
    with pytest.raises(AssertionError, match=r"page\.md:4"):
        reader.do(command)


def test_daemon_that_does_not_start_is_reported(reader: Reader) -> None:
    (command,) = parsed("$ telemetryd run --config unheard-of.toml")
    with pytest.raises(AssertionError, match="unheard-of"):
        reader.do(command)


def test_folder_and_variables_hold_for_the_commands_after(reader: Reader) -> None:
    for command in (
        *parsed("$ cd deploy/monitoring", "$ export NAMED=dashboard.json", "$ head $NAMED"),
        *parsed("$ head Makefile deploy/monitoring/$NAMED"),
    ):
        reader.do(command)


def test_nothing_that_a_page_does_is_seen_outside_or_on_the_next_machine() -> None:
    mark = Path("/etc/telemetryd-of-a-page")
    for _ in range(2):
        with reading("") as reader:
            for command in parsed(f"$ mkdir {mark}", "$ mkdir /etc/telemetryd /opt/telemetryd"):
                reader.do(command)
    assert not mark.exists()


def test_page_that_installs_telemetryd_finds_none() -> None:
    (command,) = parsed("$ telemetryd --version")
    with reading("$ pip install .") as reader, pytest.raises(AssertionError, match="not found"):
        reader.do(command)


def test_output_is_compared_but_for_numbers_and_what_is_left_out() -> None:
    actual = "up 11s, 21 clusters\nscc  idle   1s ago\n[+]config ok\nend\n"
    assert not missing_output(("up 3h12m, 7 clusters", "...", "end"), actual)
    assert not missing_output(("scc idle 20s ago", "[+]config ok"), actual)
    assert not missing_output(("up ... clusters",), actual)
    assert missing_output(("end", "[+]config ok"), actual) == ["[+]config ok"]
    assert missing_output(("scc failed 20s ago",), actual) == ["scc failed 20s ago"]


def test_anchors_are_those_of_code_hosts() -> None:
    text = "# A `code` title: it's 1.2\n\n## Twice\n\n## Twice\n\n```\n# no heading\n```\n"
    assert anchors(text) == {"a-code-title-its-12", "twice", "twice-1"}
