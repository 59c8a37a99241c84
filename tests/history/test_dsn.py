"""The file that says where the database is: what it may hold, and that nothing shows it."""

from pathlib import Path

import pytest

from telemetryd.errors import HistoryError
from telemetryd.history.dsn import read_dsn
from telemetryd.redaction import OURS


@pytest.mark.parametrize(
    "content",
    [
        "",
        "secret-of-tests",
        "host=db user=me password=secret-of-tests",
        "mysql://me:secret-of-tests@db/x",
        "postgresql://me:secret-of-tests@db:port/x",
        "postgresql://me:secret-of-tests/more@db/x",
        "postgresql://me:secret-of-tests#more@db/x",
        "postgresql://me:secret-of-tests@more@db/x",
        "postgresql://me:secret-of-tests\npostgresql://db/x",
        "postgresql://me:secret-of-tests?more@db/x",
    ],
)
def test_file_without_a_dsn_is_named_and_not_shown(tmp_path: Path, content: str) -> None:
    file = tmp_path / "dsn"
    file.write_text(content)
    with pytest.raises(HistoryError, match=f"{file} holds no DSN: write one line") as caught:
        read_dsn(str(file))
    assert "secret-of-tests" not in str(caught.value)
    assert caught.value.__cause__ is None


def test_file_that_is_not_there_is_not_shown_as_it_may_be_a_password(tmp_path: Path) -> None:
    with pytest.raises(HistoryError, match=r"history\.dsn_file: the file can't be read") as caught:
        read_dsn(str(tmp_path / "secret-of-tests"))
    assert "secret-of-tests" not in str(caught.value)


def test_password_is_taken_out_of_every_text_as_written_and_as_meant(tmp_path: Path) -> None:
    file = tmp_path / "dsn"
    file.write_text("postgresql://me:a%20pass%23word-of-tests@db.example.com:5433/x\n")
    dsn = read_dsn(str(file))
    assert (dsn.password, dsn.server) == ("a pass#word-of-tests", "db.example.com:5433")
    for said in ("tried a pass#word-of-tests", "tried a%20pass%23word-of-tests"):
        assert "word-of-tests" not in OURS.redact(said)
    assert OURS.redact("asks db.example.com") == "asks db.example.com"
