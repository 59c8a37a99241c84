"""The capacity of a node: CPU, memory, and GPUs, whose names the vendors choose.

Counted as GPUs is what a device plug-in reports as whole devices: ``nvidia.com/gpu``,
``amd.com/gpu``, ``gpu.intel.com/i915`` and ``gpu.intel.com/xe``, and ``gpu`` of any other domain as
``other``.
Slices (MIG), shares and amounts of memory have other names, and are no GPUs.
"""

from functools import lru_cache
from typing import Final, TypeVar

import msgspec

from telemetryd.errors import UnreadableObject, UnreadableReason
from telemetryd.gather.shapes import Quantity, whole_number
from telemetryd.model import NO_GPUS, Gpus

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
_QUANTITY: Final = msgspec.json.Decoder(Quantity)

LONGEST_KEPT: Final = 2048
"""Bytes of a capacity that is remembered; that of a node has some 150."""

MAX_GPUS: Final = 100_000
"""More of one vendor in one node is no number of devices, and counts as so many."""


def read_capacity(raw: msgspec.Raw | bytes) -> tuple[Capacity, Gpus]:
    """CPU, memory and GPUs of a capacity as JSON; all missing where there is none.

    Raises:
        UnreadableObject: It is of another type.
    """
    content = bytes(raw)
    return _read(content) if len(content) > LONGEST_KEPT else _read_once(content)


def _read(raw: bytes) -> tuple[Capacity, Gpus]:
    capacity = (decode_raw("capacity", raw, _CAPACITY) if raw else None) or _NO_CAPACITY
    # Few nodes have GPUs, and the others need no second look.
    return capacity, _count_gpus(raw) if b"gpu" in raw else NO_GPUS


# The events of a node bring the same capacity again and again.
_read_once: Final = lru_cache(1024)(_read)


def _count_gpus(raw: bytes) -> Gpus:
    found = dict.fromkeys(Gpus._fields, 0)
    for key, value in decode_raw("capacity", raw, _EVERY_KEY).items():
        vendor = _VENDORS.get(key) or ("other" if key.endswith(_ANY) else None)
        if vendor is not None:
            found[vendor] = min(found[vendor] + (whole_number(_quantity(value)) or 0), MAX_GPUS)
    return Gpus(**found)


def _quantity(raw: msgspec.Raw) -> Quantity:
    try:
        quantity: Quantity = _QUANTITY.decode(raw)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None
    return quantity


def decode_raw(field: str, raw: msgspec.Raw | bytes, decoder: msgspec.json.Decoder[T]) -> T:
    """What a field holds that is decoded by itself.

    Raises:
        UnreadableObject: It is of another type, or not JSON.
    """
    try:
        return decoder.decode(raw)
    except msgspec.ValidationError as error:
        raise UnreadableObject(UnreadableReason.TYPE, f"{field} has another type") from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise UnreadableObject(UnreadableReason.MALFORMED, f"{field} isn't JSON") from error
