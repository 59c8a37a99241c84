"""The SCC payload: Rancher's telemetry, its JSON Schema, and the offline request made of it.

The structs below *are* the schema: it is generated from them, and every document is decoded into
them before it is sent, because its consumer crashes on one that doesn't fit; its rows when they are
rendered. The same annotations declare what is sent.
"""

import re
from binascii import b2a_base64
from operator import attrgetter
from typing import Annotated, Any, Final

import msgspec
import orjson
from msgspec import UNSET, Meta, UnsetType

from telemetryd.errors import PermanentError, Reason
from telemetryd.export.payloads.payload import (
    CLUSTER_UUID,
    GIT_HASH,
    INSTALL_UUID,
    PRODUCT,
    SERVER_URL,
    VERSION,
    DocumentRenderer,
    capacity,
    fields_of,
    is_uuid,
    json_schema,
    node_info,
    parse_rfc3339,
    render_rfc3339,
    sent,
)
from telemetryd.export.payloads.rendered_rows import RenderedRows
from telemetryd.model import ClusterRow, Payload, Snapshot, SystemRow

SCHEMA_ID: Final = "https://github.com/rancher/rancher/pkg/telemetry/scc-payload"
VERSION_PATTERN: Final = r"^\d+\.\d+\.\d+$"

_RELEASE: Final = re.compile(r"(0|[1-9][0-9]*)(\.(0|[1-9][0-9]*)){2}")
"""What scc-operator takes for a released version (its ``internal/semver``)."""

_LEADING_VERSION = re.compile(r"v?(\d+\.\d+\.\d+)", re.ASCII)


def _described(text: str) -> Meta:
    return Meta(description=text)


