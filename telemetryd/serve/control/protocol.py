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
    "status", "reload", "start", "stop", "restart", "trigger", "cache", "opt-in", "support-bundle",
    "history", "slots", "prune",
]  # fmt: skip

MAX_REQUEST_BYTES = 16 * 1024
"""For one line; names have at most 512 characters."""
MAX_ANSWER_BYTES = 64 * 1024 * 1024
"""Enough for the status of tens of thousands of exporters."""

_NAMED = frozenset({"start", "stop", "restart", "trigger", "cache", "slots"})
READING = frozenset({"status", "cache", "support-bundle", "history", "slots"})
"""Commands that change nothing."""
_OF = {
    "verify": "cache",
    "wait": "trigger",
    "size": "slots",
    "begin": "slots",
    "end": "slots",
    "series": "slots",
    "all": "prune",
    "keep": "prune",
    "keep_daily": "prune",
}
"""Each option, and the command that takes it."""


class Request(msgspec.Struct, frozen=True, omit_defaults=True):
    """One command.

    Attributes:
        name: An exporter, a resource for ``cache``, or an installation for ``slots``; empty for the
            other commands.
        verify: Only for ``cache``: compare with the API server.
        wait: Only for ``trigger``: answer once the run has ended.
        size: Only for ``slots``, as what follows: the length of the slots in seconds.
        begin: Unix time in seconds of the first slot.
        end: Slots that begin at this time or later are left out.
        series: Only the cells of this series; empty for those of all.
        all: Only for ``prune``: everything, whatever its age.
        keep: Only for ``prune``: seconds that slots of hours are kept.
        keep_daily: Only for ``prune``: seconds that slots of days are kept.
    """

    command: CommandName
    name: Annotated[str, msgspec.Meta(max_length=512)] = ""
    verify: bool = False
    wait: bool = False
    size: Literal[0, 60, 3600, 86400] = 0
    begin: float = 0.0
    end: float = 0.0
    series: Annotated[str, msgspec.Meta(max_length=512)] = ""
    all: bool = False
    keep: Annotated[float, msgspec.Meta(ge=0)] = 0.0
    keep_daily: Annotated[float, msgspec.Meta(ge=0)] = 0.0

    def __post_init__(self) -> None:
        if bool(self.name) != (self.command in _NAMED):
            raise ValueError(f"{self.command} takes {'a' if self.command in _NAMED else 'no'} name")
        for option, command in _OF.items():
            if getattr(self, option) and self.command != command:
                raise ValueError(f"{self.command} takes no {option}")
        if self.command == "slots" and not self.size:
            raise ValueError("slots takes a size")
        if self.command == "prune" and not (self.all or (self.keep and self.keep_daily)):
            raise ValueError("prune takes all, or keep and keep_daily")


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
