"""Starts telemetryd for tests, in a process of its own.

Most of what `python -m telemetryd` costs is its imports, nearly a second of a core. So a server
that has done them forks each process that differs in nothing that a fork can't have. What stays
different in a forked one: `/proc/PID/cmdline` and `/proc/PID/environ` are the server's, its parent
is the server, all of them share one seed of `hash`, and whatever is imported on demand has been.
A test of such things asks for an interpreter of its own: `fresh=True`.
"""

import atexit
import marshal
import os
import resource
import select
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, AnyStr, Final

from tests.support.forkserver import LENGTH, NUMBER, Start

_ROOT = Path(__file__).parents[2]
_OF_NO_MATTER: Final = "PYTHONDONTWRITEBYTECODE"
_ENVIRON: Final = {name: text for name, text in os.environ.items() if name != _OF_NO_MATTER}
"""Before any test has changed it."""
_OF_THE_INTERPRETER: Final = (
    "COVERAGE", "COV_", "FAKETIME", "GLIBC_", "LD_", "MALLOC_", "OPENSSL_", "PYTHON",
)  # fmt: skip
"""What begins so is read before telemetryd is, or while it is imported."""
_ENDS_WITH: Final = "_NO_EXTENSIONS"
_LOCALE: Final = ("LC_ALL", "LC_CTYPE", "LANG")
_LIMITS: Final = [number for name, number in vars(resource).items() if name.startswith("RLIMIT_")]
CAPABILITIES: Final = {"dac_override": 1, "dac_read_search": 2}
RUN_S: Final = 60.0


def command(*arguments: str) -> list[str]:
    """What runs telemetryd in an interpreter of its own."""
    return [sys.executable, "-m", "telemetryd", *arguments]


def shell_command() -> str:
    """What a line of a shell has in the place of `telemetryd`, in an environment of its own."""
    if _is_measured(os.environ):
        return shlex.join([sys.executable, "-P", "-m", "telemetryd"])
    program = Path(__file__).with_name("shellstart.py")
    return shlex.join([sys.executable, "-I", "-S", str(program), str(_server().socket)])


def start(
    *arguments: str,
    under: Sequence[str] = (),
    without: Sequence[str] = (),
    fresh: bool = False,
    **options: Any,
) -> "subprocess.Popen[Any]":
    """Starts `telemetryd` with these arguments.

    Args:
        arguments: After the program's name.
        under: A command that executes the one it is given, such as `unshare`.
        without: Capabilities that it loses, as of `CAPABILITIES`.
        fresh: It gets an interpreter of its own, whatever that costs.
        options: Of `subprocess.Popen`.
    """
    if fresh or under or not _can_fork(options):
        lost = ",".join(f"-{name}" for name in without)
        setpriv = ("setpriv", "--bounding-set", lost, "--inh-caps", lost) if lost else ()
        return subprocess.Popen([*under, *setpriv, *command(*arguments)], **options)
    return Forked(command(*arguments), without, **options)


def run(
    *arguments: str,
    under: Sequence[str] = (),
    fresh: bool = False,
    timeout: float = RUN_S,
    check: bool = False,
    text: bool = True,
    **options: Any,
) -> "subprocess.CompletedProcess[Any]":
    """Runs `telemetryd` with these arguments to its end, and has all it prints.

    Args:
        arguments: After the program's name.
        under: As of `start`.
        fresh: As of `start`.
        timeout: It is killed after these seconds, and `subprocess.TimeoutExpired` is raised.
        check: Another exit status than 0 raises `subprocess.CalledProcessError`.
        text: What it prints is text, not bytes.
        options: Of `subprocess.Popen`; the standard input is empty unless they say another.
    """
    given = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with start(*arguments, under=under, fresh=fresh, text=text, **(given | options)) as process:
        try:
            out, err = process.communicate(timeout=timeout)
        except BaseException:
            process.kill()
            raise
    done = subprocess.CompletedProcess(process.args, process.returncode, out, err)
    if check:
        done.check_returncode()
    return done


def _can_fork(options: Mapping[str, Any]) -> bool:
    """Whether nothing is asked for that a process has only from its own beginning."""
    known = {
        "stdin", "stdout", "stderr", "env", "cwd", "text", "encoding", "errors", "bufsize",
        "umask", "pass_fds", "start_new_session", "process_group", "universal_newlines",
    }  # fmt: skip
    environ = os.environ if options.get("env") is None else options["env"]
    return (
        set(options) <= known
        and _settings(environ) == _settings(_ENVIRON)
        and not signal.pthread_sigmask(signal.SIG_BLOCK, ())
        and sys.platform == "linux"
    )


def _is_measured(environ: Mapping[Any, Any]) -> bool:
    return any(os.fsdecode(name).startswith("COVERAGE") for name in environ)


