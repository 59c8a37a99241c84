"""The commands of the pages' ``console`` blocks, and what the pages show of their output.

How one is run doesn't belong here.
"""

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass

from tests.docs.markdown import blocks

_PROMPTS = ("$ ", "# ")
_HEREDOC = re.compile(r"<<'?(\w+)'?")
_BETWEEN = frozenset({"|", "&&", ";"})
_REDIRECTIONS = frozenset({">", ">>", "<", "<<"})
_ASSIGNMENT = re.compile(r"[A-Z_]+=")
_FILE = re.compile(r"<!-- file (\S+) -->\s*$")
_EXITS = re.compile(r"<!-- exits (\d+) -->\s*$")
_NUMBER = re.compile(r"\d+(?:\\\.\d+)*")
_AGE = re.compile(r"(?:\d+(?:ms|h|m|s))+")


class NoSuchForm(Exception):
    """A block or a command isn't written in a way that can be run: the message says how."""


@dataclass(frozen=True, slots=True)
class Command:
    """One command of a page.

    Attributes:
        text: As the shell gets it, its further lines included.
        output: What the page shows of its output; none where it shows nothing.
        status: What it must exit with.
        where: ``page:line``.
        begins: It is the first of its block, which a reader begins in the project's folder.
        writes: The file that it is the content of; empty for a command that a page shows.
    """

    text: str
    output: tuple[str, ...]
    status: int
    where: str
    begins: bool = True
    writes: str = ""

    def programs(self) -> list[str]:
        """What it runs, in order: ``telemetryd``, ``head`` of ``telemetryd payload | head``.

        Raises:
            NoSuchForm: The shell is asked for more than a few commands in a row.
        """
        return [words[0] for words in self.simple_commands()]

    def simple_commands(self) -> list[list[str]]:
        """The words of each simple command, without redirections and assignments.

        Raises:
            NoSuchForm: As above.
        """
        found: list[list[str]] = [[]]
        words = iter(_words(self.text.partition("\n")[0] if "<<" in self.text else self.text))
        for word in words:
            if word in _BETWEEN:
                found.append([])
            elif word in _REDIRECTIONS:
                next(words, None)
            elif set(word) <= set("();<>|&"):
                raise NoSuchForm(f"{self.where}: {word!r}: write one simple command a line")
            elif found[-1] or not _ASSIGNMENT.match(word):
                found[-1].append(word)
        if not all(found):
            raise NoSuchForm(f"{self.where}: no command")
        return found


def commands_of(page: str, text: str) -> Iterator[Command]:
    """The commands of a page, in order; a block that is a file's content is written as that file.

    Raises:
        NoSuchForm: A block begins with something else than a command.
    """
    lines = text.splitlines()
    for block in blocks(text):
        before = "\n".join(lines[max(0, block.line - 4) : block.line - 2])
        if file := _FILE.search(before):
            content = "\n".join(block.lines)
            write = f"cat > {file[1]} <<'END'\n{content}\nEND"
            yield Command(write, (), 0, f"{page}:{block.line}", writes=file[1])
        if block.language == "console":
            status = int(found[1]) if (found := _EXITS.search(before)) else 0
            yield from _commands_of_block(page, block.line, block.lines, status)


def _commands_of_block(
    page: str, first: int, lines: tuple[str, ...], status: int
) -> Iterator[Command]:
    if not lines or not lines[0].startswith(_PROMPTS):
        raise NoSuchForm(f"{page}:{first}: a console block begins with a command after '$ '")
    starts = [index for index, line in enumerate(lines) if line.startswith(_PROMPTS)]
    index = 0
    while index < len(lines):
        where = f"{page}:{first + index}"
        text, after = _read_command(lines, index)
        following = next((start for start in starts if start >= after), len(lines))
        # Only what a block ends with may fail: the shell of a reader would go on as well.
        wanted = status if following == len(lines) else 0
        yield Command(text, lines[after:following], wanted, where, begins=not index)
        index = following


def _read_command(lines: tuple[str, ...], index: int) -> tuple[str, int]:
    """The command that begins there, and where it is over."""
    text = lines[index][2:]
    index += 1
    while text.endswith("\\") and index < len(lines):
        text = f"{text[:-1].rstrip()} {lines[index].strip()}"
        index += 1
    if heredoc := _HEREDOC.search(text):
        while index < len(lines):
            text = f"{text}\n{lines[index]}"
            index += 1
            if lines[index - 1] == heredoc[1]:
                break
    return text, index


def _words(text: str) -> list[str]:
    lexer = shlex.shlex(text, posix=True, punctuation_chars="();<>|&")
    lexer.whitespace_split = True
    lexer.commenters = "#"
    return list(lexer)


def missing_output(shown: tuple[str, ...], actual: str) -> list[str]:
    """The lines that a page shows and that don't come, in this order.

    ``...`` is anything, on a line of its own any number of lines; numbers, ages and white space
    may be others.
    """
    rest = iter(actual.splitlines())
    return [
        line
        for line in shown
        if line.strip() not in {"", "..."}
        and not any(_pattern(line).fullmatch(came.strip()) for came in rest)
    ]


def _pattern(line: str) -> re.Pattern[str]:
    parts = []
    for part in line.strip().split("..."):
        text = _AGE.sub("\0", part)
        text = _NUMBER.sub("\1", re.escape(text))
        text = re.sub(r"(?:\\? )+", r"\\s+", text)
        parts.append(text.replace("\0", r"(?:\d+(?:ms|h|m|s))+").replace("\1", r"[\d.]+"))
    return re.compile(".*".join(parts))