class Subscription(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """``subscription``: which installation this is."""

    # Upstream's schema has these two descriptions swapped; its code has them right.
    installuuid: Annotated[
        str,
        Meta(
            description="Rancher's unique cluster identifier - based on InstallUUID setting",
            extra_json_schema={"format": "uuid"},
        ),
        INSTALL_UUID,
    ]
    clusteruuid: Annotated[
        str,
        Meta(
            description="The UID of the k8s kube-system namespace",
            extra_json_schema={"format": "uuid"},
        ),
        CLUSTER_UUID,
    ]
    product: Annotated[str, _described("CPE of the product"), PRODUCT]
    version: Annotated[str, _described("Rancher's raw build version"), VERSION]
    arch: Annotated[
        str, sent('The word "unknown", where an architecture is expected', "a constant")
    ]
    git: Annotated[str, _described("Rancher's build git SHA"), GIT_HASH]
    server_url: Annotated[str, SERVER_URL]

    def __post_init__(self) -> None:
        for key in ("installuuid", "clusteruuid"):
            if not is_uuid(getattr(self, key)):
                raise ValueError(f"{key} isn't a UUID")


class ManagedSystem(msgspec.Struct, frozen=True, kw_only=True):
    """``managedSystems[]``: nodes alike in architecture, capacity and place."""

    arch: Annotated[
        str,
        sent("Architecture of nodes that are alike", *node_info("architecture")),
    ]
    cpu: Annotated[
        int,
        Meta(ge=0, description="From status.internalNodeStatus.capacity.cpu"),
        sent("CPU of one of them, up to whole cores", *capacity("cpu")),
    ]
    memory: Annotated[
        int,
        Meta(ge=0, description="From status.internalNodeStatus.capacity.memory, in MiB"),
        sent("Memory of one of them, up to whole MiB", *capacity("memory")),
    ]
    count: Annotated[
        int,
        Meta(
            ge=1,
            description="Number of systems with these attributes",
            extra_json_schema={"default": 1},
        ),
        sent("How many of them there are", "counted"),
    ]
    upstream: (
        Annotated[
            bool,
            _described("The cluster hosting Rancher itself"),
            sent(
                "They belong to the upstream cluster; left out where they do not",
                "the cluster local, which hosts Rancher",
                "always: there is one cluster",
                keeps_key=False,
            ),
        ]
        | UnsetType
    ) = UNSET


class ManagedCluster(msgspec.Struct, frozen=True, kw_only=True):
    """``managedClusters[]``: clusters with the same number of nodes."""

    count: Annotated[
        int,
        Meta(ge=1, description="De-duplication of identical clusters"),
        sent("How many clusters have this number of nodes", "counted"),
    ]
    nodes: Annotated[int, Meta(ge=0), sent("Nodes of one cluster", "counted")]
    upstream: (
        Annotated[
            bool,
            Meta(
                description="The cluster hosting Rancher itself",
                extra_json_schema={"default": False},
            ),
            sent(
                "It is the upstream cluster; left out where it is not",
                "the cluster local, which hosts Rancher",
                "always: there is one cluster",
                keeps_key=False,
            ),
        ]
        | UnsetType
    ) = UNSET


class SccDocument(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The whole document, ``RMSSubscription`` upstream."""

    version: Annotated[
        str,
        Meta(
            pattern=VERSION_PATTERN,
            description="Product version normalised for SCC; must be semver",
        ),
        sent(
            "Version of the product, reduced to three numbers where it has them",
            "setting server-version",
            "API server's /version",
            identity="version",
        ),
    ]
    subscription: Subscription
    feature_flags: (
        Annotated[
            list[str],
            _described("Enabled feature flags"),
            sent(
                "Names of the feature flags that are on; left out where none is",
                "features.management.cattle.io",
                "",
                keeps_key=False,
            ),
        ]
        | UnsetType
    ) = UNSET
    managedSystems: Annotated[  # noqa: N815 - the key's name in JSON
        list[ManagedSystem], _described("Active systems under management; to be expanded")
    ]
    managedClusters: list[ManagedCluster]  # noqa: N815 - the key's name in JSON
    timestamp: Annotated[
        str,
        Meta(extra_json_schema={"format": "date-time"}),
        sent("When the payload was made", "the clock"),
    ]

    def __post_init__(self) -> None:
        if parse_rfc3339(self.timestamp) is None:
            raise ValueError("timestamp isn't an RFC 3339 date-time")


FIELDS: Final = fields_of(SccDocument)
"""All that leaves in this document."""

_DOCUMENT_DECODER = msgspec.json.Decoder(SccDocument)


def normalise_version(raw: str) -> str:
    """The product version as SCC wants it.

    Strict semver is reduced to major.minor.patch, and so is anything else that begins with x.y.z
    after an optional ``v``; the rest passes through raw, as the consumer expects: it maps what it
    can't read to the product version ``other``.
    """
    found = _LEADING_VERSION.match(raw)
    return found.group(1) if found else raw


def scc_schema() -> dict[str, Any]:
    """JSON Schema 2020-12 of the SCC payload."""
    return json_schema(SccDocument, schema_id=SCHEMA_ID, title="RMSSubscription")


def validate_scc(body: bytes) -> str:
    """Hold a document against the schema.

    Returns:
        Empty where it fits; the mismatch where its version, and nothing else, doesn't: the one
        deviation that is sent all the same.

    Raises:
        PermanentError: Anything else doesn't fit. The consumer crashes on such a document.
    """
    try:
        _DOCUMENT_DECODER.decode(body)
    except msgspec.MsgspecError as exc:
        try:
            document = orjson.loads(body)
            raw = document["version"]
            _DOCUMENT_DECODER.decode(orjson.dumps({**document, "version": "0.0.0"}))
        except (msgspec.MsgspecError, orjson.JSONDecodeError, KeyError, TypeError):
            raw = None
        if isinstance(raw, str):
            return f"version {raw!r} doesn't match {VERSION_PATTERN}"
        raise PermanentError(
            Reason.INTERNAL, f"the SCC payload doesn't fit its schema: {exc}"
        ) from exc
    return ""


class _SccFacts:
    """Makes SCC documents without their timestamp; every array is sorted, so facts decide bytes."""

    def __init__(self) -> None:
        self._systems = RenderedRows(_system, ManagedSystem, _SYSTEM_ORDER)
        self._clusters = RenderedRows(_cluster, ManagedCluster, _cluster_order)

    def __call__(self, snapshot: Snapshot) -> dict[str, Any]:
        identity = snapshot.identity
        facts: dict[str, Any] = {
            "version": normalise_version(identity.version),
            "subscription": {
                "installuuid": identity.install_uuid,
                "clusteruuid": identity.cluster_uuid,
                "product": identity.product,
                "version": identity.version,
                "arch": "unknown",
                "git": identity.git_hash,
                "server_url": identity.server_url,
            },
            "managedSystems": self._systems(snapshot.systems),
            "managedClusters": self._clusters(_upstream_first(snapshot.clusters)),
        }
        if snapshot.features:
            facts["feature_flags"] = sorted(set(snapshot.features))
        return facts


_SYSTEM_ORDER: Final = attrgetter("architecture", "cpu_cores", "memory_mib", "upstream", "count")


def _system(row: SystemRow) -> dict[str, Any]:
    return {
        "arch": row.architecture,
        "cpu": row.cpu_cores,
        "memory": row.memory_mib,
        "count": row.count,
        **_upstream(row.upstream),
    }


def _upstream_first(rows: tuple[ClusterRow, ...]) -> tuple[ClusterRow, ...]:
    """The rows of a snapshot, where the upstream cluster is last, in the order of the payload."""
    return rows[-1:] + rows[:-1] if rows and rows[-1].upstream else rows


def _cluster_order(row: ClusterRow) -> tuple[bool, int, int]:
    return not row.upstream, row.nodes, row.count


def _cluster(row: ClusterRow) -> dict[str, Any]:
    return {"count": row.count, "nodes": row.nodes, **_upstream(row.upstream)}


def _upstream(value: bool) -> dict[str, bool]:  # noqa: FBT001 - the one thing it is about
    """``upstream`` as upstream writes it: left out when false."""
    return {"upstream": True} if value else {}


def scc_renderer() -> DocumentRenderer:
    """Makes SCC payloads."""
    return DocumentRenderer(
        _SccFacts(), "timestamp", lambda delivery, _: render_rfc3339(delivery.at), validate_scc
    )


def render_offline_request(payload: Payload) -> bytes:
    """The offline registration request that SUSE Customer Center takes, without an end of line.

    Format: ``OfflineRequest`` of connect-ng v1.22.1 (``pkg/registration/offline_request.go``),
    base64 on one line. scc-operator fills it the same way: the product, and the payload as it is.
    """
    document = orjson.loads(payload.body)
    subscription = document["subscription"]
    request = {
        "product": {
            "identifier": subscription["product"],
            "version": product_version(document["version"]),
            "arch": subscription["arch"],
        },
        "system_information": orjson.Fragment(payload.body),
    }
    return b2a_base64(orjson.dumps(request), newline=False)


def product_version(version: str) -> str:
    """A version of the payload as SUSE names that of the product: ``other`` for no release."""
    return version if _RELEASE.fullmatch(version) else "other"
