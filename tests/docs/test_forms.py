"""What the tests of the documentation refuse: a command that they can't run would prove nothing."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.docs.commands import Command, NoSuchForm, commands_of, missing_output
from tests.docs.markdown import anchors
from tests.docs.sandbox import Sandbox, sandbox
from tests.docs.test_commands import perform


def parsed(*lines: str) -> list[Command]:
    block = "\n".join(("```console", *lines, "```"))
    return list(commands_of("page.md", f"# Page\n\n{block}\n"))


@pytest.fixture(scope="module")
def machine() -> Iterator[Sandbox]:
    with (
        tempfile.TemporaryDirectory(prefix="td-", dir="/tmp") as folder,
        sandbox(Path(folder)) as made,
    ):
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
    "text",
    [
        "(cd deploy && telemetryd run)",
        "for name in a b; do telemetryd schema; done",
        "unheard-of --option",
        "telemetryd schema | unheard-of",
        "cat /etc/passwd",
        "telemetryd payload > /srv/payload.json",
        "kubectl drain node",
        "kubectl -n cattle-telemetry-system exec deploy/telemetryd -- cat /etc/passwd",
        "kubectl exec deploy/telemetryd -- telemetryd schema | unheard-of",
        "make demo | head",
        "pip download -r unheard-of.lock",
        "kubectl apply -k deploy/unheard-of",
        "kubectl -n elsewhere get pods",
        "kubectl -n cattle-telemetry-system exec deploy/unheard-of -- telemetryd schema",
        "docker build --build-arg UNHEARD_OF=1 .",
        "docker exec telemetryd",
        "systemctl restart unheard-of",
        "make unheard-of",
        "promtool check rules deploy/unheard-of.yaml",
    ],
)
def test_command_in_an_unknown_form_is_refused(text: str, machine: Sandbox) -> None:
    (command,) = parsed(f"$ {text}")
    with pytest.raises((NoSuchForm, FileNotFoundError)):
        perform(command, machine)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("telemetryd schema --format unheard-of", ()),
        ("kubectl -n cattle-telemetry-system exec deploy/telemetryd -- telemetryd unheard-of", ()),
        ("docker run telemetryd:0.1.0 unheard-of", ()),
        ("telemetryd --version", ("another 0.1.0",)),
    ],
)
def test_command_that_fails_or_says_something_else_is_reported(
    text: str, shown: tuple[str, ...], machine: Sandbox
) -> None:
    (command,) = parsed(f"$ {text}", *shown)
    with pytest.raises(AssertionError, match=r"page\.md:4"):
        perform(command, machine)


def test_command_for_the_pod_is_run_with_what_it_is_piped_into(machine: Sandbox) -> None:
    pod = "kubectl -n cattle-telemetry-system exec deploy/telemetryd --"
    for command in parsed(
        f"$ {pod} telemetryd ctl status | head -n 1",
        "telemetryd 0.1.0, up ...",
        f"$ {pod} telemetryd schema > schema.json",
    ):
        perform(command, machine)
    assert (machine.tree / "schema.json").read_text().startswith("{")


def test_cd_holds_until_the_end_of_its_block(machine: Sandbox) -> None:
    for command in (
        *parsed("$ cd deploy/base", "$ head manifests.yaml"),
        *parsed("$ head Makefile"),
    ):
        perform(command, machine)


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
