"""The server over a real socket: paths, methods, headers, bad clients, start and stop."""

import errno
import gzip
import ipaddress
import json
import socket
import time
from base64 import b64encode
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from hashlib import sha256
from pathlib import Path

import anyio
import anyio.to_thread
import pytest
from anyio.abc import SocketStream
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from telemetryd.errors import ConfigError, ManagerError, TelemetrydError
from telemetryd.history.slots import Slot
from telemetryd.model import Payload
from telemetryd.serve.http.connection import ConnectionLimits
from telemetryd.serve.http.health import HealthReport, check_health, liveness, readiness
from telemetryd.serve.http.listener import Listening
from telemetryd.serve.http.server import SHUTDOWN_S, Endpoints, serve
from telemetryd.serve.metrics.metrics import Exposition, MetricsRenderer
from telemetryd.serve.page.facts import StatusFacts
from tests.serve.facts import Facts, big_status, busy_facts, informer_status
from tests.serve.past import PASTS, Past
from tests.support.sampling import examples

pytestmark = pytest.mark.anyio

BIG = 64_000_000
HISTORY = ("/history", "/history.json", "/history.csv")
PATHS = ("/", "/metrics", "/livez", "/healthz", "/readyz", "/status.json", *HISTORY)


@dataclass
class Reply:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def text(self) -> str:
        return self.body.decode()


@dataclass
class Served:
    """A running server and the facts it shows."""

    facts: Facts
    alive: bool = True
    config_applied: bool = True
    status: Callable[[], StatusFacts] | None = None
    exposed: bool = False
    payloads: dict[str, Payload | None] = field(default_factory=dict)
    history_exposed: bool = False
    past: Past = field(default_factory=Past)
    listening: Listening = field(default_factory=lambda: Listening("", 0))

    def endpoints(self) -> Endpoints:
        return Endpoints(
            metrics=self.facts.renderer(),
            liveness=lambda: liveness(loop_alive=self.alive, scheduler_alive=True),
            readiness=self._readiness,
            status=self._status,
            payload_exposed=lambda: self.exposed,
            payload=self._payload,
            history_exposed=lambda: self.history_exposed,
            history=lambda: self.past.facts,
            slots=self._slots,
        )

    async def _slots(self, size_s: int, begin: float, end: float, series: str) -> Sequence[Slot]:
        return await self.past.read(size_s, begin, end, series)

    def _payload(self, name: str) -> Payload | None:
        if name not in self.payloads:
            raise ManagerError(f"there is no exporter {name!r}")
        return self.payloads[name]

    def _readiness(self) -> HealthReport:
        return readiness(
            config_applied=self.config_applied,
            required=[status for status, _ in self.facts.informers],
        )

    def _status(self) -> StatusFacts:
        return (self.status or self.facts.status)()

    async def connect(self, local_host: str | None = None) -> SocketStream:
        port = self.listening.port
        return await anyio.connect_tcp("127.0.0.1", port, local_host=local_host)

    async def ask(self, path: str, *headers: str, method: str = "GET") -> Reply:
        async with await self.connect() as stream:
            await stream.send(request(path, "Connection: close", *headers, method=method))
            return parse_reply(await read_to_end(stream))

    async def ask_or_none(self, path: str) -> Reply | None:
        """None where the connection is dropped without an answer."""
        async with await self.connect() as stream:
            with suppress(anyio.BrokenResourceError):
                await stream.send(request(path, "Connection: close"))
            received = await read_to_end(stream)
            return parse_reply(received) if received else None


def request(path: str, *headers: str, method: str = "GET") -> bytes:
    lines = (f"{method} {path} HTTP/1.1", "Host: localhost", *headers, "", "")
    return "\r\n".join(lines).encode()


async def read_to_end(stream: SocketStream) -> bytes:
    received = b""
    with anyio.fail_after(30):
        while True:
            try:
                received += await stream.receive()
            except (anyio.EndOfStream, anyio.BrokenResourceError):
                return received


