"""What the kernel tells of a running process: CPU time, memory, threads. Linux only."""

import contextlib
import time
from dataclasses import dataclass
from pathlib import Path

_CPUCLOCK_SCHED = 2
_NANO = 1_000_000_000
_SLEEPS = "voluntary_ctxt_switches"


@dataclass(frozen=True, slots=True)
class Memory:
    """Resident bytes now, and the most since the start or since ``forget_peak``."""

    resident_bytes: int
    peak_bytes: int


def cpu_s(pid: int) -> float:
    """CPU seconds of all threads, those that have ended included, to the nanosecond.

    The clock id of another process is made as MAKE_PROCESS_CPUCLOCK of posix-timers.h does.
    """
    return time.clock_gettime((~pid << 3) | _CPUCLOCK_SCHED)


def main_thread_cpu_s(pid: int) -> float:
    """CPU seconds of the first thread alone: in telemetryd, that of the event loop."""
    return _schedstat(pid)[0]


def main_thread_queued_s(pid: int) -> float:
    """Seconds that the first thread could have run, but for want of a core did not."""
    return _schedstat(pid)[1]


def memory(pid: int) -> Memory:
    """Resident memory of a process."""
    return Memory(
        resident_bytes=_status(pid, "VmRSS") * 1024, peak_bytes=_status(pid, "VmHWM") * 1024
    )


def forget_peak(pid: int) -> None:
    """Let the peak count anew from what is resident now (proc(5), clear_refs)."""
    Path(f"/proc/{pid}/clear_refs").write_text("5", encoding="ascii")


def wakeups(pid: int) -> int:
    """How often its threads have slept and woken: voluntary context switches of those there are."""
    found = 0
    for task in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(OSError):  # it has ended
            found += _number((task / "status").read_text(encoding="utf-8"), _SLEEPS)
    return found


def threads(pid: int) -> int:
    """How many threads it has."""
    return _status(pid, "Threads")


def _schedstat(pid: int) -> tuple[float, float]:
    """Seconds on a core, and in the queue for one (schedstats of the kernel's documentation)."""
    fields = Path(f"/proc/{pid}/task/{pid}/schedstat").read_text(encoding="ascii").split()
    return int(fields[0]) / _NANO, int(fields[1]) / _NANO


def _status(pid: int, key: str) -> int:
    return _number(Path(f"/proc/{pid}/status").read_text(encoding="utf-8"), key)


def _number(status: str, key: str) -> int:
    return int(status.partition(f"\n{key}:")[2].split(maxsplit=1)[0])