def _settings(environ: Mapping[Any, Any]) -> dict[str, str]:
    """What the interpreter and the libraries take from the environment as they begin."""
    named = {os.fsdecode(name): os.fsdecode(value) for name, value in environ.items()}
    found = {
        name: value
        for name, value in named.items()
        if (name.startswith(_OF_THE_INTERPRETER) and name != _OF_NO_MATTER)
        or name.endswith(_ENDS_WITH)
    }
    locale = next((named[name] for name in _LOCALE if named.get(name)), "C")
    # As PEP 538 has it.
    return found | {"locale": "C.UTF-8" if locale in {"C", "POSIX"} else locale}


class _Server:
    """The process that forks, of this process alone."""

    def __init__(self) -> None:
        self.socket = Path(tempfile.mkdtemp(prefix="td-", dir="/tmp"), "start")
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs, listener:
            listener.bind(str(self.socket))
            listener.listen()
            given = (theirs.fileno(), listener.fileno())
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.support.forkserver", *map(str, given)],
                cwd=_ROOT,
                env=_ENVIRON,
                stdin=subprocess.DEVNULL,
                pass_fds=given,
                start_new_session=True,
            )
        atexit.register(self.end)

    def begin(self, start: Start, descriptors: Sequence[int]) -> tuple[int, socket.socket]:
        """Forks a child; its id, and the channel that brings its exit code."""
        channel, theirs = socket.socketpair()
        with theirs:
            socket.send_fds(self._control, [b"+"], [theirs.fileno(), *descriptors])
        message = marshal.dumps(vars(start))
        channel.sendall(LENGTH.pack(len(message)) + message)
        return _receive(channel), channel

    def end(self) -> None:
        """Ends it, and whatever it has forked."""
        self._control.close()
        self._process.wait()


_lock = threading.Lock()
_servers: dict[int, _Server] = {}


def _server() -> _Server:
    with _lock:
        if os.getpid() not in _servers:
            _servers[os.getpid()] = _Server()
        return _servers[os.getpid()]


def _receive(channel: socket.socket) -> int:
    message = channel.recv(NUMBER.size)
    if not message:
        raise ChildProcessError("the server that forks telemetryd has ended")
    number: int = NUMBER.unpack(message)[0]
    return number


class Forked(subprocess.Popen[AnyStr]):
    """A process that the server has forked; where `subprocess` would wait, it asks the server."""

    def __init__(self, args: list[str], without: Sequence[str], **options: Any) -> None:
        self._without = tuple(CAPABILITIES[name] for name in without)
        self._channel: socket.socket
        super().__init__(args, **options)

    def _execute_child(
        self,
        args: list[str],
        _executable: None,
        _preexec_fn: None,
        _close_fds: bool,
        pass_fds: Sequence[int],
        cwd: str | os.PathLike[str] | None,
        env: Mapping[Any, Any] | None,
        _startupinfo: None,
        _creationflags: int,
        _shell: bool,
        p2cread: int,
        p2cwrite: int,
        c2pread: int,
        c2pwrite: int,
        errread: int,
        errwrite: int,
        _restore_signals: bool,
        _gid: None,
        _gids: None,
        _uid: None,
        umask: int,
        start_new_session: bool,
        process_group: int = -1,
    ) -> None:
        given = os.environ if env is None else env
        start = Start(
            arguments=tuple(args[len(command()) :]),
            environ={os.fsencode(name): os.fsencode(value) for name, value in given.items()},
            cwd=os.fsencode(Path.cwd() if cwd is None else cwd),
            umask=_umask() if umask < 0 else umask,
            limits={number: resource.getrlimit(number) for number in _LIMITS},
            passed=tuple(pass_fds),
            without=self._without,
            new_session=start_new_session,
            process_group=-1 if process_group is None else process_group,
        )
        streams: list[int] = [
            own if number < 0 else number
            for own, number in enumerate((p2cread, c2pwrite, errwrite))
        ]
        try:
            self.pid, self._channel = _server().begin(start, [*streams, *pass_fds])
            self._child_created = True
        finally:
            self._close_pipe_fds(p2cread, p2cwrite, c2pread, c2pwrite, errread, errwrite)  # type: ignore[attr-defined]

    def _internal_poll(self, *_: Any, **__: Any) -> int | None:
        return self._look(0)

    def _wait(self, timeout: float | None) -> int:
        code = self._look(timeout)
        if code is None:
            assert timeout is not None
            raise subprocess.TimeoutExpired(self.args, timeout)
        return code

    def _look(self, timeout_s: float | None) -> int | None:
        """Its exit code, once it has ended; waits so long for that, for ever with None."""
        end_s = None if timeout_s is None else time.monotonic() + timeout_s
        with self._waitpid_lock:  # type: ignore[attr-defined]
            if self.returncode is None:
                ready = select.poll()
                ready.register(self._channel, select.POLLIN)
                left = None if end_s is None else max(0.0, end_s - time.monotonic()) * 1000
                if not ready.poll(left):
                    return None
                self.returncode = _receive(self._channel)
                # The server waits for the zombie, and says by the channel's end that it has.
                self._channel.shutdown(socket.SHUT_WR)
                self._channel.recv(1)
                self._channel.close()
            return self.returncode


def _umask() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("Umask:"):
            return int(line.split()[1], 8)
    raise OSError("/proc/self/status says no umask")
