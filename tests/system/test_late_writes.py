"""A leader that is stopped in the middle of a write, past its term, while another takes over.

It stops itself exactly between the fence and the send, or between the send and the answer. What it
sends once it goes on is too late: preconditions, or the receiver's rule, must refuse it.
"""

import json
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.apiserver.admin import Admin, Object
from tests.apiserver.process import ApiServer
from tests.system.daemon import TOP_LEVEL, Daemon
from tests.system.rancher import SECRET, TARGET_NAMESPACE, Rancher
from tests.system.replicas import ELECTION
from tests.system.replicas import SECRET as SECRET_EXPORTER
from tests.system.requests import NO_EXPORTERS
from tests.system.scc import SERVED, Scc

WITHIN_S = 40
FREEZER = Path(__file__).parent / "freezing"
EPOCH = "telemetryd/epoch"
INTERVALS_S = 2.5
"""For two runs of the new leader, and for whatever the late one might still do."""

REQUESTS = """
[secret_requests]
enabled = true
interval = "1s"
cleanup = "delete"
"""
DELIVERY = """
[[exporters]]
name = "delivery"
type = "http"
format = "fleet"
interval = "1s"
max_silence = "1s"
splay_max = "0s"
spool = false
compress = false
retry_base = "200ms"
url = "{url}"
bearer_token_file = "{token}"
"""


class Replica:
    """One of two daemons, which can be stopped at a point of a write."""

    def __init__(self, folder: Path, apiserver: ApiServer, config: str, top_level: str) -> None:
        self.folder = folder
        folder.mkdir()
        self.daemon = Daemon(
            folder,
            apiserver.kubeconfig(folder / "kubeconfig"),
            ELECTION + config,
            top_level,
            environ={
                "HOSTNAME": folder.name,
                "PYTHONPATH": str(FREEZER),
                "FREEZING": str(folder),
            },
        )

    def leading(self) -> bool:
        code, body = self.daemon.get("/status.json")
        return code == 200 and json.loads(body)["leader"]["leading"]

    def epoch(self) -> int:
        return int(self.daemon.status()["leader"]["epoch"])

    def arm(self, words: str, *, when: str, skip: int = 0) -> None:
        new = self.folder / "new"
        new.write_text(json.dumps({"words": words, "when": when, "skip": skip}))
        new.rename(self.folder / "armed")

    def frozen(self) -> bool:
        return (self.folder / "frozen").exists()

    def go_on(self) -> None:
        """Let it go on, and wait until its late bytes have left and it knows it isn't leader."""
        self.daemon.signal(signal.SIGCONT)
        self.daemon.wait_for("late bytes", (self.folder / "sent").exists, WITHIN_S)
        self.daemon.wait_for("the end of its term", lambda: not self.leading(), WITHIN_S)


class Pair:
    """Both of them."""

    def __init__(self, replicas: list[Replica]) -> None:
        self.replicas = replicas

    def leader(self) -> Replica:
        for replica in self.replicas:
            replica.daemon.wait_for("readiness", replica.daemon.ready, WITHIN_S)
        found: Replica = _until(
            "a leader", lambda: next(filter(Replica.leading, self.replicas), None)
        )
        return found

    def freeze(
        self, leader: Replica, words: str, begin: Callable[[], object], *, when: str, skip: int = 0
    ) -> Replica:
        """Stop the leader at that point, and wait for the other to lead.

        Returns:
            The other.
        """
        leader.arm(words, when=when, skip=skip)
        begin()
        leader.daemon.wait_for("its stop", leader.frozen, WITHIN_S)
        (other,) = (each for each in self.replicas if each is not leader)
        other.daemon.wait_for("the next leader", other.leading, WITHIN_S)
        return other


@contextmanager
def running(
    folder: Path, apiserver: ApiServer, config: str, top_level: str = TOP_LEVEL
) -> Iterator[Pair]:
    replicas = [Replica(folder / name, apiserver, config, top_level) for name in ("one", "two")]
    try:
        yield Pair(replicas)
    finally:
        for replica in replicas:
            replica.daemon.signal(signal.SIGCONT)
        statuses = [replica.daemon.stop() for replica in replicas]
    assert statuses == [0, 0]


@pytest.fixture
def rancher(admin: Admin) -> Iterator[Rancher]:
    fleet = Rancher(admin)
    fleet.build(clusters=1, nodes=1)
    try:
        yield fleet
    finally:
        fleet.clear()


@pytest.mark.timeout(180)
@pytest.mark.parametrize("when", ["before", "after"])
def test_late_patch_of_the_secret_changes_nothing(
    tmp_path: Path, apiserver: ApiServer, rancher: Rancher, when: str
) -> None:
    with running(tmp_path, apiserver, SECRET_EXPORTER) as pair:
        late = pair.leader()
        _until("the Secret", rancher.secret)
        other = pair.freeze(
            late, '"kind":"Secret"', lambda: rancher.add_node("local", 1), when=when
        )
        rancher.add_node("local", 2)
        epoch = str(other.epoch())
        _until("its write", lambda: _written_under(rancher, epoch))
        time.sleep(INTERVALS_S)
        written = rancher.secret()
        late.go_on()
        time.sleep(INTERVALS_S)
        assert rancher.secret() == written
        assert other.leading()


