"""Headers from files of the user: a bearer token, and lines of ``Name: value``.

Messages show no content: they name the key, the line, and the file if it exists.
"""

import re
from typing import Final

from telemetryd.errors import PermanentError, Reason
from telemetryd.kube.files import read_small_file, show_path, why_unreadable

OWN_HEADERS: Final = frozenset(
    {
        "accept-encoding",
        "connection",
        "content-encoding",
        "content-length",
        "content-type",
        "expect",
        "host",
        "idempotency-key",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)
"""Headers that telemetryd sets itself."""

_OWN_PREFIX: Final = "telemetryd-"
_AUTHORIZATION: Final = "Authorization"
_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # RFC 9110, 5.6.2: token
_VALUE = re.compile(r"[\x20-\x7e\t]*")
_TOKEN = re.compile(r"[\x21-\x7e]+")


def read_credentials(headers_file: str | None, bearer_token_file: str | None) -> dict[str, str]:
    """The headers that both files hold now; blocks.

    Raises:
        PermanentError: A file can't be read or has other content; the next run reads it again.
    """
    headers = {}
    if headers_file is not None:
        what = f"headers_file {headers_file}"
        headers = parse_headers(_read("headers_file", headers_file), what)
    if bearer_token_file is not None:
        what = f"bearer_token_file {bearer_token_file}"
        if any(name.lower() == _AUTHORIZATION.lower() for name in headers):
            raise PermanentError(
                Reason.AUTH, f"{what}: the headers_file has Authorization too: leave one of them"
            )
        token = _parse_token(_read("bearer_token_file", bearer_token_file), what)
        headers[_AUTHORIZATION] = f"Bearer {token}"
    return headers


def parse_headers(text: str, what: str) -> dict[str, str]:
    """Headers, one a line; empty lines and those that begin with ``#`` don't count.

    Raises:
        PermanentError: A line is not a header, or sets one of telemetryd's own, or one twice.
    """
    headers: dict[str, str] = {}
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip() or line.startswith("#"):
            continue
        name, colon, value = line.partition(":")
        value = value.strip(" \t\r")
        if not colon or not _NAME.fullmatch(name) or not _VALUE.fullmatch(value):
            raise PermanentError(
                Reason.AUTH, f'{what}: line {number} isn\'t "Name: value" in printable ASCII'
            )
        lower = name.lower()
        if lower in OWN_HEADERS or lower.startswith(_OWN_PREFIX):
            raise PermanentError(
                Reason.AUTH, f"{what}: line {number} sets {name}, which telemetryd sets itself"
            )
        if any(lower == other.lower() for other in headers):
            raise PermanentError(Reason.AUTH, f"{what}: line {number} sets {name} a second time")
        headers[name] = value
    return headers


def _parse_token(text: str, what: str) -> str:
    token = text.strip()
    if not token:
        raise PermanentError(Reason.AUTH, f"{what} is empty: write the token into it")
    if not _TOKEN.fullmatch(token):
        raise PermanentError(
            Reason.AUTH, f"{what} must hold one token in printable ASCII, and nothing else"
        )
    return token


def _read(key: str, path: str) -> str:
    try:
        return read_small_file(path).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise PermanentError(Reason.AUTH, f"{key} {path} isn't text in UTF-8") from error
    except (OSError, ValueError) as error:
        raise PermanentError(
            Reason.AUTH,
            f"{key}: {show_path(path, error)} can't be read ({why_unreadable(error)}): put it "
            "there, readable by the daemon's user",
        ) from error
