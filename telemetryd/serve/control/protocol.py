"""Messages of the control socket: each request and each answer is one line of JSON."""

from typing import Annotated, Any, Literal, TypeAlias, TypeVar

import msgspec

T = TypeVar("T")

Document: TypeAlias = dict[str, Any]
"""JSON types only."""

CommandName: TypeAlias = Literal[
    "status", "reload", "start", "stop", "restart", "trigger", "cache", "opt-in"
]

MAX_REQUEST_BYTES = 16 * 1024
"""For one line; names have at most 512 characters."""
MAX_ANSWER_BYTES = 64 * 1024 * 1024
"""Enough for the status of tens of thousands of exporters."""

_NAMED = frozenset({"start", "stop", "restart", "trigger", "cache"})


class Request(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
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


class CommandAnswer(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """The result of a command.

    Attributes:
        ok: The command was carried out, and the result shows no problem.
        error: Why the command was refused, in one line; empty if it was carried out.
        result: What to show.
    """

    ok: bool
    error: str = ""
    result: Document = {}


_REQUEST = msgspec.json.Decoder(Request)
_ANSWER = msgspec.json.Decoder(CommandAnswer)


def parse_request(line: bytes) -> Request:
    """Parse one line from a client.

    Raises:
        ValueError: It isn't a request; the message says why without quoting it.
    """
    return _decode(_REQUEST, line)


def parse_answer(line: bytes) -> CommandAnswer:
    """Parse one line from the daemon.

    Raises:
        ValueError: It isn't an answer.
    """
    return _decode(_ANSWER, line)


def _decode(decoder: msgspec.json.Decoder[T], line: bytes) -> T:
    try:
        return decoder.decode(line)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def render_line(message: Request | CommandAnswer) -> bytes:
    """The message as a line, its end included.

    Raises:
        UnicodeEncodeError: It has a text that can't be sent.
    """
    return msgspec.json.encode(message) + b"\n"
