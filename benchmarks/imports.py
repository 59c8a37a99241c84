"""What the daemon's imports cost: ``python -m benchmarks.imports`` writes the table of the README.

Each row is imported after those above it, in a fresh interpreter; what is imported on demand, each
in an interpreter of its own after all that every daemon has. Medians of several rounds.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from statistics import median
from typing import Final

from benchmarks import report

_ROUNDS: Final = 7
_MARKERS: Final = (
    "<!-- imports: written by `python -m benchmarks.imports`, from here -->",
    "<!-- imports: to here -->",
)
_ALWAYS: Final = {
    "asyncio and ssl": ("asyncio", "ssl", "hashlib"),
    "aiohttp": ("telemetryd.kube.lightimport:import_aiohttp",),
    "anyio, msgspec, orjson": ("anyio", "anyio._backends._asyncio", "msgspec.json", "orjson"),
    "PyYAML": ("yaml",),
    "the command line": ("telemetryd.cli",),
    "telemetryd itself": ("telemetryd.daemon.app", "telemetryd.daemon.reload"),
}
_ON_DEMAND: Final = {
    "the system's authorities: an https receiver without `ca_file`": ("aiohttp:authorities",),
    "kubernetes_asyncio: in a pod, or an `auth-provider`": ("telemetryd.kube.loader",),
    "scrapes of `/metrics`": ("telemetryd.serve.metrics.exposition",),
    "the status page and `/status.json`": ("telemetryd.serve.page.page",),
    "`/history`": ("telemetryd.serve.page.history",),
    "the history, SQLite": ("telemetryd.history.sqlite",),
    "exporters of type http": ("telemetryd.export.sinks.http",),
    "exporters of type otlp": (
        "telemetryd.export.sinks.http",
        "telemetryd.export.payloads.otlp_metrics",
    ),
    "exporters of type file": ("telemetryd.export.sinks.file",),
    "format fleet": ("telemetryd.export.payloads.fleet",),
    "`telemetryd support-bundle`": ("telemetryd.daemon.supportbundle",),
    "`telemetryd doctor`": ("telemetryd.doctor.examine",),
}
_PROGRAM: Final = """
import importlib, json, sys, time
def resident():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmRSS"))
def load(name):
    module, _, function = name.partition(":")
    loaded = importlib.import_module(module)
    if function == "authorities":
        importlib.import_module("ssl").create_default_context()
    elif function:
        getattr(loaded, function)()
rows = []
for name, modules in json.loads(sys.argv[1]):
    before = time.process_time(), resident(), len(sys.modules)
    for each in modules:
        load(each)
    after = time.process_time(), resident(), len(sys.modules)
    rows.append((name, *(new - old for new, old in zip(after, before))))
print(json.dumps(rows))
"""


def main() -> int:
    """Measure, and put the table into the README."""
    block = render()
    readme = Path(__file__).with_name("README.md")
    document = report.put_into(readme.read_text(encoding="utf-8"), block, _MARKERS)
    readme.write_text(document, encoding="utf-8")
    sys.stdout.write(block)
    return 0


def render(rounds: int = _ROUNDS) -> str:
    """Both tables, in Markdown."""
    always = list(_ALWAYS.items())
    lines = _table("what every daemon imports", [_measure(always) for _ in range(rounds)])
    lines += _table(
        "imported on demand, for",
        [
            [row for one in _ON_DEMAND.items() for row in _measure([*always, one])[-1:]]
            for _ in range(rounds)
        ],
    )
    return "\n".join(lines) + "\n"


def _table(title: str, samples: list[list[list[float]]]) -> list[str]:
    lines = ["", f"| {title} | CPU, ms | MB | modules |", "| --- | --- | --- | --- |"]
    for rows in zip(*samples, strict=True):
        cpu_s, kib, modules = (median(row[column] for row in rows) for column in (1, 2, 3))
        lines.append(
            f"| {rows[0][0]} | {cpu_s * 1e3:.0f} | {kib * 1024 / 1e6:.1f} | {modules:.0f} |"
        )
    return lines


def _measure(parts: list[tuple[str, tuple[str, ...]]]) -> list[list[float]]:
    """Name, CPU seconds, KiB and modules of each part, imported one after the other."""
    environ = {name: text for name, text in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM, json.dumps(parts)],
        env=environ,
        stdout=subprocess.PIPE,
        check=True,
    )
    rows: list[list[float]] = json.loads(done.stdout)
    return rows


if __name__ == "__main__":
    sys.exit(main())
