"""Messages of the control socket: each request and each answer is one line of JSON.

``telemetryd ctl`` and the daemon may be of different versions. Of an answer, what isn't known here
is ignored. A request leaves out what has its default, so a member that isn't known here asks for
something: it is ignored where a command only reads, and refused where it changes anything.
"""

from typing import Annotated, Any, Literal, TypeAlias, get_args

import msgspec

from telemetryd import __version__

Document: TypeAlias = dict[str, Any]
"""JSON types only."""

CommandName: TypeAlias = Literal[
    "status", "reload", "start", "stop", "restart", "trigger", "cache", "opt-in", "support-bundle"
]

MAX_REQUEST_BYTES = 16 * 1024
"""For one line; names have at most 512 characters."""
MAX_ANSWER_BYTES = 64 * 1024 * 1024
"""Enough for the status of tens of thousands of exporters."""

_NAMED = frozenset({"start", "stop", "restart", "trigger", "cache"})
READING = frozenset({"status", "cache", "support-bundle"})
"""Commands that change nothing."""


class Request(msgspec.Struct, frozen=True, omit_defaults=True):
    """One command.

    Attributes:
        name: An exporter, or a resource for ``cache``; empty for the other commands.
        verify: Only for ``cache``: compare with the API server.
        wait: Only for ``trigger``: answer once the run has ended.
    """

    command: CommandName
    name: Annotated[str, msgspec.Meta(max_length=512)] = ""
    verify: bool = False
    wait: bool = False

    def __post_init__(self) -> None:
        if bool(self.name) != (self.command in _NAMED):
            raise ValueError(f"{self.command} takes {'a' if self.command in _NAMED else 'no'} name")
        if self.verify and self.command != "cache":
            raise ValueError(f"{self.command} takes no verify")
        if self.wait and self.command != "trigger":
            raise ValueError(f"{self.command} takes no wait")


class CommandAnswer(msgspec.Struct, frozen=True, omit_defaults=True):
    """The result of a command.

    Attributes:
        ok: The command was carried out, and the result shows no problem.
        error: Why the command was refused, in one line; empty if it was carried out.
        result: What to show.
    """

    ok: bool
    error: str = ""
    result: Document = {}


class UnknownHereError(ValueError):
    """A request asks for what this version doesn't know."""


class _Asked(msgspec.Struct, frozen=True):
    """What a request of any version has."""

    command: str


_ANY_REQUEST = msgspec.json.Decoder(_Asked)
_REQUEST = msgspec.json.Decoder(Request)
_MEMBERS = msgspec.json.Decoder(dict[str, msgspec.Raw])
_ANSWER = msgspec.json.Decoder(CommandAnswer)


def parse_request(line: bytes) -> Request:
    """Parse one line from a client.

    Raises:
        UnknownHereError: It is of another version.
        ValueError: It isn't a request; the message says why without quoting it.
    """
    try:
        command = _ANY_REQUEST.decode(line).command
        if command not in get_args(CommandName):
            raise UnknownHereError(_unknown("command", command))
        request = _REQUEST.decode(line)
        unknown = _MEMBERS.decode(line).keys() - set(Request.__struct_fields__)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    if unknown and command not in READING:
        raise UnknownHereError(_unknown("option", min(unknown)))
    return request


def parse_answer(line: bytes) -> CommandAnswer:
    """Parse one line from the daemon.

    Raises:
        ValueError: It isn't an answer.
    """
    try:
        return _ANSWER.decode(line)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def _unknown(what: str, name: str) -> str:
    return (
        f"the daemon is telemetryd {__version__} and doesn't know the {what} {name[:64]!r}:"
        " use the telemetryd of its version"
    )


def render_line(message: Request | CommandAnswer) -> bytes:
    """The message as a line, its end included.

    Raises:
        UnicodeEncodeError: It has a text that can't be sent.
    """
    return msgspec.json.encode(message) + b"\n"
