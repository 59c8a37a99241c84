"""A server that echoes every credential it was ever sent, in whatever place an answer has."""

import base64
import json
import threading
import urllib.parse
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

CREDENTIALS = ("Authorization", "Proxy-Authorization", "X-Api-Key", "Cookie")


@dataclass
class Echoing:
    """What came, and what goes back.

    Attributes:
        sent: Values of headers that are credentials.
        reviewed: Tokens that were to be reviewed.
        refused: Values of Authorization that are answered 401.
        asked: Paths, in order.
        is_serving: What a snapshot needs is served, and its watches bring errors.
    """

    url: str = ""
    sent: list[str] = field(default_factory=list)
    reviewed: list[str] = field(default_factory=list)
    is_serving: bool = False
    refused: set[str] = field(default_factory=set)
    asked: list[str] = field(default_factory=list)
    count: int = 0

    def echo(self, more: str = "") -> str:
        """Every credential, and a token that is being reviewed, in the form whose turn it is."""
        self.count += 1
        raw = " ".join((*self.sent, more)).strip()
        forms = (
            raw,
            "x" * (self.count % 300) + raw,  # so that a limit cuts it somewhere
            base64.b64encode(f"Authorization: {raw}".encode()).decode(),
            base64.urlsafe_b64encode(raw.encode()).decode(),
            urllib.parse.quote(raw, safe=""),
            json.dumps({"headers": {"Authorization": self.sent}}),
            "\n ".join(raw[at : at + 20] for at in range(0, len(raw), 20)),
            " ".join(each[5:60] for each in (*self.sent, more)),
        )
        return forms[self.count % len(forms)]

    def status(self, code: int, more: str = "") -> dict[str, Any]:
        said = self.echo(more)
        cause = {"reason": said, "message": self.echo(more), "field": self.echo(more)}
        return {
            "kind": "Status",
            "apiVersion": "v1",
            "status": "Failure",
            "code": code,
            "reason": ("Forbidden", said)[self.count % 2],
            "message": (f'nodes is forbidden: User "{said}" cannot list', said)[self.count % 2],
            "details": {"causes": [cause] * 3},
        }


def dump(document: dict[str, Any]) -> bytes:
    return json.dumps(document).encode()


KUBE_SYSTEM = {
    "name": "kube-system",
    "uid": "c0ffee00-1111-4222-8333-444455556666",
    "resourceVersion": "1",
    "creationTimestamp": "2025-01-01T00:00:00Z",
}
SERVED: dict[str, dict[str, Any]] = {
    "/version": {"major": "1", "minor": "34", "gitVersion": "v1.34.1"},
    "/api/v1/nodes": {"kind": "NodeList", "apiVersion": "v1", "items": []},
    "/api/v1/namespaces": {
        "kind": "NamespaceList",
        "apiVersion": "v1",
        "items": [{"metadata": KUBE_SYSTEM}],
    },
}


def answer(
    echoing: Echoing, method: str, target: str, more: str
) -> tuple[int, dict[str, str], bytes]:
    """Status, headers and body."""
    parts = urllib.parse.urlsplit(target)
    echoed = echoing.echo(more)
    one_line = "".join(char for char in echoed if char.isascii() and char.isprintable())
    headers = {"Content-Type": "application/json", "X-Echo": one_line}
    if echoing.is_serving and "watch=" in parts.query:
        event = {"type": "ERROR", "object": echoing.status(500)}
        return 200, headers, dump(event) + b"\n"
    if echoing.is_serving and method == "GET" and parts.path in SERVED:
        version = one_line if parts.path.endswith("/nodes") else "1"
        return 200, headers, dump({"metadata": {"resourceVersion": version}, **SERVED[parts.path]})
    answers: tuple[tuple[int, dict[str, str], bytes], ...] = (
        (307, {"Location": f"/?{one_line}"}, b""),
        (200, {"Content-Type": f"text/{one_line[:600]}"}, echoed.encode()),
        (200, {}, b'{"kind": "' + echoed.encode()),
        (503, {"Retry-After": one_line}, dump(echoing.status(503, more))),
        (403, {}, dump(echoing.status(403, more))),
    )
    code, others, body = answers[echoing.count % len(answers)]
    return code, {**headers, **others}, body


@contextmanager
def echoing_server() -> Iterator[Echoing]:
    """One that listens on loopback: API server, receiver and proxy at once."""
    echoing = Echoing()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            for name in CREDENTIALS:
                value = self.headers.get(name)
                if value is not None and value not in echoing.sent:
                    echoing.sent.append(value)
            more = json.loads(body)["spec"]["token"] if b"TokenReview" in body else ""
            echoing.reviewed += [more] if more else []
            echoing.asked.append(self.path)
            if self.headers.get("Authorization") in echoing.refused:
                code, headers, content = (
                    401,
                    dict[str, str](),
                    json.dumps(echoing.status(401)).encode(),
                )
            else:
                code, headers, content = answer(echoing, self.command, self.path, more)
            self.send_response(code, echoing.echo().replace("\n", " "))
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = answer  # noqa: N815

        def log_message(self, *_arguments: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    echoing.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield echoing
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
