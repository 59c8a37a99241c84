"""Any lines on the control socket: the daemon commands on for others, and holds no more."""

import json
import socket
from contextlib import suppress
from itertools import pairwise
from typing import Any, get_args

from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from hypothesis.stateful import run_state_machine_as_test as run_machine

from telemetryd.serve.control.protocol import MAX_REQUEST_BYTES, CommandName
from tests.fuzz.budget import budget, examples, fuzzing, patient
from tests.fuzz.counts import assert_no_growth
from tests.fuzz.daemon import Probed

pytestmark = [patient, fuzzing]

LINES = 40
SESSIONS = 6
LONGEST_ERROR = 2000
COMMANDS = get_args(CommandName)

_NAMES = (
    st.sampled_from([
        "folder", "scc", "nodes.management.cattle.io", "nodes", "", "x" * 512, "x" * 513, "../etc",
        "secretrequest/a", "\0", "\x1b[31m", "\u202e", "\ud7ff", "\U0001f600" * 128, "a\nb", "%s%n",
    ])
    | st.text(max_size=20)
)  # fmt: skip
_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner),
    max_leaves=6,
)
_REQUESTS = st.fixed_dictionaries(
    {"command": st.sampled_from(COMMANDS) | _JSON},
    optional={
        "name": _NAMES | _JSON,
        "verify": st.booleans() | _JSON,
        "size": st.sampled_from([0, 60, 3600, 86400]) | _JSON,
        "begin": st.floats() | _JSON,
        "end": st.floats() | _JSON,
        "all": st.booleans() | _JSON,
        "force": _JSON,
    },
).map(lambda request: json.dumps(request, ensure_ascii=False).encode("utf-8", "surrogatepass"))
_GARBAGE = st.binary(max_size=60).map(lambda line: line.replace(b"\n", b"")) | st.sampled_from([
    b"", b"null", b"[]", b"{", b"[" * 9000, b'{"a":' * 3000, b'"' + b"\\ud800" * 9, b"\xff\xfe{}",
    b'{"command":"status","command":"stop"}', b'{"command":"stop","name":"\\ud800"}',
    b'{"command":"stop","name":"\\u0000"}', b'{"command":"status"}\r', b'{"command":1e999}',
    b'{"command":"cache","name":"a","verify":' + b"9" * 5000 + b"}", b" " * MAX_REQUEST_BYTES,
    b"x" * (MAX_REQUEST_BYTES - 1), b"x" * (MAX_REQUEST_BYTES + 1), b"y" * 100_000,
    b"\xef\xbb\xbf{}", b'{"command":"\xc3\x28"}', b"GET / HTTP/1.1\r", b"\0" * 4096,
])  # fmt: skip
LINE = _REQUESTS | _GARBAGE


class Session:
    """One connection, as rude as one likes."""

    def __init__(self, daemon: Probed) -> None:
        self.stream = socket.socket(socket.AF_UNIX)
        self.stream.settimeout(60)
        self.stream.connect(str(daemon.control))
        self._received = b""

    def send(self, data: bytes) -> None:
        """All of it, as far as the daemon takes it."""
        with suppress(BrokenPipeError, ConnectionResetError):
            self.stream.sendall(data)

    def answer(self) -> dict[str, Any] | None:
        """The next answer, None where the daemon has hung up."""
        while b"\n" not in self._received:
            try:
                chunk = self.stream.recv(65536)
            except ConnectionResetError:
                return None
            if not chunk:
                assert not self._received, "half an answer"
                return None
            self._received += chunk
        line, _, self._received = self._received.partition(b"\n")
        document: dict[str, Any] = json.loads(line)
        return document


def judge(answer: dict[str, Any] | None) -> None:
    """It is done, or refused for one reason, which isn't a fault of the daemon's."""
    if answer is None:
        return
    assert answer.keys() <= {"ok", "error", "result"}
    error = answer.get("error", "")
    assert "internal error" not in error
    assert len(error) <= LONGEST_ERROR
    assert "\n" not in error
    assert answer["ok"] or error or answer["result"]


def test_any_lines_leave_the_daemon_commanding_and_as_it_was(daemon: Probed) -> None:
    @budget(LINES)
    @given(
        lines=st.lists(LINE, max_size=4),
        cuts=st.lists(st.floats(0, 1, exclude_max=True), max_size=3),
        rest=st.binary(max_size=20),
        waits=st.booleans(),
    )
    def fuzz(lines: list[bytes], cuts: list[float], rest: bytes, waits: bool) -> None:
        session = Session(daemon)
        with session.stream:
            content = b"".join(line + b"\n" for line in lines) + rest
            places = [0, *sorted(int(cut * len(content)) for cut in cuts), len(content)]
            for begin, end in pairwise(places):
                session.send(content[begin:end])
            for _ in lines if waits else ():
                judge(session.answer())
        assert daemon.ask("status").ok
        daemon.assert_well()

    assert_no_growth(fuzz, examples(LINES), daemon.counts)


class Sessions(RuleBasedStateMachine):
    """Several clients at a time, against what the daemon must have made of it."""

    daemon: Probed

    def __init__(self) -> None:
        super().__init__()
        self.daemon.ask("start", "folder")
        self.stopped = False
        self.sessions: list[Session] = []

    @rule()
    def connect(self) -> None:
        self.sessions.append(Session(self.daemon))

    @precondition(lambda self: self.sessions)
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        self.sessions.pop(data.draw(st.integers(0, len(self.sessions) - 1))).stream.close()

    @precondition(lambda self: self.sessions)
    @rule(data=st.data(), line=LINE.filter(lambda line: b"folder" not in line), whole=st.booleans())
    def rave(self, data: st.DataObject, line: bytes, whole: bool) -> None:
        """Something that changes nothing; its sender is of no further use."""
        session = self.sessions.pop(data.draw(st.integers(0, len(self.sessions) - 1)))
        session.send(line + b"\n" if whole else line)
        session.stream.close()

    @precondition(lambda self: self.sessions)
    @rule(data=st.data(), command=st.sampled_from(["start", "stop", "restart", "trigger"]))
    def command(self, data: st.DataObject, command: str) -> None:
        """In the session that was chosen, whatever others do."""
        session = data.draw(st.sampled_from(self.sessions))
        session.send(json.dumps({"command": command, "name": "folder"}).encode() + b"\n")
        answer = session.answer()
        judge(answer)
        if answer is None:  # it sat there for too long, or made room for others
            self.sessions.remove(session)
            session.stream.close()
        elif command == "trigger":
            assert answer["ok"] is not self.stopped
        else:
            assert answer["ok"]
            self.stopped = command == "stop"

    @invariant()
    def exporter_is_as_it_was_commanded(self) -> None:
        answer = self.daemon.ask("status")
        (found,) = (each for each in answer.result["exporters"] if each["name"] == "folder")
        assert (found["state"] == "stopped") is self.stopped
        self.daemon.assert_well()

    def teardown(self) -> None:
        for session in self.sessions:
            session.stream.close()


def test_sessions_side_by_side_command_what_they_say(daemon: Probed) -> None:
    class Here(Sessions):
        pass

    Here.daemon = daemon

    def fuzz() -> None:
        run_machine(Here, settings=budget(SESSIONS, stateful_step_count=12))

    assert_no_growth(fuzz, examples(SESSIONS) * 12, daemon.counts)
