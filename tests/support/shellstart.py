"""What a line of a shell runs in the place of telemetryd: the fork server's child does the work.

`python -I -S shellstart.py SOCKET ARGUMENT...` gives the child all it has itself, hands signals on
to it, and exits as it does. It imports next to nothing, for it is run hundreds of times.
"""

import _socket
import marshal
import os
import resource
import signal
import struct
import sys

HANDED_ON = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)


def main() -> None:
    """Start the child, and end with its exit code."""
    closed = tuple(number for number in range(3) if not _is_open(number))
    for _ in closed:
        os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free
    umask = os.umask(0)
    os.umask(umask)
    limits = {name: number for name, number in vars(resource).items() if "RLIMIT_" in name}
    start = {
        "arguments": tuple(sys.argv[2:]),
        "environ": dict(os.environb),
        "cwd": os.getcwdb(),  # noqa: PTH109 - pathlib is slow to import
        "umask": umask,
        "limits": {number: resource.getrlimit(number) for number in limits.values()},
        "closed": closed,
        "safe_path": True,
        "tied": True,
    }
    channel, theirs = _socket.socketpair()
    server = _socket.socket(_socket.AF_UNIX, _socket.SOCK_SEQPACKET)
    server.connect(sys.argv[1])
    given = struct.pack("4i", theirs.fileno(), 0, 1, 2)
    server.sendmsg([b"+"], [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, given)])
    theirs.close()
    message = marshal.dumps(start)
    channel.sendall(struct.pack("!I", len(message)) + message)
    child = _receive(channel)
    for signal_number in HANDED_ON:
        if signal.getsignal(signal_number) is not signal.SIG_IGN:
            signal.signal(signal_number, lambda number, _: os.kill(child, number))
    code = _receive(channel)
    if code < 0:
        if -code != signal.SIGKILL:
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    os._exit(code)


def _is_open(number: int) -> bool:
    try:
        os.fstat(number)
    except OSError:
        return False
    return True


def _receive(channel: _socket.socket) -> int:
    received = channel.recv(4)
    if not received:
        sys.exit("the server that forks telemetryd has ended")
    number: int = struct.unpack("!i", received)[0]
    return number


if __name__ == "__main__":
    main()
