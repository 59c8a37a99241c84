"""What payloads of every format have in common: canonical bytes, digest, schema, dates.

A document is a JSON object with sorted keys and sorted rows, so that equal facts have equal bytes.
What leaves is declared in the annotations that the JSON Schemas are made of: a field without a
declaration can't be listed, which is an error.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any, Final, TypeAlias

import msgspec
import orjson
from msgspec import Meta, inspect

from telemetryd.errors import PermanentError, Reason
from telemetryd.model import Delivery, Field, Payload, Snapshot

Renderer: TypeAlias = Callable[[Snapshot, Delivery], Payload]
"""Snapshot and how it is delivered to payload; pure, without I/O; raises PermanentError."""

CONTENT_TYPE: Final = "application/json"
SCHEMA_DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"

OUTSIDE_DIGEST: Final = ("timestamp", "delivery")
"""Top-level keys that say when and how, not what: a change of them alone is no change."""

_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE | re.ASCII)
_CANONICAL = orjson.OPT_SORT_KEYS


def is_uuid(text: str) -> bool:
    """Whether a text has the form of JSON Schema's format ``uuid``, which parsers are laxer on."""
    return _UUID.fullmatch(text) is not None


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


def canonical_bytes(document: Mapping[str, Any]) -> bytes:
    """A document as JSON without white space, keys sorted.

    Raises:
        PermanentError: It holds what can't be written as JSON.
    """
    try:
        return orjson.dumps(document, option=_CANONICAL)
    except TypeError as exc:
        raise PermanentError(
            Reason.INTERNAL, f"the snapshot can't be written as JSON: {exc}"
        ) from exc


def document_digest(document: Mapping[str, Any]) -> str:
    """SHA-256 in hex over the canonical document without timestamp and delivery.

    Raises:
        PermanentError: It holds what can't be written as JSON.
    """
    facts = {key: value for key, value in document.items() if key not in OUTSIDE_DIGEST}
    return sha256(canonical_bytes(facts)).hexdigest()


def parse_digest(body: bytes) -> tuple[str, float | None] | None:
    """Digest and timestamp of a document that was found at a destination.

    Returns:
        The timestamp is in Unix seconds, None where it has none that can be read. None for what we
        can't have written: no JSON object, one nested deeper than orjson writes, or one whose
        ``delivery`` names another digest.
    """
    try:
        document = orjson.loads(body)
        if not isinstance(document, dict):
            return None
        digest = document_digest(document)
    except (orjson.JSONDecodeError, PermanentError):
        return None
    sent = document.get("delivery", document)
    if not isinstance(sent, dict) or (sent is not document and sent.get("digest") != digest):
        return None
    timestamp = sent.get("timestamp")
    return digest, parse_rfc3339(timestamp) if isinstance(timestamp, str) else None


def around(facts: Mapping[str, Any], key: str) -> tuple[bytes, bytes]:
    """A canonical document without one key, of plain ASCII: what comes before and after its value.

    Raises:
        PermanentError: It holds what can't be written as JSON.
    """
    before = canonical_bytes({name: facts[name] for name in facts if name < key})[:-1]
    after = canonical_bytes({name: facts[name] for name in facts if name > key})
    comma = b"," if before != b"{" else b""
    return b'%b%b"%b":' % (before, comma, key.encode()), b"}" if after == b"{}" else b"," + after[
        1:
    ]


@dataclass(slots=True, eq=False)
class DocumentRenderer:
    """Makes the payloads of one format. While the snapshot stays, only one key is rendered again.

    One of these serves any number of exporters.

    Attributes:
        facts: The document without the key; raises PermanentError. What is a Fragment in it fits
            the schema.
        key: Says when and how the document is sent; no part of the digest.
        value: The key's value, from the delivery and the digest.
        validate: Checks a document against the schema, which has an empty array for each Fragment:
            returns a deviation that is sent all the same, empty without one; raises PermanentError
            for any other.
    """

    facts: Callable[[Snapshot], Mapping[str, Any]]
    key: str
    value: Callable[[Delivery, str], Any]
    validate: Callable[[bytes], str]
    _snapshot: Snapshot | None = field(default=None, init=False)
    _around: tuple[bytes, bytes] = field(default=(b"", b""), init=False)
    _digest: str = field(default="", init=False)
    _schema_error: str = field(default="", init=False)

    def __call__(self, snapshot: Snapshot, delivery: Delivery) -> Payload:
        """The payload of the snapshot.

        Raises:
            PermanentError: The snapshot makes a document that doesn't fit the schema.
        """
        if snapshot is not self._snapshot:
            self._snapshot = None
            facts = self.facts(snapshot)
            self._digest = document_digest(facts)
            self._around = around(facts, self.key)
            self._schema_error = self.validate(self._frame(facts, delivery))
            self._snapshot = snapshot
        return Payload(
            body=self._body(delivery),
            content_type=CONTENT_TYPE,
            digest=self._digest,
            revision=snapshot.revision,
            schema_valid=not self._schema_error,
            schema_error=self._schema_error,
        )

    def _frame(self, facts: Mapping[str, Any], delivery: Delivery) -> bytes:
        frame = {
            name: [] if isinstance(value, orjson.Fragment) else value
            for name, value in facts.items()
        }
        return canonical_bytes({**frame, self.key: self.value(delivery, self._digest)})

    def _body(self, delivery: Delivery) -> bytes:
        value = orjson.dumps(self.value(delivery, self._digest), option=_CANONICAL)
        return value.join(self._around)


