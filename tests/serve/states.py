"""What the status page is shown of: each state of the daemon that looks different."""

from dataclasses import replace

from telemetryd.config import PrivacyConfig
from telemetryd.export.exporter import GIVEN
from telemetryd.export.payloads.formats import PAYLOAD_FORMATS
from telemetryd.gather.texts import PROVIDERS
from telemetryd.model import (
    ConfigStatus,
    Disclosure,
    ExporterState,
    ExporterStatus,
    HistoryStatus,
    InformerStatus,
    LeaderStatus,
    RequestState,
    RequestStatus,
    Restriction,
    RestrictionStatus,
    SourceKind,
    Switch,
    Switches,
    Totals,
)
from telemetryd.serve.page.facts import StatusFacts
from tests.serve.facts import (
    CONFIG_HASH,
    DOUBTFUL,
    EKS_KEY,
    GIB_NANO,
    LOCAL_KEY,
    MANAGED_KEY,
    NOW,
    SCC_DISCLOSURE,
    SNAPSHOT,
    exporter_status,
    group,
    informer_status,
    new_exporter_status,
)

GROUP = "management.cattle.io"
HOSTILE = (
    "<script>document.title='owned'</script><img src=x onerror=alert(1)>\"'&\x00\u202e"
    + "unbreakable" * 40
)

WELL = StatusFacts(
    version="1.0.0",
    now=NOW,
    started_at=NOW - 3 * 86400 - 4 * 3600,
    api_server="https://10.43.0.1:443",
    informers=tuple(
        informer_status(
            resource=resource,
            objects=objects,
            unreadable=0,
            last_contact_at=NOW - ago,
            list_method="stream",
        )
        for resource, objects, ago in (
            (f"clusters.{GROUP}", 21, 12),
            (f"features.{GROUP}", 17, 31),
            ("namespaces", 1, 48),
            (f"nodes.{GROUP}", 303, 0),
            (f"projects.{GROUP}", 42, 20),
            (f"settings.{GROUP}", 94, 7),
        )
    ),
    exporters=(
        exporter_status(
            name="archive",
            type="file",
            interval_s=3600.0,
            last_success_at=NOW - 1260,
            next_run_in_s=2340.0,
            payload_bytes=1187,
        ),
        exporter_status(payload_bytes=1187),
        exporter_status(
            name="secretrequest/rancher-scc-metrics",
            last_success_at=NOW - 41,
            next_run_in_s=19.0,
            payload_bytes=1187,
        ),
    ),
    config=ConfigStatus("/etc/telemetryd/config.toml", CONFIG_HASH, NOW - 5000, NOW - 5000),
    snapshot=replace(
        SNAPSHOT,
        totals=Totals(
            local_clusters=1,
            managed_clusters=20,
            nodes=303,
            roles={"controlplane": 63, "etcd": 63, "worker": 240, "other": 0},
            cpu_nano=1212 * 10**9,
            memory_nano=4848 * 2**30 * 10**9,
            groups=(
                group(LOCAL_KEY, 1, 3),
                group(MANAGED_KEY, 14, 210, gpus_nvidia=16),
                group(replace(MANAGED_KEY, kubernetes_minor="1.32"), 4, 60),
                group(EKS_KEY, 2, 30),
            ),
        ),
    ),
    missing=(),
    payload_exposed=True,
    history=HistoryStatus(
        enabled=True, samples=9000, last_sample_at=NOW - 4, licenses=15, limit=16
    ),
)


def _exporters(*changed: ExporterStatus) -> tuple[ExporterStatus, ...]:
    """Those of ``WELL``, some of them replaced."""
    by_name = {exporter.name: exporter for exporter in (*WELL.exporters, *changed)}
    return tuple(by_name.values())


def _failing(**changes: object) -> ExporterStatus:
    return exporter_status(
        **{
            "state": ExporterState.FAILED,
            "consecutive_failures": 7,
            "last_attempt_at": NOW - 14,
            "last_success_at": NOW - 437,
            "last_failure_at": NOW - 14,
            "last_error": 'secrets "rancher-scc-telemetry" is forbidden: User '
            '"system:serviceaccount:cattle-telemetry-system:telemetryd" cannot patch resource '
            '"secrets" in API group "" in the namespace "cattle-telemetry-system"',
            "last_error_reason": "forbidden",
            **changes,
        }
    )


def _everywhere(state: ExporterState, detail: str) -> tuple[ExporterStatus, ...]:
    return tuple(
        replace(
            exporter,
            state=state,
            detail=detail,
            enabled=state is not ExporterState.DISABLED,
            next_run_in_s=None,
        )
        for exporter in WELL.exporters
    )


