"""Reads, creates, replaces, applies, patches and deletes single objects of the API server.

An answer that can't be decoded becomes a ``BadResponse`` that names the path and never a value.
"""

from collections.abc import Callable, Mapping
from typing import Any, Final, TypeVar

import msgspec
import orjson

from telemetryd.errors import BadResponse, NotFound
from telemetryd.kube.requests import Fence, Requests

T = TypeVar("T")

UNPARSABLE: Final = (msgspec.MsgspecError, UnicodeError, RecursionError)
"""Exceptions of msgspec for JSON that it can't decode."""

FIELD_MANAGER: Final = "telemetryd"

_APPLY: Final = "application/apply-patch+yaml"
_MERGE_PATCH: Final = "application/merge-patch+json"


class StoredMeta(msgspec.Struct, gc=False, rename="camel"):
    """``metadata`` of an object that was read, which a write can require (meta/v1 Preconditions).

    Attributes:
        uid: Differs for a later object of the same name.
        resource_version: Differs after each change.
    """

    uid: str
    resource_version: str

    def members(self) -> dict[str, str]:
        """As JSON names them, in ``metadata`` and in ``preconditions``."""
        return {"uid": self.uid, "resourceVersion": self.resource_version}


def decode_or_none(decoder: msgspec.json.Decoder[T], raw: bytes | msgspec.Raw) -> T | None:
    """The decoded JSON; None if it is something else, or nothing."""
    try:
        return decoder.decode(raw)
    except UNPARSABLE:
        return None


def parsed(answer: bytes, parse: Callable[[bytes], T], what: str) -> T:
    """The decoded body of the answer to a request, named by ``what`` in messages.

    Raises:
        BadResponse: It can't be decoded. The message quotes no value.
    """
    try:
        return parse(answer)
    except UNPARSABLE as error:
        raise BadResponse(f"{what}: the answer isn't what was asked for: {error}") from error


async def get(
    requests: Requests, path: str, parse: Callable[[bytes], T], *, timeout_s: float
) -> T | None:
    """Read an object, None where there is none.

    Raises:
        BadResponse: The answer is something else.
        KubeError: It can't be read now.
    """
    try:
        answer = await requests.request("GET", path, timeout_s=timeout_s)
    except NotFound:
        return None
    return parsed(answer, parse, f"GET {path}")


async def create(
    requests: Requests,
    path: str,
    document: Mapping[str, Any],
    parse: Callable[[bytes], T],
    *,
    timeout_s: float,
) -> T:
    """Create an object or a review in the collection at that path; the answer.

    Raises:
        Conflict: It exists already.
        BadResponse: The answer is something else.
        KubeError: It can't be created.
    """
    body = orjson.dumps(document)
    answer = await requests.request("POST", path, body=body, timeout_s=timeout_s)
    return parsed(answer, parse, f"POST {path}")


async def replace(
    requests: Requests,
    path: str,
    document: Mapping[str, Any],
    parse: Callable[[bytes], T],
    *,
    timeout_s: float,
) -> T:
    """Replace the object in the state that the document was made from; the answer.

    Raises:
        Conflict: It has changed since.
        NotFound: It is gone.
        BadResponse: The answer is something else.
        KubeError: It can't be written.
    """
    body = orjson.dumps(document)
    answer = await requests.request("PUT", path, body=body, timeout_s=timeout_s)
    return parsed(answer, parse, f"PUT {path}")


async def apply(
    requests: Requests,
    path: str,
    document: Mapping[str, Any],
    *,
    over: StoredMeta | None,
    force: bool = False,
    fence: Fence | None = None,
    dry_run: bool = False,
    timeout_s: float,
) -> bytes:
    """Apply our fields on the server; the object as it is then.

    ``over`` is the state that was read: another one isn't overwritten. None creates the object, or
    overwrites one that was created meanwhile. The fence is called beside that of ``requests``;
    after a dry run nothing is stored.

    Raises:
        Conflict: It has changed since, or another field manager owns one of the fields.
        KubeError: It can't be written.
    """
    metadata = {**document["metadata"], **(over.members() if over is not None else {})}
    return await requests.request(
        "PATCH",
        path,
        params={
            "fieldManager": FIELD_MANAGER,
            "force": "true" if force else "false",
            **({"dryRun": "All"} if dry_run else {}),
        },
        body=orjson.dumps({**document, "metadata": metadata}),
        content_type=_APPLY,
        timeout_s=timeout_s,
        fence=fence,
    )


async def merge_patch(
    requests: Requests,
    path: str,
    document: Mapping[str, Any],
    *,
    resource_version: str,
    timeout_s: float,
) -> None:
    """Change the members of this document, in the state that was read and no other.

    An API server ignores a uid in a status; another object of that name has another
    resourceVersion.

    Raises:
        Conflict: It has changed since, or is another object of that name.
        NotFound: It is gone.
        KubeError: It can't be written.
    """
    await requests.request(
        "PATCH",
        path,
        params={"fieldManager": FIELD_MANAGER},
        body=orjson.dumps({**document, "metadata": {"resourceVersion": resource_version}}),
        content_type=_MERGE_PATCH,
        timeout_s=timeout_s,
    )


async def delete(requests: Requests, path: str, over: StoredMeta, *, timeout_s: float) -> None:
    """Delete the object in the state that was read, and no other.

    Raises:
        Conflict: It has changed since, or is another object of that name.
        NotFound: It is gone.
        KubeError: It can't be deleted.
    """
    body = orjson.dumps({"preconditions": over.members()})
    await requests.request("DELETE", path, body=body, timeout_s=timeout_s)
