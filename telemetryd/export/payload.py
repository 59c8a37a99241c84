"""The SCC payload: snapshot to canonical bytes, their digest, and the JSON Schema they fit.

The structs below *are* the schema: it is generated from them, and every document is decoded into
them before it is handed out, because its consumer crashes on one that doesn't fit. Where bytes go
doesn't belong here.
"""

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from hashlib import sha256
from typing import Annotated, Any, Final

import msgspec
import orjson
from msgspec import UNSET, Meta, UnsetType

from telemetryd.errors import PermanentError, Reason
from telemetryd.model import Payload, Snapshot

CONTENT_TYPE: Final = "application/json"
SCHEMA_ID: Final = "https://github.com/rancher/rancher/pkg/telemetry/scc-payload"
SCHEMA_DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"
VERSION_PATTERN: Final = r"^\d+\.\d+\.\d+$"

OUTSIDE_DIGEST: Final = ("timestamp", "delivery")
"""Top-level keys that say when and how, not what: a change of them alone is no change."""

_LEADING_VERSION = re.compile(r"v?(\d+\.\d+\.\d+)", re.ASCII)
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE | re.ASCII)
_CANONICAL = orjson.OPT_SORT_KEYS


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
    ]
    clusteruuid: Annotated[
        str,
        Meta(
            description="The UID of the k8s kube-system namespace",
            extra_json_schema={"format": "uuid"},
        ),
    ]
    product: Annotated[str, _described("CPE of the product")]
    version: Annotated[str, _described("Rancher's raw build version")]
    arch: str
    git: Annotated[str, _described("Rancher's build git SHA")]
    server_url: str

    def __post_init__(self) -> None:
        for key in ("installuuid", "clusteruuid"):
            if not _UUID.fullmatch(getattr(self, key)):
                raise ValueError(f"{key} isn't a UUID")


class ManagedSystem(msgspec.Struct, frozen=True, kw_only=True):
    """``managedSystems[]``: nodes alike in architecture, capacity and place."""

    arch: str
    cpu: Annotated[int, Meta(ge=0, description="From status.internalNodeStatus.capacity.cpu")]
    memory: Annotated[
        int, Meta(ge=0, description="From status.internalNodeStatus.capacity.memory, in MiB")
    ]
    count: Annotated[
        int,
        Meta(
            ge=1,
            description="Number of systems with these attributes",
            extra_json_schema={"default": 1},
        ),
    ]
    upstream: Annotated[bool, _described("The cluster hosting Rancher itself")] | UnsetType = UNSET


