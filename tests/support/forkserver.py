"""The process that forks telemetryd for `tests.support.starter`, which alone starts it.

`python -m tests.support.forkserver CONTROL LISTENER` imports all of telemetryd once. Then each
message on a SEQPACKET socket brings the descriptors for one child: a channel, and its standard
streams. The channel brings what else the child gets, and takes its id and, at its end, its exit
code. A child that has ended stays a zombie, as one of `subprocess` does, until its exit code was
read. Messages come on the socket CONTROL, and on those that LISTENER accepts, which are of
`tests.support.shellstart`. When CONTROL closes, what still runs is killed, and the listener's
folder goes.

Neither threads nor handlers of signals are here, so that a child has what a new process has. It
runs the module `telemetryd` as `python -m` does.
"""

import atexit
import ctypes
import gc
import importlib
import io
import marshal
import os
import pkgutil
import resource
import runpy
import select
import signal
import socket
import struct
import sys
import tempfile
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NoReturn

LENGTH: Final = struct.Struct("!I")
NUMBER: Final = struct.Struct("!i")
STREAMS: Final = ("stdin", "stdout", "stderr")
ERROR: Final = 2
_PR_CAPBSET_DROP: Final = 24
_CAPABILITIES_V3: Final = 0x20080522
UNWRITTEN: Final = 120
"""What the interpreter exits with where standard output can't be written at its end."""
MOST_DESCRIPTORS: Final = 64


@dataclass(frozen=True)
class Start:
    """What one child is to be.

    Attributes:
        arguments: After the program's name.
        environ: Its whole environment.
        limits: Soft and hard limit of every resource, by the resource's number.
        passed: Numbers that descriptors have in it, in the order in which they come.
        closed: Standard streams that it doesn't have.
        without: Capabilities that it loses, by their numbers.
        safe_path: It finds no modules in its folder, as with `python -P`.
        tied: It is killed when the other end of its channel closes.
    """

    arguments: tuple[str, ...]
    environ: dict[bytes, bytes]
    cwd: bytes
    umask: int
    limits: dict[int, tuple[int, int]]
    passed: tuple[int, ...] = ()
    closed: tuple[int, ...] = ()
    without: tuple[int, ...] = ()
    new_session: bool = False
    process_group: int = -1
    safe_path: bool = False
    tied: bool = False


@dataclass
class _Child:
    pid: int
    channel: int
    ended: bool = False


