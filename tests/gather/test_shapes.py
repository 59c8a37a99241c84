"""The table of node shapes: sharing, bounds and hostile text."""

import pytest

from telemetryd.gather.shapes import Quantity, ShapeTable

LABELS = ("amd64", "linux", "containerd://2.0.5", "6.4.0")


def test_alike_nodes_share_one_shape() -> None:
    table = ShapeTable()
    shapes = {id(table.intern(LABELS, ("etcd",), "4", "16Gi")) for _ in range(1000)}
    assert len(shapes) == 1
    assert len(table) == 1


@pytest.mark.parametrize(("cpu", "memory"), [(4, "16Gi"), ("4000m", "16384Mi"), (4.0, 2**34)])
def test_other_spellings_of_the_same_capacity_share_the_shape(
    cpu: Quantity, memory: Quantity
) -> None:
    table = ShapeTable()
    assert table.intern(LABELS, (), "4", "16Gi") is table.intern(LABELS, (), cpu, memory)


def test_a_full_table_starts_afresh_and_its_shapes_stay_equal() -> None:
    table = ShapeTable(max_shapes=10)
    before = table.intern(LABELS, (), "4", "0Mi")
    for size in range(1, 95):
        table.intern(LABELS, (), "4", f"{size}Mi")
        assert len(table) <= 10
    after = table.intern(LABELS, (), "4", "0Mi")
    assert after == before
    assert hash(after) == hash(before)


@pytest.mark.parametrize("cpu", [None, "", "four", "-1", "1e", "4" * 100_000, float("inf")])
def test_capacity_that_cannot_be_read_is_none(cpu: Quantity) -> None:
    shape = ShapeTable().intern(LABELS, (), cpu, cpu)
    assert shape.cpu_nano is None
    assert shape.memory_nano is None


def test_absurdly_long_text_is_cut() -> None:
    table = ShapeTable()
    table.intern(LABELS, (), "9" * 10**6, "9" * 10**6 + "Gi")
    (raw,) = table._by_raw
    assert len(str(raw)) < 1000
