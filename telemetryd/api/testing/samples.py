"""What exporters are given, made up: tables of the configuration, snapshots and payloads.

Nothing here is fixed by hand: the table is read by the reader of the configuration file, the
snapshot is counted from records of nodes and clusters, and the payload is rendered from that.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import make_dataclass, replace
from typing import Annotated, Any, Final

import anyio
from msgspec import structs

from telemetryd.config import ExporterConfig
from telemetryd.config.plugins import what_is_wrong
from telemetryd.config.reading import Reading
from telemetryd.config.schema import Variants
from telemetryd.errors import ConfigError, NotReady, Problem
from telemetryd.export.exporter import (
    BuildContext,
    ExportContext,
    Exporter,
    ExporterPlugin,
    why_no_exporter,
)
from telemetryd.export.payloads.formats import make_renderer
from telemetryd.export.sinks.transport import USER_AGENT
from telemetryd.gather.aggregate import FleetAggregate
from telemetryd.model import (
    LOCAL,
    ClusterRecord,
    ClusterTraits,
    Delivery,
    Delta,
    Identity,
    NodeRecord,
    NodeTraits,
    Payload,
    Snapshot,
    own_of,
)

AT: Final = 1_790_000_000.0
"""Unix time in seconds of what is made up: 21 September 2026."""

IDENTITY: Final = Identity(
    install_uuid="8d6f8b1e-5a0b-4f3c-9a4f-0d6b1f5f0a11",
    cluster_uuid="1b2f6b4e-90ab-4f8e-b1c7-2f1e2a3b4c5d",
    server_url="https://rancher.example.com",
    version="v2.15.0",
    git_hash="59bd052e",
    product="rancher-prime",
)

_WHERE: Final = "table"
_NAME: Final = "it"
_MEMORY_NANO: Final = 16 * 1024**3 * 1_000_000_000
_NODE: Final = NodeRecord(
    own=own_of("", _MEMORY_NANO),
    traits=NodeTraits(
        architecture="amd64",
        operating_system="SUSE Linux Enterprise Server 15 SP6",
        roles=("worker",),
        cpu_nano=4_000_000_000,
    ),
    container_runtime="containerd://2.1",
    kernel_version="6.4",
)


def read_table(plugin: ExporterPlugin, table: Mapping[str, object]) -> ExporterConfig:
    """The configuration of one table of ``[[exporters]]``, as telemetryd reads it from a file.

    Args:
        plugin: What the entry point leads to.
        table: Keys and values as in TOML (``"60s"``), without ``type``. ``name`` is ``it`` where
            not given.

    Raises:
        ConfigError: With each problem: an unknown, wrong or missing key, or a broken rule.
    """
    config: Any = getattr(plugin, "config", None)
    kind = getattr(config, "type", None)
    if why := what_is_wrong(config, kind if isinstance(kind, str) else "", ExporterConfig):
        raise ConfigError(Problem(_WHERE, "", f"the plug-in's config {why}"))
    exporters = Annotated[tuple[ExporterConfig, ...], Variants(ExporterConfig, (config,))]
    reading = Reading(_WHERE, "")
    entry = {"name": _NAME, **table, "type": kind}
    read: Any = reading.read(
        make_dataclass("_File", [("exporters", exporters)]), {"exporters": [entry]}
    )
    if read is None:
        raise ConfigError(*reading.problems)
    found: ExporterConfig = read.exporters[0]
    return found


def make_exporter(
    plugin: ExporterPlugin,
    table: Mapping[str, object],
    *,
    now: Callable[[], float] = time.time,  # noqa: TID251 - the default
) -> Exporter:
    """The exporter that the plug-in builds of one table, as ``read_table`` reads it.

    ``now`` is the clock it is given: Unix time in seconds.

    Raises:
        ConfigError: The table is wrong, or ``build`` made no exporter. Errors of ``build`` itself
            are raised as they are.
    """
    config = read_table(plugin, table)
    made = plugin.build(config, BuildContext(now=now, user_agent=USER_AGENT))
    if why := why_no_exporter(made):
        raise ConfigError(Problem(_WHERE, "", f"build() made no exporter: {why}"))
    return made


def make_snapshot(
    *, clusters: int = 2, nodes: int = 3, revision: int = 1, taken_at: float = AT
) -> Snapshot:
    """The snapshot of a made-up fleet, with all that any payload needs.

    Args:
        clusters: Managed clusters, beside the local one.
        nodes: Nodes of each cluster; each has 4 cores and 16 GiB.
        revision: Rises with each change of content.
        taken_at: Unix time in seconds.
    """
    fleet = FleetAggregate()
    fleet.count_shapes(())
    for number in range(clusters + 1):
        name = f"c-{number}" if number else LOCAL
        management = "provisioned" if number else LOCAL
        traits = ClusterTraits("rke2", "rke2", management, active=True)
        record = ClusterRecord(f"uid-{name}", "v1.33.4+rke2r1", traits, nodes)
        fleet.apply_cluster(Delta(name, None, record))
        for node in range(nodes):
            held = structs.replace(_NODE, own=own_of(f"uid-{name}-{node}", _MEMORY_NANO))
            fleet.apply_node(Delta(f"{name}/{node}", None, held))
    tally = fleet.tally()
    return Snapshot(
        revision=revision,
        taken_at=taken_at,
        complete=True,
        incomplete_reasons=(),
        identity=IDENTITY,
        features=("fleet", "rke2"),
        systems=tally.systems,
        clusters=tally.clusters,
        totals=replace(tally.totals, groups=fleet.groups(0.0)),
        detail=fleet.detail(IDENTITY.install_uuid),
    )


def make_payload(
    snapshot: Snapshot | None = None,
    *,
    format: str = "scc",  # noqa: A002 - the name of the key
    at: float = AT,
    sequence: int = 1,
    epoch: int = 0,
) -> Payload:
    """The payload that telemetryd renders of a snapshot, valid against its JSON Schema.

    Args:
        snapshot: None for one of ``make_snapshot()``.
        format: ``scc`` or ``fleet``.
        at: Unix time in seconds, which the payload holds.
        sequence: Rises with each payload of an exporter.
        epoch: Of leadership.
    """
    render = make_renderer(format)
    return render(snapshot or make_snapshot(), Delivery(at=at, sequence=sequence, epoch=epoch))


def make_context(
    *, fence: Callable[[], None] = lambda: None, attempt: int = 1, sequence: int = 1, epoch: int = 0
) -> ExportContext:
    """The context of one attempt, for the payload of ``make_payload()``."""
    return ExportContext(
        name=_NAME,
        attempt=attempt,
        epoch=epoch,
        installation_id=IDENTITY.install_uuid,
        sequence=sequence,
        collected_at=AT,
        fence=fence,
    )


class FakeSource:
    """A ``SnapshotSource`` of made-up snapshots, which a test changes.

    Attributes:
        current: What ``snapshot()`` returns.
        waiting_for: What it waits for; empty while it is ready.
    """

    def __init__(self, current: Snapshot | None = None) -> None:
        """A ready source; ``current`` is a snapshot of ``make_snapshot()`` where not given."""
        self.current = current or make_snapshot()
        self.waiting_for: tuple[str, ...] = ()
        self._nodes = 3
        self._ready = anyio.Event()

    def snapshot(self) -> Snapshot:
        """The current snapshot.

        Raises:
            NotReady: It was made to wait.
        """
        if self.waiting_for:
            raise NotReady(self.waiting_for)
        return self.current

    async def wait_ready(self) -> None:
        """Return once ``snapshot()`` would not raise NotReady."""
        while self.waiting_for:
            await self._ready.wait()

    def change(self) -> None:
        """Go on with another content: each cluster has one more node."""
        self._nodes += 1
        self.current = make_snapshot(nodes=self._nodes, revision=self.current.revision + 1)

    def wait_for(self, *what: str) -> None:
        """Have no snapshot until ``what`` is there; with no argument, have one again."""
        self.waiting_for = what
        self._ready.set()
        self._ready = anyio.Event()
