"""Capacities of nodes, and the table of their traits: 10,000 nodes share a few hundred.

GPUs are what a device plug-in reports as whole devices: ``nvidia.com/gpu``, ``amd.com/gpu``,
``gpu.intel.com/i915`` and ``gpu.intel.com/xe``, and ``gpu`` of any other domain as ``other``.
Slices (MIG), shares and amounts of memory have other names, and don't count.
"""

import re
import sys
from functools import lru_cache
from typing import Final, NamedTuple, TypeVar

import msgspec

from telemetryd.errors import QuantityError, UnreadableObject, UnreadableReason
from telemetryd.gather import texts
from telemetryd.kube.objects import decode_or_none
from telemetryd.model import NO_GPUS, Gpus, NodeTraits
from telemetryd.quantity import MAX_TEXT, NANO, parse_capacity, parse_quantity

MAX_TRAITS: Final = 4096
"""Entries in a table before it is cleared: some 2 MB."""

Quantity = str | int | float | None
"""A quantity as JSON holds it: text, or the number that some clients write."""

Labels = tuple[str, str, str, str]
"""Architecture, operating system, container runtime and kernel of a node, as it reports them."""


class TraitsTable:
    """Interns traits, so that nodes alike share one and their texts are looked at once.

    It is cleared at ``most`` entries. Traits in use stay in their records and equal those interned
    later, so that this costs only memory.
    """

    def __init__(self, most: int = MAX_TRAITS) -> None:
        self._most = most
        self._by_raw: dict[tuple[object, ...], NodeTraits] = {}

    def __len__(self) -> int:
        return len(self._by_raw)

    def intern(
        self,
        labels: Labels,
        roles: tuple[str, ...],
        gpus: Gpus = NO_GPUS,
        *,
        in_capacity: bool = True,
    ) -> NodeTraits:
        """The traits of a node."""
        raw = (labels, roles, gpus, in_capacity)
        traits = self._by_raw.get(raw)
        if traits is None:
            if len(self._by_raw) >= self._most:
                self._by_raw.clear()
            architecture, operating_system, container_runtime, kernel_version = labels
            traits = self._by_raw[raw] = NodeTraits(
                architecture=sys.intern(texts.architecture(architecture)),
                operating_system=sys.intern(texts.operating_system(operating_system)),
                container_runtime=sys.intern(texts.container_runtime(container_runtime)),
                kernel_version=sys.intern(texts.kernel_version(kernel_version)),
                roles=roles,
                gpus=gpus,
                in_capacity=in_capacity,
            )
        return traits


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


# The events of a node repeat its capacity, and nodes share few numbers of cores.
_read_once: Final = lru_cache(1024)(_read)
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
