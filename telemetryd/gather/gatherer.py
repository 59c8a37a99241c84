"""Makes immutable snapshots of the fleet, the features and the identity.

A snapshot is the same object until something in it changes, so taking one costs almost nothing.
"""

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Final

import anyio

from telemetryd.config import IdentityConfig, PrivacyConfig
from telemetryd.errors import NotReady
from telemetryd.gather.aggregate import FleetAggregate
from telemetryd.gather.counts import DropWatch
from telemetryd.gather.features import enabled_features
from telemetryd.gather.identity import Discovered, discover
from telemetryd.gather.plain import LocalCluster, PlainReaders
from telemetryd.gather.project import LOCAL_CLUSTER, setting_value
from telemetryd.gather.texts import OTHER
from telemetryd.informer.store import Reader
from telemetryd.model import (
    ClusterRecord,
    Delta,
    Drop,
    FeatureRecord,
    Identity,
    InformerStatus,
    NamespaceRecord,
    NodeRecord,
    Record,
    SettingRecord,
    Snapshot,
    Totals,
)
from telemetryd.stats import GatherStats
from telemetryd.timing import boot_time_s

log = logging.getLogger(__name__)

STALE_AFTER_S: Final = 120.0
"""After this time without contact an informer makes a snapshot incomplete.

Bookmarks come about once a minute, and a watch is renewed after 90 s without one.
"""

SEND_ALL: Final = PrivacyConfig()
"""Privacy settings that leave nothing out."""

_RECHECK_S: Final = 1.0


@dataclass(frozen=True, slots=True)
class Readers:
    """The stores that a snapshot of a Rancher's fleet is made of."""

    clusters: Reader[ClusterRecord]
    nodes: Reader[NodeRecord]
    settings: Reader[SettingRecord]
    features: Reader[FeatureRecord]
    kube_system: Reader[NamespaceRecord]

    def discover(self, overrides: IdentityConfig) -> Discovered:
        """The identity now."""
        return discover(self.settings, self.kube_system, overrides)


@dataclass(frozen=True, slots=True)
class _Basis:
    """All that a snapshot depends on; cheap to take and to compare."""

    fleet_version: int
    detail_version: int | None
    facts_version: int
    git_hash: str
    unreadable: tuple[tuple[str, int], ...]
    incomplete_reasons: tuple[str, ...]
    drops: tuple[Drop, ...]


