"""Errors of aiohttp, TLS and sockets in words of ours, and what they say of the request."""

import errno
import ssl
from typing import Any

import aiohttp
import pytest
from aiohttp.client_reqrep import ConnectionKey
from aiohttp.http_exceptions import BadHttpMessage, LineTooLong, PayloadEncodingError

from telemetryd.errors import Reason, Unavailable
from telemetryd.kube.http import is_unreadable, is_unsent, translate

KEY: Any = ConnectionKey("api.example.test", 443, True, True, None, None, None)
NOTHING: Any = None
SENTINEL = "SENTINEL-hunter2"


def tls_error(reason: str) -> ssl.SSLError:
    error = ssl.SSLError(1, SENTINEL)
    error.reason = reason
    return error


def untrusted() -> ssl.SSLCertVerificationError:
    error = ssl.SSLCertVerificationError(1, SENTINEL)
    error.verify_message = "certificate has expired"
    return error


def connecting(error: OSError) -> aiohttp.ClientConnectorError:
    return aiohttp.ClientConnectorError(KEY, error)


PROXY = aiohttp.ClientHttpProxyError(NOTHING, (), status=407, message=SENTINEL)
CERTIFICATE = aiohttp.ClientConnectorCertificateError(KEY, untrusted())
CASES: list[tuple[BaseException, str, bool, bool]] = [
    (CERTIFICATE, "the server's certificate: certificate has expired", True, False),
    (untrusted(), "the server's certificate: certificate has expired", False, False),
    (aiohttp.ConnectionTimeoutError(SENTINEL), "no connection in 5 s", False, False),
    (
        aiohttp.ClientConnectorDNSError(KEY, OSError(-2, SENTINEL)),
        "the host name isn't known",
        True,
        False,
    ),
    (PROXY, "the proxy says 407", True, False),
    (
        aiohttp.ClientConnectorSSLError(KEY, tls_error("WRONG_VERSION_NUMBER")),
        "TLS wrong version number",
        True,
        False,
    ),
    (
        LineTooLong(SENTINEL, "8190", "9000"),
        "the answer's headers have more than 8190 bytes",
        False,
        True,
    ),
    (BadHttpMessage(SENTINEL), "the answer isn't valid HTTP", False, True),
    (PayloadEncodingError(SENTINEL), "the answer broke off", False, False),
    (aiohttp.ClientPayloadError(SENTINEL), "the answer broke off", False, False),
    (aiohttp.ServerDisconnectedError(SENTINEL), "the server hung up", False, False),
    (
        connecting(ConnectionRefusedError(errno.ECONNREFUSED, SENTINEL)),
        "connection refused",
        True,
        False,
    ),
    (ConnectionResetError(errno.ECONNRESET, SENTINEL), "connection reset by peer", False, False),
    (ValueError(SENTINEL), "ValueError", False, False),
]


@pytest.mark.parametrize(
    ("error", "why", "unsent", "unreadable"), CASES, ids=[type(case[0]).__name__ for case in CASES]
)
def test_error_is_said_without_its_own_text(
    error: BaseException, why: str, unsent: bool, unreadable: bool
) -> None:
    said = translate(error, "GET /version")
    assert type(said) is Unavailable
    assert said.kind is Reason.CONNECT
    assert str(said) == f"GET /version: {why}"
    assert is_unsent(error) is unsent
    assert is_unreadable(error) is unreadable


def test_headers_that_are_too_long_are_said_with_the_limit() -> None:
    error = aiohttp.ClientResponseError(
        NOTHING, (), status=400, message="Got more than 16384 bytes when reading: b'SENTINEL'"
    )
    assert str(translate(error, "it")) == "it: the answer's headers have more than 16384 bytes"


def test_request_that_found_no_credential_was_not_sent() -> None:
    assert is_unsent(None)
