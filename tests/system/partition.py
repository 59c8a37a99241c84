"""A TCP relay before the API server that can cut or swallow connections, and refuse new ones."""

import contextlib
import socket
import threading


class Partition:
    """Relays loopback connections to one port; `cut`, `swallow` and `heal` at will.

    Args:
        target: Port of the server behind it, on 127.0.0.1.
        listener: Where connections come in; a port of 127.0.0.1 if it isn't given.

    Attributes:
        accepted: Connections let through so far.
        asked: Those and all that were refused.
    """

    def __init__(self, target: int, listener: socket.socket | None = None) -> None:
        self._target = target
        self.accepted = self.asked = 0
        self._open = True
        self._sockets: set[socket.socket] = set()
        self._swallowed: set[socket.socket] = set()
        self._lock = threading.Lock()
        self._listener = listener or socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    def cut(self) -> None:
        """Ends every connection and refuses new ones."""
        with self._lock:
            self._open = False
            sockets, self._sockets = self._sockets, set()
        for end in sockets:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def swallow(self) -> None:
        """Passes on nothing more of the connections that are open now, and leaves them open."""
        with self._lock:
            self._swallowed = set(self._sockets)

    def heal(self) -> None:
        """Lets connections through again."""
        with self._lock:
            self._open = True

    def close(self) -> None:
        """Stops for good."""
        self.cut()
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(30)

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            self.asked += 1
            try:
                far = socket.create_connection(("127.0.0.1", self._target), timeout=30)
            except OSError:
                near.close()
                continue
            far.settimeout(None)
            with self._lock:
                accepted = self._open
                self.accepted += accepted
                if accepted:
                    self._sockets |= {near, far}
            if not accepted:
                near.close()
                far.close()
                continue
            for source, sink in ((near, far), (far, near)):
                threading.Thread(target=self._relay, args=(source, sink), daemon=True).start()

    def _relay(self, source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                if source not in self._swallowed:
                    sink.sendall(data)
        for end in (source, sink):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
        with self._lock:
            self._sockets -= {source, sink}
            self._swallowed -= {source, sink}
        source.close()
