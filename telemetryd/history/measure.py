"""What is kept of a snapshot: sums by closed lists, no name, no id, no URL."""

from collections.abc import Iterator
from typing import Final

from telemetryd.history.slots import Moment
from telemetryd.model import KINDS, Snapshot, Sums, split

UNITS: Final = ("clusters", "nodes", "cpu", "memory")
"""``cpu`` is in thousandths of a core, ``memory`` in MiB, both rounded up once over their sum."""

ALL: Final = "all"
ENTITLED: Final = "entitled"
"""Managed clusters that aren't being deleted, and their nodes: what entitlements count."""

VENDORS: Final = ("nvidia", "amd", "intel", "other")

_NANO_PER_MILLI: Final = 10**6
_NANO_PER_MIB: Final = 10**9 * 2**20


def measure(snapshot: Snapshot) -> Moment:
    """The figures of a snapshot: series such as ``nodes.managed`` or ``clusters.provider.rke2``."""
    values = {name: value for name, value in _series(snapshot) if value}
    return Moment(values, snapshot.complete, snapshot.identity.version)


def _series(snapshot: Snapshot) -> Iterator[tuple[str, int]]:
    totals = snapshot.totals
    everything = totals.everything
    for part, sums in ((ALL, everything), (ENTITLED, totals.entitled)):
        yield from _units(part, sums)
    by_kind = split(totals.groups, lambda key: key.kind)
    for kind in KINDS:
        if kind in by_kind:
            yield from _units(kind, by_kind[kind])
    for vendor, count in zip(VENDORS, everything.gpus, strict=True):
        yield f"gpus.{vendor}", count
    for part, sums_by in (
        ("provider", split(totals.groups, lambda key: key.provider)),
        ("kubernetes", split(totals.groups, lambda key: key.kubernetes_minor)),
    ):
        for value, sums in sums_by.items():
            yield f"clusters.{part}.{value}", sums.clusters
            yield f"nodes.{part}.{value}", sums.nodes


def _units(part: str, sums: Sums) -> Iterator[tuple[str, int]]:
    yield f"clusters.{part}", sums.clusters
    yield f"nodes.{part}", sums.nodes
    yield f"cpu.{part}", -(-sums.cpu_nano // _NANO_PER_MILLI)
    yield f"memory.{part}", -(-sums.memory_nano // _NANO_PER_MIB)
