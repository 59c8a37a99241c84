"""The size of a node, by its capacity: spellings, bounds and hostile text."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from telemetryd.errors import QuantityError, UnreadableObject
from telemetryd.gather.capacity import (
    LONGEST_KEPT,
    MAX_GPUS,
    Quantity,
    memory_nano,
    read_size,
)
from telemetryd.model import NO_GPUS, Gpus
from telemetryd.quantity import parse_capacity


@pytest.mark.parametrize(("cpu", "memory"), [(4, "16Gi"), ("4000m", "16384Mi"), (4.0, 2**34)])
def test_other_spellings_of_the_same_capacity_are_the_same_size(
    cpu: Quantity, memory: Quantity
) -> None:
    written = json.dumps({"cpu": cpu, "memory": memory}).encode()
    assert read_size(written) == read_size(b'{"cpu":"4","memory":"16Gi"}')


kibibytes = st.from_regex(r"\A[0-9]{0,20}(Ki|ki|K|Mi)?\Z") | st.from_regex(r"\A\d{1,4}Ki\Z")


@given(kibibytes)
def test_kibibytes_are_read_as_any_other_quantity(text: str) -> None:
    try:
        expected: int | None = parse_capacity(text)
    except QuantityError:
        expected = None
    assert memory_nano(text) == expected


@pytest.mark.parametrize("cpu", [None, "", "four", "-1", "1e", "4" * 100_000])
def test_capacity_that_cannot_be_read_is_none(cpu: Quantity) -> None:
    size = read_size(json.dumps({"cpu": cpu, "memory": cpu}).encode())
    assert (size.cpu_nano, size.memory_nano) == (None, None)


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
    assert read_size(json.dumps(capacity).encode()).gpus == gpus


def test_without_a_capacity_nothing_is_there() -> None:
    for raw in (b"", b"null", b"{}"):
        assert read_size(raw) == (None, None, NO_GPUS)


@pytest.mark.parametrize("raw", [b"[]", b'"gpu"', b"7", b'{"cpu": [1]}'])
def test_another_type_is_unreadable(raw: bytes) -> None:
    with pytest.raises(UnreadableObject):
        read_size(raw)


def test_equal_capacities_are_read_once_and_long_ones_are_not_kept() -> None:
    known, long = b'{"cpu":"7"}', b'{"cpu":"7","private":"%b"}' % (b"x" * LONGEST_KEPT)
    assert read_size(known) is read_size(bytes(known))
    assert read_size(long) == read_size(known)
    assert read_size(long) is not read_size(long)
