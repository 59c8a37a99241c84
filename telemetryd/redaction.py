"""Takes the credentials that this process uses out of text that others wrote.

A server, a proxy or a plugin may echo a credential: whole or in part, in base64, with escapes, or
wrapped over lines. What was sent is remembered here, and every text that comes from outside passes
``redact`` before it is cut, kept or logged. Log lines pass it again.
"""

import re
from base64 import b64decode, b64encode
from collections import Counter, OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Final

SHORTEST: Final = 8
"""Characters. A shorter one looks like any word, so it is left in place."""
FRAGMENT: Final = 12
"""Characters of a credential that are taken out where no more of it is there."""
MOST_SENT: Final = 32
"""Credentials that are remembered, the last used ones."""
MARK: Final = "[redacted]"

_GRAM = 8
_STEP = 4
_LONGEST = 16 * 1024
_PLACES = 4
_PARTIAL_LENGTH = 16
_PLAIN = r"[A-Za-z0-9._~+/=:@(){}\[\]-]"
"""A character that stands for itself wherever it is, and isn't the first of an escape."""
_PIECES = re.compile(
    rf"{_PLAIN}+"
    r"|%[0-9A-Fa-f]{2}|\\+u[0-9A-Fa-f]{4}|\\+x[0-9A-Fa-f]{2}|&#x[0-9A-Fa-f]{1,6};|&#[0-9]{1,7};"
    r"|\\+[nrt]|.",
    re.DOTALL,
)
_IS_PLAIN = re.compile(_PLAIN).match
_DROPPED = frozenset("\"'`,;\\<>|*")
_BASE64URL = str.maketrans("-_", "+/")
_STARTS = (0, 2, 3)
"""Characters of base64 that depend on the bytes before, by the number of these modulo 3."""


@dataclass(frozen=True, slots=True)
class _Form:
    """One form in which a credential may come back.

    Attributes:
        grams: Short pieces of it, and where a few of each are.
        least: Characters that must be there to take them out: all, where it may be made of words.
    """

    text: str
    grams: dict[str, tuple[int, ...]]
    least: int

    @classmethod
    def of(cls, text: str) -> "_Form":
        is_whole = len(text) < _PARTIAL_LENGTH or text.isalpha() or text.isdigit()
        grams: dict[str, tuple[int, ...]] = {}
        for index in range(0, 1 if is_whole else len(text) - _GRAM + 1, _STEP):
            gram = text[index : index + _GRAM]
            found = grams.get(gram, ())
            if len(found) < _PLACES:
                grams[gram] = (*found, index)
        return cls(text, grams, len(text) if is_whole else FRAGMENT)


class Redactor:
    """Remembers credentials, and finds them in texts; ``most`` of them, None for all."""

    def __init__(self, *, most: int | None = MOST_SENT) -> None:
        self._most = most
        self._sent: OrderedDict[str, tuple[_Form, ...]] = OrderedDict()
        self._held: Counter[str] = Counter()
        self._forms_of_held: dict[str, tuple[_Form, ...]] = {}

    def remember(self, header: str) -> None:
        """A header value is about to be sent: ``Bearer …``, ``Basic …``, or a secret alone."""
        if header in self._sent:
            self._sent.move_to_end(header)
            return
        self._sent[header] = _forms(header)
        while self._most is not None and len(self._sent) > self._most:
            self._sent.popitem(last=False)

    @contextmanager
    def hiding(self, secret: str) -> Iterator[None]:
        """Take another party's secret out of texts while the block runs."""
        self._held[secret] += 1
        try:
            yield
        finally:
            self._held[secret] -= 1
            if not self._held[secret]:
                del self._held[secret]
                self._forms_of_held.pop(secret, None)

    def redact(self, text: str) -> str:
        """The text without what is remembered."""
        if len(text) < SHORTEST or not (self._sent or self._held):
            return text
        known = [*tuple(self._sent.values()), *map(self._forms_held, tuple(self._held))]
        plain, starts, ends = _project(text)
        grams = {plain[at : at + _GRAM] for at in range(len(plain) - _GRAM + 1)}
        covered = bytearray(len(plain))
        for forms in known:
            for form in forms:
                _cover(plain, grams, form, covered)
        if not any(covered):
            return text
        return _cut_out(text, covered, starts, ends)

    def _forms_held(self, secret: str) -> tuple[_Form, ...]:
        # Made only where there is a text to search: anyone may have a token of 16 KiB reviewed.
        forms = self._forms_of_held.get(secret)
        if forms is None:
            forms = _forms(secret)
            if secret in self._held:
                self._forms_of_held[secret] = forms
        return forms


