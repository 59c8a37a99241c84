"""``telemetryd`` with the same arguments under cProfile, its imports left out.

Everything is imported before the profile begins; it is written to ``$BENCH_PROFILE`` at the end.
"""

import atexit
import cProfile
import importlib
import os
import pkgutil

import telemetryd


def main() -> None:
    """Import all of telemetryd, then run it."""
    for module in pkgutil.walk_packages(telemetryd.__path__, "telemetryd."):
        importlib.import_module(module.name)
    run = importlib.import_module("telemetryd.__main__").main
    profiler = cProfile.Profile()
    # Not by `finally`: where a thread is still at work, the daemon leaves without it.
    atexit.register(profiler.dump_stats, os.environ["BENCH_PROFILE"])
    profiler.enable()
    run()


if __name__ == "__main__":
    main()
