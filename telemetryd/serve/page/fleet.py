"""The fleet on the status page: large numbers, then by kind of cluster, then oddities.

Plain Kubernetes is one cluster: what tells clusters apart is left out.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final

from telemetryd.history.charts import Point, sparkline
from telemetryd.model import GroupKey, Snapshot, SourceKind, Sums, Totals, split, total
from telemetryd.serve.page.facts import StatusFacts
from telemetryd.serve.page.layout import figures, mark, pairs, section, sums
from telemetryd.serve.page.markup import Child, Markup, join, render_count, some, tag, time_of
from telemetryd.serve.page.notes import Tone

_NANO: Final = 10**9
_GIB: Final = 2**30
_ROLES: Final = ("controlplane", "etcd", "worker", "other")
_VENDORS: Final = {"nvidia": "NVIDIA", "amd": "AMD", "intel": "Intel", "other": "other"}

_PARTS: Final[tuple[tuple[str, str, Callable[[GroupKey], str]], ...]] = (
    ("Kind", "By kind", lambda key: key.kind),
    ("Distribution", "By distribution", lambda key: key.provider),
    ("Version", "By Kubernetes version", lambda key: key.kubernetes_minor),
    ("Management", "By management", lambda key: key.management),
    ("Driver", "By driver", lambda key: key.driver),
)
_PLAIN: Final = _PARTS[1:3]
_TO_HISTORY: Final = tag("a", "History", href="history")


def fleet_section(facts: StatusFacts) -> Markup:
    """The fleet, or what is missing to know it."""
    snapshot = facts.snapshot
    if snapshot is None:
        missing = ", ".join(facts.missing)
        text = f"Not known yet: waiting for {missing}." if missing else "Nothing is counted."
        return section("fleet", "Fleet", tag("p", text, class_="quiet"))
    manages = facts.source is not SourceKind.KUBERNETES
    groups = snapshot.totals.groups
    tables = [
        _table(head, caption, split(groups, part_of))
        for head, caption, part_of in (_PARTS if manages else _PLAIN)
        if groups
    ]
    rows = pairs(fleet_rows(snapshot, facts.now, manages=manages))
    return section(
        "fleet",
        "Fleet",
        figures(fleet_figures(snapshot.totals, manages=manages)),
        _past(facts.nodes),
        tag("div", *tables, rows, class_="parts"),
    )


def _past(nodes: Sequence[Point]) -> Child:
    """A line of the last 30 days, and what it shows in words."""
    highs = [each.high for each in nodes if each.high is not None]
    lows = [each.low for each in nodes if each.low is not None]
    if not highs:
        return ""
    low, high = (render_count(round(each)) for each in (min(lows, default=min(highs)), max(highs)))
    extent = f"{low} to {high}" if low != high else f"always {high}"
    words = tag("span", f"Nodes in the last 30 days: {extent}. ", _TO_HISTORY)
    return tag("p", Markup(sparkline(nodes)), words, class_="past")


def fleet_figures(totals: Totals, *, manages: bool) -> Iterator[tuple[str, str, str]]:
    """Name, number and parts of what is counted.

    ``manages`` is for the fleet of a Rancher, not plain Kubernetes.
    """
    kinds = split(totals.groups, lambda key: key.kind) if manages else {}

    def parts(amount: Callable[[Sums], str]) -> str:
        return ", ".join(f"{amount(part)} {kind}" for kind, part in kinds.items())

    clusters = totals.local_clusters + totals.managed_clusters
    yield "Clusters", render_count(clusters), parts(lambda part: render_count(part.clusters))
    yield "Nodes", render_count(totals.nodes), parts(lambda part: render_count(part.nodes))
    yield "CPU cores", _cores(totals.cpu_nano), parts(lambda part: _cores(part.cpu_nano))
    yield "Memory", _gib(totals.memory_nano), parts(lambda part: _gib(part.memory_nano))
    gpus = totals.everything.gpus._asdict()
    if count := sum(gpus.values()):
        by_vendor = _counts((gpus[vendor], name) for vendor, name in _VENDORS.items())
        yield "GPUs", render_count(count), by_vendor


def fleet_rows(snapshot: Snapshot, now: float, *, manages: bool) -> Iterator[tuple[str, Child]]:
    """What else is known of the fleet."""
    totals = snapshot.totals
    everything = totals.everything
    if manages:
        yield "Cluster states", _state(totals)
        yield "Unreachable", _unreachable(totals)
        yield (
            "Differing counts",
            _marked(everything.differing_clusters, " whose own status says otherwise"),
        )
    yield "Node roles", _counts((totals.roles.get(role, 0), role) for role in _ROLES)
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
    if not snapshot.complete:
        yield "Incomplete", join((mark(Tone.GAPS), " ", "; ".join(snapshot.incomplete_reasons)))
    yield "Counted", time_of(snapshot.taken_at, now)


def _table(head: str, caption: str, parts: dict[str, Sums]) -> Markup:
    """Clusters, nodes and cores of each part, the most clusters first."""
    ordered = sorted(parts.items(), key=lambda each: (-each[1].clusters, each[0]))
    rows = (
        (part, render_count(each.clusters), render_count(each.nodes), _cores(each.cpu_nano))
        for part, each in ordered
    )
    return sums(caption, (head, "Clusters", "Nodes", "Cores"), rows)


def _state(totals: Totals) -> str:
    active = total(totals.groups, lambda key: key.active).clusters
    deleting = total(totals.groups, lambda key: key.deleting).clusters
    inactive = totals.everything.clusters - active
    return _counts(((active, "active"), (inactive, "not active"), (deleting, "being deleted")))


def _unreachable(totals: Totals) -> Child:
    stale = total(totals.groups, lambda key: key.stale)
    return _marked(stale.clusters, f" with {some(stale.nodes, 'node')} as last known")


def _marked(count: int, more: str) -> Child:
    """A number of clusters that should be 0."""
    return join((mark(Tone.GAPS), f" {some(count, 'cluster')}{more}")) if count else "none"


def _requested(everything: Sums) -> str:
    """Sums of the clusters' own status, which some clusters don't have."""
    reporting = everything.requesting_clusters
    if not reporting:
        return "not reported"
    room = f" of {render_count(everything.pods)}" if everything.sized_clusters == reporting else ""
    silent = everything.clusters - reporting
    whose = f"; not reported by {some(silent, 'cluster')}" if silent else ""
    return (
        f"{_cores(everything.requested_cpu_nano)} cores, {_gib(everything.requested_memory_nano)}, "
        f"{render_count(everything.requested_pods)}{room} pods{whose}"
    )


def _counts(counts: Iterable[tuple[int, str]]) -> str:
    return ", ".join(f"{render_count(count)} {what}" for count, what in counts if count) or "none"


def _cores(nano: int) -> str:
    return f"{nano / _NANO:,.0f}"


def _gib(nano: int) -> str:
    return f"{nano / _NANO / _GIB:,.0f} GiB"
