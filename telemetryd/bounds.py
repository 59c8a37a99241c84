"""Bounds of the texts that come from outside: one function a kind, applied where a text enters.

Objects, headers, answers, plug-ins and paths bring texts of any length and with any character. What
these functions return is short and printable, so that a log line, a condition, a page and a label
are. Which versions and names may leave the cluster is ``gather.texts``'s.
"""

from collections.abc import Mapping
from hashlib import sha256
from typing import Any, Final

IDENTIFIER_CHARS: Final = 512
"""Names have 253 characters, namespaces 63, UIDs 36, resource versions 20."""

FREE_TEXT_CHARS: Final = 300

CONDITION_CHARS: Final = 1024
"""Of a condition's message; Kubernetes takes 32,768."""

URL_CHARS: Final = 2048

VERSION_CHARS: Final = 256
"""A kernel version has some thirty."""

DOCUMENT_CHARS: Final = 8192
"""Of one text in a document such as ``/status.json``."""

_KEPT_OF_LONG: Final = 100
_MOST_OF_A_GROUP: Final = 1000


def identifier(text: str) -> str:
    """A name, namespace, UID or time: as it is, or a stand-in where no API server would take it.

    The stand-in is different for different texts, so that two objects are never taken for one.
    """
    if len(text) <= IDENTIFIER_CHARS and text.isprintable():
        return text
    digest = sha256(text.encode(errors="surrogatepass")).hexdigest()
    return f"{free_text(text, _KEPT_OF_LONG)}~{digest[:32]}"


def free_text(text: str, limit: int = FREE_TEXT_CHARS) -> str:
    """One line of at most ``limit`` characters and an ellipsis; applied twice, it changes nothing.

    A space takes the place of what can't be printed: ends of lines, controls, lone surrogates, and
    the marks that turn the direction of what follows them.
    """
    cut = text[: limit + 1]
    if not cut.isprintable():
        cut = "".join(char if char.isprintable() else " " for char in cut)
    return cut if len(text) <= limit else f"{cut[:limit]}…"


def url(text: str) -> str:
    """A URL; one that is too long stays so by one character, and is refused like any other."""
    return text[: URL_CHARS + 1]


def version(text: str | None) -> str:
    """A version or another word that software reports of itself; empty for None."""
    return text[:VERSION_CHARS] if text else ""


def visible(text: str) -> str:
    """A text that commands no terminal: what can't be printed is there as its escape."""
    if text.isprintable():
        return text
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode() for char in text
    )


def escaped(text: str, limit: int) -> str:
    """A text as it can be shown anywhere: what can't be printed as its escape, and not too long.

    Of a text of more than ``limit`` characters the number of those left out is added.
    """
    shown = visible(text[:limit])[:limit]
    left_out = len(text) - limit
    return shown if left_out <= 0 else f"{shown}… ({left_out} more characters)"


def document(value: Any) -> Any:
    r"""A document of JSON types that any encoder takes: its texts bounded, and valid Unicode.

    A byte of a path or an argument that isn't UTF-8, which Python has as a lone surrogate, is shown
    as its escape (``\udc80``).
    """
    match value:
        case str():
            return encodable(value, DOCUMENT_CHARS)
        case Mapping():
            return {encodable(key, DOCUMENT_CHARS): document(each) for key, each in value.items()}
        case list() | tuple():
            return [document(each) for each in value]
        case _:
            return value


def encodable(text: str, limit: int) -> str:
    """A text that UTF-8 has, at most ``limit`` characters of it and the number of the rest."""
    left_out = len(text) - limit
    if left_out > 0:
        text = f"{text[:limit]}… ({left_out} more characters)"
    return text.encode(errors="backslashreplace").decode()


def error_text(error: BaseException, limit: int = FREE_TEXT_CHARS) -> str:
    """An unexpected exception in one line; of a group, what led to it."""
    causes = causes_of(error)
    named = free_text(f"{type(causes[0]).__name__}: {message_of(causes[0])}", limit)
    return named if len(causes) == 1 else f"{named} (and {len(causes) - 1} more errors)"


def message_of(error: BaseException) -> str:
    """What an exception says, of any length."""
    try:
        return str(error)
    except Exception:  # noqa: BLE001 - an exception's own __str__ may raise anything
        return "its message can't be rendered"


def causes_of(error: BaseException) -> list[BaseException]:
    """The exceptions in a group that aren't groups, in their order; any other one itself."""
    found: list[BaseException] = []
    waiting = [error]
    for _ in range(_MOST_OF_A_GROUP):
        if not waiting:
            break
        each = waiting.pop()
        if isinstance(each, BaseExceptionGroup):
            waiting.extend(reversed(each.exceptions[:_MOST_OF_A_GROUP]))
        else:
            found.append(each)
    return found or [error]
