"""Where the time of a cold sync goes: a profile of the daemon, and its top as a table."""

import pstats
import tempfile
from pathlib import Path

from benchmarks.holders import Telemetryd
from benchmarks.report import table
from benchmarks.servers import Server

_TOP = 20
_WAITING = {"<method 'poll' of 'select.epoll' objects>"}


def profile(server: Server, fleet: str, *, pages: bool = False) -> str:
    """Let a daemon sync under cProfile; its top functions by their own time, as Markdown.

    Args:
        server: Holds the fleet.
        fleet: Its name.
        pages: Lists come in pages, even where the server streams them.
    """
    with tempfile.TemporaryDirectory(prefix="telemetryd-bench-profile-") as folder:
        written = Path(folder, "profile")
        with Telemetryd(
            "telemetryd",
            server.kubeconfig,
            program=("-m", "benchmarks.profiled"),
            environ={"BENCH_PROFILE": str(written)},
            kubernetes='watch_list = "off"' if pages else "",
        ) as daemon:
            nodes = daemon.cold_sync().nodes
            daemon.stop()
        way = ", in pages" if pages else ""
        return (
            f"Cold sync of {nodes:,} {fleet} nodes from {server.kind}{way}, imports left out:\n\n"
            f"{render(written)}\n"
        )


def render(profile_file: Path) -> str:
    """The functions that took the most time of their own, waiting left out."""
    stats = pstats.Stats(str(profile_file)).get_stats_profile().func_profiles
    working = {name: found for name, found in stats.items() if name not in _WAITING}
    total_s = sum(found.tottime for found in working.values())
    ordered = sorted(working.items(), key=lambda entry: -entry[1].tottime)[:_TOP]
    rows = [
        (
            f"{found.tottime * 1e3:.0f}",
            f"{found.tottime / total_s:.1%}",
            str(found.ncalls),
            f"`{name}` {_place(found.file_name, found.line_number)}",
        )
        for name, found in ordered
    ]
    return table(("own ms", "part", "calls", "function"), rows)


def _place(file_name: str, line: int) -> str:
    """Where it is, from its package on; nothing for built-in functions."""
    if file_name == "~":
        return ""
    return f"{'/'.join(Path(file_name).parts[-3:])}:{line}"