def parse_reply(received: bytes) -> Reply:
    head, _, body = received.partition(b"\r\n\r\n")
    first, *rest = head.decode().split("\r\n")
    pairs = (line.split(": ", 1) for line in rest)
    return Reply(int(first.split()[1]), {name.lower(): value for name, value in pairs}, body)


@asynccontextmanager
async def running(
    facts: Facts | None = None, limits: ConnectionLimits | None = None
) -> AsyncIterator[Served]:
    served = Served(facts or busy_facts())
    async with serve(
        "127.0.0.1", 0, served.endpoints(), limits=limits or ConnectionLimits()
    ) as served.listening:
        yield served


async def test_metrics_are_text_unless_openmetrics_is_asked_for() -> None:
    async with running() as served:
        reply = await served.ask("/metrics")
        assert reply.status == 200
        assert reply.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
        assert reply.headers["vary"] == "Accept, Accept-Encoding"
        assert "telemetryd_fleet_nodes 303.0\n" in reply.text
        reply = await served.ask("/metrics", "Accept: application/openmetrics-text;version=1.0.0")
        assert reply.headers["content-type"].startswith("application/openmetrics-text; version=1.")
        assert reply.text.endswith("# EOF\n")


async def test_metrics_are_zipped_where_accepted_and_filtered_by_name() -> None:
    async with running() as served:
        reply = await served.ask(
            "/metrics?name[]=telemetryd_fleet_nodes",
            "Accept-Encoding: deflate",
            "Accept-Encoding: gzip",
        )
        assert reply.headers["content-encoding"] == "gzip"
        assert gzip.decompress(reply.body).decode().endswith("telemetryd_fleet_nodes 303.0\n")


async def test_head_has_the_headers_and_no_body() -> None:
    async with running() as served:
        for path in PATHS:
            reply = await served.ask(path, method="HEAD")
            assert (reply.status, reply.body) == (200, b"")
            assert int(reply.headers["content-length"]) > 0


async def test_every_answer_has_the_security_headers() -> None:
    async with running() as served:
        replies = [await served.ask(path) for path in (*PATHS, "/nothing")]
        replies.append(await served.ask("/metrics", method="POST"))
        replies.append(await served.ask("/metrics", "x" * 9000 + ": y"))
        for reply in replies:
            assert reply.headers["x-content-type-options"] == "nosniff"
            assert reply.headers["content-security-policy"].startswith("default-src 'none'")
            assert reply.headers["cache-control"] == "no-store"
            assert reply.headers["server"] == "telemetryd"


