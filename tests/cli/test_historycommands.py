"""``telemetryd report`` and ``telemetryd history``, as a shell sees them."""

import csv
import gzip
import io
import json
import subprocess
import sys
import time
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator, FormatChecker

from telemetryd.history.slots import HOUR_S, MINUTE_S, Cell, Moment, Slot, piece
from telemetryd.history.sqlite import open_store
from telemetryd.history.store import FILE_NAME
from tests.cli.test_commands import telemetryd
from tests.support.postgres import Database

ONE, OTHER = "11111111-1111-4111-8111-111111111111", "22222222-2222-4222-8222-222222222222"
LAST_MONTH = (datetime.now(UTC).replace(day=1) - timedelta(days=1)).replace(
    day=1, hour=0, minute=0, second=0, microsecond=0
)
MONTH = f"{LAST_MONTH:%Y-%m}"


def minutes(hours: int, nodes: int) -> list[Slot]:
    values = {"nodes.entitled": nodes, "nodes.all": nodes + 3, "clusters.kubernetes.1.33": 3}
    values |= {"clusters.provider.rke2": 1, "clusters.provider.k3s": 2}
    moment = Moment(values, complete=True, version="v2")
    begin = int(LAST_MONTH.timestamp())
    return [piece(MINUTE_S, begin + hour * HOUR_S, 60.0, moment) for hour in range(hours)]


@pytest.fixture
def config(tmp_path: Path) -> Path:
    state = tmp_path / "state"
    state.mkdir()
    store = open_store(state, now=time.time)
    store.write(ONE, minutes(3, 21))
    store.close()
    file = tmp_path / "config.toml"
    file.write_text(f'state_dir = "{state}"\n[entitlement]\npreset = "aws-csp"\nlimit = 1\n')
    return file


def add_other(config: Path) -> None:
    store = open_store(config.parent / "state", now=time.time)
    store.write(OTHER, [each for each in minutes(30, 5) if each.start >= 25 * HOUR_S])
    store.close()


def test_report_shows_each_month_by_the_rule_and_what_is_over_the_limit(config: Path) -> None:
    ended = telemetryd("report", "--config", str(config))
    assert (ended.returncode, ended.stderr) == (0, "")
    assert "Limit         1 license\n" in ended.stdout
    assert "(preset aws-csp)" in ended.stdout
    line, other = (each for each in ended.stdout.splitlines() if each.startswith(MONTH))
    assert other.split() == [MONTH, "k3s", "2,", "rke2", "1", "1.33", "3", "v2"]
    assert line.split()[1:5] == ["21", "2", "21", "01"]
    assert line.endswith("over the limit")


def test_report_is_data_on_request(config: Path, tmp_path: Path) -> None:
    ended = telemetryd("report", "--format", "json", "--by", "day", "--config", str(config))
    document = json.loads(ended.stdout)
    assert document["installation"] == ONE
    assert document["rule"]["preset"] == "aws-csp"
    first = document["periods"][0]
    assert first["from"] == f"{LAST_MONTH:%Y-%m-%dT00:00:00Z}"
    assert (first["figure"], first["licenses"], first["hours"]["total"]) == (21, 2, 24)
    assert first["hours"]["known"] == 0.05
    file = tmp_path / "report.csv"
    ended = telemetryd("report", "--format", "csv", "--output", str(file), "--config", str(config))
    assert (ended.returncode, ended.stdout) == (0, "")
    row, *_ = csv.DictReader(io.StringIO(file.read_text()))
    assert (row["installation"], row["figure"], row["licenses"]) == (ONE, "21", "2")


def test_report_of_all_installations_has_each(config: Path) -> None:
    add_other(config)
    every = telemetryd("report", "--all-installations", "--format", "json", "--config", str(config))
    assert [each["installation"] for each in json.loads(every.stdout)] == [ONE, OTHER]
    last = telemetryd("report", "--format", "json", "--config", str(config))
    assert json.loads(last.stdout)["installation"] == OTHER


