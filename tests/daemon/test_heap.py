"""What was freed goes back to the system even where something above it is still in use."""

import subprocess
import sys

SCRIPT = """
import anyio
from telemetryd.daemon import heap

def resident_mib():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096 / 2**20

async def main():
    heap.PERIOD_S = 0.01
    blocks = [bytes(2_000) for _ in range(30_000)]
    blocks = blocks[::300]
    full = resident_mib()
    async with anyio.create_task_group() as group:
        group.start_soon(heap.give_back)
        while resident_mib() > full - 40:
            await anyio.sleep(0.01)
        group.cancel_scope.cancel()
    print("given back", len(blocks))

anyio.run(main)
"""


def test_freed_memory_is_given_back_below_what_is_in_use() -> None:
    run = subprocess.run(
        [sys.executable, "-c", SCRIPT], capture_output=True, text=True, timeout=90, check=True
    )
    assert run.stdout == "given back 100\n"
