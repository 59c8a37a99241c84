"""What the controller may ask of the API server, however many requests there are."""

from typing import Final, Unpack

from telemetryd.kube.requests import RequestOptions, Requests
from telemetryd.limiter import TokenBucket

RATE: Final = 10.0
"""Requests a second, all looks, statuses, new exporters and clean-ups together."""

BURST: Final = 100.0
"""So many may come at once, after a time without any."""

RESERVE: Final = 20.0
"""Of these so many are left to scc-operator's own request."""

LOOK_COST: Final = 1.0
STATUS_COST: Final = 2.0
EXPORTER_COST: Final = 2.0
RELEASE_COST: Final = 3.0
"""So many requests each takes."""

PAUSE_S: Final = 1 / 3000
"""Between two passes, for each request, so that passes over many don't take all the time."""

CRASH_PAUSE_S: Final = 30.0
"""After a pass that failed by a fault of ours."""

PASS_COST: Final = 20
"""After so many the controller begins again with those whose turn it is first."""

FIRST_STATUS_COST: Final = 64.0
"""That a request was seen isn't written unless so many are free: where there are many requests,
what becomes of each is written at once.
"""

MAX_SERVED: Final = 64
"""So many SecretRequests have an exporter at most, scc-operator's own not counted."""

TOO_MANY: Final = (
    f"telemetryd serves at most {MAX_SERVED} SecretRequests: delete those that aren't needed"
)


class Pace:
    """The requests of the controller, counted; each waits until it may be made.

    Attributes:
        made: So many have been made.
    """

    def __init__(self, requests: Requests) -> None:
        """Nothing has been asked yet.

        Args:
            requests: To the API server.
        """
        self._requests = requests
        self._bucket = TokenBucket(RATE, burst=BURST)
        self.made = 0

    def wait_s(self, cost: float, *, keep: float = RESERVE) -> float:
        """Seconds until so many requests may be made; 0 where they may be now.

        Args:
            cost: How many.
            keep: So many must be left then.
        """
        return self._bucket.wait_s(cost + keep)

    def spend(self, cost: float) -> None:
        """Count requests that others make for the controller."""
        self._bucket.take(cost)

    async def request(self, method: str, path: str, **options: Unpack[RequestOptions]) -> bytes:
        """Make one request and count it; the answer's body.

        Raises:
            KubeError: There was no answer, or an error.
        """
        self.made += 1
        self.spend(1)
        return await self._requests.request(method, path, **options)