def import_telemetryd() -> None:
    """Import every module of the package but the one that a child runs."""
    package = importlib.import_module("telemetryd")
    for module in pkgutil.walk_packages(package.__path__, "telemetryd."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    importlib.import_module("telemetryd.kube.loader")


class ForkServer:
    """Forks a child for every message."""

    def __init__(self, control: socket.socket, listener: socket.socket) -> None:
        self._control = control
        self._listener = listener
        self._accepted: dict[int, socket.socket] = {}
        self._by_end: dict[int, _Child] = {}
        self._by_channel: dict[int, _Child] = {}
        self._poll = select.poll()
        self._poll.register(control, select.POLLIN)
        self._poll.register(listener, select.POLLIN)

    def serve(self) -> Start | None:
        """Returns in each child what it is to be; in the server None, once CONTROL has closed."""
        while True:
            for number, _ in self._poll.poll():
                start = None
                if number == self._listener.fileno():
                    accepted, _ = self._listener.accept()
                    self._accepted[accepted.fileno()] = accepted
                    self._poll.register(accepted, select.POLLIN)
                elif number == self._control.fileno():
                    _, descriptors, _, _ = socket.recv_fds(self._control, 1, MOST_DESCRIPTORS)
                    if not descriptors:
                        self._kill()
                        return None
                    start = self._begin(descriptors)
                elif number in self._accepted:
                    start = self._begin_once(number)
                elif number in self._by_end:
                    self._report(number)
                else:
                    self._release(number)
                if start is not None:
                    return start

    def _begin_once(self, number: int) -> Start | None:
        self._poll.unregister(number)
        with self._accepted.pop(number) as accepted:
            _, descriptors, _, _ = socket.recv_fds(accepted, 1, MOST_DESCRIPTORS)
        return self._begin(descriptors) if descriptors else None

    def _begin(self, descriptors: list[int]) -> Start | None:
        channel, *streams = descriptors
        start = _read_start(channel)
        pid = os.fork()
        if pid == 0:
            # What closes them later must not close their numbers' next owners.
            for each in (self._control, self._listener, *self._accepted.values()):
                each.detach()
            _take(streams, start)
            return start
        for number in streams:
            os.close(number)
        end = os.pidfd_open(pid)
        child = _Child(pid, channel)
        self._by_end[end] = self._by_channel[channel] = child
        self._poll.register(end, select.POLLIN)
        if start.tied:
            self._poll.register(channel, select.POLLIN)
        _tell(channel, pid)
        return None

    def _report(self, end: int) -> None:
        """Tell a child's exit code, as `subprocess` has it."""
        child = self._by_end.pop(end)
        self._poll.unregister(end)
        ended = os.waitid(os.P_PIDFD, end, os.WEXITED | os.WNOWAIT)
        os.close(end)
        assert ended is not None
        child.ended = True
        self._poll.register(child.channel, select.POLLIN)
        _tell(child.channel, ended.si_status * (1 if ended.si_code == os.CLD_EXITED else -1))

    def _release(self, channel: int) -> None:
        """Let go of a child whose exit code was read, or whose starter is gone."""
        child = self._by_channel[channel]
        self._poll.unregister(channel)
        if not child.ended:
            os.kill(child.pid, signal.SIGKILL)
            return
        os.waitpid(child.pid, 0)
        del self._by_channel[channel]
        os.close(channel)

    def _kill(self) -> None:
        for child in self._by_end.values():
            os.kill(child.pid, signal.SIGKILL)
        for child in self._by_channel.values():
            os.waitpid(child.pid, 0)


def _read_start(channel: int) -> Start:
    (left,) = LENGTH.unpack(os.read(channel, LENGTH.size))
    parts = []
    while left:
        part = os.read(channel, left)
        if not part:
            raise EOFError("a start ended within its description")
        parts.append(part)
        left -= len(part)
    return Start(**marshal.loads(b"".join(parts)))


def _tell(channel: int, number: int) -> None:
    with suppress(BrokenPipeError):
        os.write(channel, NUMBER.pack(number))


def _take(streams: list[int], start: Start) -> None:
    """Have these descriptors at 0, 1, 2 and the numbers asked for, and no others."""
    targets = (0, 1, 2, *start.passed)
    above = max(*streams, *targets) + 1
    aside: list[int] = []
    for number in streams:
        duplicate = above + len(aside)
        os.dup2(number, duplicate)
        aside.append(duplicate)
    for number, target in zip(aside, targets, strict=True):
        os.dup2(number, target)
    last = -1
    for target in sorted(targets):
        if target > last + 1:  # CPython takes an empty range for all there are
            os.closerange(last + 1, target)
        last = target
    os.closerange(last + 1, resource.getrlimit(resource.RLIMIT_NOFILE)[0])
    for number in start.closed:
        os.close(number)


def become(start: Start) -> None:
    """Turn this child into what a new process would be, and run telemetryd; never returns."""
    if start.new_session:
        os.setsid()
    elif start.process_group >= 0:
        os.setpgid(0, start.process_group)
    os.chdir(start.cwd)
    os.umask(start.umask)
    for number, limits in start.limits.items():
        if resource.getrlimit(number) != limits:
            resource.setrlimit(number, limits)
    if start.without:
        _drop(start.without)
    os.environb.clear()
    os.environb.update(start.environ)
    time.tzset()
    tempfile.tempdir = None
    _open_streams(start.closed)
    if start.safe_path:
        del sys.path[0]
    elif not sys.flags.safe_path:
        sys.path[0] = str(Path.cwd())
    # There are none but those of the shell's: see `starter.start`.
    sys.path += filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))
    sys.argv[1:] = start.arguments
    try:
        runpy.run_module("telemetryd", run_name="__main__", alter_sys=True)
    except SystemExit as ended:
        if isinstance(ended.code, int):
            _leave(ended.code)
        raise


def _leave(status: int) -> NoReturn:
    """End as the interpreter does, without the 50 ms in which it takes all modules down."""
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError:
        status = status or UNWRITTEN
    with suppress(OSError):
        if sys.stderr is not None:
            sys.stderr.flush()
    os._exit(status)


def _drop(capabilities: tuple[int, ...]) -> None:
    """Leave these out of all sets, as ``setpriv`` does."""
    libc = ctypes.CDLL(None, use_errno=True)
    for number in capabilities:
        if libc.prctl(_PR_CAPBSET_DROP, number, 0, 0, 0):
            raise OSError(ctypes.get_errno(), "prctl")
    header = (ctypes.c_uint32 * 2)(_CAPABILITIES_V3, 0)
    sets = (ctypes.c_uint32 * 6)()  # effective, permitted, inheritable; then the higher half
    if libc.capget(header, sets):
        raise OSError(ctypes.get_errno(), "capget")
    for number in capabilities:
        for which in range(3):
            sets[number // 32 * 3 + which] &= ~(1 << number % 32)
    if libc.capset(header, sets):
        raise OSError(ctypes.get_errno(), "capset")


def _open_streams(closed: tuple[int, ...]) -> None:
    """Make new standard streams: the old ones know the files that were there before."""
    for number, name in enumerate(STREAMS):
        old = getattr(sys, name)
        if number in closed:
            setattr(sys, name, None)
            setattr(sys, f"__{name}__", None)
            continue
        mode, direct = ("rb", False) if number == 0 else ("wb", old.write_through)
        file: Any = open(number, mode, 0 if direct else -1, closefd=False)  # noqa: SIM115
        stream = io.TextIOWrapper(
            file,
            encoding=old.encoding,
            errors=old.errors,
            line_buffering=not direct and (number == ERROR or file.isatty()),
            write_through=direct,
        )
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)


def main() -> None:
    """Serve until the socket closes."""
    control, listener = (socket.socket(fileno=int(number)) for number in sys.argv[1:])
    import_telemetryd()
    gc.collect()
    gc.freeze()
    place = Path(listener.getsockname())
    start = ForkServer(control, listener).serve()
    if start is not None:
        become(start)
    place.unlink()
    place.parent.rmdir()


if __name__ == "__main__":
    main()