def test_report_of_a_time_of_which_nothing_is_known_says_so(config: Path) -> None:
    ended = telemetryd("report", "--to", "2020-01-01", "--config", str(config))
    assert ended.returncode == 1
    assert "nothing is known of that time" in ended.stderr


def test_report_without_a_history_says_where_it_would_be(tmp_path: Path) -> None:
    ended = telemetryd("report", "--set", f"state_dir={tmp_path}")
    assert ended.returncode == 1
    assert f"no history in {tmp_path}" in ended.stderr


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (("--from", "yesterday"), "'yesterday' isn't a day such as 2026-01-31"),
        (("--by", "week"), 'is "week": must be one of day, month'),
        (("--format", "pdf"), 'is "pdf"'),
    ],
)
def test_wrong_argument_is_a_usage_error(arguments: tuple[str, str], why: str) -> None:
    ended = telemetryd("report", *arguments)
    assert ended.returncode == 64
    assert why in ended.stderr


def test_output_that_cannot_be_written_is_named(config: Path, tmp_path: Path) -> None:
    ended = telemetryd("report", "--output", str(tmp_path), "--config", str(config))
    assert ended.returncode == 1
    assert f"{tmp_path}: " in ended.stderr


def test_export_is_merged_into_another_store_and_twice_changes_nothing(
    config: Path, tmp_path: Path
) -> None:
    add_other(config)
    exported = telemetryd("history", "export", "--config", str(config))
    assert exported.returncode == 0
    file = tmp_path / "export.jsonl"
    file.write_text(exported.stdout)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    for _ in range(2):
        merged = telemetryd("history", "import", str(file), "--set", f"state_dir={elsewhere}")
        count = len(exported.stdout.splitlines()) - 1
        assert (merged.returncode, merged.stdout) == (0, f"{count} slots merged\n")
    again = telemetryd("history", "export", "--set", f"state_dir={elsewhere}")
    assert again.stdout == exported.stdout


def changed(lines: list[str], **changes: object) -> list[str]:
    """With another slot of a minute, in line 5."""
    return [*lines[:4], json.dumps({**json.loads(lines[-1]), **changes}), *lines[5:]]


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda lines: ["{}", *lines[1:]], "isn't an export"),
        (lambda lines: [lines[0].replace(":1", ":7"), *lines[1:]], "has format 7"),
        (lambda lines: [*lines[:-1], lines[-1][:-9]], ":8: "),
        (lambda lines: [*lines[:2], lines[2].replace('"start":', '"start":1'), *lines[3:]], ":3: "),
        (lambda _: ["\x00\x01"], "isn't an export"),
        (lambda lines: changed(lines, installation="rancher"), ":5: badly formed"),
        (lambda lines: changed(lines, start=HOUR_S * 10**9), ":5: no telemetryd counts at"),
        (lambda lines: changed(lines, start=0), ":5: no telemetryd counts at 0: the years are"),
        (lambda lines: changed(lines, known=-1.0), ":5: of 60 s, -1.0 are known"),
        (lambda lines: changed(lines, complete=61.0), ":5: of 60 s, 60.0 are known and 61.0"),
        (lambda lines: changed(lines, gaps={"down": 1e9}), ":5: gaps of 1000000000.0 s in 60 s"),
        (lambda lines: changed(lines, gaps={"lunch": 1}), ":5: Invalid enum value 'lunch'"),
        (lambda lines: changed(lines, cells={"my cluster": [1] * 5}), ":5: 'my cluster' is no"),
        (lambda lines: changed(lines, cells={"nodes.all": [-1] * 5}), ":5: a count of nodes.all"),
        (lambda lines: changed(lines, cells={"nodes.all": [2**63] * 5}), "too large"),
        (lambda lines: changed(lines, cells={"nodes.all": [3, 9, 3, 3, 4]}), "between 9 and 3"),
        (lambda lines: changed(lines, cells={"nodes.all": [9, 3, 5, 2, 4]}), "between 3 and 9"),
        (lambda lines: changed(lines, cells={"nodes.all": [9, 3, 5, 5, 50]}), "between 3 and 9"),
        (lambda lines: changed(lines, cells={"nodes.all": [9, 3, None, 5, 4]}), "has a part of"),
    ],
)
def test_import_of_a_foreign_or_damaged_file_changes_nothing(
    config: Path, tmp_path: Path, change: object, why: str
) -> None:
    assert callable(change)
    before = telemetryd("history", "export", "--config", str(config)).stdout
    file = tmp_path / "import.jsonl"
    file.write_text("\n".join(change(before.replace(ONE, OTHER).splitlines())))
    ended = telemetryd("history", "import", str(file), "--config", str(config))
    assert ended.returncode == 1
    assert len(ended.stderr.splitlines()) == 1
    assert f"{file}" in ended.stderr or why == "too large"
    assert why in ended.stderr
    assert telemetryd("history", "export", "--config", str(config)).stdout == before


