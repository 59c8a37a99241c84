"""The fleet on the status page, as names and values.

Plain Kubernetes is one cluster: rows about differences between clusters are left out.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import Final

from telemetryd.model import MANAGED, GroupKey, Snapshot, Sums, Totals, split, total
from telemetryd.serve.page.overview import Tone
from telemetryd.serve.page.tables import Child, join, mark, render_count, tag, time_of

_NANO: Final = 10**9
_GIB: Final = 2**30
_ROLES: Final = ("controlplane", "etcd", "worker", "other")
_VENDORS: Final = {"nvidia": "NVIDIA", "amd": "AMD", "intel": "Intel", "other": "other"}


def fleet_rows(snapshot: Snapshot, now: float, *, manages: bool) -> Iterator[tuple[str, Child]]:
    """The rows.

    ``manages`` is for the fleet of a Rancher, not plain Kubernetes.
    """
    totals = snapshot.totals
    everything = totals.everything
    yield "Clusters", _clusters(totals, manages=manages)
    if manages:
        yield "State", _state(totals)
        yield "Unreachable", _unreachable(totals)
        yield "Own count differs", _marked(everything.differing_clusters, "")
        yield "Management", _parts(totals, lambda key: key.management)
        yield "Driver", _parts(totals, lambda key: key.driver)
    yield "Distribution", _parts(totals, lambda key: key.provider)
    yield "Kubernetes", _parts(totals, lambda key: key.kubernetes_minor)
    managed = total(totals.groups, lambda key: key.kind == MANAGED)
    nodes = f", {render_count(managed.nodes)} of managed clusters" if manages else ""
    yield "Nodes", f"{render_count(totals.nodes)}{nodes}"
    yield "Roles", _counts((totals.roles.get(role, 0), role) for role in _ROLES)
    cores = f", {_cores(managed.cpu_nano)} of managed clusters" if manages else ""
    yield "CPU", f"{_cores(totals.cpu_nano)} cores{cores}"
    yield "Memory", _gib(totals.memory_nano)
    gpus = everything.gpus._asdict()
    yield "GPUs", _counts((gpus[vendor], name) for vendor, name in _VENDORS.items())
    if manages:
        yield "Requested by pods", _requested(everything)
    yield (
        "Nodes with gaps",
        _counts(
            (
                (everything.unreadable_nodes, "unreadable"),
                (totals.unreported_cpu, "without CPU"),
                (totals.unreported_memory, "without memory"),
                (totals.orphan_nodes, "whose cluster is gone"),
            )
        ),
    )
    yield "Counted", time_of(snapshot.taken_at, now)


def _clusters(totals: Totals, *, manages: bool) -> str:
    clusters = render_count(totals.local_clusters + totals.managed_clusters)
    if not manages:
        return clusters
    local = "the local one" if totals.local_clusters else "no local one"
    return f"{clusters}: {local}, {render_count(totals.managed_clusters)} managed"


def _state(totals: Totals) -> str:
    active = total(totals.groups, lambda key: key.active).clusters
    deleting = total(totals.groups, lambda key: key.deleting).clusters
    inactive = totals.everything.clusters - active
    return _counts(((active, "active"), (inactive, "not active"), (deleting, "being deleted")))


def _unreachable(totals: Totals) -> Child:
    stale = total(totals.groups, lambda key: key.stale)
    return _marked(stale.clusters, f", with {_some(stale.nodes, 'node')} as last known")


def _marked(count: int, more: str) -> Child:
    """A number of clusters that should be 0."""
    return join((mark(Tone.GAPS), f" {render_count(count)}{more}")) if count else "none"


def _parts(totals: Totals, part_of: Callable[[GroupKey], str]) -> Child:
    """Clusters and nodes of each part, the largest first."""
    parts = split(totals.groups, part_of).items()
    ordered = sorted(parts, key=lambda each: (-each[1].clusters, each[0]))
    shown: list[Child] = []
    for number, (part, sums) in enumerate(ordered, 1):
        text = f"{part}: {render_count(sums.clusters)} ({_some(sums.nodes, 'node')})"
        end = "," if number < len(ordered) else ""
        shown += [tag("span", text + end, class_="whole"), " "]
    return join(shown[:-1]) or "none"


def _requested(everything: Sums) -> str:
    """Sums of the clusters' own status, which some clusters don't have."""
    reporting = everything.requesting_clusters
    if not reporting:
        return "not reported"
    room = f" of {render_count(everything.pods)}" if everything.sized_clusters == reporting else ""
    silent = everything.clusters - reporting
    whose = f"; not reported by {_some(silent, 'cluster')}" if silent else ""
    return (
        f"{_cores(everything.requested_cpu_nano)} cores, {_gib(everything.requested_memory_nano)}, "
        f"{render_count(everything.requested_pods)}{room} pods{whose}"
    )


def _counts(counts: Iterable[tuple[int, str]]) -> str:
    return ", ".join(f"{render_count(count)} {what}" for count, what in counts if count) or "none"


def _some(count: int, what: str) -> str:
    return f"{render_count(count)} {what}{'' if count == 1 else 's'}"


def _cores(nano: int) -> str:
    return f"{nano / _NANO:,.0f}"


def _gib(nano: int) -> str:
    return f"{nano / _NANO / _GIB:,.0f} GiB"
