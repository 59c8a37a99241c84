"""Folders, sockets and ports of this machine, the real ones."""

import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from telemetryd.config import ControlSocket, FileExporterConfig, ListenAddress, ServerConfig
from telemetryd.doctor import local
from telemetryd.doctor.checking import CheckResult, Grade
from tests.support.certificates import Authority, Pair

PASS, WARN, FAIL = Grade.PASS, Grade.WARN, Grade.FAIL

AS_NOBODY = """
import os, sys
from telemetryd.doctor.local import check_state_dir
os.setgroups([]); os.setgid(65532); os.setuid(65532)
for finding in check_state_dir(sys.argv[1]): print(finding)
"""


def grades(findings: list[CheckResult]) -> list[Grade]:
    return [finding.grade for finding in findings]


def test_state_directory_that_is_there_or_can_be_made_passes(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "new", tmp_path / "deep" / "new"):
        assert grades(local.check_state_dir(str(path))) == [PASS]
    assert list(tmp_path.iterdir()) == [], "nothing is left behind, nothing made"


def test_state_directory_that_was_not_found_fails() -> None:
    (finding,) = local.check_state_dir(None)
    assert finding.grade is FAIL
    assert "state_dir" in finding.fix


def test_state_directory_below_a_file_fails(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (finding,) = local.check_state_dir(str(tmp_path / "file" / "x"))
    assert finding.grade is FAIL
    assert f"{tmp_path}/file isn't a folder" in finding.detail


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_state_directory_that_is_read_only_fails_and_names_the_user() -> None:
    folder = Path("/tmp") / f"td-doctor-{os.getpid()}"  # others can't reach tmp_path
    folder.mkdir(mode=0o755)
    try:
        asked = subprocess.run(
            [sys.executable, "-c", AS_NOBODY, str(folder)],
            capture_output=True,
            text=True,
            check=True,
            env={key: value for key, value in os.environ.items() if "COV" not in key},
        )
    finally:
        folder.rmdir()
    assert asked.stdout == (
        f"FAIL  state directory  {folder}: permission denied; let user 65532 write there, or"
        " configure another directory\n"
    )


def test_state_directory_others_may_write_to_warns(tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    found = local.check_state_dir(str(tmp_path))
    assert grades(found) == [PASS, WARN]
    assert "mode 0777" in found[1].detail
    assert found[1].fix == f"chmod go-w {tmp_path}"


def test_little_space_warns(tmp_path: Path) -> None:
    exporter = FileExporterConfig(name="f", directory=str(tmp_path), max_bytes=1 << 60)
    found = local.check_file_exporter(exporter)
    assert grades(found) == [PASS, WARN]
    assert "MiB free" in found[1].detail


def test_directory_of_a_file_exporter_is_made_but_not_its_parent(tmp_path: Path) -> None:
    for path, grade in ((tmp_path / "new", PASS), (tmp_path / "none" / "new", FAIL)):
        (finding, *_) = local.check_file_exporter(FileExporterConfig(name="f", directory=str(path)))
        assert finding.grade is grade
    assert f"only {tmp_path} exists" in finding.detail


def test_control_socket_free_stale_or_alive_passes(short_path: Path) -> None:
    place = ControlSocket(str(short_path / "s"), explicit=True)
    (free,) = local.check_control_socket(place)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(place.path)
        listener.listen()
        (alive,) = local.check_control_socket(place)
    (stale,) = local.check_control_socket(place)
    assert grades([free, alive, stale]) == [PASS] * 3
    assert "can be made" in free.detail
    assert "a daemon listens there" in alive.detail
    assert "will be replaced" in stale.detail


@pytest.mark.parametrize("explicit", [True, False])
def test_control_socket_that_is_a_file_fails_only_where_it_is_configured(
    short_path: Path, explicit: bool
) -> None:
    (short_path / "s").touch()
    (finding,) = local.check_control_socket(ControlSocket(str(short_path / "s"), explicit=explicit))
    assert finding.grade is (FAIL if explicit else WARN)
    assert "server.control_socket" in finding.fix


def test_control_socket_with_too_long_a_path_warns() -> None:
    (finding,) = local.check_control_socket(ControlSocket("/" + "x" * 200, explicit=False))
    assert finding.grade is WARN
    assert "107 bytes" in finding.detail


def test_control_socket_without_a_place_warns() -> None:
    assert grades(local.check_control_socket(None)) == [WARN]


@pytest.fixture
def taken() -> Iterator[int]:
    """A port whose owner answers, but not as telemetryd does."""

    class Other(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b'{"version": "1"}')

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Other) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join()


def test_port_that_is_free_passes() -> None:
    assert grades(local.check_listen(ListenAddress("127.0.0.1", 0))) == [PASS]
    assert grades(local.check_listen(ListenAddress("", 0))) == [PASS]


def test_port_of_somebody_else_fails(taken: int) -> None:
    (finding,) = local.check_listen(ListenAddress("127.0.0.1", taken))
    assert finding.grade is FAIL
    assert "address already in use" in finding.detail
    assert "server.listen" in finding.fix


def test_port_taken_on_one_address_is_taken_for_every_address(taken: int) -> None:
    (finding,) = local.check_listen(ListenAddress("", taken))
    assert finding.grade is FAIL


def test_address_of_another_machine_fails() -> None:
    (finding,) = local.check_listen(ListenAddress("192.0.2.1", 10464))
    assert finding.grade is FAIL


def certificate_of(pair: Pair, *, now_s: float | None = None) -> CheckResult:
    server = ServerConfig(tls_cert_file=str(pair.cert), tls_key_file=str(pair.key))
    (finding,) = local.check_certificates(server, time.time() if now_s is None else now_s)
    return finding


def test_certificate_is_shown_with_the_time_that_is_left(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    fresh = certificate_of(authority.issue("fresh", days=10))
    assert (fresh.grade, fresh.fix) == (PASS, "")
    assert fresh.detail == f"{tmp_path}/fresh.crt is valid for 9d23h more"
    old = certificate_of(authority.issue("old", days=2))
    assert old.grade is WARN
    assert "47h more" in old.detail
    assert old.fix.startswith("renew it")
    early = certificate_of(authority.issue("early"), now_s=time.time() - 30 * 86400)
    assert early.grade is WARN
    assert "isn't valid before" in early.detail


def test_certificate_that_can_not_be_served_fails_with_the_fix(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    late = certificate_of(authority.issue("late", days=-1))
    assert (late.grade, late.what, late.fix) == (FAIL, "server.tls_cert_file", "renew it")
    assert f"{tmp_path}/late.crt has expired on" in late.detail
    missing = certificate_of(Pair(tmp_path / "none.crt", authority.issue("x").key))
    assert missing.grade is FAIL
    assert missing.detail.endswith("can't be read (No such file or directory)")
    assert missing.fix == "name a PEM file that is there"


def test_certificates_are_not_shown_without_tls() -> None:
    assert local.check_certificates(ServerConfig(), time.time()) == []