def test_text_of_a_file_commands_neither_terminal_nor_spreadsheet(
    config: Path, tmp_path: Path
) -> None:
    hostile = "=cmd|'/C calc'!A0\x1b[2J"
    with closing(open_store(tmp_path, now=time.time)) as store:
        for slot in minutes(1, 5):
            store.write(OTHER, [replace(slot, version=hostile)])
            cells = {f"clusters.provider.{hostile}": Cell(1, 1, 1, 1, 1.0)}
            store.write(OTHER, [replace(slot, version=hostile, cells=cells)])
    elsewhere = ("--set", f"state_dir={tmp_path}")
    text = telemetryd("report", *elsewhere).stdout
    assert "calc" in text
    assert "\x1b" not in text
    made = telemetryd("report", "--format", "csv", *elsewhere).stdout
    row = next(csv.DictReader(io.StringIO(made)))
    assert row["versions"] == f"'{hostile}"
    assert row["providers"] == f"'{hostile} 1, k3s 2, rke2 1"
    exported = tmp_path / "export.jsonl"
    exported.write_text(telemetryd("history", "export", *elsewhere).stdout)
    ended = telemetryd("history", "import", str(exported), "--config", str(config))
    assert (ended.returncode, ended.stderr.count("is no series")) == (1, 1)


def test_prune_removes_what_is_old_or_everything(config: Path) -> None:
    pruned = telemetryd("history", "prune", "--set", "history.keep=2d", "--config", str(config))
    assert pruned.returncode == 0
    left = telemetryd("history", "export", "--config", str(config)).stdout
    assert {json.loads(line).get("size") for line in left.splitlines()} == {None, 86400}
    assert telemetryd("history", "prune", "--all", "--config", str(config)).returncode == 0
    content = b"".join(each.read_bytes() for each in (config.parent / "state").iterdir())
    assert ONE.encode() not in content
    assert (config.parent / "state" / FILE_NAME).exists()


def test_schema_fits_every_report(config: Path) -> None:
    schema = json.loads(telemetryd("schema", "--report").stdout)
    Draft202012Validator.check_schema(schema)
    valid = Draft202012Validator(schema, format_checker=FormatChecker())
    add_other(config)
    own = ("--set", "entitlement.method=monthly_average", "--set", "entitlement.unit=core")
    for arguments in (
        (),
        ("--by", "day"),
        ("--all-installations",),
        ("--from", f"{LAST_MONTH - timedelta(days=90):%Y-%m-%d}"),
    ):
        made = telemetryd("report", "--format", "json", *arguments, "--config", str(config))
        document = json.loads(made.stdout)
        valid.validate(document)
        report = document[0] if isinstance(document, list) else document
        # It names every member that there is.
        defined = schema["$defs"]
        assert report.keys() == defined["report"]["properties"].keys()
        assert report["rule"].keys() == defined["rule"]["properties"].keys()
        for period in report["periods"]:
            assert period.keys() == defined["period"]["properties"].keys()
            hours = defined["period"]["properties"]["hours"]["properties"]
            assert period["hours"].keys() == hours.keys()
    ended = telemetryd(
        "report", "--format", "json", *own, "--set", f"state_dir={config.parent}/state"
    )
    valid.validate(json.loads(ended.stdout))
    wrongs: list[dict[str, object]] = [
        {"licenses": -1}, {"peak": {}}, {"digest": "0"}, {"hours": {"total": 1}}
    ]  # fmt: skip
    for wrong in wrongs:
        report["periods"][0] |= wrong
        assert not valid.is_valid(report), wrong