@pytest.mark.timeout(180)
def test_late_creation_of_the_secret_is_corrected_at_the_next_run(
    tmp_path: Path, apiserver: ApiServer, rancher: Rancher
) -> None:
    with running(tmp_path, apiserver, SECRET_EXPORTER) as pair:
        late = pair.leader()
        begun_under = str(late.epoch())
        _until("the Secret", rancher.secret)
        other = pair.freeze(
            late, '"kind":"Secret"', lambda: rancher.admin.delete(SECRET), when="before"
        )
        rancher.add_node("local", 1)
        epoch = str(other.epoch())
        assert epoch != begun_under
        _until("its write", lambda: _written_under(rancher, epoch))
        time.sleep(INTERVALS_S)
        newest = _digest(rancher.secret())
        late.daemon.signal(signal.SIGCONT)
        # Nothing can be a precondition of a creation: it writes over what was made meanwhile.
        _until("the late creation", lambda: _written_under(rancher, begun_under), every_s=0.01)
        corrected = _until("the correction", lambda: _written_under(rancher, epoch))
        assert _digest(corrected) == newest
        late.go_on()
        time.sleep(INTERVALS_S)
        assert rancher.secret() == corrected


@pytest.mark.timeout(180)
@pytest.mark.parametrize("when", ["before", "after"])
def test_late_status_of_a_request_changes_nothing(
    tmp_path: Path, apiserver: ApiServer, scc: Scc, when: str
) -> None:
    scc.namespace(TARGET_NAMESPACE, None)
    with running(tmp_path, apiserver, REQUESTS, TOP_LEVEL + NO_EXPORTERS) as pair:
        late = pair.leader()
        pair.freeze(late, '"status":{', scc.ask, when=when)
        _until("the status", lambda: scc.conditions() == SERVED or None)
        time.sleep(INTERVALS_S)
        said = scc.request()
        late.go_on()
        time.sleep(INTERVALS_S)
        assert scc.request() == said


@pytest.mark.timeout(180)
def test_late_delete_of_a_secret_leaves_what_was_written_since(
    tmp_path: Path, apiserver: ApiServer, scc: Scc
) -> None:
    scc.namespace(TARGET_NAMESPACE, None)

    def withdraw() -> None:
        scc.delete()
        scc.finalize()

    with running(tmp_path, apiserver, REQUESTS, TOP_LEVEL + NO_EXPORTERS) as pair:
        late = pair.leader()
        scc.ask()
        _until("the Secret", lambda: scc.payload() and (scc.conditions() == SERVED or None))
        pair.freeze(late, '"preconditions":{', withdraw, when="before")
        scc.ask()
        _until("its payload", scc.payload)
        _until("the status", lambda: scc.conditions() == SERVED or None)
        written = scc.secret()
        late.go_on()
        time.sleep(INTERVALS_S)
        assert scc.secret() == written


@pytest.mark.timeout(180)
@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("unauthorized", [0, 1], ids=["at once", "after a 401"])
def test_late_post_is_refused_by_the_rule_of_receivers(
    tmp_path: Path, apiserver: ApiServer, rancher: Rancher, unauthorized: int, when: str
) -> None:
    token = tmp_path / "token"
    token.write_text("0")
    with receiving(token) as receiver:
        config = DELIVERY.format(url=receiver.url, token=token)
        with running(tmp_path, apiserver, config) as pair:
            late = pair.leader()
            _until("a delivery", lambda: receiver.taken or None)

            def begin() -> None:
                receiver.unauthorized = unauthorized

            other = pair.freeze(late, '"delivery":', begin, when=when, skip=unauthorized)
            epoch = other.epoch()
            _until("its delivery", lambda: receiver.held[0] == epoch or None)
            refused = len(receiver.refused)
            late.go_on()
            if when == "before":
                _until("the refusal", lambda: len(receiver.refused) > refused or None)
                assert max(receiver.refused)[0] < epoch
            time.sleep(INTERVALS_S)
            assert receiver.held[0] == epoch
        assert receiver.taken == sorted(receiver.taken)


class Receiver:
    """Follows the rule of docs/delivery.md: what is lower than what it has is refused."""

    def __init__(self) -> None:
        self.url = ""
        self.held = (-1, -1)
        self.taken: list[tuple[int, int]] = []
        self.refused: list[tuple[int, int]] = []
        self.unauthorized = 0
        self.lock = threading.Lock()

    def judge(self, pair: tuple[int, int], token: Path) -> int:
        with self.lock:
            if self.unauthorized:
                self.unauthorized -= 1
                token.write_text(str(time.monotonic()))
                return 401
            if pair < self.held:
                self.refused.append(pair)
                return 409
            self.held = pair
            self.taken.append(pair)
            return 204


@contextmanager
def receiving(token: Path) -> Iterator[Receiver]:
    receiver = Receiver()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            pair = tuple(int(self.headers[f"Telemetryd-{name}"]) for name in ("Epoch", "Sequence"))
            self.send_response(receiver.judge((pair[0], pair[1]), token))
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            """The record is the receiver's."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        receiver.url = f"http://127.0.0.1:{server.server_address[1]}/"
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield receiver
        finally:
            server.shutdown()
            thread.join()


def _written_under(rancher: Rancher, epoch: str) -> Object | None:
    """The Secret, once this epoch is on it."""
    secret = rancher.secret()
    if secret is None or secret["metadata"]["annotations"][EPOCH] != epoch:
        return None
    return secret


def _digest(secret: Object | None) -> str:
    assert secret is not None
    return str(secret["metadata"]["annotations"]["telemetryd/digest"])


def _until(what: str, probe: Callable[[], Any], *, every_s: float = 0.1) -> Any:
    deadline_s = time.monotonic() + WITHIN_S
    while time.monotonic() < deadline_s:
        found = probe()
        if found is not None:
            return found
        time.sleep(every_s)
    raise AssertionError(f"{what}: waited {WITHIN_S} s")
