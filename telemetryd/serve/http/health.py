"""The daemon's own ``/livez``, asked from outside: what a container's HEALTHCHECK runs."""

import http.client
import ssl
from typing import Final

TIMEOUT_S: Final = 3.0
"""Shorter than the 5 s that the image's HEALTHCHECK gives the whole command."""


def check_health(host: str, port: int, *, tls: bool, timeout_s: float = TIMEOUT_S) -> str:
    """Ask ``/livez`` of the daemon that listens there.

    Args:
        host: As configured; an address that stands for every one is asked on loopback.
        port: As configured.
        tls: Whether it serves TLS.
        timeout_s: For connecting, and for each read.

    Returns:
        Why it isn't healthy, in one line; empty where it is.
    """
    if port == 0:
        return "server.listen has port 0: the daemon chose one that this command can't know"
    reachable = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104
    connection = connect(reachable, port, tls=tls, timeout_s=timeout_s)
    try:
        connection.request("GET", "/livez")
        status = connection.getresponse().status
    except (OSError, http.client.HTTPException) as error:
        return f"no answer from {reachable} port {port}: {error or type(error).__name__}"
    finally:
        connection.close()
    return "" if status == http.HTTPStatus.OK else f"/livez answers {status}"


def connect(host: str, port: int, *, tls: bool, timeout_s: float) -> http.client.HTTPConnection:
    """A connection to a daemon on this machine, not opened yet.

    Its certificate isn't checked: it is made for the names that others use, is replaced while the
    daemon runs, and nothing secret is asked or sent.

    Args:
        host: Name or IP address of this machine.
        port: TCP port.
        tls: Whether it serves TLS.
        timeout_s: For connecting, and for each read.
    """
    if not tls:
        return http.client.HTTPConnection(host, port, timeout=timeout_s)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return http.client.HTTPSConnection(host, port, timeout=timeout_s, context=context)
