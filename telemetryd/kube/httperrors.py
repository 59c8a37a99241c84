"""Translates errors of aiohttp, TLS and sockets."""

import os
import re
import ssl

import aiohttp
from aiohttp.http_exceptions import HttpProcessingError, PayloadEncodingError

from telemetryd.bounds import free_text
from telemetryd.errors import Reason, Unavailable

CONNECT_TIMEOUT_S = 5.0
"""Until a connection is open, TLS and a proxy's tunnel included."""

HTTP_ERRORS = (aiohttp.ClientError, HttpProcessingError, OSError, ValueError, EOFError)
"""Errors that a request, or reading its answer, may raise."""

_TOO_LONG = re.compile(r"Got more than ([0-9]+) bytes")


def translate(error: BaseException, what: str) -> Unavailable:
    """An error of ours. The text of the other is left out: it may quote what was sent.

    Args:
        error: One of ``HTTP_ERRORS``.
        what: The request, for the message; nothing secret.
    """
    return Unavailable(f"{what}: {_why(error)}", kind=Reason.CONNECT)


def is_unsent(error: BaseException | None) -> bool:
    """Whether a request failed before its first byte left; None where there was no credential."""
    unsent = (aiohttp.ClientConnectorError, aiohttp.ClientConnectorCertificateError)
    return error is None or isinstance(error, (*unsent, aiohttp.ClientHttpProxyError))


def is_unreadable(error: BaseException) -> bool:
    """Whether an answer came that can't be parsed; False for none, or one that broke off."""
    if isinstance(error, aiohttp.ClientHttpProxyError | PayloadEncodingError):
        return False
    return isinstance(error, aiohttp.ClientResponseError | HttpProcessingError)


def _why_unreadable(error: BaseException) -> str:
    said = str(getattr(error, "message", ""))
    if too_long := _TOO_LONG.match(said):
        return f"the answer's headers have more than {too_long[1]} bytes"
    return "the answer isn't valid HTTP"


def _why(error: BaseException) -> str:  # noqa: PLR0911 - one line a case
    if isinstance(error, ssl.SSLCertVerificationError | aiohttp.ClientConnectorCertificateError):
        cause = getattr(error, "certificate_error", error)
        why = free_text(getattr(cause, "verify_message", "") or "not trusted")
        return f"the server's certificate: {why}"
    if isinstance(error, aiohttp.ConnectionTimeoutError):
        return f"no connection in {CONNECT_TIMEOUT_S:g} s"
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return "the host name isn't known"
    if isinstance(error, aiohttp.ClientHttpProxyError):
        return f"the proxy says {error.status}"
    cause = getattr(error, "os_error", error)
    if isinstance(cause, ssl.SSLError):
        return f"TLS {(cause.reason or 'failed').lower().replace('_', ' ')}"
    if is_unreadable(error):
        return _why_unreadable(error)
    if isinstance(error, aiohttp.ClientPayloadError | HttpProcessingError):
        return "the answer broke off"
    if isinstance(error, aiohttp.ServerDisconnectedError):
        return "the server hung up"
    number = cause.errno if isinstance(cause, OSError) else None
    return os.strerror(number).lower() if number and number > 0 else type(error).__name__
