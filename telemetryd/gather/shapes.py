"""The table that node shapes are shared by: ten thousand nodes have a few dozen of them.

Which fields of a node make its shape is ``project``'s; how many nodes have it is ``aggregate``'s.
"""

import sys
from functools import lru_cache
from typing import Final, TypeVar

import msgspec

from telemetryd.errors import QuantityError, UnreadableObject, UnreadableReason
from telemetryd.gather import texts
from telemetryd.model import NO_GPUS, Gpus, NodeShape
from telemetryd.quantity import MAX_TEXT, NANO, parse_cpu, parse_memory, parse_quantity

MAX_SHAPES: Final = 16_384
"""Entries a table holds before it starts afresh: some 6 MB where every node is unlike."""

Quantity = str | int | float | None
"""A quantity as JSON holds it: text, or the number that some clients write."""


class ShapeTable:
    """Interns node shapes, so that alike nodes share one and quantities are parsed once per shape.

    It holds at most ``max_shapes`` entries; then it starts afresh. Shapes in use live on in their
    records and equal those interned later, so that this costs memory, never an answer.
    """

    def __init__(self, max_shapes: int = MAX_SHAPES) -> None:
        self._max_shapes = max_shapes
        self._by_raw: dict[tuple[object, ...], NodeShape] = {}
        self._shapes: dict[NodeShape, NodeShape] = {}

    def __len__(self) -> int:
        return len(self._by_raw)

    def intern(
        self,
        labels: tuple[str, str, str, str],
        roles: tuple[str, ...],
        cpu: Quantity,
        memory: Quantity,
        gpus: Gpus = NO_GPUS,
    ) -> NodeShape:
        """The shape of a node that tells this of itself.

        A capacity that is missing or can't be parsed is None in the shape: not reported.

        Args:
            labels: Architecture, operating system, container runtime and kernel version; the
                shape has them in the forms of ``texts``.
            roles: Sorted.
            cpu: Capacity as the object holds it.
            memory: Likewise.
            gpus: Those in the capacity.
        """
        cpu, memory = _bounded(cpu), _bounded(memory)
        raw = (labels, roles, cpu, memory, gpus)
        shape = self._by_raw.get(raw)
        if shape is not None:
            return shape
        if len(self._by_raw) >= self._max_shapes:
            self._by_raw.clear()
            self._shapes.clear()
        architecture, operating_system, container_runtime, kernel_version = labels
        made = NodeShape(
            architecture=sys.intern(texts.architecture(architecture)),
            operating_system=sys.intern(texts.operating_system(operating_system)),
            container_runtime=sys.intern(texts.container_runtime(container_runtime)),
            kernel_version=sys.intern(texts.kernel_version(kernel_version)),
            roles=roles,
            cpu_nano=cpu_nano(cpu),
            memory_nano=memory_nano(memory),
            gpus=gpus,
        )
        # "4" and 4, "16Gi" and "16384Mi" are one shape.
        shape = self._shapes.setdefault(made, made)
        self._by_raw[raw] = shape
        return shape


def _bounded(value: Quantity) -> Quantity:
    # One character too many stays one too many: the parser refuses it all the same.
    return value[: MAX_TEXT + 1] if isinstance(value, str) else value


def cpu_nano(value: Quantity) -> int | None:
    """CPU in 1e-9 cores, None where it is missing or can't be parsed."""
    try:
        return parse_cpu(_bounded(value))
    except QuantityError:
        return None


def memory_nano(value: Quantity) -> int | None:
    """Memory in 1e-9 bytes, None where it is missing or can't be parsed."""
    try:
        return parse_memory(_bounded(value))
    except QuantityError:
        return None


def whole_number(value: Quantity) -> int | None:
    """A number of things, rounded up; None where it is missing, negative or no quantity."""
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
