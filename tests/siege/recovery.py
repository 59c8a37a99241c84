"""Whether all is as before the siege."""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from telemetryd.errors import TelemetrydError
from telemetryd.serve.control.client import ask as ask_control
from telemetryd.serve.control.protocol import Request
from tests.siege.clients import SCRAPE, held_requests
from tests.siege.probes import Asked, Prober, Sampler, Server, read_metrics
from tests.siege.stage import EXPORTERS, Stage
from tests.siege.verdict import MOST_GROWTH_MIB, Phase, ratio_of

MOST_SLOWER: Final = 2.0
"""Times the quiet median, over the last few answers."""
HISTORY: Final = {"telemetryd_history_writable": 1, "telemetryd_history_lost_slots_total": 0}
_LAST = 5
_MIB = 2**20


@dataclass(frozen=True, slots=True)
class Recovery:
    """What is compared with the quiet phase.

    Attributes:
        quiet: That phase.
        requests: Of the tenant and of scc-operator, all of which the daemon has to hold.
        since_s: When the siege ended.
    """

    quiet: Phase
    requests: int
    since_s: float
    stage: Stage
    server: Server
    prober: Prober
    sampler: Sampler

    def differences(self) -> list[str]:
        """What is not as before, empty in the end."""
        asked = self.prober.between(self.since_s, time.monotonic())
        found = list(self._of_process())
        for name, each in asked.items():
            found += self._of_answers(name, each[-_LAST:])
        return [*found, *self._of_metrics(asked[SCRAPE]), *self._of_others()]

    def _of_process(self) -> Iterator[str]:
        sample = self.sampler.now()
        if sample is None:
            yield "the daemon is gone"
            return
        if sample.connections > self.quiet.connections + 2:
            yield f"{sample.connections} connections, {self.quiet.connections} before"
        grown = sample.rss_bytes / _MIB - self.quiet.rss_mib
        if grown > MOST_GROWTH_MIB:
            yield f"{grown:.0f} MiB more are resident"

    def _of_answers(self, name: str, last: list[Asked]) -> Iterator[str]:
        now, before = ratio_of(last), ratio_of(self.quiet.asked[name])
        if len(last) < _LAST or not all(each.is_answered for each in last):
            yield f"{name} is not answered"
        elif now > MOST_SLOWER * before:
            yield f"{name} takes {now:.1f} ms, {before:.1f} before"

    def _of_metrics(self, scrapes: list[Asked]) -> Iterator[str]:
        if not scrapes or not scrapes[-1].is_answered:
            return  # said already
        held = held_requests(scrapes[-1])
        if held != self.requests:
            yield f"{held:.0f} of {self.requests} SecretRequests are held"
        failures = "telemetryd_exporter_consecutive_failures"
        own = {f'{failures}{{exporter="{name}"}}' for name in EXPORTERS}
        for series, value in read_metrics(scrapes[-1].text).items():
            if HISTORY.get(series, value) != value:
                yield f"{series} is {value:g}"
            unsynced = series.startswith("telemetryd_informer_synced") and value != 1
            if unsynced or (series in own and value):
                yield f"{series} is {value:g}"

    def _of_others(self) -> Iterator[str]:
        ready = self.server.ask("/readyz")
        if not ready.is_answered:
            yield f"/readyz: {ready.status} {ready.error}"
        if not self.stage.is_operator_served():
            yield "scc-operator's request is not served"
        try:
            answer = ask_control([str(self.stage.control_socket)], Request("status"), timeout_s=10)
        except TelemetrydError as error:
            yield str(error)
        else:
            if not answer.ok:
                yield f"the control socket answers {answer.error}"
