"""Signals in the first moments of a real `telemetryd run`."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.support.processes import is_gone
from tests.support.service import ServiceManager

DELAYS_S = (0.0, 0.01, 0.03, 0.06, 0.1, 0.15, 0.2)
"""After the first handler is there: imports, configuration, and the start of the loop."""


def test_entry_point_imports_next_to_nothing() -> None:
    """What is imported before the handlers are there is time in which SIGHUP kills."""
    code = "import sys, telemetryd.__main__; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    heavy = {"anyio", "aiohttp", "argparse", "asyncio", "logging", "orjson", "telemetryd.cli"}
    assert not heavy & set(done.stdout.split())


def test_reload_and_summary_asked_during_the_start_are_done_once_it_runs(tmp_path: Path) -> None:
    for index, delay_s in enumerate(DELAYS_S):
        folder = tmp_path / str(index)
        folder.mkdir()
        with ServiceManager(folder) as service:
            service.wait_until_signals_are_caught()
            time.sleep(delay_s)
            service.process.send_signal(signal.SIGHUP)
            service.process.send_signal(signal.SIGUSR1)
            first = service.next()
            assert "READY" in first, f"after {delay_s} s: {first}"
            service.next_with("RELOADING")
            service.next_with("READY")
            service.wait_for_log('"message":"status","informers_synced":"0/')
            assert service.end() == 0, service.log()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_to_end_the_daemon_during_its_start_does_so_with_status_0(
    tmp_path: Path, number: signal.Signals
) -> None:
    for index, delay_s in enumerate(DELAYS_S):
        folder = tmp_path / str(index)
        folder.mkdir()
        with ServiceManager(folder) as service:
            service.wait_until_signals_are_caught()
            time.sleep(delay_s)
            service.process.send_signal(number)
            assert service.process.wait(timeout=60) == 0, f"after {delay_s} s\n{service.log()}"
            assert "Traceback" not in service.log()


def test_credentials_that_keep_the_start_waiting_don_t_keep_it_from_ending(tmp_path: Path) -> None:
    plugin = {"apiVersion": "client.authentication.k8s.io/v1", "interactiveMode": "Never"}
    begun = tmp_path / "begun"
    command = {"command": "/bin/sh", "args": ["-c", f"echo $$ >{begun}; exec sleep 60"]}
    with ServiceManager(tmp_path, user={"exec": plugin | command}) as service:
        while not begun.exists() or not begun.read_text():
            time.sleep(0.01)
        assert service.end() == 0, service.log()
        assert service.next() == {"STOPPING": "1", "STATUS": "draining"}
        assert is_gone(int(begun.read_text()))


def test_signals_without_end_leave_the_end_at_status_0(tmp_path: Path) -> None:
    with ServiceManager(tmp_path) as service:
        assert "READY" in service.next_with("READY")
        while service.process.poll() is None:
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1):
                service.process.send_signal(number)
            time.sleep(0.001)
        assert service.process.returncode == 0, service.log()
        assert "Traceback" not in service.log()
