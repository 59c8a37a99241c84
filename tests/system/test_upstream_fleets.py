"""Fleets whose payload Rancher's own code computed, on a real API server.

``upstream/plain.ndjson.gz`` has quantities as kubelets report them, ``upstream/odd.ndjson.gz``
unusual ones, missing parts, objects being deleted and nodes without a cluster. Each line is a fleet
and what ``GenerateSCCPayload`` of Rancher's main branch (August 2026) made of it: a payload, or an
error that ends its cache or Rancher. Where it has none, or is wrong by the exact rule of
Kubernetes quantities, the recount decides, as it does for further fleets that are drawn by lot.
"""

import gzip
import json
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from random import Random

import pytest

from tests.apiserver.admin import Admin, Object
from tests.apiserver.crds import CLUSTERS, FEATURES, NODES, SETTINGS, collection
from tests.apiserver.process import ApiServer
from tests.gather.consumer import accepted
from tests.gather.drawn import SEED, assert_counted, draw_fleet
from tests.gather.recount import recount, rows_of
from tests.support.daemon import Daemon
from tests.system.conftest import CONFIG
from tests.system.rancher import Rancher

UPSTREAM = Path(__file__).parent / "upstream"
ALL = {
    kind: [
        json.loads(line)
        for line in gzip.decompress((UPSTREAM / f"{kind}.ndjson.gz").read_bytes()).splitlines()
    ]
    for kind in ("plain", "odd")
}
FIRST, MORE = 1, 4
"""Of each kind the first is tried each time, some more by ``make test-long``, all of them by ``make
faults``."""


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

    def wait_for(self, name: str, fleet: Object) -> Object:
        """The payload once it has the fleet's rows and settings; else what it was at last."""
        expected = recount(fleet)
        mark = fleet["settings"]["install-uuid"]
        seen: list[Object] = []

        def agrees() -> bool:
            seen[:] = filter(None, [self.rancher.payload()])
            return any(
                each["subscription"]["installuuid"] == mark and rows_of(each) == expected
                for each in seen
            )

        with suppress(AssertionError):
            self.daemon.wait_for(name, agrees, 60)
        assert self.daemon.process.poll() is None, name
        return seen[0]

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
    admin.delete(collection(FEATURES))
    folder = tmp_path_factory.mktemp("upstream")
    daemon = Daemon(folder, apiserver.kubeconfig(folder / "kubeconfig"), CONFIG)
    made = Stage(admin, daemon, rancher)
    try:
        yield made
    finally:
        made.clear()
        rancher.clear()
        assert daemon.stop() == 0


QUICK_CASES = [
    *(pytest.param(kind, 0, FIRST, id=f"{kind} 0") for kind in ALL),
    *(
        pytest.param(kind, FIRST, MORE, id=f"{kind} {FIRST}-{MORE}", marks=pytest.mark.long)
        for kind in ALL
    ),
]
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
    accepted(json.dumps(payload))
    if payload["subscription"]["version"] == raw:
        answer = fleet["rancher"].get("payload") or {}
        short = re.sub(r"^v?(\d+\.\d+\.\d+).*", r"\1", raw, flags=re.ASCII)
        assert payload["version"] == answer.get("version", short) == short


DRAWN = [
    pytest.param(0, FIRST, id="drawn 0"),
    pytest.param(FIRST, MORE, id=f"drawn {FIRST}-{MORE}", marks=pytest.mark.long),
    *(
        pytest.param(first, first + 10, id=f"drawn {first}-{first + 10}", marks=pytest.mark.faults)
        for first in range(0, 60, 10)
    ),
]


@pytest.mark.timeout(600)
@pytest.mark.parametrize(("first", "end"), DRAWN)
def test_payload_of_a_fleet_drawn_by_lot_is_the_exact_recount(
    stage: Stage, first: int, end: int
) -> None:
    print(f"FLEETS_SEED={SEED}")  # noqa: T201 - shown where it fails
    for number in range(first, end):
        fleet = draw_fleet(Random(f"{SEED} on a server {number}"))
        stage.show(fleet)
        name = f"fleet {number} on a server of FLEETS_SEED={SEED}"
        payload = stage.wait_for(name, fleet)
        assert_counted(fleet, json.dumps(payload), name)
