"""The files of the spool: what is written is read back, and nothing else is taken for it."""

import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from telemetryd.export.spool import (
    Delivered,
    Parcel,
    SpoolFolder,
    exporters_in,
    parse_parcel,
    render_parcel,
)
from telemetryd.model import Delivery, Payload

DELIVERED = Delivered(
    installation_id="8d6f8b1e", destination="there", sequence=7, digest="ab", at=3.5
)


def parcel(body: bytes = b'{"a":1}\n{"b":2}', sequence: int = 7) -> Parcel:
    return Parcel(
        payload=Payload(
            body=body,
            content_type="application/json",
            digest="ab",
            revision=3,
            schema_valid=True,
            schema_error="",
        ),
        delivery=Delivery(at=1_790_000_000.25, sequence=sequence, epoch=2),
        installation_id="8d6f8b1e",
        destination="there",
    )


@given(body=st.binary(max_size=200), sequence=st.integers(0, 2**62))
def test_parcel_is_read_back_as_it_was(body: bytes, sequence: int) -> None:
    given = parcel(body, sequence)
    assert parse_parcel(render_parcel(given)) == given


@given(data=st.data())
def test_parcel_that_is_cut_or_altered_anywhere_is_none(data: st.DataObject) -> None:
    whole = render_parcel(parcel())
    position = data.draw(st.integers(0, len(whole) - 1))
    altered = bytearray(whole)
    altered[position] ^= data.draw(st.integers(1, 255))
    assert parse_parcel(bytes(altered)) is None
    assert parse_parcel(whole[:position]) is None
    assert parse_parcel(whole + whole[: position + 1]) is None


@given(content=st.binary(max_size=300))
def test_other_bytes_are_no_parcel(content: bytes) -> None:
    assert parse_parcel(content) is None


def test_folder_keeps_one_parcel_and_the_last_delivery_for_their_owner_alone(
    tmp_path: Path,
) -> None:
    folder = SpoolFolder(str(tmp_path / "spool"), "it")
    assert folder.load().parcel is None
    folder.store(parcel(sequence=6))
    size_bytes = folder.store(parcel())
    folder.settle(DELIVERED, clear=False)
    contents = folder.load()
    assert (contents.parcel, contents.delivered, contents.corrupt) == (parcel(), DELIVERED, 0)
    assert contents.pending_bytes == size_bytes == (folder.path / "pending").stat().st_size
    assert {path.name for path in folder.path.iterdir()} == {"pending", "state"}
    for made in (folder.path, folder.path.parent):
        assert stat.S_IMODE(made.stat().st_mode) == 0o700
    for path in folder.path.iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    folder.settle(DELIVERED, clear=True)
    assert folder.load().parcel is None


def test_what_cannot_be_read_is_put_aside_and_counted(tmp_path: Path) -> None:
    folder = SpoolFolder(str(tmp_path), "it")
    folder.store(parcel())
    folder.settle(DELIVERED, clear=False)
    for name in ("pending", "state"):
        path = folder.path / name
        path.write_bytes(path.read_bytes()[:-3])
    assert folder.peek().corrupt == 2
    assert folder.load().corrupt == 2
    assert {path.name for path in folder.path.iterdir()} == {"pending.corrupt", "state.corrupt"}
    assert folder.load().corrupt == 0


def test_half_a_file_of_a_killed_process_is_in_nobodys_way(tmp_path: Path) -> None:
    folder = SpoolFolder(str(tmp_path), "it")
    folder.path.mkdir()
    (folder.path / ".pending.tmp").write_bytes(b"telemetryd-spo")
    assert folder.load().parcel is None
    folder.store(parcel())
    assert [path.name for path in folder.path.iterdir()] == ["pending"]


@pytest.mark.parametrize("name", ["..", ".", "a/b", "../x", "secretrequest/a", "a b"])
def test_no_name_of_an_exporter_leads_out_of_the_spool(tmp_path: Path, name: str) -> None:
    folder = SpoolFolder(str(tmp_path / "spool"), name)
    folder.store(parcel())
    assert folder.path.parent == tmp_path / "spool"
    assert list(exporters_in(str(tmp_path / "spool"))) == [folder.path.name]
    assert [path.name for path in tmp_path.iterdir()] == ["spool"]


def test_no_spool_is_an_empty_one(tmp_path: Path) -> None:
    assert list(exporters_in(str(tmp_path / "spool"))) == []
