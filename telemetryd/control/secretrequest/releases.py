"""The Secrets that are to be given up: which, and when each is tried again.

How one is given up is ``release``'s.
"""

import logging
import math
from collections.abc import Callable
from dataclasses import dataclass
from random import Random

import anyio

from telemetryd.control.secretrequest.crowdlog import CrowdLog
from telemetryd.control.secretrequest.decision import Target
from telemetryd.control.secretrequest.pace import RELEASE_COST, Pace
from telemetryd.control.secretrequest.release import Release
from telemetryd.errors import Forbidden, KubeError
from telemetryd.kube.responses import explain_denial
from telemetryd.timing import backoff_s

RETRY_BASE_S = 1.0
RETRY_CAP_S = 300.0


@dataclass(slots=True)
class _Pending:
    release: Release
    due_s: float = -math.inf
    failures: int = 0


class Releases:
    """Gives Secrets up one after the other, for as long as nobody claims them again."""

    def __init__(self, pace: Pace, lines: CrowdLog, *, rng: Random) -> None:
        """None yet.

        Args:
            pace: To the API server.
            lines: For what becomes of each.
            rng: Spreads retries.
        """
        self._pace = pace
        self._lines = lines
        self._rng = rng
        self._pending: dict[Target, _Pending] = {}

    def add(self, target: Target) -> None:
        """Give this Secret up with the next ``run``."""
        self._pending.setdefault(target, _Pending(Release(self._pace, target)))

    async def run(self, *, claimed: Callable[[Target], bool]) -> float:
        """Try those that are due.

        Args:
            claimed: Whether a Secret is kept by somebody again: then it isn't given up.

        Returns:
            When the next is due on the loop's clock, infinity where none is.
        """
        for target, pending in list(self._pending.items()):
            if claimed(target):
                del self._pending[target]
            elif pending.due_s <= (now_s := anyio.current_time()):
                if (pause_s := self._pace.wait_s(RELEASE_COST)) > 0:
                    return now_s + pause_s
                await self._try(target, pending)
        return min((pending.due_s for pending in self._pending.values()), default=math.inf)

    async def _try(self, target: Target, pending: _Pending) -> None:
        try:
            outcome = await pending.release.attempt()
        except KubeError as error:
            pause_s = backoff_s(
                pending.failures, base_s=RETRY_BASE_S, cap_s=RETRY_CAP_S, rng=self._rng
            )
            pending.due_s = anyio.current_time() + pause_s
            self._lines.log(
                logging.DEBUG if pending.failures else logging.WARNING,
                "secret not given up secret=%s error=%r retry_in_s=%.1f",
                target,
                _why(target, error),
                pause_s,
            )
            pending.failures += 1
        else:
            del self._pending[target]
            self._lines.log(logging.INFO, "secret given up secret=%s outcome=%s", target, outcome)


def _why(target: Target, error: KubeError) -> str:
    if isinstance(error, Forbidden):
        grant = (
            f"grant get, patch, delete on secrets with resourceNames [{target.secret}] by a Role"
            f" in {target.namespace}"
        )
        return explain_denial(error, "clean up", grant=grant)
    return str(error)
