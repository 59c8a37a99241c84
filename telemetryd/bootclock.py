"""The clock for how long ago something was: no step of the wall clock moves it."""

import time


def boot_time_s() -> float:
    """Seconds since the machine booted, suspends included."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)
