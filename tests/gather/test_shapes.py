"""The table of node shapes: sharing, bounds and hostile text."""

import json

import pytest

from telemetryd.errors import UnreadableObject
from telemetryd.gather.shapes import LONGEST_KEPT, MAX_GPUS, Quantity, ShapeTable, read_capacity
from telemetryd.model import NO_GPUS, Gpus

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


@pytest.mark.parametrize(
    ("capacity", "gpus"),
    [
        ({"cpu": "4", "memory": "8Gi"}, NO_GPUS),
        ({"nvidia.com/gpu": "8"}, Gpus(nvidia=8)),
        ({"nvidia.com/gpu": 2, "amd.com/gpu": "1"}, Gpus(nvidia=2, amd=1)),
        ({"gpu.intel.com/i915": "1", "gpu.intel.com/xe": "2"}, Gpus(intel=3)),
        ({"acme.example/gpu": "3", "metax-tech.com/gpu": "1"}, Gpus(other=4)),
        ({"nvidia.com/gpu": "0"}, NO_GPUS),
        ({"nvidia.com/mig-1g.5gb": "7", "nvidia.com/gpu": "1"}, Gpus(nvidia=1)),
        ({"nvidia.com/gpu.shared": "4", "nvidia.com/gpumem": "9000"}, NO_GPUS),
        ({"gpu.intel.com/millicores": "1000", "aliyun.com/gpu-mem": "16"}, NO_GPUS),
        ({"nvidia.com/gpu": "many", "amd.com/gpu": "-2", "acme.example/gpu": [1]}, NO_GPUS),
        ({"nvidia.com/gpu": None, "amd.com/gpu": {"a": 1}}, NO_GPUS),
        ({"nvidia.com/gpu": "1e18"}, Gpus(nvidia=MAX_GPUS)),
    ],
)
def test_whole_devices_are_counted_by_vendor(capacity: dict[str, object], gpus: Gpus) -> None:
    assert read_capacity(json.dumps(capacity).encode())[1] == gpus


def test_without_a_capacity_nothing_is_there() -> None:
    for raw in (b"", b"null", b"{}"):
        capacity, gpus = read_capacity(raw)
        assert (capacity.cpu, capacity.memory, gpus) == (None, None, NO_GPUS)


@pytest.mark.parametrize("raw", [b"[]", b'"gpu"', b"7", b'{"cpu": [1]}'])
def test_another_type_is_unreadable(raw: bytes) -> None:
    with pytest.raises(UnreadableObject):
        read_capacity(raw)


def test_equal_capacities_are_read_once_and_long_ones_are_not_kept() -> None:
    known, long = b'{"cpu":"7"}', b'{"cpu":"7","private":"%b"}' % (b"x" * LONGEST_KEPT)
    assert read_capacity(known)[0] is read_capacity(bytes(known))[0]
    assert read_capacity(long) == read_capacity(known)
    assert read_capacity(long)[0] is not read_capacity(long)[0]
