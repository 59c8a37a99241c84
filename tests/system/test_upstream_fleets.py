"""Fleets whose payload Rancher's own code computed, on a real API server.

``upstream/plain.ndjson.gz`` has quantities as kubelets report them, ``upstream/odd.ndjson.gz``
unusual ones, missing parts, objects being deleted and nodes without a cluster. Each line is a fleet
and what ``GenerateSCCPayload`` of Rancher's main branch (August 2026) made of it: a payload, or an
error that ends its cache or Rancher. Where it has none, or is wrong by the exact rule of
Kubernetes quantities, the recount below decides.
"""

import gzip
import json
import re
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from math import ceil
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from telemetryd.export.payloads.scc import scc_schema
from tests.apiserver.admin import Admin, Object
from tests.apiserver.crds import CLUSTERS, NODES, SETTINGS, collection
from tests.apiserver.process import ApiServer
from tests.system.conftest import CONFIG
from tests.system.daemon import Daemon
from tests.system.rancher import Rancher, assert_well_formed

UPSTREAM = Path(__file__).parent / "upstream"
ALL = {
    kind: [
        json.loads(line)
        for line in gzip.decompress((UPSTREAM / f"{kind}.ndjson.gz").read_bytes()).splitlines()
    ]
    for kind in ("plain", "odd")
}
QUICK = 4
"""Of each kind so many are tried each time, all of them by ``make faults``."""

SCHEMA = Draft202012Validator(scc_schema(), format_checker=Draft202012Validator.FORMAT_CHECKER)
LARGEST = 2**63 - 1
ARCHITECTURES = {"amd64", "arm64", "ppc64le", "riscv64", "s390x", "x86_64"}
_QUANTITY = re.compile(r"([+-]?)([0-9]*)(?:\.([0-9]*))?([numkMGTPE]|[KMGTPE]i|[eE][+-]?[0-9]+)?")
_DECIMAL = {"n": -9, "u": -6, "m": -3, "k": 3, "M": 6, "G": 9, "T": 12, "P": 15, "E": 18}

Rows = Counter[tuple[Any, ...]]


def amount(value: object) -> Fraction:
    """The exact value of a quantity; 0 where it is none, missing or negative."""
    text = repr(value) if isinstance(value, int | float) else value
    match = _QUANTITY.fullmatch(text.strip()) if isinstance(text, str) else None
    if match is None or not (match[2] or match[3]) or match[1] == "-":
        return Fraction(0)
    number = Fraction(int(match[2] + (match[3] or "")), 10 ** len(match[3] or ""))
    suffix = match[4] or ""
    if suffix.endswith("i"):
        number *= 2 ** (10 * (1 + "KMGTPE".index(suffix[0])))
    else:
        power = int(suffix[1:]) if suffix[1:] else _DECIMAL.get(suffix, 0)
        number *= Fraction(10) ** power
    return min(number, Fraction(LARGEST))


def recount(fleet: Object) -> tuple[Rows, Rows]:
    """Rows of systems and of clusters, with their counts."""
    sizes = {each["metadata"]["name"]: 0 for each in fleet["clusters"]}
    systems: Rows = Counter()
    for node in fleet["nodes"]:
        cluster = node["metadata"]["namespace"]
        if cluster not in sizes:
            continue
        sizes[cluster] += 1
        reported = (node.get("status") or {}).get("internalNodeStatus") or {}
        capacity = reported.get("capacity") or {}
        arch = (reported.get("nodeInfo") or {}).get("architecture") or ""
        known = not arch or arch.lower() in ARCHITECTURES
        cores = ceil(amount(capacity.get("cpu")))
        mebibytes = ceil(amount(capacity.get("memory")) / 2**20)
        systems[arch if known else "other", cores, mebibytes, cluster == "local"] += 1
    clusters: Rows = Counter(
        (size, name == "local") for name, size in sizes.items() if name != "local"
    )
    if "local" in sizes:
        clusters[sizes["local"], True] += 1
    return systems, clusters


def rows_of(payload: Object) -> tuple[Rows, Rows]:
    systems: Rows = Counter()
    for row in payload["managedSystems"] or ():
        key = (row["arch"], row["cpu"], row["memory"], row.get("upstream", False))
        systems[key] += row["count"]
    clusters: Rows = Counter()
    for row in payload["managedClusters"]:
        clusters[row["nodes"], row.get("upstream", False)] += row["count"]
    return systems, clusters


