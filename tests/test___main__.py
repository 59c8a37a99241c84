"""How a process of telemetryd begins, under signals, and ends, while threads of it are at work."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.support.processes import is_gone
from tests.support.service import ServiceManager
from tests.support.waiting import until

DELAYS_S = [
    pytest.param(each, marks=() if each in {0.0, 0.1} else pytest.mark.long)
    for each in (0.0, 0.01, 0.03, 0.06, 0.1, 0.15, 0.2)
]
"""After the first handler is there: imports, configuration, and the start of the loop."""


def test_entry_point_imports_next_to_nothing() -> None:
    """What is imported before the handlers are there is time in which SIGHUP kills."""
    code = "import sys, telemetryd.__main__; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    heavy = {"anyio", "aiohttp", "argparse", "asyncio", "logging", "orjson", "telemetryd.cli"}
    assert not heavy & set(done.stdout.split())


@pytest.mark.parametrize("delay_s", DELAYS_S)
def test_reload_and_summary_asked_during_the_start_are_done_once_it_runs(
    tmp_path: Path, delay_s: float
) -> None:
    with ServiceManager(tmp_path) as service:
        service.wait_until_signals_are_caught()
        time.sleep(delay_s)
        service.process.send_signal(signal.SIGHUP)
        service.process.send_signal(signal.SIGUSR1)
        assert "READY" in service.next()
        service.next_with("RELOADING")
        service.next_with("READY")
        service.wait_for_log('"message":"status","informers_synced":"0/')
        assert service.end() == 0, service.log()


@pytest.mark.parametrize("delay_s", DELAYS_S)
@pytest.mark.parametrize(
    "number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.long)]
)
def test_signal_to_end_the_daemon_during_its_start_does_so_with_status_0(
    tmp_path: Path, number: signal.Signals, delay_s: float
) -> None:
    with ServiceManager(tmp_path) as service:
        service.wait_until_signals_are_caught()
        time.sleep(delay_s)
        service.process.send_signal(number)
        assert service.process.wait(timeout=60) == 0, service.log()
        assert "Traceback" not in service.log()


def test_credentials_that_keep_the_start_waiting_don_t_keep_it_from_ending(tmp_path: Path) -> None:
    plugin = {"apiVersion": "client.authentication.k8s.io/v1", "interactiveMode": "Never"}
    begun = tmp_path / "begun"
    command = {"command": "/bin/sh", "args": ["-c", f"echo $$ >{begun}; exec sleep 60"]}
    with ServiceManager(tmp_path, user={"exec": plugin | command}) as service:
        plugin_id = until(lambda: begun.read_text() if begun.exists() else "", "the plug-in")
        assert service.end() == 0, service.log()
        assert service.next() == {"STOPPING": "1", "STATUS": "draining"}
        until(lambda: is_gone(int(plugin_id)), "its end")


def test_signals_without_end_leave_the_end_at_status_0(tmp_path: Path) -> None:
    with ServiceManager(tmp_path) as service:
        assert "READY" in service.next_with("READY")
        while service.process.poll() is None:
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1):
                service.process.send_signal(number)
            time.sleep(0.001)
        assert service.process.returncode == 0, service.log()
        assert "Traceback" not in service.log()


# The C library's exit calls _exit(7) where it is reached.
SCRIPT = """
import ctypes, threading
from telemetryd.__main__ import _leave

libc = ctypes.CDLL(None)
libc.__cxa_atexit(ctypes.cast(libc._exit, ctypes.c_void_p), ctypes.c_void_p(7), None)
if {at_work}:
    threading.Thread(target=threading.Event().wait, daemon=True).start()
_leave(3)
"""


@pytest.mark.parametrize(("at_work", "status"), [(True, 3), (False, 7)])
def test_exit_of_the_c_library_is_left_out_while_a_thread_is_at_work(
    at_work: bool, status: int
) -> None:
    script = SCRIPT.format(at_work=at_work)
    ended = subprocess.run([sys.executable, "-c", script], check=False, timeout=60)
    assert ended.returncode == status
