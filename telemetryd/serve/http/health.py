"""Health: what ``/livez`` and ``/readyz`` say, and asking a running daemon for the first."""

import http.client
import ssl
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from telemetryd.bounds import free_text
from telemetryd.model import InformerStatus

TIMEOUT_S: Final = 3.0
"""Shorter than the 5 s that the image's HEALTHCHECK gives the whole command."""
_WITHHELD: Final = "failed: reason withheld"
"""Kubernetes' text for clients that may not see more."""
_FAILURE_CHARS: Final = 1000


@dataclass(frozen=True, slots=True)
class HealthReport:
    """The checks of a health endpoint.

    Attributes:
        failures: What is wrong, in a few words, by name of the check; empty where it passed.
    """

    failures: Mapping[str, str]

    @property
    def ok(self) -> bool:
        """Whether every check passed."""
        return not any(self.failures.values())

    def render(self, endpoint: str, *, reasons: bool = True) -> str:
        """Lines in the format of Kubernetes' health endpoints.

        A reason may quote the API server with user names.
        """
        lines = [
            f"[-]{name} {_one_line(failure) if reasons else _WITHHELD}"
            if failure
            else f"[+]{name} ok"
            for name, failure in self.failures.items()
        ]
        result = "passed" if self.ok else "failed"
        return "\n".join((*lines, f"{endpoint} check {result}", ""))


def liveness(*, loop_alive: bool, scheduler_alive: bool) -> HealthReport:
    """Whether the process works, whatever the API server and the destinations do."""
    return HealthReport(
        {
            "event-loop": "" if loop_alive else "stalled",
            "scheduler": "" if scheduler_alive else "stalled",
        }
    )


def readiness(
    *, config_applied: bool, required: Iterable[InformerStatus], unsettled: str = ""
) -> HealthReport:
    """Whether the configuration is applied and every required informer has synced.

    A resource that the API server doesn't serve counts as synced. While collection is switched
    off, no informer is required.

    ``unsettled`` is why the required informers aren't known yet; empty where they are.
    """
    failures = {"config": "" if config_applied else "not applied yet"}
    if unsettled:
        failures["source"] = f"waiting for {unsettled}"
    for informer in required:
        why = "" if informer.synced else f"not synced: {informer.last_error or 'first list'}"
        failures[f"informer/{informer.resource}"] = why
    return HealthReport(failures)


def _one_line(text: str) -> str:
    return free_text(" ".join(text.split()), _FAILURE_CHARS)


def check_health(host: str, port: int, *, tls: bool, timeout_s: float = TIMEOUT_S) -> str:
    """Ask ``/livez`` of the daemon that listens there.

    A host that stands for every address is asked on loopback.

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
        why = getattr(error, "strerror", None) or str(error) or type(error).__name__
        fix = "see that the daemon runs, and that server.listen is the same here"
        return f"no answer from {reachable} port {port}: {why.lower()}: {fix}"
    finally:
        connection.close()
    return "" if status == http.HTTPStatus.OK else f"/livez answers {status}"


def connect(host: str, port: int, *, tls: bool, timeout_s: float) -> http.client.HTTPConnection:
    """A connection to a daemon on this machine, not opened yet.

    Its certificate isn't checked: it is made for the names that others use, is replaced while the
    daemon runs, and nothing secret is asked or sent.
    """
    if not tls:
        return http.client.HTTPConnection(host, port, timeout=timeout_s)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return http.client.HTTPSConnection(host, port, timeout=timeout_s, context=context)
