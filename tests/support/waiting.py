"""The one way to wait for what comes in its own time: by looking again and again.

The deadline is for what never comes. No test is about how long it takes.
"""

import time
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Final, TypeVar, overload

import anyio

DEADLINE_S: Final = 60.0
POLL_S: Final = 0.005
SLOWEST_POLL_S: Final = 0.2

T = TypeVar("T")


def until(
    condition: Callable[[], T | None],
    what: str = "",
    *,
    deadline_s: float = DEADLINE_S,
    more: Callable[[], str] = str,
    ended: Callable[[], int | None] | None = None,
) -> T:
    """Returns the first truthy result; looks ever less often, for each look costs both sides.

    Args:
        condition: What is asked, at once and then every few milliseconds.
        what: What is waited for.
        deadline_s: From the call on.
        more: What else is to be known where it fails, such as a log.
        ended: The exit status of the process it depends on, None while that runs.

    Raises:
        AssertionError: It stayed falsy, or the process ended.
    """
    deadline, pause_s = time.monotonic() + deadline_s, POLL_S
    while True:
        result = condition()
        if result:
            return result
        status = None if ended is None else ended()
        if status is not None:
            raise AssertionError(f"{what}: exited with {status}\n{more()}")
        if time.monotonic() > deadline:
            raise AssertionError(f"{what}: waited {deadline_s:g} s\n{more()}")
        time.sleep(pause_s)
        pause_s = min(pause_s * 1.4, SLOWEST_POLL_S)


@overload
async def until_async(
    condition: Callable[[], Coroutine[Any, Any, T | None]],
    what: str = ...,
    *,
    deadline_s: float = ...,
    more: Callable[[], str] = ...,
) -> T: ...
@overload
async def until_async(
    condition: Callable[[], T | None],
    what: str = ...,
    *,
    deadline_s: float = ...,
    more: Callable[[], str] = ...,
) -> T: ...
async def until_async(
    condition: Callable[[], Any],
    what: str = "",
    *,
    deadline_s: float = DEADLINE_S,
    more: Callable[[], str] = str,
) -> Any:
    """The same, for what goes on in the same event loop or in another; by the loop's clock.

    Args:
        condition: As of `until`; or what it returns is awaited.
        what: As of `until`.
        deadline_s: As of `until`.
        more: As of `until`.

    Raises:
        AssertionError: It stayed falsy.
    """
    deadline = anyio.current_time() + deadline_s
    while True:
        result = condition()
        found = await result if isinstance(result, Awaitable) else result
        if found:
            return found
        if anyio.current_time() > deadline:
            raise AssertionError(f"{what}: waited {deadline_s:g} s\n{more()}")
        await anyio.sleep(POLL_S)
