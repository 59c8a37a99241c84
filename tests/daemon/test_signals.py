"""Signals that a running event loop hands on, under more of them than it can hear."""

import subprocess
import sys

_STORM = """
import os, signal, subprocess, sys, time
import anyio
from telemetryd.daemon.signals import handling

SENDER = '''
import os, signal, sys, time
end = time.monotonic() + 1.5
while time.monotonic() < end:
    for number in (signal.SIGHUP, signal.SIGUSR1):
        os.kill(int(sys.argv[1]), number)
'''
heard = {signal.SIGHUP: 0, signal.SIGUSR1: 0}

def hear(number):
    heard[number] += 1

async def main():
    with handling({number: lambda number=number: hear(number) for number in heard}):
        senders = [
            subprocess.Popen([sys.executable, "-c", SENDER, str(os.getpid())]) for _ in range(3)
        ]
        while any(sender.poll() is None for sender in senders):
            await anyio.sleep(0.001)
        for number in heard:
            before = heard[number]
            os.kill(os.getpid(), number)
            with anyio.fail_after(30):
                while heard[number] <= before:
                    await anyio.sleep(0.01)

anyio.run(main)
print(min(heard.values()))
"""


def test_storm_of_signals_loses_none_that_comes_after_and_reports_nothing() -> None:
    done = subprocess.run(
        [sys.executable, "-c", _STORM], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stderr == ""
    assert int(done.stdout) > 10