def _forms(header: str) -> tuple[_Form, ...]:
    """How the secrets of a header value may come back, as ``_project`` writes them."""
    scheme, blank, rest = header.strip().partition(" ")
    secret = rest.strip() if blank and scheme.isalpha() else header.strip()
    secrets = [secret[:_LONGEST]]
    if blank and scheme.lower() == "basic":
        with suppress(ValueError):
            secrets.append(
                b64decode(secret, validate=True).decode(errors="replace").partition(":")[2]
            )
    forms: list[str] = []
    for each in secrets:
        if len(each) >= SHORTEST:
            forms.append(each)
            raw = each.encode(errors="replace")
            for before, start in enumerate(_STARTS):
                whole = (before + len(raw)) * 8 // 6
                forms.append(b64encode(b"\0" * before + raw).decode()[start:whole])
    plain = (_project(form)[0] for form in forms)
    return tuple(_Form.of(form) for form in dict.fromkeys(plain) if len(form) >= SHORTEST)


def _project(text: str) -> tuple[str, list[int], list[int]]:
    """A text in one case without escapes, white space and quotes; and where each character was."""
    chars: list[str] = []
    starts: list[int] = []
    ends: list[int] = []
    for piece in _PIECES.finditer(text):
        start, end = piece.span()
        if _IS_PLAIN(text, start):
            chars.append(piece[0].lower())
            starts += range(start, end)
            ends += range(start + 1, end + 1)
            continue
        char = _unescape(piece[0])
        if char.isspace() or not char.isprintable() or char in _DROPPED:
            continue
        lower = char.lower()
        chars.append(lower if len(lower) == 1 else char)
        starts.append(start)
        ends.append(end)
    return "".join(chars).translate(_BASE64URL), starts, ends


def _unescape(piece: str) -> str:
    if len(piece) == 1:
        return piece
    if piece[0] == "%":
        return chr(int(piece[1:], 16))
    if piece[0] == "&":
        number = int(piece[3:-1], 16) if piece[2] == "x" else int(piece[2:-1])
        return chr(number) if number <= 0x10FFFF else " "  # noqa: PLR2004 - Unicode's last
    code = piece.lstrip("\\")
    return chr(int(code[1:], 16)) if len(code) > 1 else " "


def _cover(plain: str, grams: set[str], form: _Form, covered: bytearray) -> None:
    """Mark where a form is; a part of it too, unless it may be made of words."""
    for gram in form.grams.keys() & grams:
        at = plain.find(gram)
        while at >= 0:
            after = at + _GRAM
            if not (covered[at] and covered[after - 1]):
                for index in form.grams[gram]:
                    low, end = _extend(plain, form.text, at, index)
                    if end - low >= form.least:
                        covered[low:end] = b"\1" * (end - low)
                    after = max(after, end)
            at = plain.find(gram, after)


def _extend(plain: str, form: str, at: int, index: int) -> tuple[int, int]:
    """How far both are the same around what they share."""
    low, first = at, index
    while low and first and plain[low - 1] == form[first - 1]:
        low, first = low - 1, first - 1
    end, after = at + _GRAM, index + _GRAM
    while end < len(plain) and after < len(form) and plain[end] == form[after]:
        end, after = end + 1, after + 1
    return low, end


def _cut_out(text: str, covered: bytearray, starts: list[int], ends: list[int]) -> str:
    parts: list[str] = []
    kept = 0
    for run in re.finditer(b"\1+", covered):
        parts += (text[kept : starts[run.start()]], MARK)
        kept = ends[run.end() - 1]
    return "".join((*parts, text[kept:]))


OURS: Final = Redactor()
"""What this process uses; one, as logging is one."""
