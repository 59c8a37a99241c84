"""Other writers of a Secret's payload: how long they were quiet, and whether to overrule them."""

import re
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256
from typing import Final

from telemetryd.errors import Conflict, ConflictError, Reason
from telemetryd.export.sinks.secretobject import FoundSecret

MAX_FORCED: Final = 3
"""How often another writer is overruled within ``FORCED_WINDOW_S``, in any case."""

FORCED_WINDOW_S: Final = 600.0

_OTHER_MANAGER = re.compile(r'conflicts? with "([^"]*)"')


@dataclass(frozen=True, slots=True)
class _Seen:
    """The other writer's payload as a digest, when it was first seen, and the writer's name."""

    digest: bytes
    since_s: float
    who: str


class Contention:
    """Follows the other writers of one Secret."""

    def __init__(
        self,
        secret: object,
        *,
        quiet_period_s: float,
        takeover: bool,
        requested: bool,
        clock: Callable[[], float],
    ) -> None:
        """No other writer has been seen yet.

        Args:
            secret: Its name, for messages.
            quiet_period_s: Another writer is overruled once its payload stayed the same so long.
            takeover: Overrule another writer at once.
            requested: A SecretRequest names the Secret: only ``takeover`` overrules.
            clock: Seconds that never jump.
        """
        self._secret = secret
        self._quiet_period_s = quiet_period_s
        self._takeover = takeover
        self._requested = requested
        self._clock = clock
        self._seen: _Seen | None = None
        self._forced_at: deque[float] = deque(maxlen=MAX_FORCED)

    def observe(self, found: FoundSecret | None) -> None:
        """Remember another writer's payload, also where we need not write.

        Raises:
            ConflictError: A SecretRequest names the Secret, and the payload is another writer's.
                Or the Secret is gone, and another writer was there a moment ago: it may be about
                to write the Secret again.
        """
        if found is not None:
            if found.others:
                managers = sorted({other.manager for other in found.others})
                self._note(found, ", ".join(managers))
                if self._requested and not (self._takeover or found.ours):
                    raise self._conflict(managers, _NO_TAKEOVER)
            return
        if self._seen is None or self._takeover:
            return
        if self._note(found, self._seen.who) < self._quiet_period_s:
            raise ConflictError(
                Reason.FIELD_CONFLICT,
                f"{self._secret} is gone, which {self._seen.who} wrote: it is left to that writer"
                f" for {self._quiet_period_s:g} s",
            )

    def resolve(self, found: FoundSecret | None = None) -> None:
        """The Secret is up to date: forget the other writer, unless the payload is its own."""
        if found is None or not found.others:
            self._seen = None

    def require_right_to_force(self, found: FoundSecret | None, exc: Conflict) -> None:
        """Check whether the other writer may be overruled now.

        Raises:
            ConflictError: It may not; the message names it.
        """
        managers = sorted(set(_managers(exc)))
        quiet_s = self._note(found, ", ".join(managers))
        if self._requested and not self._takeover:
            wait = _NO_TAKEOVER
        elif found is None or (not self._takeover and quiet_s < self._quiet_period_s):
            wait = f"waiting until it has not changed for {self._quiet_period_s:g} s"
        elif (
            len(self._forced_at) == MAX_FORCED
            and self._clock() - self._forced_at[0] < FORCED_WINDOW_S
        ):
            wait = f"it came back after {MAX_FORCED} takeovers within {FORCED_WINDOW_S:g} s"
        else:
            return
        raise self._conflict(managers, wait) from exc

    def count_force(self) -> None:
        """Count a forced write, before it is tried."""
        self._forced_at.append(self._clock())

    def uncount_force(self) -> None:
        """The last forced write failed: no writer was overruled."""
        self._forced_at.pop()

    def _note(self, found: FoundSecret | None, who: str) -> float:
        """Remember the payload; for how many seconds it hasn't changed."""
        digest = sha256((found.payload if found is not None else None) or b"").digest()
        if self._seen is None or self._seen.digest != digest:
            self._seen = _Seen(digest, self._clock(), who)
        return self._clock() - self._seen.since_s

    def _conflict(self, managers: list[str], wait: str) -> ConflictError:
        who = ", ".join(managers) or "another field manager"
        return ConflictError(
            Reason.FIELD_CONFLICT,
            f"{self._secret} is also written by {who}: nothing was written, {wait}; stop the other "
            "writer, or configure another name",
        )


_NO_TAKEOVER: Final = "as takeover isn't set in [secret_requests]"


def _managers(exc: Conflict) -> list[str]:
    """The field managers that the causes of an apply conflict name."""
    return [
        found.group(1)
        for cause in exc.causes
        if cause.reason == "FieldManagerConflict"
        and (found := _OTHER_MANAGER.search(cause.message)) is not None
    ]