class ManagedCluster(msgspec.Struct, frozen=True, kw_only=True):
    """``managedClusters[]``: clusters with the same number of nodes."""

    count: Annotated[int, Meta(ge=1, description="De-duplication of identical clusters")]
    nodes: Annotated[int, Meta(ge=0)]
    upstream: (
        Annotated[
            bool,
            Meta(
                description="The cluster hosting Rancher itself",
                extra_json_schema={"default": False},
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
    ]
    subscription: Subscription
    feature_flags: Annotated[list[str], _described("Enabled feature flags")] | UnsetType = UNSET
    managedSystems: Annotated[  # noqa: N815 - the key's name in JSON
        list[ManagedSystem], _described("Active systems under management; to be expanded")
    ]
    managedClusters: list[ManagedCluster]  # noqa: N815 - the key's name in JSON
    timestamp: Annotated[str, Meta(extra_json_schema={"format": "date-time"})]

    def __post_init__(self) -> None:
        if parse_rfc3339(self.timestamp) is None:
            raise ValueError("timestamp isn't an RFC 3339 date-time")


_DOCUMENT_DECODER = msgspec.json.Decoder(SccDocument)


def normalise_version(raw: str) -> str:
    """The product version as SCC wants it.

    Strict semver is reduced to major.minor.patch, and so is anything else that begins with x.y.z
    after an optional ``v``; the rest passes through raw, as the consumer expects: it maps what it
    can't read to the product version ``other``.
    """
    found = _LEADING_VERSION.match(raw)
    return found.group(1) if found else raw


def render_rfc3339(now_s: float) -> str:
    """Unix seconds as RFC 3339 in UTC, whole seconds: ``2026-08-21T09:30:00Z``."""
    moment = datetime.fromtimestamp(int(now_s), UTC)
    return f"{moment.replace(tzinfo=None).isoformat(timespec='seconds')}Z"


def parse_rfc3339(text: str) -> float | None:
    """RFC 3339 to Unix seconds, None where the text is anything else."""
    try:
        moment = msgspec.convert(text, datetime)
    except msgspec.ValidationError:
        return None
    return moment.timestamp() if moment.tzinfo is not None else None


def document_digest(document: Mapping[str, Any]) -> str:
    """SHA-256 in hex over the canonical document without timestamp and delivery."""
    facts = {key: value for key, value in document.items() if key not in OUTSIDE_DIGEST}
    return sha256(orjson.dumps(facts, option=_CANONICAL)).hexdigest()


def parse_digest(body: bytes) -> tuple[str, float | None] | None:
    """What bytes found at a destination say.

    Returns:
        The digest of their content and their timestamp in Unix seconds (None where they have
        none that can be read), or None where they aren't a JSON object, or one nested deeper than
        orjson writes, which can't be ours.
    """
    try:
        document = orjson.loads(body)
        if not isinstance(document, dict):
            return None
        digest = document_digest(document)
    except (orjson.JSONDecodeError, orjson.JSONEncodeError):
        return None
    timestamp = document.get("timestamp")
    return digest, parse_rfc3339(timestamp) if isinstance(timestamp, str) else None


def scc_schema() -> dict[str, Any]:
    """JSON Schema 2020-12 of the SCC payload, generated from the structs, references resolved."""
    _, definitions = msgspec.json.schema_components([SccDocument], ref_template="{name}")

    def resolve(node: Any) -> Any:
        if isinstance(node, list):
            return [resolve(item) for item in node]
        if not isinstance(node, dict):
            return node
        if "$ref" in node:
            siblings = {key: value for key, value in node.items() if key != "$ref"}
            return {**resolve(definitions[node["$ref"]]), **siblings}
        # What msgspec adds of our class names and docstrings is no part of the published schema.
        if node.get("type") == "object":
            node = {key: node[key] for key in node if key not in {"title", "description"}}
        return {key: resolve(value) for key, value in node.items()}

    root: dict[str, Any] = resolve(definitions["SccDocument"])
    return {"$schema": SCHEMA_DIALECT, "$id": SCHEMA_ID, "title": "RMSSubscription", **root}


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


def render_facts(snapshot: Snapshot) -> dict[str, Any]:
    """The SCC document without its timestamp; every array sorted, so that facts decide bytes."""
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
        "managedSystems": [
            {
                "arch": row.architecture,
                "cpu": row.cpu_cores,
                "memory": row.memory_mib,
                "count": row.count,
                **_upstream(row.upstream),
            }
            for row in sorted(snapshot.systems)
        ],
        "managedClusters": [
            {"count": row.count, "nodes": row.nodes, **_upstream(row.upstream)}
            for row in sorted(snapshot.clusters, key=lambda row: (not row.upstream, row))
        ],
    }
    if snapshot.features:
        facts["feature_flags"] = sorted(set(snapshot.features))
    return facts


def _upstream(value: bool) -> dict[str, bool]:  # noqa: FBT001 - the one thing it is about
    """``upstream`` as upstream writes it: left out when false."""
    return {"upstream": True} if value else {}


def render_scc(snapshot: Snapshot, now_s: float) -> Payload:
    """The SCC payload of a snapshot, validated.

    Args:
        snapshot: The fleet.
        now_s: Generation time in Unix seconds.

    Raises:
        PermanentError: The snapshot makes a document that doesn't fit the schema.
    """
    return SccRenderer()(snapshot, now_s)


class SccRenderer:
    """``render_scc`` with a memory of the last snapshot: only the timestamp is made anew.

    One of these serves any number of exporters.
    """

    __slots__ = ("_digest", "_head", "_schema_error", "_snapshot", "_tail")

    def __init__(self) -> None:
        self._snapshot: Snapshot | None = None
        self._head = self._tail = b""
        self._digest = self._schema_error = ""

    def __call__(self, snapshot: Snapshot, now_s: float) -> Payload:
        """The payload of the snapshot at this Unix time; see ``render_scc``.

        Raises:
            PermanentError: The snapshot makes a document that doesn't fit the schema.
        """
        if snapshot is not self._snapshot:
            self._remember(snapshot, now_s)
        return Payload(
            body=self._body(now_s),
            content_type=CONTENT_TYPE,
            digest=self._digest,
            revision=snapshot.revision,
            schema_valid=not self._schema_error,
            schema_error=self._schema_error,
        )

    def _body(self, now_s: float) -> bytes:
        return b'%b"timestamp":"%b",%b' % (self._head, render_rfc3339(now_s).encode(), self._tail)

    def _remember(self, snapshot: Snapshot, now_s: float) -> None:
        self._snapshot = None
        try:
            facts = render_facts(snapshot)
            self._digest = document_digest(facts)
            # Sorted, ``version`` alone stands behind ``timestamp``.
            version = facts.pop("version")
            self._head = orjson.dumps(facts, option=_CANONICAL)[:-1] + b","
            self._tail = orjson.dumps({"version": version})[1:]
        except TypeError as exc:
            raise PermanentError(
                Reason.INTERNAL, f"the snapshot can't be written as JSON: {exc}"
            ) from exc
        self._schema_error = validate_scc(self._body(now_s))
        self._snapshot = snapshot
