"""GPUs in the capacity of a node, by vendor."""

import json

import pytest

from telemetryd.errors import UnreadableObject
from telemetryd.gather.capacity import LONGEST_KEPT, MAX_GPUS, read_capacity
from telemetryd.model import NO_GPUS, Gpus


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
