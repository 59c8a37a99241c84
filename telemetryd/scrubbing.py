"""Takes out of texts what must not leave a site with them: its URLs, names, identifiers, secrets.

``redaction`` knows the credentials that this process sends. Here the words are given, and what
looks like a credential is taken out too.
"""

import re
from collections.abc import Iterable
from typing import Any, Final
from urllib.parse import unquote, urlsplit

from telemetryd.redaction import MARK, OURS, Redactor

SHORTEST_WORD: Final = 4
"""Characters. A shorter one is a part of too many others."""

GENERIC: Final = frozenset(
    {"admin", "default", "in-cluster", "kubernetes", "kubernetes-admin", "local", "localhost"}
)
"""What clusters, contexts and users are called everywhere; it says nothing of a site."""

_LOOPBACK = re.compile(r"127\.[0-9.]+|::1|0\.0\.0\.0")
_PATTERNS: Final = (
    (re.compile(r"(?<=://)[^/\s@\"'<>]+@"), f"{MARK}@"),  # URLs with credentials
    (re.compile(r"\b([Bb]earer|[Bb]asic)(\s+)(?=\S*[\dA-Z=])[\w.~+/=-]{8,}"), rf"\1\2{MARK}"),
    (re.compile(r"\beyJ[\w-]{8,}\.[\w-]+(\.[\w-]*)?"), MARK),  # a JWT
    (re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(-----END|\Z)", re.DOTALL), MARK),
)
_TOKEN = re.compile(r"[\w.-]*\w")


class Scrubber:
    """Takes given words out, each in any case and wherever no letter or digit goes on.

    Args:
        words: Texts of any form.
        names: Names of Kubernetes objects, however many.
        secrets: Taken out in base64, with escapes and in pieces as well.
    """

    def __init__(
        self,
        words: Iterable[str] = (),
        *,
        names: Iterable[str] = (),
        secrets: Iterable[str] = (),
    ) -> None:
        chosen = sorted(filter(_counts, set(words)), key=len, reverse=True)
        listed = "|".join(map(re.escape, chosen))
        bounded = rf"(?<![^\W_])(?:{listed})(?![^\W_])"
        self._words = re.compile(bounded, re.IGNORECASE) if chosen else None
        self._names = frozenset(each.lower() for each in names if _counts(each))
        self._secrets = Redactor(most=None)
        for each in secrets:
            self._secrets.remember(each)

    def scrub(self, text: str) -> str:
        """One text; a long one is best given line by line."""
        # Whole credentials before pieces of known ones, which would leave the rest of another.
        for pattern, instead in _PATTERNS:
            text = pattern.sub(instead, text)
        text = self._secrets.redact(OURS.redact(text))
        if self._words is not None:
            text = self._words.sub(MARK, text)
        if self._names:
            text = _TOKEN.sub(self._judge, text)
        return text

    def scrub_document(self, value: Any) -> Any:
        """Every text of a document of JSON types; its keys keep their names."""
        match value:
            case str():
                return self.scrub(value)
            case dict():
                return {key: self.scrub_document(each) for key, each in value.items()}
            case list() | tuple():
                return [self.scrub_document(each) for each in value]
            case _:
                return value

    def _judge(self, found: "re.Match[str]") -> str:
        return MARK if found[0].lower() in self._names else found[0]


def words_of_url(url: str) -> list[str]:
    """What of a URL says whose it is: its host (empty for a loopback one), path and credentials."""
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
    except ValueError:
        return [url]
    credentials = (parts.username or "", parts.password or "")
    return [
        "" if _LOOPBACK.fullmatch(host) else host,
        parts.path.strip("/"),
        *credentials,
        *map(unquote, credentials),
    ]


def _counts(word: str) -> bool:
    return len(word) >= SHORTEST_WORD and word.lower() not in GENERIC