class Gatherer:
    """Makes snapshots of what the readers hold; a ``SnapshotSource``.

    Without a daemon, ``telemetryd.api.gathering`` makes one together with its informers.
    """

    def __init__(
        self,
        *,
        readers: Readers | PlainReaders,
        overrides: IdentityConfig,
        git_hash: Callable[[], str | None],
        now: Callable[[], float],
        stats: GatherStats,
        privacy: PrivacyConfig = SEND_ALL,
        detailed: bool = False,
        clock: Callable[[], float] = boot_time_s,
    ) -> None:
        """Subscribe to the readers.

        Args:
            readers: Of informers that the caller runs.
            overrides: Parts of the identity in the configuration.
            git_hash: The build commit, None before the first answer. Calling ``recheck`` on its
                change saves ``wait_ready`` up to a second.
            now: Unix time in seconds.
            stats: Counts each snapshot that is built.
            privacy: What snapshots leave out.
            detailed: Snapshots have what the fleet payload needs beyond the SCC payload.
            clock: Seconds since the machine booted.
        """
        self._readers = readers
        self._git_hash = git_hash
        self._now = now
        self._clock = clock
        self._stats = stats
        self._privacy = privacy
        self._detailed = detailed
        plain = isinstance(readers, PlainReaders)
        self._fleet = FleetAggregate(LOCAL_CLUSTER if plain else "")
        if detailed:
            self._fleet.count_shapes((), coarse=self._coarse)
        self._drop_watches = (DropWatch("clusters"), DropWatch("nodes"))
        self._logged_withheld: set[str] = set()
        self._facts_version = 0
        self._facts: tuple[int, Discovered, tuple[str, ...]] | None = None
        self._basis: _Basis | None = None
        self._snapshot: Snapshot | None = None
        self._changed = anyio.Event()
        self._overrides = overrides
        self._local: LocalCluster | None = None
        if isinstance(readers, PlainReaders):
            self._local = LocalCluster(readers, self._fleet.apply_cluster)
        else:
            readers.clusters.subscribe(self._fleet.apply_cluster)
            readers.settings.subscribe(self._fact_changed)
            readers.features.subscribe(self._fact_changed)
        readers.nodes.subscribe(self._fleet.apply_node)
        readers.kube_system.subscribe(self._fact_changed)
        for reader in self._followed():
            reader.on_change(self._after_batch)
        self._required = self._find_required()

    def override(self, overrides: IdentityConfig) -> None:
        """Use other parts of the identity from the next snapshot on."""
        self._overrides = overrides
        self._required = self._find_required()
        self.facts_changed()

    def protect(self, privacy: PrivacyConfig) -> None:
        """Use other privacy settings from the next snapshot on."""
        if privacy != self._privacy:
            recount = privacy.cluster_ids != self._privacy.cluster_ids
            self._privacy = privacy
            self._facts_version += 1
            if recount and self._detailed:
                self._count_shapes()

    def add_detail(self) -> None:
        """Add what the fleet payload needs, from the next snapshot on."""
        if not self._detailed:
            self._detailed = True
            self._count_shapes()

    def snapshot(self) -> Snapshot:
        """The fleet now: the same object as before if nothing in it changed.

        Raises:
            NotReady: An informer or a part of the identity is missing.
        """
        statuses = self.required()
        git_hash = self._git_hash()
        missing = self._missing(statuses, git_hash)
        if missing or git_hash is None:
            raise NotReady(missing)
        self._fleet.ripen(self._clock())
        basis = _Basis(
            fleet_version=self._fleet.version,
            detail_version=self._fleet.detail_version if self._detailed else None,
            facts_version=self._facts_version,
            git_hash=git_hash,
            unreadable=tuple((status.resource, status.unreadable) for status in statuses),
            incomplete_reasons=_incomplete_reasons(statuses, self._clock()),
            drops=self._look_for_drops(),
        )
        if self._snapshot is None or basis != self._basis:
            started = time.perf_counter()
            self._snapshot = self._build(basis, self._snapshot)
            self._basis = basis
            self._stats.build_duration.observe(time.perf_counter() - started)
            self._stats.generation = self._snapshot.revision
        return self._snapshot

    async def wait_ready(self) -> None:
        """Return once ``snapshot()`` would not raise NotReady."""
        while self.missing():
            changed = self._changed
            # No reader announces the build commit: check regularly.
            with anyio.move_on_after(_RECHECK_S):
                await changed.wait()

    async def changed(self) -> None:
        """Return when the next snapshot may be another one."""
        await self._changed.wait()

    def recheck(self) -> None:
        """Let ``wait_ready`` check again."""
        self._changed.set()
        self._changed = anyio.Event()

    def facts_changed(self) -> None:
        """A fact without a reader may have changed: the next snapshot has it."""
        if self._local is not None:
            self._local.refresh()
        self._facts_version += 1
        self.recheck()

    def missing(self) -> tuple[str, ...]:
        """What a snapshot waits for, each named by where to fix it; empty if ready."""
        return self._missing(self.required(), self._git_hash())

    def required(self) -> list[InformerStatus]:
        """Status of each informer that a snapshot needs."""
        return [reader.status() for reader in self._required]

    @property
    def _coarse(self) -> bool:
        return self._privacy.cluster_ids == "omit"

    def _count_shapes(self) -> None:
        """Have shapes counted, from the nodes that are held on."""
        self._fleet.count_shapes(self._readers.nodes.held(), coarse=self._coarse)

    def _fact_changed(self, delta: Delta[Record]) -> None:
        """A setting, a feature or kube-system; settings that are never read have equal records."""
        if delta.old != delta.new:
            if self._local is not None:
                self._local.refresh()
            self._facts_version += 1

    def _followed(self) -> tuple[Reader[Record], ...]:
        readers = self._readers
        if isinstance(readers, PlainReaders):
            return (readers.nodes, readers.kube_system)
        return (
            readers.clusters,
            readers.nodes,
            readers.settings,
            readers.features,
            readers.kube_system,
        )

    def _find_required(self) -> tuple[Reader[Record], ...]:
        """The readers that a snapshot needs: kube-system only for its part of the identity."""
        followed = self._followed()
        needed = isinstance(self._readers, PlainReaders) or not self._overrides.cluster_uuid
        return followed if needed else followed[:-1]

    def _missing(self, statuses: list[InformerStatus], git_hash: str | None) -> tuple[str, ...]:
        unsynced = tuple(
            f"informer {status.resource}"
            if not status.synced
            else f"resource {status.resource} (not served)"
            for status in statuses
            if not status.synced or status.absent
        )
        if unsynced:
            return unsynced
        identity_missing = self._discover()[0].missing
        if identity_missing:
            return identity_missing
        return () if git_hash is not None else ("git hash (first answer)",)

    def _discover(self) -> tuple[Discovered, tuple[str, ...]]:
        """The identity and the features now."""
        if self._facts is None or self._facts[0] != self._facts_version:
            found = self._readers.discover(self._overrides)
            self._facts = (self._facts_version, found, self._features(found.version))
        return self._facts[1:]

    def _after_batch(self) -> None:
        """Look for drops after each batch, so that a slow fall between two snapshots isn't one."""
        self._look_for_drops()
        self.recheck()

    def _look_for_drops(self) -> tuple[Drop, ...]:
        found = []
        for watch, number in zip(self._drop_watches, self._fleet.sizes, strict=True):
            held = watch.fallen
            drop = watch.look(self._clock(), number)
            if drop is not None:
                found.append(drop)
                if not held:
                    log.warning(
                        "implausible drop what=%s before=%d now=%d",
                        drop.what,
                        drop.before,
                        drop.now,
                    )
        return tuple(found)

    def _log_withheld(self, withheld: Mapping[str, int]) -> None:
        """Log once for each field that texts aren't in its closed list."""
        for name in sorted(withheld.keys() - self._logged_withheld):
            self._logged_withheld.add(name)
            log.warning("text sent as other, logged once field=%s objects=%d", name, withheld[name])

    def _totals(self, counted: Totals, basis: _Basis) -> Totals:
        """What was counted, with what was withheld, the groups and the drops."""
        discovered, features = self._discover()
        withheld = self._fleet.withheld()
        withheld.update(discovered.withheld)
        withheld["git_hash"] = int(basis.git_hash == OTHER)
        withheld["feature_flags"] = features.count(OTHER)
        found = {name: number for name, number in sorted(withheld.items()) if number}
        self._log_withheld(found)
        return replace(
            counted,
            unreadable={
                resource: number for resource, number in sorted(basis.unreadable) if number
            },
            withheld=found,
            groups=self._fleet.groups(self._clock()),
            drops=basis.drops,
        )

    def _features(self, version: str) -> tuple[str, ...]:
        if isinstance(self._readers, PlainReaders):
            return ()
        features = self._readers.features
        settings = self._readers.settings
        records = ((name, features.get(name)) for name in features.keys())  # noqa: SIM118
        return enabled_features(
            {name: record for name, record in records if record is not None},
            # The Rancher that runs decides what is compiled in, not the configured version.
            version=setting_value(settings, "server-version") or version,
            version_type=setting_value(settings, "server-version-type"),
        )

    def _build(self, basis: _Basis, previous: Snapshot | None) -> Snapshot:
        """A snapshot on this basis; the previous one if it is equal."""
        discovered, features = self._discover()
        tally = self._fleet.tally()
        totals = self._totals(tally.totals, basis)
        snapshot = Snapshot(
            revision=previous.revision if previous is not None else 0,
            taken_at=previous.taken_at if previous is not None else 0.0,
            complete=not basis.incomplete_reasons,
            incomplete_reasons=basis.incomplete_reasons,
            identity=Identity(
                install_uuid=discovered.install_uuid,
                cluster_uuid=discovered.cluster_uuid,
                server_url=discovered.server_url if self._privacy.server_url == "send" else "",
                version=discovered.version,
                git_hash=basis.git_hash,
                product=discovered.product,
            ),
            features=tuple(dict.fromkeys(features)),
            systems=tally.systems,
            clusters=tally.clusters,
            totals=totals,
            detail=self._fleet.detail(discovered.install_uuid) if self._detailed else None,
            omitted=self._privacy.omitted,
            doubts=_doubts(totals),
        )
        if snapshot == previous:
            return previous
        return replace(snapshot, revision=snapshot.revision + 1, taken_at=self._now())


def _incomplete_reasons(statuses: list[InformerStatus], now_s: float) -> tuple[str, ...]:
    reasons: list[str] = []
    for status in statuses:
        if status.unreadable:
            reasons.append(f"{status.resource}: {status.unreadable} unreadable")
        contact = status.last_contact_boot_s
        if contact is None or now_s - contact > STALE_AFTER_S:
            reasons.append(f"{status.resource}: no contact for {STALE_AFTER_S:.0f} s")
    return tuple(sorted(reasons))


def _doubts(totals: Totals) -> tuple[str, ...]:
    reasons = [
        f"{drop.what}: fell from {drop.before} to {drop.now} within minutes"
        for drop in totals.drops
    ]
    differing = sum(group.sums.differing_clusters for group in totals.groups)
    if differing:
        reasons.append(f"clusters: {differing} differ from their own nodeCount or capacity")
    return tuple(sorted(reasons))
