"""Texts of any length, with any character, from objects, paths and plug-ins, in a real daemon."""

import json
import re
from pathlib import Path

import pytest

from telemetryd.gather.requests import SECRET_REQUESTS
from tests.cli.test_commands import telemetryd
from tests.config.test_plugins import install
from tests.daemon.hugerequests import HugeRequests
from tests.support import starter
from tests.support.daemon import Daemon
from tests.support.embedded import serve_fleet

MIB = b"x" * 2**20
PEAK_AT_MOST_MIB = 100
LOG_LINE_BYTES = 40_000
TARGET = b'"targetSecretRef":{"name":"s","namespace":"ns"}'
SPEC = b'"spec":{"secretType":"scc",%b}' % TARGET
THIRD = MIB[: 2**20 // 3]
CONDITIONS = b",".join(
    b'{"type":"%b","status":"True","message":"%b","reason":"\\u202e\\u0000%b"}'
    % (name, THIRD, THIRD[:1000])
    for name in (b"Progressing", b"Done", b"Failure")
)
HUGE = {
    "type": (b'"spec":{"secretType":"%b",%b}' % (MIB, TARGET), b""),
    "target": (
        b'"spec":{"secretType":"scc","targetSecretRef":{"name":"%b","namespace":"%b"}}'
        % (MIB[: 2**19], MIB[: 2**19]),
        b"",
    ),
    "conditions": (SPEC + b',"status":{"conditions":[%b]}' % CONDITIONS, b""),
    "half a million conditions": (
        SPEC + b',"status":{"conditions":[%b]}' % b",".join([b"{}"] * 350_000),
        b"",
    ),
    "uid": (SPEC, b',"uid":"%b"' % MIB),
    "creation time": (SPEC, b',"creationTimestamp":"%b"' % MIB),
    "annotations": (
        SPEC,
        b',"annotations":{%b}' % b",".join(b'"%d":"x"' % number for number in range(80_000)),
    ),
    "digits": (b'"spec":{"secretType":%b}' % (b"9" * 2**20), b""),
    "keys": (b'"spec":{%b}' % b",".join(b'"%d":1' % number for number in range(100_000)), b""),
    "nesting": (b'"spec":%b%b' % (b"[" * 2**19, b"]" * 2**19), b""),
    "lone surrogates": (b'"spec":{"secretType":"%b"}' % (b"\\ud800" * 100_000), b""),
}


class HugeServer(HugeRequests):
    """One of each kind after the other."""

    def render(self, number: int) -> bytes:
        """One of them, as JSON."""
        self.members, self.metadata = list(HUGE.values())[number % len(HUGE)]
        return super().render(number)


def lines(daemon: Daemon) -> list[str]:
    return daemon.log().splitlines()


@pytest.mark.timeout(400)
@pytest.mark.parametrize(
    ("watch_list", "count"),
    [
        ("auto", 22),
        pytest.param("auto", 55, marks=pytest.mark.long),
        pytest.param("off", 55, marks=pytest.mark.long),
    ],
)
def test_huge_texts_of_secret_requests_cost_no_memory_log_or_page(
    tmp_path: Path, watch_list: str, count: int
) -> None:
    HugeServer.count = count
    with serve_fleet(tmp_path, kind=HugeServer) as server:
        kubernetes = f'watch_list = "{watch_list}"'
        daemon = Daemon(tmp_path, server.kubeconfig, "", kubernetes=kubernetes, fresh=True)
        try:
            daemon.wait_for("readiness", daemon.ready, 60)
            daemon.wait_for(
                "all requests seen to",
                lambda: len(daemon.status()["secret_requests"]) == HugeServer.count,
                120,
            )
            assert daemon.peak_mib() < PEAK_AT_MOST_MIB
            code, page = daemon.get("/")
            assert code == 200
            assert len(page) < 500_000
            assert len(daemon.get("/status.json")[1]) < 500_000
            assert len(daemon.get("/metrics")[1]) < 500_000
            assert max(map(len, lines(daemon))) < LOG_LINE_BYTES
            assert len(daemon.log()) < 1_000_000
        finally:
            assert daemon.stop() == 0


@pytest.mark.faults
@pytest.mark.timeout(900)
@pytest.mark.parametrize("watch_list", ["auto", "off"])
def test_three_thousand_requests_of_a_megabyte_fit_into_100_mib(
    tmp_path: Path, watch_list: str
) -> None:
    HugeRequests.count = 3000
    HugeRequests.members = HUGE["type"][0]
    with serve_fleet(tmp_path, kind=HugeRequests) as server:
        kubernetes = f'watch_list = "{watch_list}"'
        daemon = Daemon(tmp_path, server.kubeconfig, "", kubernetes=kubernetes, fresh=True)
        try:
            daemon.wait_for("readiness", daemon.ready, 60)
            daemon.wait_for("sync", lambda: daemon.informer(SECRET_REQUESTS.id)["synced"], 600)
            assert daemon.informer(SECRET_REQUESTS.id)["objects"] == HugeRequests.count
            assert daemon.peak_mib() < PEAK_AT_MOST_MIB
        finally:
            assert daemon.stop() == 0


def test_of_three_thousand_requests_a_few_are_shown_and_the_rest_is_counted(tmp_path: Path) -> None:
    HugeRequests.count = 3000
    HugeRequests.members, HugeRequests.metadata = (
        SPEC,
        b',"deletionTimestamp":"2026-01-01T00:00:00Z"',
    )
    with serve_fleet(tmp_path, kind=HugeRequests) as server:
        daemon = Daemon(tmp_path, server.kubeconfig, "")
        try:
            daemon.wait_for("readiness", daemon.ready, 60)
            daemon.wait_for(
                "all requests seen to",
                lambda: daemon.status()["secret_requests_left_out"] == 2800,
                120,
            )
            code, status = daemon.get("/status.json")
            assert code == 200
            assert len(json.loads(status)["secret_requests"]) == 200
            assert len(status) < 200_000
            code, page = daemon.get("/")
            assert code == 200
            assert page.count("<td") < 2000
            assert "2,800 more are left out" in page
            assert "huge-" not in daemon.get("/metrics")[1]
            config = str(daemon.config_file)
            done = telemetryd("ctl", "status", "--config", config, RUNTIME_DIRECTORY=str(tmp_path))
            assert done.stdout.count("huge-") == 200
            assert done.stdout.endswith("2800 more SecretRequests are left out\n")
        finally:
            HugeRequests.metadata = b""
            assert daemon.stop() == 0


@pytest.mark.parametrize("log_format", ["json", pytest.param("text", marks=pytest.mark.long)])
def test_path_that_is_not_utf_8_is_shown_escaped_everywhere(
    tmp_path: Path, log_format: str
) -> None:
    folder = tmp_path / "caf\udce9"
    folder.mkdir()
    socket = tmp_path / "c.sock"
    # A restriction is remembered with the file that makes it.
    table = f'control_socket = "{socket}"\n[[exporters]]\nname = "scc"\ntype = "secret"\n'
    top_level = f'log_level = "debug"\nlog_format = "{log_format}"\n'
    with serve_fleet(tmp_path) as server:
        daemon = Daemon(folder, server.kubeconfig, f"{table}enabled = false\n", top_level)
        try:
            daemon.wait_for("readiness", daemon.ready, 60)
            assert daemon.status()["config"]["file"].endswith(r"/caf\udce9/config.toml")
            code, page = daemon.get("/")
            assert code == 200
            assert r"/caf\udce9/config.toml" in page
            assert daemon.get("/metrics")[0] == 200
            for arguments in (["status"], ["status", "--json"], ["reload"]):
                done = starter.run(
                    *("ctl", *arguments, "--config", str(daemon.config_file)), text=False
                )
                assert done.returncode == 0, done.stderr
                done.stdout.decode()
            daemon.wait_for("reload", lambda: "config reloaded" in daemon.log(), 10)
            if log_format == "json":
                assert all(json.loads(line) for line in lines(daemon))
            assert r"/caf\udce9/config.toml" in daemon.log().replace("\\\\", "\\")
        finally:
            assert daemon.stop() == 0


RAISER = r"""
from dataclasses import dataclass
from typing import Annotated, ClassVar

from telemetryd.config import ExporterConfig
from telemetryd.errors import ConflictError, PermanentError, Reason, RetryableError


class Mute(Exception):
    def __str__(self):
        raise RuntimeError("not even this")


class Reasonless(RetryableError):
    def __init__(self):
        Exception.__init__(self, "without a reason")


CASES = {
    "group": lambda: ExceptionGroup("outer", [ExceptionGroup("inner", [KeyError("lost")])]),
    "groups": lambda: ExceptionGroup("many", [ValueError("first"), KeyError("second")]),
    "wrapped": lambda: ExceptionGroup("of one", [RetryableError(Reason.SERVER, "busy")]),
    "reason": lambda: PermanentError("anything\u202eat all", "refused"),
    "number": lambda: ConflictError(7, "taken"),
    "reasonless": Reasonless,
    "huge": lambda: RuntimeError("x\n" * 5_000_000),
    "mute": Mute,
    "pause": lambda: RetryableError(Reason.SERVER, "later", retry_after_s="soon"),
    "longest": lambda: RetryableError(Reason.SERVER, "later", retry_after_s=10**400),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Table(ExporterConfig):
    type: ClassVar[str] = "raiser"


class Raiser:
    def __init__(self, config):
        self._config = config

    async def export(self, payload, context):
        raise CASES[self._config.name]()

    async def aclose(self):
        raise CASES[self._config.name]()


class Factory:
    config = Table

    def build(self, config, context):
        return Raiser(config)


IT = Factory()
"""

RAISED = {
    "group": ("internal", "raiser 1.0: KeyError: 'lost'"),
    "groups": ("internal", "raiser 1.0: ValueError: first (and 1 more errors)"),
    "wrapped": ("server", "raiser 1.0: busy"),
    "reason": ("internal", "raiser 1.0: refused (without a reason that telemetryd knows)"),
    "number": ("internal", "raiser 1.0: taken (without a reason that telemetryd knows)"),
    "reasonless": (
        "internal",
        "raiser 1.0: without a reason (without a reason that telemetryd knows)",
    ),
    "huge": ("internal", "raiser 1.0: RuntimeError: x x x"),
    "mute": ("internal", "raiser 1.0: Mute: its message can't be rendered"),
    "pause": ("server", "raiser 1.0: later"),
    "longest": ("server", "raiser 1.0: later"),
}


@pytest.fixture
def raised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    site = tmp_path / "site"
    site.mkdir()
    install(site, "raiser", {"raiser": "raiser:IT"}, RAISER)
    monkeypatch.setenv("PYTHONPATH", str(site))
    return "".join(
        f'[[exporters]]\nname = "{name}"\ntype = "raiser"\ninterval = "2s"\n'
        f'timeout = "1s"\nretry_base = "100ms"\nretry_budget = "1s"\n'
        for name in RAISED
    )


def test_whatever_an_exporter_of_others_raises_is_bounded_and_names_who_brings_it(
    tmp_path: Path, raised: str
) -> None:
    with serve_fleet(tmp_path) as server:
        daemon = Daemon(tmp_path, server.kubeconfig, raised)

        def failed() -> bool:
            return all(each["last_error"] for each in daemon.status()["exporters"])

        try:
            daemon.wait_for("readiness", daemon.ready, 60)
            daemon.wait_for("each fails", failed, 60)
            said = {each["name"]: each for each in daemon.status()["exporters"]}
            for name, (reason, text) in RAISED.items():
                assert said[name]["last_error_reason"] == reason
                assert said[name]["last_error"].startswith(text), said[name]
                assert len(said[name]["last_error"]) < 1100
            page = daemon.get("/")[1]
            assert "Report it to the authors of raiser 1.0" in page
            assert "fault of telemetryd" not in page
            counted = r'exporter_(?:attempts|retries)_total\{[^}]*reason="([^"]*)"'
            reasons = set(re.findall(counted, daemon.get("/metrics")[1]))
            assert reasons == {"internal", "server"}
            assert max(map(len, lines(daemon))) < LOG_LINE_BYTES
        finally:
            assert daemon.stop() == 0
