"""What payloads of every format have in common: canonical bytes, digest, schema, dates.

A document is a JSON object with sorted keys and sorted rows, so that equal facts have equal bytes.
"""

import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any, Final, TypeAlias

import msgspec
import orjson

from telemetryd.errors import PermanentError, Reason
from telemetryd.model import Delivery, Payload, Snapshot

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


class DocumentTemplate:
    """A canonical document with one key whose value changes."""

    __slots__ = ("_head", "_tail")

    def __init__(self, facts: Mapping[str, Any], key: str) -> None:
        """Render everything but the key.

        Args:
            facts: The document without the key.
            key: Plain ASCII.

        Raises:
            PermanentError: It holds what can't be written as JSON.
        """
        before = canonical_bytes({name: facts[name] for name in facts if name < key})
        after = canonical_bytes({name: facts[name] for name in facts if name > key})
        self._head = b'%b"%b":' % (_joined(before[:-1], b"{"), key.encode())
        self._tail = b"}" if after == b"{}" else b"," + after[1:]

    def body(self, value: Any) -> bytes:
        """The document with this value of the key."""
        return b"%b%b%b" % (self._head, orjson.dumps(value, option=_CANONICAL), self._tail)


def _joined(begun: bytes, empty: bytes) -> bytes:
    return begun if begun == empty else begun + b","


class DocumentRenderer:
    """Makes the payloads of one format. While the snapshot stays, only one key is rendered again.

    One of these serves any number of exporters.
    """

    __slots__ = (
        "_digest",
        "_facts",
        "_key",
        "_schema_error",
        "_snapshot",
        "_template",
        "_validate",
        "_value",
    )

    def __init__(
        self,
        facts: Callable[[Snapshot], Mapping[str, Any]],
        key: str,
        value: Callable[[Delivery, str], Any],
        validate: Callable[[bytes], str],
    ) -> None:
        """Render nothing yet.

        Args:
            facts: The document without the key; raises PermanentError.
            key: Says when and how the document is sent; no part of the digest.
            value: The key's value, from the delivery and the digest.
            validate: Checks a document against the schema: returns a deviation that is sent all the
                same, empty without one; raises PermanentError for any other.
        """
        self._facts = facts
        self._key = key
        self._value = value
        self._validate = validate
        self._snapshot: Snapshot | None = None
        self._template = DocumentTemplate({}, key)
        self._digest = self._schema_error = ""

    def __call__(self, snapshot: Snapshot, delivery: Delivery) -> Payload:
        """The payload of the snapshot.

        Raises:
            PermanentError: The snapshot makes a document that doesn't fit the schema.
        """
        if snapshot is not self._snapshot:
            self._snapshot = None
            facts = self._facts(snapshot)
            self._digest = document_digest(facts)
            self._template = DocumentTemplate(facts, self._key)
            self._schema_error = self._validate(self._body(delivery))
            self._snapshot = snapshot
        return Payload(
            body=self._body(delivery),
            content_type=CONTENT_TYPE,
            digest=self._digest,
            revision=snapshot.revision,
            schema_valid=not self._schema_error,
            schema_error=self._schema_error,
        )

    def _body(self, delivery: Delivery) -> bytes:
        return self._template.body(self._value(delivery, self._digest))


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