def json_schema(document: type[msgspec.Struct], *, schema_id: str, title: str) -> dict[str, Any]:
    """JSON Schema 2020-12 of a document, generated from its struct, references resolved."""
    _, definitions = msgspec.json.schema_components([document], ref_template="{name}")

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

    root: dict[str, Any] = resolve(definitions[document.__name__])
    return {"$schema": SCHEMA_DIALECT, "$id": schema_id, "title": title, **root}


_DECLARED: Final = "declared"


def sent(
    what: str,
    rancher: str,
    kubernetes: str | None = None,
    *,
    privacy: str = "",
    identity: str = "",
    keeps_key: bool = True,
) -> Meta:
    """The declaration of a field, for its annotation.

    Args:
        what: What it says, without a full stop.
        rancher: Where it comes from with a Rancher.
        kubernetes: Where it comes from on plain Kubernetes; None for the same, empty for nowhere.
        privacy: The ``[privacy]`` key that omits it.
        identity: The ``[identity]`` key that replaces it.
        keeps_key: Without a value the key is there all the same, with an empty one.
    """
    plain = rancher if kubernetes is None else kubernetes
    field = Field("", what, rancher, plain, privacy, identity, keeps_key)
    return Meta(extra={_DECLARED: field})


def beside(key: str, what: str, source: str) -> Field:
    """A field that is sent beside the payload, whatever the source."""
    return Field(key, what, source, source)


def field_at(key: str, declaration: Meta) -> Field:
    """The field at a key that no struct describes, by its declaration.

    Raises:
        TypeError: That is none.
    """
    field = (declaration.extra or {}).get(_DECLARED)
    if not isinstance(field, Field):
        raise TypeError(f"{key}: nothing is declared of it")
    return replace(field, key=key)


def fields_of(document: type[msgspec.Struct]) -> tuple[Field, ...]:
    """Every field of a document that holds a value, in the order of the struct.

    Raises:
        TypeError: One is not declared.
    """
    return tuple(_walk(inspect.type_info(document), "", None))


def node_info(key: str) -> tuple[str, str]:
    """The source of a text of ``nodeInfo``, with a Rancher and without."""
    return f"nodes' status.internalNodeStatus.nodeInfo.{key}", f"nodes' status.nodeInfo.{key}"


def capacity(key: str) -> tuple[str, str]:
    """The source of a capacity, with a Rancher and without."""
    return f"nodes' status.internalNodeStatus.capacity.{key}", f"nodes' status.capacity.{key}"


def _walk(node: inspect.Type, path: str, declared: Field | None) -> Iterator[Field]:
    match node:
        case inspect.Metadata(type=inner, extra=extra):
            yield from _walk(inner, path, (extra or {}).get(_DECLARED, declared))
        case inspect.UnionType(types=types):
            (inner,) = (each for each in types if not _is_nothing(each))
            yield from _walk(inner, path, declared)
        case inspect.ListType(item_type=item):
            yield from _walk(item, f"{path}[]", declared)
        case inspect.StructType(fields=fields):
            for field in fields:
                key = f"{path}.{field.encode_name}" if path else field.encode_name
                yield from _walk(field.type, key, None)
        case _ if declared is not None:
            yield replace(declared, key=path)
        case _:
            raise TypeError(f"{path}: nothing is declared of it")


def _is_nothing(node: inspect.Type) -> bool:
    return isinstance(node, inspect.NoneType)


INSTALL_UUID: Final = sent(
    "UUID of the installation",
    "setting install-uuid",
    "made of the UID of the namespace kube-system (UUIDv5)",
    identity="install_uuid",
)
CLUSTER_UUID: Final = sent(
    "UUID of its own cluster", "UID of the namespace kube-system", identity="cluster_uuid"
)
PRODUCT: Final = sent(
    "Name of the product",
    "settings server-version and server-version-type",
    "a constant",
    identity="product",
)
VERSION: Final = sent(
    "Version of the product", "setting server-version", "API server's /version", identity="version"
)
GIT_HASH: Final = sent(
    "Commit of its build", "Rancher's /rancherversion", "API server's /version", identity="git_hash"
)
SERVER_URL: Final = sent(
    "URL of the server: scheme, host, port and path alone",
    "setting server-url",
    "",
    privacy="server_url",
    identity="server_url",
)
FEATURE_FLAGS: Final = sent(
    "Names of the feature flags that are on", "features.management.cattle.io", ""
)
