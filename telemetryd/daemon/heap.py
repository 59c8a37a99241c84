"""Memory that was freed is given back to the system, so that a busy hour leaves no trace.

glibc gives back only what is free at the end of its heap. What a crowd of clients or a large list
took stays resident below the first block that is still in use.
"""

import ctypes
from typing import Final

import anyio

PERIOD_S: Final = 10.0
"""Between two looks, which take a millisecond or two each."""


async def give_back() -> None:
    """Give free pages back time and again until cancelled; without glibc there is nothing to do."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    while trim is not None:
        await anyio.sleep(PERIOD_S)
        trim(0)
