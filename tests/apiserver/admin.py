"""A small synchronous admin client of the Kubernetes API: the tests' writer and their oracle.

On purpose it shares nothing with the telemetryd package. It is safe to use from several threads.
"""

import contextlib
import http.client
import json
import ssl
import time
from collections import deque
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, TypeAlias
from urllib.parse import urlencode, urlsplit

Object: TypeAlias = dict[str, Any]
Objects: TypeAlias = list[Object]
PatchKind: TypeAlias = Literal["merge", "json", "strategic"]

_POLL_S = 0.1
_STARTING = b"storage is (re)initializing"
_JSON = "application/json"
_APPLY = "application/apply-patch+yaml"
_PATCH_TYPES: Mapping[PatchKind, str] = {
    "merge": "application/merge-patch+json",
    "json": "application/json-patch+json",
    "strategic": "application/strategic-merge-patch+json",
}


class AdminError(Exception):
    """The API server answered with an error status.

    Attributes:
        status: The HTTP status.
        body: The parsed `Status` object, or the raw text where it wasn't JSON.
    """

    def __init__(self, status: int, body: Any) -> None:
        message = body.get("message", body) if isinstance(body, dict) else body
        super().__init__(f"{status}: {message}")
        self.status = status
        self.body = body


class Admin:
    """REST verbs on absolute paths such as `/api/v1/nodes/n1`, with JSON in and out.

    Connections are kept and reused; one that the server closed meanwhile is replaced silently.
    While the API server still fills its caches, after a start, requests are sent again.
    Query parameters are given as keywords by their names in the API (`labelSelector="a=b"`).
    Without an answer at all OSError or http.client.HTTPException is raised.

    Args:
        url: The API server, such as `https://127.0.0.1:6443`.
        token: The bearer token.
        ca_file: The certificate to trust.
        timeout_s: For connecting and for each read.
    """

    def __init__(self, url: str, token: str, ca_file: Path, *, timeout_s: float = 30.0) -> None:
        self._netloc = urlsplit(url).netloc
        self._token = token
        self._context = ssl.create_default_context(cafile=ca_file)
        self._timeout_s = timeout_s
        self._idle: deque[http.client.HTTPSConnection] = deque()

    def close(self) -> None:
        """Closes the idle connections; the client can be used again."""
        while self._idle:
            self._idle.pop().close()

    def get(self, path: str, **query: str | int) -> Object:
        """Reads one object, or one page of a list as it is."""
        return self.request("GET", path, query=query)

    def list(self, path: str, *, page_size: int = 500, **query: str | int) -> Objects:
        """Lists all items, page by page, from etcd (a quorum read)."""
        items: Objects = []
        token = ""
        while True:
            page = self.get(
                path, limit=page_size, **query, **({"continue": token} if token else {})
            )
            items += page["items"]
            token = page["metadata"].get("continue") or ""
            if not token:
                return items

    def create(self, path: str, body: Object) -> Object:
        """Posts the object to its collection (or the request to a subresource)."""
        return self.request("POST", path, body=body)

    def create_raw(self, path: str, body: bytes) -> None:
        """Posts JSON as it is, for documents that no JSON library would write or read back."""
        status, answer = self._exchange("POST", path, body, _JSON)
        if status >= http.HTTPStatus.BAD_REQUEST:
            raise AdminError(status, _parse(answer))

    def apply(self, path: str, body: Object, *, manager: str, force: bool = False) -> Object:
        """Applies the object on the server's side as the given field manager."""
        query = {"fieldManager": manager, "force": "true" if force else "false"}
        return self.request("PATCH", path, body=body, query=query, content_type=_APPLY)

    def patch(self, path: str, body: Any, *, kind: PatchKind = "merge") -> Object:
        """Patches the object; custom resources know no strategic patch."""
        return self.request("PATCH", path, body=body, content_type=_PATCH_TYPES[kind])

    def put(self, path: str, body: Object) -> Object:
        """Replaces the object; with `metadata.resourceVersion` only if it is still that one."""
        return self.request("PUT", path, body=body)

    def delete(self, path: str, body: Object | None = None) -> Object:
        """Deletes the object or the whole collection; the body may be DeleteOptions."""
        return self.request("DELETE", path, body=body)

    @contextlib.contextmanager
    def watch(self, path: str, **query: str | int) -> Iterator[Iterator[Object]]:
        """Opens a watch and gives an iterator over its events, until the server ends it."""
        target = _target(path, {"watch": "1", **query})
        deadline = time.monotonic() + self._timeout_s
        while True:
            connection = self._connect()
            with contextlib.closing(connection):
                connection.request("GET", target, headers=self._headers(_JSON))
                response = connection.getresponse()
                if response.status < http.HTTPStatus.BAD_REQUEST:
                    with response:
                        yield map(json.loads, response)
                    return
                answer = response.read()
            if not (_is_starting(response.status, answer) and time.monotonic() < deadline):
                raise AdminError(response.status, _parse(answer))
            time.sleep(_POLL_S)

    def request(
        self,
        method: str,
        path: str,
        *,
        body: Any = None,
        query: Mapping[str, str | int] | None = None,
        content_type: str = _JSON,
    ) -> Object:
        """Sends one request and returns the parsed answer.

        Raises:
            AdminError: The status is 400 or higher.
        """
        payload = None if body is None else json.dumps(body).encode()
        deadline = time.monotonic() + self._timeout_s
        while True:
            status, answer = self._exchange(method, _target(path, query), payload, content_type)
            if not (_is_starting(status, answer) and time.monotonic() < deadline):
                break
            time.sleep(_POLL_S)
        parsed = _parse(answer)
        if status >= http.HTTPStatus.BAD_REQUEST or not isinstance(parsed, dict):
            raise AdminError(status, parsed)
        return parsed

    def _exchange(
        self, method: str, target: str, payload: bytes | None, content_type: str
    ) -> tuple[int, bytes]:
        while True:
            try:
                connection, reused = self._idle.pop(), True
            except IndexError:
                connection, reused = self._connect(), False
            try:
                connection.request(method, target, payload, self._headers(content_type))
                response = connection.getresponse()
                answer = response.status, response.read()
            except BaseException as error:
                connection.close()
                if reused and isinstance(error, (ConnectionError, ssl.SSLEOFError)):
                    continue  # closed by the server while idle
                raise
            if response.will_close:
                connection.close()
            else:
                self._idle.append(connection)
            return answer

    def _connect(self) -> http.client.HTTPSConnection:
        return http.client.HTTPSConnection(
            self._netloc, timeout=self._timeout_s, context=self._context
        )

    def _headers(self, content_type: str) -> dict[str, str]:
        return {
            "Authorization": f"Bearer {self._token}",
            "Accept": _JSON,
            "Content-Type": content_type,
            "User-Agent": "tests-admin",  # becomes the field manager of its writes
        }


def _is_starting(status: int, answer: bytes) -> bool:
    """Tells whether the API server answers so only until its cache of the resource is filled."""
    return status == http.HTTPStatus.TOO_MANY_REQUESTS and _STARTING in answer


def _target(path: str, query: Mapping[str, str | int] | None) -> str:
    return f"{path}?{urlencode(query)}" if query else path


def _parse(body: bytes) -> Any:
    try:
        return json.loads(body)
    except ValueError:
        return body.decode(errors="replace")
