"""Waiting for what a server does in its own time, by polling."""

import time
from collections.abc import Callable

_TIMEOUT_S = 20.0
_POLL_S = 0.01


def until(condition: Callable[[], object]) -> None:
    """Return once the condition holds.

    Raises:
        TimeoutError: It never did.
    """
    deadline = time.monotonic() + _TIMEOUT_S
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {_TIMEOUT_S:g} s")
        time.sleep(_POLL_S)
