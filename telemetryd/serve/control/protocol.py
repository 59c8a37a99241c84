"""What goes over the control socket: a line of JSON there and a line of JSON back, again and again.

Both ends share this; how lines travel belongs to ``control`` and ``control_client``.
"""

from typing import Annotated, Any, Literal, TypeAlias

import msgspec

Document: TypeAlias = dict[str, Any]
"""JSON types only."""

CommandName: TypeAlias = Literal[
    "status", "reload", "start", "stop", "restart", "trigger", "cache", "opt-in"
]

MAX_REQUEST_BYTES = 16 * 1024
"""Of one line; names have 512 characters at most."""
MAX_ANSWER_BYTES = 64 * 1024 * 1024
"""A status of tens of thousands of exporters."""

_NAMED = frozenset({"start", "stop", "restart", "trigger", "cache"})


class Request(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """One command.

    Attributes:
        name: Of an exporter, or of a resource for ``cache``; empty for the others.
        verify: Of ``cache``: compare with the API server.
    """

    command: CommandName
    name: Annotated[str, msgspec.Meta(max_length=512)] = ""
    verify: bool = False

    def __post_init__(self) -> None:
        if bool(self.name) != (self.command in _NAMED):
            raise ValueError(f"{self.command} takes {'a' if self.command in _NAMED else 'no'} name")
        if self.verify and self.command != "cache":
            raise ValueError(f"{self.command} takes no verify")


class Answer(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """What became of it.

    Attributes:
        ok: Done, and all is well.
        error: Why it was refused, in one line; empty where it wasn't.
        result: What there is to show, whether or not all is well.
    """

    ok: bool
    error: str = ""
    result: Document = {}


_REQUEST = msgspec.json.Decoder(Request)
_ANSWER = msgspec.json.Decoder(Answer)


def parse_request(line: bytes) -> Request:
    """One line from a client.

    Raises:
        ValueError: It isn't a request; the message says why without quoting it.
    """
    try:
        return _REQUEST.decode(line)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def parse_answer(line: bytes) -> Answer:
    """One line from the daemon.

    Raises:
        ValueError: It isn't an answer.
    """
    try:
        return _ANSWER.decode(line)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def render_line(message: Request | Answer) -> bytes:
    """The message as a line, its end included.

    Raises:
        UnicodeEncodeError: A text in it can't be sent.
    """
    return msgspec.json.encode(message) + b"\n"
