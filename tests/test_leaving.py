"""How the process ends while threads of it are at work."""

import subprocess
import sys

import pytest

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