class Stage:
    """A Rancher whose fleet is put in the place of another."""

    def __init__(self, admin: Admin, daemon: Daemon, rancher: Rancher) -> None:
        self.daemon = daemon
        self.rancher = rancher
        self._admin = admin
        self._pool = ThreadPoolExecutor(8)

    def show(self, fleet: Object) -> None:
        """Have these clusters, nodes and settings, and no others."""
        self.clear()
        namespaces = {each["metadata"]["namespace"] for each in fleet["nodes"]}
        list(self._pool.map(self._add_namespace, namespaces))
        list(self._pool.map(self._add, fleet["clusters"] + fleet["nodes"]))
        for name, value in fleet["settings"].items():
            self._admin.patch(f"{collection(SETTINGS)}/{name}", {"value": value})

    def clear(self) -> None:
        for definition in (NODES, CLUSTERS):
            list(self._pool.map(self._remove, self._admin.list(collection(definition))))

    def _add_namespace(self, name: str) -> None:
        self._admin.apply(
            f"/api/v1/namespaces/{name}",
            {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}},
            manager="test",
        )

    def _add(self, body: Object) -> None:
        metadata = {key: value for key, value in body["metadata"].items() if key != "uid"}
        is_going = metadata.pop("deletionTimestamp", None)
        definition = CLUSTERS if body["kind"] == "Cluster" else NODES
        scope = collection(definition, metadata.get("namespace", ""))
        self._admin.create(scope, {**body, "metadata": metadata})
        if is_going:
            self._admin.delete(f"{scope}/{metadata['name']}")

    def _remove(self, body: Object) -> None:
        metadata = body["metadata"]
        definition = CLUSTERS if body["kind"] == "Cluster" else NODES
        path = f"{collection(definition, metadata.get('namespace', ''))}/{metadata['name']}"
        self._admin.patch(path, {"metadata": {"finalizers": None}})
        if "deletionTimestamp" not in metadata:
            self._admin.delete(path)


@pytest.fixture(scope="module")
def stage(
    admin: Admin, apiserver: ApiServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Stage]:
    rancher = Rancher(admin)
    rancher.build(clusters=1, nodes=1)
    folder = tmp_path_factory.mktemp("upstream")
    daemon = Daemon(folder, apiserver.kubeconfig(folder / "kubeconfig"), CONFIG)
    made = Stage(admin, daemon, rancher)
    try:
        yield made
    finally:
        made.clear()
        rancher.clear()
        assert daemon.stop() == 0


QUICK_CASES = [pytest.param(kind, 0, QUICK, id=f"{kind} 0-{QUICK}") for kind in ALL]
ALL_CASES = [
    pytest.param(
        kind, first, first + 10, id=f"{kind} {first}-{first + 10}", marks=pytest.mark.faults
    )
    for kind, fleets in ALL.items()
    for first in range(0, len(fleets), 10)
]


@pytest.mark.timeout(600)
@pytest.mark.parametrize(("kind", "first", "end"), QUICK_CASES + ALL_CASES)
def test_payload_is_what_rancher_computes_or_the_exact_recount(
    stage: Stage, kind: str, first: int, end: int
) -> None:
    for number, fleet in enumerate(ALL[kind][first:end], first):
        if kind == "plain" and "payload" in fleet["rancher"]:
            assert rows_of(fleet["rancher"]["payload"]) == recount(fleet), f"plain {number}"
        check(stage, f"{kind} {number}", fleet)


def check(stage: Stage, name: str, fleet: Object) -> None:
    """Show the fleet, and hold what is written against the recount and Rancher's own version."""
    expected = recount(fleet)
    raw = fleet["settings"]["server-version"]
    seen: list[Object] = []

    def agrees() -> Object | None:
        seen[:] = filter(None, [stage.rancher.payload()])
        for payload in seen:
            if rows_of(payload) == expected:
                return payload if payload["subscription"]["version"] in {raw, "other"} else None
        return None

    stage.show(fleet)
    try:
        payload = stage.daemon.wait_for(name, agrees, 60)
    except AssertionError:
        assert rows_of(seen[0]) == expected, name
        raise
    assert payload is not None
    assert_well_formed(payload)
    if payload["subscription"]["version"] == raw:
        answer = fleet["rancher"].get("payload") or {}
        short = re.sub(r"^v?(\d+\.\d+\.\d+).*", r"\1", raw, flags=re.ASCII)
        assert payload["version"] == answer.get("version", short) == short
    if re.fullmatch(r"[0-9]+\.[0-9]+\.[0-9]+", payload["version"]):
        SCHEMA.validate(payload)
