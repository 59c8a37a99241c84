"""Capacities of nodes and clusters: quantities, and GPUs.

GPUs are what a device plug-in reports as whole devices: ``nvidia.com/gpu``, ``amd.com/gpu``,
``gpu.intel.com/i915`` and ``gpu.intel.com/xe``, and ``gpu`` of any other domain as ``other``.
Slices (MIG), shares and amounts of memory have other names, and don't count.
"""

import re
from functools import lru_cache
from typing import Final, NamedTuple, TypeVar

import msgspec

from telemetryd.errors import QuantityError, UnreadableObject, UnreadableReason
from telemetryd.kube.objects import decode_or_none
from telemetryd.model import NO_GPUS, Gpus
from telemetryd.quantity import MAX_TEXT, NANO, parse_capacity, parse_quantity

Quantity = str | int | float | None
"""A quantity as JSON holds it: text, or the number that some clients write."""


def _bounded(value: Quantity) -> Quantity:
    # One character too many is enough for the parser to refuse it.
    return value[: MAX_TEXT + 1] if isinstance(value, str) else value


def cpu_nano(value: Quantity) -> int | None:
    """CPU in 1e-9 cores; None if it is missing or can't be parsed."""
    try:
        return parse_capacity(_bounded(value))
    except QuantityError:
        return None


_KIBIBYTES: Final = re.compile(r"([0-9]{1,12})Ki")
_NANO_KIB: Final = 2**10 * NANO


def memory_nano(value: Quantity) -> int | None:
    """Memory in 1e-9 bytes; None if it is missing or can't be parsed."""
    # The form that every kubelet writes. Few nodes have the same, so no cache helps.
    if isinstance(value, str) and (found := _KIBIBYTES.fullmatch(value)):
        return int(found[1]) * _NANO_KIB
    try:
        return parse_capacity(_bounded(value))
    except QuantityError:
        return None


def whole_number(value: Quantity) -> int | None:
    """A number, rounded up; None if it is missing, negative or no quantity."""
    bounded = _bounded(value)
    if bounded is None:
        return None
    try:
        nano = parse_quantity(bounded)
    except QuantityError:
        return None
    return -(-nano // NANO) if nano >= 0 else None


T = TypeVar("T")


class Capacity(msgspec.Struct, frozen=True, gc=False):
    """``capacity`` of a node: quantities as text, or as the number that some clients write."""

    cpu: Quantity = None
    memory: Quantity = None


_NO_CAPACITY: Final = Capacity()
_INTEL: Final = ("gpu.intel.com/i915", "gpu.intel.com/xe")
_VENDORS: Final = {
    "nvidia.com/gpu": "nvidia",
    "amd.com/gpu": "amd",
    **dict.fromkeys(_INTEL, "intel"),
}
_ANY: Final = "/gpu"

GPU_KEYS: Final = (*_VENDORS, f"*{_ANY}")
"""Keys of a capacity that are read as GPUs; ``*`` is any domain."""

_CAPACITY: Final = msgspec.json.Decoder(Capacity | None)
_EVERY_KEY: Final = msgspec.json.Decoder(dict[str, msgspec.Raw])
_QUANTITY: Final[msgspec.json.Decoder[Quantity]] = msgspec.json.Decoder(Quantity)

LONGEST_KEPT: Final = 2048
"""Bytes of a capacity that is cached; that of a node has some 150."""

MAX_GPUS: Final = 100_000
"""Of one vendor in one node; more is no number of devices, and counts as this."""


class NodeSize(NamedTuple):
    """How large a node is.

    Attributes:
        cpu_nano: In 1e-9 cores; None if it is missing or can't be parsed.
        memory_nano: In 1e-9 bytes, in the same way.
    """

    cpu_nano: int | None
    memory_nano: int | None
    gpus: Gpus


def read_size(raw: msgspec.Raw | bytes) -> NodeSize:
    """The size of a node by its capacity as JSON, which may be empty.

    Raises:
        UnreadableObject: It is of another type.
    """
    content = bytes(raw)
    return _read(content) if len(content) > LONGEST_KEPT else _read_once(content)


def _read(raw: bytes) -> NodeSize:
    capacity = (decode_raw("capacity", raw, _CAPACITY) if raw else None) or _NO_CAPACITY
    gpus = _count_gpus(raw) if b"gpu" in raw else NO_GPUS
    return NodeSize(_cpu_once(_bounded(capacity.cpu)), memory_nano(capacity.memory), gpus)


# Machines of one type may have one capacity; if not, they share few numbers of cores.
_read_once: Final = lru_cache(128)(_read)
_cpu_once: Final = lru_cache(256)(cpu_nano)


def _count_gpus(raw: bytes) -> Gpus:
    found = dict.fromkeys(Gpus._fields, 0)
    for key, value in decode_raw("capacity", raw, _EVERY_KEY).items():
        vendor = _VENDORS.get(key) or ("other" if key.endswith(_ANY) else None)
        if vendor is not None:
            number = whole_number(decode_or_none(_QUANTITY, value)) or 0
            found[vendor] = min(found[vendor] + number, MAX_GPUS)
    return Gpus(**found)


def decode_raw(field: str, raw: msgspec.Raw | bytes, decoder: msgspec.json.Decoder[T]) -> T:
    """The value of a field that is decoded separately.

    Raises:
        UnreadableObject: It is of another type, or not JSON.
    """
    try:
        return decoder.decode(raw)
    except msgspec.ValidationError as error:
        raise UnreadableObject(UnreadableReason.TYPE, f"{field} has another type") from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise UnreadableObject(UnreadableReason.MALFORMED, f"{field} isn't JSON") from error