def test_report_of_a_store_without_a_slot_says_so(tmp_path: Path) -> None:
    open_store(tmp_path, now=time.time).close()
    for form in ("text", "json", "html"):
        ended = telemetryd("report", "--format", form, "--set", f"state_dir={tmp_path}")
        assert ended.returncode == 1
        assert "nothing is known yet" in ended.stderr


def test_report_is_one_file_of_html(config: Path, tmp_path: Path) -> None:
    file = tmp_path / "report.html"
    ended = telemetryd("report", "--format", "html", "--output", str(file), "--config", str(config))
    assert (ended.returncode, ended.stderr) == (0, "")
    text = file.read_text()
    assert text.startswith("<!doctype html>")
    assert "<svg" in text
    assert "2 (over the limit)" in text
    for outside in ("<script", "http:", "https:", "url("):
        assert outside not in text
    add_other(config)
    both = telemetryd("report", "--format", "html", "--all-installations", "--config", str(config))
    assert both.returncode == 1
    assert "leave out --all-installations" in both.stderr


def test_postgresql_gives_the_same_report_and_export_as_a_file(
    config: Path, database: Database
) -> None:
    add_other(config)
    moved = config.with_name("moved.toml")
    text = config.read_text().replace('preset = "aws-csp"\nlimit = 1\n', 'preset = "aws-csp"\n')
    dsn = f'[history]\nstore = "postgresql"\ndsn_file = "{database.dsn_file}"\n'
    moved.write_text(text + dsn)
    empty = telemetryd("report", "--config", str(moved))
    assert (empty.returncode, empty.stderr) == (
        1,
        "telemetryd: nothing is known yet: the daemon writes each minute what it saw\n",
    )
    exported = telemetryd("history", "export", "--config", str(config))
    file = config.with_name("export.jsonl")
    file.write_text(exported.stdout)
    for _ in range(2):
        merged = telemetryd("history", "import", str(file), "--config", str(moved))
        assert (merged.returncode, merged.stderr) == (0, "")
    assert telemetryd("history", "export", "--config", str(moved)).stdout == exported.stdout
    for form in ("json", "csv"):
        arguments = ("report", "--all-installations", "--by", "day", "--format", form)
        of_file = telemetryd(*arguments, "--config", str(config)).stdout
        of_database = telemetryd(*arguments, "--config", str(moved))
        assert of_database.returncode == 0
        if form == "json":
            reports = [json.loads(of_file), json.loads(of_database.stdout)]
            assert [each["installation"] for each in reports[1]] == [ONE, OTHER]
            digests = [[p["digest"] for e in each for p in e["periods"]] for each in reports]
            assert digests[0] == digests[1]
    pruned = telemetryd("history", "prune", "--all", "--config", str(moved))
    assert (pruned.returncode, pruned.stdout) == (0, "everything removed\n")
    assert database.ask("SELECT count(*) FROM telemetryd.cells") == [(0,)]


def test_migrate_makes_the_store_before_a_daemon_does(
    config: Path, database: Database, tmp_path: Path
) -> None:
    ended = telemetryd("history", "migrate", "--config", str(config))
    assert (ended.returncode, ended.stdout) == (0, "the history has schema 1\n")
    config.write_text(f'[history]\nstore = "postgresql"\ndsn_file = "{database.dsn_file}"\n')
    for _ in range(2):
        ended = telemetryd("history", "migrate", "--config", str(config))
        assert (ended.returncode, ended.stdout) == (0, "the history has schema 1.0\n")
    assert database.ask("SELECT count(*) FROM telemetryd.slots") == [(0,)]


