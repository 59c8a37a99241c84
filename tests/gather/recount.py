"""What the SCC payload must count of a fleet: exact, and by means of its own.

Quantities are fractions. Nothing here knows how telemetryd reads, keeps or adds up.
"""

import re
from collections import Counter
from collections.abc import Mapping
from fractions import Fraction
from math import ceil
from typing import Any, TypeAlias

Object: TypeAlias = dict[str, Any]
Rows: TypeAlias = Counter[tuple[Any, ...]]

LARGEST = 2**63 - 1
ARCHITECTURES = {"amd64", "arm64", "ppc64le", "riscv64", "s390x", "x86_64"}
_QUANTITY = re.compile(r"([+-]?)([0-9]*)(?:\.([0-9]*))?([numkMGTPE]|[KMGTPE]i|[eE][+-]?[0-9]+)?")
_DECIMAL = {"n": -9, "u": -6, "m": -3, "k": 3, "M": 6, "G": 9, "T": 12, "P": 15, "E": 18}
_SPACE = "\t\n\v\f\r \x85\xa0\u1680\u2028\u2029\u202f\u205f\u3000" + "".join(
    map(chr, range(0x2000, 0x200B))
)
"""What Go's ``unicode.IsSpace`` takes for white space."""

_FAR = 10_000
"""An exponent beyond which nothing is left of an amount but that it is large, or small."""

_FIELDS: Mapping[tuple[str, ...], tuple[type, ...]] = {
    ("spec",): (dict,),
    ("spec", "etcd"): (bool,),
    ("spec", "controlPlane"): (bool,),
    ("spec", "worker"): (bool,),
    ("status",): (dict,),
    ("status", "internalNodeStatus"): (dict,),
    ("status", "internalNodeStatus", "capacity"): (dict,),
    ("status", "internalNodeStatus", "capacity", "cpu"): (str, int, float),
    ("status", "internalNodeStatus", "capacity", "memory"): (str, int, float),
    ("status", "internalNodeStatus", "nodeInfo"): (dict,),
    ("status", "internalNodeStatus", "nodeInfo", "architecture"): (str,),
    ("status", "internalNodeStatus", "nodeInfo", "operatingSystem"): (str,),
    ("status", "internalNodeStatus", "nodeInfo", "containerRuntimeVersion"): (str,),
    ("status", "internalNodeStatus", "nodeInfo", "kernelVersion"): (str,),
}
"""Types of what is read of a node; each may be null or missing."""


def amount(value: object) -> Fraction:
    """The exact value of a quantity; 0 where it is none, missing or negative."""
    text = repr(value) if isinstance(value, int | float) else value
    match = _QUANTITY.fullmatch(text.strip(_SPACE)) if isinstance(text, str) else None
    if match is None or not (match[2] or match[3]):
        return Fraction(0)
    number = Fraction(int(match[2] + (match[3] or "")), 10 ** len(match[3] or ""))
    suffix = match[4] or ""
    power = int(suffix[1:]) if suffix[1:].lstrip("+-").isdigit() else _DECIMAL.get(suffix, 0)
    if match[1] == "-" or not number or abs(power) > LARGEST:
        return Fraction(0)
    if suffix.endswith("i"):
        number *= 2 ** (10 * (1 + "KMGTPE".index(suffix[0])))
    else:
        number *= Fraction(10) ** max(-_FAR, min(power, _FAR))
    return min(number, Fraction(LARGEST))


def at(item: Object, path: tuple[str, ...]) -> Any:
    """What is at this path, None where nothing is."""
    value: Any = item
    for step in path:
        value = value.get(step) if isinstance(value, dict) else None
    return value


def is_readable(node: Object) -> bool:
    """Whether every field that is read has its type."""
    for path, types in _FIELDS.items():
        value = at(node, path)
        if value is not None and type(value) not in types:
            return False
    return True


def system(node: Object) -> tuple[str, int, int]:
    """Architecture, cores and MiB of a node; nothing is known of one that can't be read."""
    if not is_readable(node):
        return "", 0, 0
    status = ("status", "internalNodeStatus")
    arch = at(node, (*status, "nodeInfo", "architecture")) or ""
    cores = ceil(amount(at(node, (*status, "capacity", "cpu"))))
    mebibytes = ceil(amount(at(node, (*status, "capacity", "memory"))) / 2**20)
    known = not arch or arch.lower() in ARCHITECTURES
    return arch if known else "other", cores, mebibytes


def recount(fleet: Object) -> tuple[Rows, Rows]:
    """Rows of systems and of clusters, with their counts."""
    sizes = {each["metadata"]["name"]: 0 for each in fleet["clusters"]}
    systems: Rows = Counter()
    for node in fleet["nodes"]:
        cluster = node["metadata"]["namespace"]
        if cluster in sizes:
            sizes[cluster] += 1
            systems[*system(node), cluster == "local"] += 1
    return systems, Counter((size, name == "local") for name, size in sizes.items())


def recount_totals(fleet: Object) -> dict[str, int]:
    """Totals of the fleet payload: sums are exact to 1e-9 of each node, and rounded up once."""
    names = {each["metadata"]["name"] for each in fleet["clusters"]}
    nodes = [each for each in fleet["nodes"] if each["metadata"]["namespace"] in names]
    readable = [each for each in nodes if is_readable(each)]
    capacity = ("status", "internalNodeStatus", "capacity")
    nano = {
        key: sum(ceil(amount(at(node, (*capacity, key))) * 10**9) for node in readable)
        for key in ("cpu", "memory")
    }
    return {
        "clusters": len(names),
        "nodes": len(nodes),
        "unreadable_nodes": len(nodes) - len(readable),
        "orphan_nodes": len(fleet["nodes"]) - len(nodes),
        "cpu_millis": min(ceil(Fraction(nano["cpu"], 10**6)), LARGEST),
        "memory_bytes": min(ceil(Fraction(nano["memory"], 10**9)), LARGEST),
    }


def rows_of(payload: Object) -> tuple[Rows, Rows]:
    """A payload's rows in the form of ``recount``."""
    systems: Rows = Counter()
    for row in payload["managedSystems"] or ():
        key = (row["arch"], row["cpu"], row["memory"], row.get("upstream", False))
        systems[key] += row["count"]
    clusters: Rows = Counter()
    for row in payload["managedClusters"]:
        clusters[row["nodes"], row.get("upstream", False)] += row["count"]
    return systems, clusters
