"""Who has to be served all through a siege: a kubelet and a Prometheus, each at two addresses.

A reader asks for the history in turn as a page, as JSON and as CSV.
"""

import time
from itertools import cycle
from typing import Final

from tests.siege.attacks import ATTACKERS
from tests.siege.probes import SCRAPE_TIMEOUT_S, Asked, Series, Server, read_metrics
from tests.siege.stage import Stage

LIVEZ, LIVEZ_BESIDE = "/livez", "/livez, attackers' address"
SCRAPE, SCRAPE_BESIDE = "/metrics", "/metrics, attackers' address"
HISTORY: Final = ("/history", "/history.json", "/history.csv")
READER = "/history, .json, .csv"
TOKEN_S: Final = 25.0
"""A scraper changes its token after so long, which Kubernetes does after an hour."""
_REQUESTS = "secretrequests.telemetry.cattle.io"


def series_of(stage: Stage, server: Server) -> list[Series]:
    """Probes and scrapes, from an address of their own and from the attackers'.

    The scraper with an address of its own comes with a new token now and then, which has to be let
    in while made-up ones are reviewed.
    """
    tokens = _Tokens(stage)
    beside = stage.token()

    def scrape(source: str, token: str, path: str = "/metrics") -> Asked:
        return server.ask(path, source=source, token=token, timeout_s=SCRAPE_TIMEOUT_S)

    paths = cycle(HISTORY)

    return [
        Series(LIVEZ, lambda: server.ask("/livez")),
        Series(SCRAPE, lambda: scrape("127.0.0.1", tokens.current())),
        Series(LIVEZ_BESIDE, lambda: server.ask("/livez", source=ATTACKERS)),
        Series(SCRAPE_BESIDE, lambda: scrape(ATTACKERS, beside)),
        Series(READER, lambda: scrape("127.0.0.1", beside, next(paths))),
    ]


class _Tokens:
    """A good token, another one every `TOKEN_S`."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self._token = ""
        self._until_s = 0.0

    def current(self) -> str:
        if time.monotonic() >= self._until_s:
            self._token = self._stage.token()
            self._until_s = time.monotonic() + TOKEN_S
        return self._token


def held_requests(scraped: Asked) -> float:
    """How many SecretRequests the daemon holds, 0 before their list is in."""
    metrics = read_metrics(scraped.text) if scraped.is_answered else {}
    label = f'{{resource="{_REQUESTS}"}}'
    synced = metrics.get(f"telemetryd_informer_synced{label}", 0.0)
    return synced and metrics.get(f"telemetryd_informer_objects{label}", 0.0)
