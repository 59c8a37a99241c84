"""What `doctor` finds of exporters: their files, and the checks that plug-ins bring."""

import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from telemetryd.config import Config, FileExporterConfig, HttpExporterConfig, parse_config
from telemetryd.doctor.checking import CheckResult, Grade, run_checks
from telemetryd.doctor.exporters import check_files, exporter_checks
from tests.config.test_plugins import install
from tests.support.certificates import Authority, sign
from tests.support.daemon import free_port

PASS, WARN, FAIL = Grade.PASS, Grade.WARN, Grade.FAIL


def look(**files: Path | None) -> dict[str, CheckResult]:
    """What was found of an exporter with these files, by key."""
    given: dict[str, Any] = {key: str(path) for key, path in files.items() if path is not None}
    exporter = HttpExporterConfig(name="x", url="https://127.0.0.1", **given)
    found = check_files(exporter, time.time)
    named = {each.what.removesuffix(" of exporter x"): each for each in found}
    assert len(named) == len(found), "one line each"
    return named


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_files_that_can_be_used_pass_a_line_each(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    ours = authority.issue("ours")
    found = look(
        headers_file=write(tmp_path / "headers", "X-Team: a\n"),
        bearer_token_file=write(tmp_path / "token", "s3cret\n"),
        ca_file=authority.ca,
        client_cert_file=ours.cert,
        client_key_file=ours.key,
    )
    assert [each.grade for each in found.values()] == [PASS] * 4
    assert "9d23h more" in found["client_cert_file"].detail
    assert "s3cret" not in "".join(map(str, found.values()))


@pytest.mark.parametrize("key", ["headers_file", "bearer_token_file"])
@pytest.mark.parametrize(
    ("text", "shown"),
    [(None, "No such file"), ("a b\n\0", "printable ASCII"), ("ä", "printable ASCII")],
    ids=["missing", "binary", "not ASCII"],
)
def test_credential_that_can_not_be_used_fails_and_shows_nothing_of_it(
    tmp_path: Path, key: str, text: str | None, shown: str
) -> None:
    path = tmp_path / "file"
    if text is not None:
        path.write_text(text)
    (found,) = look(**{key: path}).values()
    assert (found.grade, found.what) == (FAIL, f"{key} of exporter x")
    assert shown in found.detail
    assert found.fix


def test_two_credentials_that_exclude_each_other_fail_at_the_token(tmp_path: Path) -> None:
    headers = write(tmp_path / "headers", "Authorization: Basic eA==\n")
    found = look(headers_file=headers, bearer_token_file=write(tmp_path / "token", "t"))
    assert found["headers_file"].grade is PASS
    assert found["bearer_token_file"].grade is FAIL
    assert "Authorization too" in found["bearer_token_file"].detail


@pytest.mark.parametrize("key", ["ca_file", "client_cert_file"])
@pytest.mark.parametrize("text", [None, "", "no PEM"], ids=["missing", "empty", "no PEM"])
def test_certificate_that_can_not_be_loaded_fails_and_names_the_file(
    tmp_path: Path, key: str, text: str | None
) -> None:
    path = tmp_path / "file"
    if text is not None:
        path.write_text(text)
    (found,) = look(**{key: path}).values()
    assert (found.grade, found.what) == (FAIL, f"{key} of exporter x")
    assert str(path) in found.detail
    assert "give PEM" in found.fix


def test_key_of_another_certificate_fails(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    ours, other = authority.issue("ours"), authority.issue("other")
    (found,) = look(client_cert_file=ours.cert, client_key_file=other.key).values()
    assert found.grade is FAIL
    assert "key values mismatch" in found.detail


def test_certificates_that_have_expired_fail_and_those_that_will_soon_warn(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    late, soon = authority.issue("late", days=-1), authority.issue("soon", days=1)
    (found,) = look(client_cert_file=late.cert, client_key_file=late.key).values()
    assert found.grade is FAIL
    assert f"{late.cert} has expired on" in found.detail
    (found,) = look(client_cert_file=soon.cert, client_key_file=soon.key).values()
    assert found.grade is WARN
    old = sign("old", ca=True, days=(-20, -1)).pem
    bundle = tmp_path / "bundle"
    bundle.write_bytes(old)
    (found,) = look(ca_file=bundle).values()
    assert found.grade is FAIL
    assert "has expired on" in found.detail
    bundle.write_bytes(old + authority.ca.read_bytes())
    (found,) = look(ca_file=bundle).values()
    assert found.grade is PASS, "the other one is good"


# -- folders

_MOUNTED = """
import sys, time
from telemetryd.config import FileExporterConfig
from telemetryd.doctor.local import check_file_exporter
for each in check_file_exporter(FileExporterConfig(name="f", directory=sys.argv[1])):
    print(each)
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount")
@pytest.mark.parametrize(
    ("options", "before", "shown"),
    [
        (
            "size=64k",
            'head -c 64k /dev/zero >"$0/full"',
            "no space left on device; free space or inodes there",
        ),
        ("ro", "true", "read-only file system; let user root write there"),
    ],
    ids=["full", "read-only"],
)
def test_directory_on_a_disk_that_takes_nothing_fails(
    tmp_path: Path, options: str, before: str, shown: str
) -> None:
    folder = tmp_path / "disk"
    folder.mkdir()
    script = f'mount -t tmpfs -o {options} none "$0" && {before} && exec "$1" -c "$2" "$0"'
    asked = subprocess.run(
        ["unshare", "--mount", "sh", "-c", script, str(folder), sys.executable, _MOUNTED],
        capture_output=True,
        text=True,
        check=True,
    )
    expected = f"FAIL  directory of exporter f  {folder}: {shown}, or configure another directory\n"
    assert asked.stdout == expected


# -- all of them

CHECKING = """
from dataclasses import dataclass
from typing import ClassVar
from telemetryd.config import ExporterConfig
from telemetryd.errors import RetryableError, Reason
import time, anyio
@dataclass(frozen=True, slots=True, kw_only=True)
class Its(ExporterConfig):
    type: ClassVar[str] = "{name}"
class Sink:
    async def export(self, payload, context): ...
    async def aclose(self): ...
    {check}
class _It:
    config = Its
    def build(self, config, context):
        return Sink()
IT = _It()
"""
STUBBORN = """while True:
            try:
                await anyio.sleep(60)
            except BaseException:
                pass"""


def check_of(body: str) -> str:
    return f"async def check(self):\n        {body}"


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("check", "grade", "shown"),
    [
        ("", PASS, "1.0 brings none"),
        (check_of("return 'its queue is there'"), PASS, "its queue is there"),
        (check_of("pass"), PASS, "finds nothing wrong"),
        (
            check_of("raise RetryableError(Reason.CONNECT, 'no queue\\n: make it')"),
            FAIL,
            "no queue : make it; see the documentation of",
        ),
        (check_of("raise ZeroDivisionError('x')"), FAIL, "failed: ZeroDivisionError: x; report it"),
        (check_of("raise SystemExit(3)"), FAIL, "failed: SystemExit: 3; report it"),
        (check_of("await anyio.sleep(60)"), FAIL, "not known within 1 s"),
        (check_of("time.sleep(20)"), FAIL, "not known within 1 s"),
        (check_of(STUBBORN), FAIL, "not known within 1 s"),
        ("check = 7", FAIL, "failed: TypeError"),
    ],
    ids=[
        *("none", "says", "silent", "fails", "crashes", "exits", "hangs", "blocks", "stubborn"),
        "no function",
    ],
)
async def test_check_of_a_plug_in_costs_itself_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, check: str, grade: Grade, shown: str
) -> None:
    name = f"checks{abs(hash(check))}"
    code = CHECKING.replace("{name}", name).replace("{check}", check)
    install(tmp_path, name, {name: f"{name}:IT"}, code)
    monkeypatch.syspath_prepend(str(tmp_path))
    folder = tmp_path / "files"
    config = parse_config(
        f'[[exporters]]\nname = "p"\ntype = "{name}"\n'
        f'[[exporters]]\nname = "f"\ntype = "file"\ndirectory = "{folder}"\n',
        "t.toml",
        {},
    )
    found = await run_checks(exporter_checks(config, {}, time.time), deadline_s=1.0)
    assert [each.what for each in found] == ["check of exporter p", "directory of exporter f"]
    assert found[0].grade is grade
    assert shown in str(found[0])
    assert found[1].grade is PASS


@pytest.mark.anyio
async def test_hundred_exporters_are_checked_side_by_side_and_those_that_are_off_are_not() -> None:
    port = free_port()
    given: dict[str, Any] = {"bearer_token_file": "/nonexistent/token"}
    exporters = [
        HttpExporterConfig(name=f"e{number}", url=f"https://127.0.0.1:{port}/{number}", **given)
        for number in range(100)
    ]
    off = replace(exporters[0], name="off", enabled=False)
    files = FileExporterConfig(name="f", directory="/nonexistent/a/b")
    config = replace(Config(), exporters=(*exporters, off, files))
    checks = exporter_checks(config, {}, time.time)
    found = await run_checks(checks, deadline_s=30.0, at_a_time=32)
    assert len(found) == 2 * 100 + 1, "its token and its connection, a line each"
    assert {each.grade for each in found} == {FAIL}
    assert not [each for each in found if each.what.endswith(" off")]
    assert all(each.fix for each in found)