def test_password_of_the_database_is_shown_nowhere(
    config: Path, database: Database, tmp_path: Path
) -> None:
    wrong = database.dsn_file
    wrong.write_text(database.dsn(password="another-password-of-tests"))
    text = config.read_text() + f'[history]\nstore = "postgresql"\ndsn_file = "{wrong}"\n'
    config.write_text(text)
    shown = telemetryd("config", "show", "--config", str(config))
    report = telemetryd("report", "--config", str(config))
    file = tmp_path / "bundle.tar.gz"
    bundle = telemetryd("support-bundle", "--output", str(file), "--config", str(config))
    assert f'dsn_file = "{wrong}"' in shown.stdout
    assert report.returncode == 1
    with gzip.open(file) as content:
        assert b"another-password" not in content.read()
    assert "check user and password in history.dsn_file" in report.stderr
    for ended in (shown, report, bundle):
        assert "another-password" not in ended.stdout + ended.stderr


@pytest.mark.parametrize("enabled", [True, False])
def test_dsn_file_that_is_not_there_yet_is_missed_while_a_history_is_kept(
    config: Path, tmp_path: Path, enabled: bool
) -> None:
    keys = f'enabled = {str(enabled).lower()}\nstore = "postgresql"\n'
    text = f'{config.read_text()}[history]\n{keys}dsn_file = "{tmp_path / "dsn"}"\n'
    config.write_text(text)
    checked = telemetryd("check-config", "--config", str(config))
    assert ("no history is kept until then" in checked.stderr) is enabled


@pytest.mark.parametrize("command", ["check-config", "run", "report"])
def test_without_its_driver_each_command_names_the_optional_part(
    config: Path, command: str
) -> None:
    config.write_text(
        config.read_text() + '[history]\nstore = "postgresql"\ndsn_file = "/etc/telemetryd/dsn"\n'
    )
    program = (
        "import sys; sys.modules['asyncpg'] = None\nfrom telemetryd.__main__ import main; main()"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program, command, "--config", str(config)],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert ended.returncode == 78
    wanted = (
        'history.store: is "postgresql", and its driver is missing: install telemetryd[postgresql]'
    )
    assert wanted in ended.stderr


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ('store = "postgresql"\n', 'history.store: is "postgresql": give dsn_file too'),
        ('store = "postgres"\n', 'did you mean "postgresql"?'),
        ('store = "postgresql"\ndsn_file = "dsn"\n', "must be an absolute path"),
        (
            'dsn_file = "/etc/dsn"\n',
            'history.dsn_file: is for PostgreSQL alone: set store = "postgresql", or leave out',
        ),
        (
            'store = "postgresql"\ndsn_file = "postgresql://u:hunter2@db/history"\n',
            "history.dsn_file: must be an absolute path",
        ),
    ],
)
def test_configuration_of_a_store_that_cannot_be_is_refused(
    config: Path, table: str, said: str
) -> None:
    config.write_text(f"{config.read_text()}[history]\n{table}")
    ended = telemetryd("check-config", "--offline", "--config", str(config))
    assert ended.returncode == 78
    assert said in ended.stderr
    assert "hunter2" not in ended.stderr


def test_check_config_warns_of_a_dsn_that_cannot_be_used_yet(config: Path, tmp_path: Path) -> None:
    dsn = tmp_path / "dsn"
    text = config.read_text()
    config.write_text(text + f'[history]\nstore = "postgresql"\ndsn_file = "{dsn}"\n')
    for content, said in ((None, "can't be read"), ("my-secret-of-tests", "holds no DSN")):
        if content:
            dsn.write_text(content)
        ended = telemetryd("check-config", "--config", str(config), KUBECONFIG="/nonexistent")
        assert said in ended.stderr
        assert "my-secret" not in ended.stderr
