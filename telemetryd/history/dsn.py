"""Where the PostgreSQL of the history is: a file with one DSN, the only place of the password.

No message shows the file's content; of the server its host and port alone.
"""

import re
from typing import Final, NamedTuple
from urllib.parse import parse_qs, unquote, urlsplit

from telemetryd.errors import HistoryError
from telemetryd.kube.files import read_small_file, show_path, why_unreadable
from telemetryd.redaction import OURS

LONGEST_BYTES: Final = 16 * 1024
_SCHEMES: Final = ("postgresql", "postgres")
_HOSTS: Final = re.compile(
    r"(?:[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?"
    r"(?:,(?:[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?)*"
)
_FORM: Final = "write one line postgresql://USER:PASSWORD@HOST:PORT/DATABASE?sslmode=verify-full"
_ESCAPES: Final = "with %XX for each character of the password but letters, digits and -._~"


class Dsn(NamedTuple):
    """A DSN that was read.

    Attributes:
        text: The whole, as the driver takes it.
        password: Empty for none.
        server: Host and port, for messages.
    """

    text: str
    password: str
    server: str


def read_dsn(path: str) -> Dsn:
    """The DSN that the file holds now; blocks. From then on its password is taken out of all texts.

    Raises:
        HistoryError: It can't be read, or holds no DSN.
    """
    try:
        text = read_small_file(path, LONGEST_BYTES).decode("utf-8-sig").strip()
    except UnicodeDecodeError as error:
        raise HistoryError(f"history.dsn_file {path} isn't text in UTF-8: {_FORM}") from error
    except (OSError, ValueError) as error:
        raise HistoryError(
            f"history.dsn_file: {show_path(path, error)} can't be read ({why_unreadable(error)}):"
            " put it there, readable by the daemon's user"
        ) from error
    try:
        return _parse(text)
    except ValueError:
        # The reason may show a part of the password.
        raise HistoryError(f"history.dsn_file {path} holds no DSN: {_FORM}, {_ESCAPES}") from None


def _parse(text: str) -> Dsn:
    if not text.isprintable() or " " in text:
        raise ValueError
    parts = urlsplit(text)
    login, has_login, server = parts.netloc.rpartition("@")
    if (
        parts.scheme not in _SCHEMES
        or parts.fragment
        or "#" in text
        or "@" in login + parts.path
        or (has_login and not login)
        or (server and not _HOSTS.fullmatch(server))
    ):
        raise ValueError
    query = parse_qs(parts.query, strict_parsing=True) if parts.query else {}
    written = login.partition(":")[2]
    password = unquote(written) if written else query.get("password", [""])[-1]
    for each in (written, password):
        # Redaction takes what follows the first word of a header.
        OURS.remember(f"password {each}")
    host = server or unquote(query.get("host", ["this machine"])[-1])
    return Dsn(text, password, host)
