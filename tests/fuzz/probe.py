"""Runs `telemetryd` in this process, and tells on a socket what it holds.

``python -m tests.fuzz.probe SOCKET python -m telemetryd run ...``: each connection gets the counts
as a line of JSON.
"""

import json
import socket
import sys
import threading
import tracemalloc
from dataclasses import asdict

from telemetryd.__main__ import main
from tests.fuzz.counts import count


def _tell(listener: socket.socket) -> None:
    while True:
        client, _ = listener.accept()
        with client:
            # Not from the start, which would take many times as long.
            if not tracemalloc.is_tracing():
                tracemalloc.start()
            client.sendall(json.dumps(asdict(count())).encode() + b"\n")


if __name__ == "__main__":
    _, place, _python, _m, name, *arguments = sys.argv
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(place)
    listening.listen()
    threading.Thread(target=_tell, args=(listening,), daemon=True).start()
    sys.argv = [name, *arguments]
    main()
