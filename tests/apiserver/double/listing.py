"""LIST: pages of a consistent snapshot, and continue tokens that expire with compaction.

The token is the real server's: unpadded URL-safe base64 of ``{"v", "rv", "start"}``, where an
``rv`` of -1 goes on with what is there now. Query parameters are ``options``'s.
"""

import base64
import binascii
from collections.abc import Sequence
from dataclasses import dataclass

import orjson

from tests.apiserver.double import status
from tests.apiserver.double.objects import ObjectStore, TableSnapshot
from tests.apiserver.double.options import ReadOptions
from tests.apiserver.double.resources import JsonObject, RequestTarget

_TOKEN_VERSION = "meta.k8s.io/v1"
_EXPIRED_CONTINUE = (
    "The provided continue parameter is too old to display a consistent list result. You can start"
    " a new list without the continue parameter, or use the continue token in this response to"
    " retrieve the remainder of the results. Continuing with the provided token results in an"
    " inconsistent list - objects that were created, modified, or deleted between the time the"
    " first chunk was returned and now may show up in the list."
)
_EXPIRED_LIST = "The resourceVersion for the provided list is too old."


@dataclass(frozen=True, slots=True)
class _Range:
    """What one page covers: the revision to read at, and the key to begin with."""

    revision: int
    start: str
    limit: int


@dataclass(frozen=True, slots=True)
class _Page:
    """The encoded objects of one page; ``last_key`` is empty where nothing is left."""

    bodies: list[bytes]
    last_key: str
    remaining: int


def list_objects(store: ObjectStore, target: RequestTarget, options: ReadOptions) -> bytes:
    """The body of a list response.

    Raises:
        BadRequest: A bad token, or one together with a revision.
        Expired: A revision or token from before the last compaction.
        VersionTooLarge: A revision in the future; the caller has waited for it already.
    """
    prefix = f"{target.namespace}/" if target.namespace else ""
    wanted = _range(store, target, options, prefix)
    snapshot = store.table(target.resource).snapshot(
        wanted.revision, prefix=prefix, start=wanted.start
    )
    page = _page(target, snapshot, options, wanted.limit)
    metadata: JsonObject = {"resourceVersion": str(wanted.revision)}
    if target.resource.custom:
        metadata["continue"] = ""
    if page.last_key:
        start = page.last_key.removeprefix(prefix) + "\0"
        metadata["continue"] = encode_token(wanted.revision, start)
        if not options.name:
            metadata["remainingItemCount"] = page.remaining
    return _encode(target, metadata, page.bodies)


def encode_token(revision: int, start: str) -> str:
    """A continue token for the keys from ``start`` on."""
    token = orjson.dumps({"v": _TOKEN_VERSION, "rv": revision, "start": start})
    return base64.urlsafe_b64encode(token).decode().rstrip("=")


def decode_token(text: str) -> tuple[int, str]:
    """The revision and the first key of a continue token.

    Raises:
        BadRequest: It is none.
    """
    try:
        token = orjson.loads(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))
        version = token["v"]
        revision, start = (token["rv"], token["start"]) if version == _TOKEN_VERSION else (0, "")
    except (binascii.Error, ValueError, KeyError, TypeError) as error:
        raise status.BadRequest(
            f"invalid continue token: continue key is not valid: {error}"
        ) from None
    if not (isinstance(revision, int) and revision and isinstance(start, str) and start):
        raise status.BadRequest(
            "invalid continue token: continue key is not valid: server does not recognize this"
            f' encoded version "{version}"'
        )
    return revision, start


def _range(store: ObjectStore, target: RequestTarget, options: ReadOptions, prefix: str) -> _Range:
    oldest = store.oldest_revision(target.resource)
    if options.continue_token:
        if options.revision:
            raise status.BadRequest(
                "specifying resource version is not allowed when using continue"
            )
        revision, start = decode_token(options.continue_token)
        if revision < 0:
            revision = store.revision
        elif revision < oldest:
            token = encode_token(-1, start)
            raise status.Expired(_EXPIRED_CONTINUE, continue_token=token)
        return _Range(revision, prefix + start, 0 if options.revision == 0 else options.limit)
    wanted = options.revision or 0
    if wanted > store.revision:
        raise status.VersionTooLarge(wanted, store.revision)
    if options.exact:
        if wanted < oldest:
            raise status.Expired(_EXPIRED_LIST)
        return _Range(wanted, prefix, options.limit)
    # Revision 0 is answered from the real server's cache, which knows no pages.
    limit = 0 if options.revision == 0 else options.limit
    return _Range(store.revision, prefix, limit)


def _page(
    target: RequestTarget, snapshot: TableSnapshot, options: ReadOptions, limit: int
) -> _Page:
    keys = [key for key in snapshot.keys if options.name in {"", key.rpartition("/")[2]}]
    bodies: list[bytes] = []
    for index, key in enumerate(keys):
        bodies.append(target.resource.list_item(snapshot[key].body))
        remaining = len(keys) - index - 1
        if limit and len(bodies) == limit and remaining:
            return _Page(bodies, key, remaining)
    return _Page(bodies, "", 0)


def _encode(target: RequestTarget, metadata: JsonObject, bodies: Sequence[bytes]) -> bytes:
    """The list with its fields in the order of the real server."""
    resource = target.resource
    items = b"[" + b",".join(bodies) + b"]"
    kind = orjson.dumps(f"{resource.kind}List")
    version, meta = orjson.dumps(resource.api_version), orjson.dumps(metadata)
    if resource.custom:
        return b'{"apiVersion":%b,"items":%b,"kind":%b,"metadata":%b}' % (
            version,
            items,
            kind,
            meta,
        )
    return b'{"kind":%b,"apiVersion":%b,"metadata":%b,"items":%b}' % (kind, version, meta, items)