def _informers(**changes: object) -> tuple[InformerStatus, ...]:
    return tuple(replace(informer, **changes) for informer in WELL.informers)  # type: ignore[arg-type]


_CONFLICT = (
    "cattle-telemetry-system/rancher-scc-telemetry is also written by rancher (apps/v1, Update): "
    "nothing was written, it is taken over once its bytes have not changed for 5m; stop the other "
    "writer, or configure another name"
)

_REQUESTS = (
    RequestStatus(
        "rancher-scc-metrics", "cattle-scc-system/rancher-scc-metrics",
        RequestState.SERVED, "", NOW - 41,
    ),
    RequestStatus("elsewhere", "default/x", RequestState.REJECTED, "not System", None),
)  # fmt: skip

_FOLLOWER = LeaderStatus(
    "cattle-telemetry-system/telemetryd", "telemetryd-5b8d", leading=False,
    holder="telemetryd-7c9f", epoch=12, last_error="",
)  # fmt: skip

_RESTRICTIONS = (
    RestrictionStatus(
        Restriction(
            "file", "privacy.server_url", "/etc/telemetryd/config.toml", NOW - 86400, written=True
        ),
        "the URL of the server is left out",
        ("/var/lib/telemetryd/restrictions.json",),
        'write [privacy] server_url = "send" in the configuration file',
    ),
    RestrictionStatus(
        Restriction("setting", "telemetry-opt", "telemetry-opt", NOW - 90, written=False),
        "collection is off",
        (),
        "give the setting telemetry-opt another value (in, prompt), or run telemetryd ctl opt-in",
    ),
)

_PLAIN_KEY = replace(LOCAL_KEY, provider="k3s", driver="local")

PLAIN = replace(
    WELL,
    source=SourceKind.KUBERNETES,
    informers=(
        informer_status(resource="namespaces", objects=1, unreadable=0, list_method="stream"),
        informer_status(resource="nodes", objects=5, unreadable=0, list_method="stream"),
    ),
    exporters=(exporter_status(),),
    snapshot=replace(
        SNAPSHOT,
        totals=Totals(
            local_clusters=1,
            nodes=5,
            roles={"controlplane": 3, "etcd": 3, "worker": 5, "other": 0},
            cpu_nano=20 * 10**9,
            memory_nano=80 * 2**30 * 10**9,
            groups=(group(_PLAIN_KEY, 1, 5),),
        ),
    ),
)

MANY = replace(
    WELL,
    exporters=tuple(
        _failing(name=f"receiver-{number:04}", type="http")
        if number % 100 == 7
        else exporter_status(name=f"receiver-{number:04}", type="http")
        for number in range(1000)
    ),
)
"""As many exporters as anyone would configure, and more."""

_LONGEST = "a-name-of-253-characters." * 10 + "end"

_LONG = replace(
    WELL,
    leader=replace(_FOLLOWER, identity=_LONGEST, holder=_LONGEST, name=f"{'n' * 63}/{_LONGEST}"),
    exporters=_exporters(
        _failing(name=f"secretrequest/{_LONGEST}", last_error=f'secrets "{_LONGEST}" is forbidden'),
        new_exporter_status(name=f"secretrequest/x{_LONGEST[1:]}", detail="informer nodes"),
    ),
    requests=(
        *_REQUESTS,
        RequestStatus(_LONGEST, f"{'n' * 63}/{_LONGEST}", RequestState.FAILING, "x" * 1024, NOW),
    ),
    snapshot=replace(
        SNAPSHOT,
        totals=replace(
            SNAPSHOT.totals,
            local_clusters=0,
            managed_clusters=91 * len(PROVIDERS),
            nodes=90_909 * len(PROVIDERS),
            cpu_nano=4 * 90_909 * len(PROVIDERS) * 10**9,
            memory_nano=16 * 90_909 * len(PROVIDERS) * GIB_NANO,
            groups=tuple(
                group(
                    replace(MANAGED_KEY, provider=provider, kubernetes_minor=f"1.{20 + number}"),
                    *(91, 90_909),
                )
                for number, provider in enumerate(sorted(PROVIDERS))
            ),
        ),
    ),
)
"""Everything as long and as large as Kubernetes and Rancher allow."""

FLEET_DISCLOSURE = Disclosure("fleet", PAYLOAD_FORMATS["fleet"].fields)

_PLUGIN = Disclosure(
    "scc", SCC_DISCLOSURE.fields, plugin="telemetryd-exporter-example 1.0", given=GIVEN
)