async def test_other_paths_and_methods_are_refused_in_one_line() -> None:
    async with running() as served:
        for path in (
            "//",
            "/metrics/",
            "/payload",
            "/index.html",
            "/../etc/passwd",
            "/%2e%2e",
            "/favicon.ico",
            "/debug",
        ):
            reply = await served.ask(path)
            assert reply.status == 404
            assert reply.text.count("\n") == 1
        for method in ("POST", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE"):
            reply = await served.ask("/metrics", method=method)
            assert reply.status == 405
            assert reply.headers["allow"] == "GET, HEAD"


async def test_readiness_turns_when_the_informers_have_synced() -> None:
    facts = busy_facts()
    unsynced = replace(facts.informers[0][0], synced=False)
    async with running(facts) as served:
        served.config_applied = False
        facts.informers[0] = (unsynced, facts.informers[0][1])
        reply = await served.ask("/readyz")
        assert reply.status == 503
        assert "[-]config not applied yet\n[-]informer/nodes." in reply.text
        served.config_applied = True
        assert (await served.ask("/readyz")).status == 503
        facts.informers[0] = (informer_status(), facts.informers[0][1])
        reply = await served.ask("/readyz")
        assert (reply.status, reply.text) == (200, "ok\n")
        verbose = (await served.ask("/readyz?verbose")).text
        assert verbose.endswith("[+]informer/nodes.management.cattle.io ok\nreadyz check passed\n")


async def test_liveness_doesnt_ask_whether_anything_is_ready() -> None:
    async with running() as served:
        served.config_applied = False
        for path in ("/livez", "/healthz"):
            assert (await served.ask(path)).text == "ok\n"
        served.alive = False
        for path in ("/livez", "/healthz?verbose"):
            reply = await served.ask(path)
            assert reply.status == 503
            assert "[-]event-loop stalled" in reply.text


async def test_status_is_json() -> None:
    async with running() as served:
        reply = await served.ask("/status.json")
        assert reply.headers["content-type"] == "application/json"
        assert json.loads(reply.body)["version"] == "1.0.0"


async def test_page_is_html_that_may_only_be_styled_by_itself() -> None:
    async with running() as served:
        reply = await served.ask("/")
        assert reply.status == 200
        assert reply.headers["content-type"] == "text/html; charset=utf-8"
        style = reply.text.partition("<style>")[2].partition("</style>")[0]
        digest = b64encode(sha256(style.encode()).digest()).decode()
        assert reply.headers["content-security-policy"] == (
            f"default-src 'none'; style-src 'sha256-{digest}'; img-src data:; base-uri 'none'; "
            "form-action 'none'; frame-ancestors 'none'"
        )
        assert reply.headers["referrer-policy"] == "no-referrer"


async def test_page_shows_what_is_true_now() -> None:
    async with running() as served:
        assert '<time datetime="2027-01-15T08:00:00.000Z">' in (await served.ask("/")).text
        served.facts.exporters.clear()
        assert "no exporter is configured" in (await served.ask("/")).text


def payload(body: bytes, content_type: str = "application/json") -> Payload:
    return Payload(body, content_type, "d1g3st", 7, schema_valid=True, schema_error="")


@pytest.mark.parametrize("name", ["scc", "secretrequest/rancher-scc-metrics"])
async def test_exposed_payload_is_shown_byte_for_byte(name: str) -> None:
    body = b'{"a": "\xff\x00"}\r\n'
    async with running() as served:
        served.exposed = True
        served.payloads = {name: payload(body, "application/x-test")}
        reply = await served.ask(f"/payload/{name}")
        assert (reply.status, reply.body) == (200, body)
        assert reply.headers["content-type"] == "application/x-test"
        assert reply.headers["content-length"] == str(len(body))
        assert reply.headers["etag"] == 'W/"d1g3st"'
        digest = b64encode(sha256(body).digest()).decode()
        assert reply.headers["repr-digest"] == f"sha-256=:{digest}:"
        assert reply.headers["cache-control"] == "no-store"
        assert "content-encoding" not in reply.headers
        head = await served.ask(f"/payload/{name}", method="HEAD")
        assert (head.status, head.body) == (200, b"")
        assert head.headers["etag"] == reply.headers["etag"]
        assert (await served.ask("/payload/" + name.replace("/", "%2F"))).body == body


async def test_hidden_payload_is_refused_by_the_name_of_the_key_whether_or_not_it_exists() -> None:
    async with running() as served:
        served.payloads = {"scc": payload(b"hidden")}
        for name in ("scc", "other", ""):
            reply = await served.ask(f"/payload/{name}")
            assert reply.status == 403
            assert "set expose_payload = true in [server]" in reply.text
        served.exposed = True
        assert (await served.ask("/payload/scc")).body == b"hidden"
        assert (await served.ask("/payload/scc", method="POST")).status == 405


async def test_missing_payload_is_a_404_that_says_what_is_missing() -> None:
    async with running() as served:
        served.exposed = True
        served.payloads = {"new": None}
        for name, text in (
            ("new", "no payload yet: the exporter has had nothing to send\n"),
            ("other", "there is no exporter 'other'\n"),
            ("a%0Ab<script>", "there is no exporter 'a\\nb<script>'\n"),
        ):
            reply = await served.ask(f"/payload/{name}")
            assert (reply.status, reply.text) == (404, text)
            assert reply.headers["content-type"] == "text/plain; charset=utf-8"


async def test_history_is_a_page_and_data() -> None:
    async with running() as served:
        served.past = PASTS["13 months"]
        page, data, months = [await served.ask(path) for path in HISTORY]
        assert page.headers["content-type"] == "text/html; charset=utf-8"
        style = page.text.partition("<style>")[2].partition("</style>")[0]
        digest = b64encode(sha256(style.encode()).digest()).decode()
        assert f"style-src 'sha256-{digest}'" in page.headers["content-security-policy"]
        assert page.text.count('<svg class="chart"') == 3
        assert data.headers["content-type"] == "application/json"
        assert len(json.loads(data.body)["periods"]) == 13
        assert months.headers["content-type"] == "text/csv; charset=utf-8"
        assert months.text.count("\r\n") == 14


async def test_history_is_refused_on_other_addresses_by_the_name_of_the_key() -> None:
    served = Served(busy_facts(), past=replace(PASTS["13 months"], reads=[]))
    async with serve("", 0, served.endpoints()) as served.listening:
        for path in HISTORY:
            reply = await served.ask(path)
            assert reply.status == 403
            assert "set expose_history = true in [server] and reload" in reply.text
        assert "Nodes in the last 30 days" not in (await served.ask("/")).text
        assert served.past.reads == []
        served.history_exposed = True
        assert [(await served.ask(path)).status for path in HISTORY] == [200] * 3
        assert "Nodes in the last 30 days" in (await served.ask("/")).text


async def test_history_that_is_off_or_cannot_be_read_says_why() -> None:
    async with running() as served:
        for name, why in (
            ("off", "switched off by $DO_NOT_TRACK"),
            ("unreadable", "disk I/O error"),
        ):
            served.past = PASTS[name]
            page, data, months = [await served.ask(path) for path in HISTORY]
            assert (page.status, data.status, months.status) == (200, 200, 503)
            assert why in page.text
            found = json.loads(data.body)
            assert why in found["off"] + found["trouble"]
            assert (found["periods"], found["charts"]) == ([], {})
            assert months.text.startswith("no history: ")
            assert why in months.text


async def test_front_page_has_the_last_30_days_where_they_are_known() -> None:
    async with running() as served:
        assert "Nodes in the last 30 days" not in (await served.ask("/")).text
        served.past = PASTS["13 months"]
        text = (await served.ask("/")).text
        assert "Nodes in the last 30 days: " in text
        assert text.count('<svg class="spark"') == 1


async def test_front_page_does_not_wait_for_a_store_that_hangs() -> None:
    async with running() as served:
        served.past = replace(PASTS["13 months"], hangs=True)
        replies: dict[str, Reply] = {}

        async def ask(path: str) -> None:
            replies[path] = await served.ask(path)

        async with anyio.create_task_group() as group:
            for path in ("/history", "/"):
                group.start_soon(ask, path)
        assert list(replies) == ["/", "/history"]
        assert replies["/"].status == 200
        assert "Nodes in the last 30 days" not in replies["/"].text
        assert "the store takes longer than 5 s" in replies["/history"].text


async def test_failing_handler_is_a_500_that_says_nothing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def fail() -> StatusFacts:
        raise ValueError("hunter2")

    async with running() as served:
        served.status = fail
        for _ in range(2):
            reply = await served.ask("/status.json", "Accept: text/html")
            assert reply.status == 500
            assert reply.text == "internal error: the log says more\n"
        assert (await served.ask("/metrics")).status == 200
    errors = [record for record in caplog.records if record.levelname == "ERROR"]
    assert len(errors) == 1
    assert errors[0].exc_info


async def test_connection_is_kept_for_the_next_request() -> None:
    async with running() as served, await served.connect() as stream:
        for _ in range(3):
            await stream.send(request("/livez"))
            received = b""
            while not received.endswith(b"ok\n"):
                received += await stream.receive()


@pytest.mark.parametrize("request_timeout_s", [0.3, 3600.0])
async def test_slow_clients_are_dropped_and_block_no_one(request_timeout_s: float) -> None:
    async with running(limits=ConnectionLimits(request_timeout_s=request_timeout_s)) as served:
        slow = [await served.connect() for _ in range(20)]
        async with anyio.create_task_group() as tasks:
            for index, stream in enumerate(slow):
                tasks.start_soon(drip, stream, index % 2 == 0)
            assert (await served.ask("/livez")).status == 200
            if request_timeout_s > 1:  # it was answered beside them, not after them
                tasks.cancel_scope.cancel()
        for stream in slow:
            await stream.aclose()


async def drip(stream: SocketStream, send: bool) -> None:
    """Send a header's bytes one by one, or nothing, until the server has had enough."""
    with anyio.fail_after(30):
        try:
            if send:
                await stream.send(b"GET /livez HTTP/1.1\r\nX: ")
                while True:
                    await stream.send(b"x")
                    await anyio.sleep(0.02)
            assert await stream.receive() == b""
        except (anyio.EndOfStream, anyio.BrokenResourceError):
            return


@pytest.mark.parametrize(
    ("limits", "further"),
    [
        (ConnectionLimits(request_timeout_s=3600.0, keep_alive_s=0.3), b""),
        (ConnectionLimits(request_timeout_s=0.2, keep_alive_s=3600.0), b"GET /livez HTTP/1.1\r\n"),
    ],
)
async def test_idle_connection_is_ended_and_a_further_slow_request_too(
    limits: ConnectionLimits, further: bytes
) -> None:
    async with running(limits=limits) as served, await served.connect() as stream:
        await stream.send(request("/livez"))
        assert (await stream.receive()).endswith(b"ok\n")
        if further:
            await anyio.sleep(0.3)
            await stream.send(further)
        assert await read_to_end(stream) == b""


async def test_client_that_never_reads_its_answer_is_dropped() -> None:
    async with running(limits=ConnectionLimits(answer_timeout_s=0.2)) as served:
        served.status = partial(big_status, BIG)
        with socket.socket() as deaf:
            deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            before = descriptors()
            deaf.connect(("127.0.0.1", served.listening.port))
            deaf.sendall(request("/status.json"))
            with anyio.fail_after(30):
                while descriptors() == before:
                    await anyio.sleep(0.01)
                while descriptors() > before:
                    await anyio.sleep(0.01)
            assert await anyio.to_thread.run_sync(drain, deaf) < BIG


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def drain(connection: socket.socket) -> int:
    """Bytes until the end or the reset of a connection."""
    connection.settimeout(30)
    received = 0
    with suppress(ConnectionResetError):
        while chunk := connection.recv(1 << 20):
            received += len(chunk)
    return received


async def test_body_of_a_request_isnt_waited_for() -> None:
    async with running() as served, await served.connect() as stream:
        await stream.send(request("/livez", "Content-Length: 1000000"))
        reply = parse_reply(await read_to_end(stream))
        assert (reply.status, reply.text) == (200, "ok\n")


async def test_used_port_is_an_error_that_may_pass_and_names_the_key() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(TelemetrydError) as raised:
            async with serve("127.0.0.1", port, Served(Facts()).endpoints(), where="c.toml"):
                pass
    assert not isinstance(raised.value, ConfigError)
    assert str(raised.value).startswith(
        f"c.toml: server.listen: can't listen on 127.0.0.1:{port}: the port is taken"
    )


@pytest.mark.parametrize(
    ("host", "message"),
    [
        ("192.0.2.1", "this machine has no such address"),
        ("no-such-host.invalid", "can't be resolved"),
    ],
)
async def test_address_that_is_not_there_is_an_error_that_may_pass(host: str, message: str) -> None:
    with pytest.raises(TelemetrydError, match=message) as raised:
        async with serve(host, 0, Served(Facts()).endpoints()):
            pass
    assert not isinstance(raised.value, ConfigError)


async def test_port_that_needs_a_privilege_is_a_config_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(socket, "create_server", refuse)
    with pytest.raises(ConfigError, match="choose a port of 1024 or more"):
        async with serve("127.0.0.1", 80, Served(Facts()).endpoints()):
            pass


async def test_free_port_is_reported_and_reused_at_once() -> None:
    async with running() as served:
        port = served.listening.port
        assert str(served.listening) == f"127.0.0.1:{port}"
        await served.ask("/livez")
    async with serve("127.0.0.1", port, served.endpoints()) as again:
        assert again.port == port


@pytest.mark.parametrize("host", ["", "::", "localhost", "0.0.0.0"])
async def test_names_and_every_address_can_be_listened_on(host: str) -> None:
    served = Served(Facts())
    async with serve(host, 0, served.endpoints()) as served.listening:
        assert (await served.ask("/livez")).status == 200


async def test_ipv6_address_is_shown_in_brackets() -> None:
    if not socket.has_dualstack_ipv6():
        pytest.skip("this machine has no IPv6")
    async with serve("::1", 0, Served(Facts()).endpoints()) as listening:
        assert str(listening) == f"[::1]:{listening.port}"


async def test_shutdown_doesnt_wait_for_slow_clients() -> None:
    timeout_s = 3600.0
    limits = ConnectionLimits(timeout_s, timeout_s, timeout_s, timeout_s)
    async with running(limits=limits) as served:
        served.status = partial(big_status, BIG)
        half = await served.connect()
        await half.send(b"GET /livez HT")
        idle = await served.connect()
        await idle.send(request("/livez"))
        await idle.receive()
        deaf = await served.connect()
        await deaf.send(request("/status.json"))
        await anyio.sleep(0.1)
    with pytest.raises(OSError, match=r"(?i)refused|connect"):
        await served.connect()
    for stream in (half, idle):
        assert await read_to_end(stream) == b""
        await stream.aclose()
    await deaf.aclose()


class SlowRenderer(MetricsRenderer):
    """Takes its time, and says when it has begun."""

    def __init__(self, facts: Facts, takes_s: float = 0.2) -> None:
        super().__init__(facts.metrics)
        self.begun = anyio.Event()
        self.takes_s = takes_s

    async def render(
        self, *, accept: str = "", accept_encoding: str = "", names: Sequence[str] = ()
    ) -> Exposition:
        self.begun.set()
        await anyio.sleep(self.takes_s)
        return await super().render(accept=accept, accept_encoding=accept_encoding, names=names)


async def test_answer_that_takes_long_to_make_is_not_cut_off_by_the_deadline_of_requests() -> None:
    limits = ConnectionLimits(request_timeout_s=0.3, making_timeout_s=10.0)
    served = Served(busy_facts())
    endpoints = replace(served.endpoints(), metrics=SlowRenderer(served.facts, takes_s=0.9))
    async with serve("127.0.0.1", 0, endpoints, limits=limits) as served.listening:
        reply = await served.ask("/metrics")
        assert (reply.status, b"telemetryd_build_info" in reply.body) == (200, True)


async def test_answer_that_is_never_made_ends_the_connection() -> None:
    limits = ConnectionLimits(making_timeout_s=0.2)
    served = Served(busy_facts())
    endpoints = replace(served.endpoints(), metrics=SlowRenderer(served.facts, takes_s=3600.0))
    async with serve("127.0.0.1", 0, endpoints, limits=limits) as served.listening:
        with anyio.fail_after(30):
            assert await served.ask_or_none("/metrics") is None
        assert (await served.ask("/livez")).status == 200


async def test_shutdown_lets_an_answer_finish() -> None:
    served = Served(busy_facts())
    renderer = SlowRenderer(served.facts)
    replies: list[Reply] = []

    async def scrape() -> None:
        replies.append(await served.ask("/metrics"))

    async with anyio.create_task_group() as tasks:
        endpoints = replace(served.endpoints(), metrics=renderer)
        async with serve("127.0.0.1", 0, endpoints) as served.listening:
            tasks.start_soon(scrape)
            await renderer.begun.wait()
    assert [reply.status for reply in replies] == [200]
    assert "telemetryd_fleet_nodes" in replies[0].text


class BlockingRenderer(SlowRenderer):
    """Holds up the event loop once it has begun, then takes its time."""

    async def render(
        self, *, accept: str = "", accept_encoding: str = "", names: Sequence[str] = ()
    ) -> Exposition:
        self.begun.set()
        await anyio.sleep(0.1)
        time.sleep(SHUTDOWN_S * 1.2)
        return await super().render(accept=accept, accept_encoding=accept_encoding, names=names)


async def test_loop_that_is_held_up_during_shutdown_cancels_no_one_else() -> None:
    served = Served(busy_facts())
    renderer = BlockingRenderer(served.facts, takes_s=3600.0)
    endpoints = replace(served.endpoints(), metrics=renderer)
    async with serve("127.0.0.1", 0, endpoints) as served.listening:
        client = await served.connect()
        await client.send(request("/metrics"))
        await renderer.begun.wait()
    for _ in range(3):
        await anyio.sleep(0)
    assert await read_to_end(client) == b""
    await client.aclose()


async def test_cancelled_server_closes_its_socket() -> None:
    served = Served(Facts())

    async def run(*, task_status: anyio.abc.TaskStatus[Listening]) -> None:
        async with serve("127.0.0.1", 0, served.endpoints()) as listening:
            task_status.started(listening)
            await anyio.sleep_forever()

    async with anyio.create_task_group() as tasks:
        served.listening = await tasks.start(run)
        assert (await served.ask("/livez")).status == 200
        tasks.cancel_scope.cancel()
    with pytest.raises(OSError, match=r"(?i)refused|connect"):
        await served.connect()


_TARGETS = st.sampled_from([*PATHS, "/payload/a/%2e", "/payload/%ff", "*", "//", "/%", "/%00",
                            "/metrics?name[]=a&name[]=%ff", "http://", "http://[::1",
                            "/readyz?verbose=1&verbose"])  # fmt: skip
_LINES = st.builds(
    lambda method, target, version, headers, junk: (
        f"{method} {target} {version}\r\n".encode("utf-8", "replace")
        + b"".join(header + b"\r\n" for header in headers)
        + junk
        + b"\r\n\r\n"
    ),
    st.sampled_from(["GET", "HEAD", "POST", "CONNECT", "G\x00T", ""]),
    _TARGETS | st.text(max_size=20),
    st.sampled_from(["HTTP/1.1", "HTTP/1.0", "HTTP/2.0", "HTTP/9", ""]),
    st.lists(
        st.sampled_from([
            b"Host: x", b"Host: localhost",
            b"Content-Length: -1", b"Content-Length: 5", b"Transfer-Encoding: chunked",
            b"Expect: 100-continue", b"Connection: close", b"Upgrade: h2c", b"Accept: \xff;q=\xfe",
            b"Accept-Encoding: gzip;q=nan", b": empty", b" folded", b"Content-Encoding: gzip",
        ])
    ),
    st.binary(max_size=10),
)  # fmt: skip


@settings(max_examples=examples(150), suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(sent=st.lists(_LINES, min_size=1, max_size=3).map(b"".join) | st.binary(max_size=200))
async def test_any_bytes_leave_the_server_alive(sent: bytes) -> None:
    async with running(limits=ConnectionLimits(request_timeout_s=0.5)) as served:
        async with await served.connect() as stream:
            await stream.send(sent or b"\n")
            await stream.send_eof()
            received = b""
            with anyio.move_on_after(0.02), suppress(anyio.EndOfStream, anyio.BrokenResourceError):
                received = await stream.receive()
            assert b"Traceback" not in received
            assert not received or received.startswith(b"HTTP/1.")
        assert (await served.ask("/livez")).status == 200


def link_local_addresses() -> list[str]:
    """Of this machine, each with its interface."""
    lines = Path("/proc/net/if_inet6").read_text().splitlines()
    found = [line.split() for line in lines if line.startswith("fe80")]
    return [f"{ipaddress.IPv6Address(int(digits, 16))}%{name}" for digits, *_, name in found]


async def test_zone_of_a_link_local_address_reaches_the_socket() -> None:
    for host in link_local_addresses():
        async with serve(host, 0, Served(Facts()).endpoints()) as listening:
            assert str(listening) == f"[{host}]:{listening.port}"
            healthy = partial(check_health, host, listening.port, tls=False)
            assert await anyio.to_thread.run_sync(healthy) == ""
    with pytest.raises(TelemetrydError, match="no interface of that name"):
        async with serve("fe80::1%nosuch", 0, Served(Facts()).endpoints()):
            pass
    with pytest.raises(TelemetrydError, match="this machine has no such address"):
        async with serve("fe80::1%lo", 0, Served(Facts()).endpoints()):
            pass