STATES = {
    "well": WELL,
    "plugin": replace(
        WELL, exporters=_exporters(exporter_status(name="lines", type="lines", disclosure=_PLUGIN))
    ),
    "failing": replace(
        WELL,
        exporters=_exporters(
            _failing(),
            exporter_status(
                name="archive",
                type="file",
                state=ExporterState.BACKOFF,
                last_error="No space left on device: /var/lib/telemetryd/scc",
                last_error_reason="storage",
                consecutive_failures=1,
                last_success_at=NOW - 7300,
                last_failure_at=NOW - 2,
                next_run_in_s=3.0,
            ),
        ),
        config=replace(
            WELL.config,
            reloaded_at=NOW - 65,
            problems=('/etc/c.toml:12: exporters.scc.interval: is "1 minute": must be a duration',),
        ),
    ),
    "conflict": replace(
        WELL,
        exporters=_exporters(
            _failing(
                state=ExporterState.CONFLICT,
                detail=_CONFLICT,
                last_error=_CONFLICT,
                last_error_reason="field_conflict",
                consecutive_failures=2,
            )
        ),
    ),
    **{
        f"off by {switch}": replace(
            WELL,
            exporters=_everywhere(
                ExporterState.DISABLED, Switches(frozenset({switch})).detail
            ),
            informers=(),
            snapshot=None,
            switches=Switches(frozenset({switch})),
        )
        for switch in Switch
    },
    "restricted": replace(
        WELL,
        source=SourceKind.RANCHER,
        restrictions=_RESTRICTIONS,
        memory_warning="not remembered after a restart: no usable folder",
        privacy=PrivacyConfig(server_url="omit"),
    ),
    "disabled": replace(WELL, exporters=_everywhere(ExporterState.DISABLED, "")),
    "stopped": replace(WELL, exporters=_everywhere(ExporterState.STOPPED, "by hand")),
    "no exporter": replace(WELL, exporters=()),
    "served": replace(
        WELL,
        source=SourceKind.RANCHER,
        requests=_REQUESTS[:1],
        exporters=_exporters(
            replace(WELL.exporters[0], disclosure=FLEET_DISCLOSURE)
        ),
    ),
    "requests": replace(WELL, source=SourceKind.RANCHER, requests=_REQUESTS),
    "standby": replace(
        WELL,
        exporters=_everywhere(ExporterState.STANDBY, "telemetryd-7c9f leads"),
        leader=_FOLLOWER,
    ),
    "plain": PLAIN,
    "many": MANY,
    "long": _LONG,
    "starting": replace(
        WELL,
        started_at=NOW - 2,
        exporters=tuple(
            new_exporter_status(name=name, detail=f"informer nodes.{GROUP}")
            for name in ("archive", "scc")
        ),
        informers=_informers(synced=False, objects=0, last_contact_at=None),
        config=ConfigStatus("defaults", CONFIG_HASH, NOW - 2),
        snapshot=None,
        missing=(f"informer nodes.{GROUP}", "install UUID"),
    ),
    "gaps": replace(
        WELL,
        exporters=_exporters(
            exporter_status(
                name="archive", type="file", state=ExporterState.STOPPED, detail="by hand",
                next_run_in_s=None,
            ),
        ),
        informers=(*WELL.informers[:3], informer_status(), *WELL.informers[4:]),
        snapshot=replace(
            SNAPSHOT,
            complete=False,
            incomplete_reasons=(f"nodes.{GROUP}: 1 unreadable",),
        ),
    ),
    "doubtful": replace(WELL, snapshot=DOUBTFUL),
    "over the limit": replace(WELL, history=replace(WELL.history, licenses=18)),
    "history failing": replace(
        WELL,
        history=replace(
            WELL.history, trouble="history: database or disk is full", lost_slots=1
        ),
    ),
    "unreachable": replace(
        WELL,
        informers=_informers(last_error="connect: no route to host", last_contact_at=NOW - 400),
    ),
    "hostile": replace(
        WELL,
        api_server=f"https://{HOSTILE}",
        exporters=(_failing(name=f"secretrequest/{HOSTILE}", detail=HOSTILE, last_error=HOSTILE),),
        informers=_informers(last_error=HOSTILE),
        config=replace(WELL.config, where=HOSTILE, problems=(HOSTILE,)),
        history=replace(WELL.history, trouble=HOSTILE),
        missing=(HOSTILE,),
    ),
}  # fmt: skip
"""By name; ``hostile`` has in every text what could be mistaken for a part of the page."""
