"""Requests to the API server under a fence and a limiter.

A connection costs a TLS handshake, and a quarter of a megabyte while it is kept. Exporters and
SecretRequests are many, so they share a limiter. Informers and the Lease don't use it, so they are
never delayed. The fence of a write is called as the last thing before bytes leave, and before each
piece of them: credential, TLS context and connection are ready by then, so nothing slow comes
between the two.
"""

from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol, Required, TypeAlias, TypedDict, Unpack

import anyio
import anyio.lowlevel
from aiohttp.abc import AbstractStreamWriter
from aiohttp.payload import Payload

from telemetryd.errors import Reason, Unavailable
from telemetryd.limiter import Limiter

if TYPE_CHECKING:
    from telemetryd.kube.client import KubeClient

Fence: TypeAlias = Callable[[], None]
"""Raises NotLeading where the write must not leave."""

_PIECE_BYTES: Final = 64 * 1024
"""Written at once; other tasks run in between."""


def no_fence() -> None:
    """Let everything through."""


class FencedBody(Payload):
    """The body of a request, which may be empty; the fence is called before each write of it.

    aiohttp holds back a request's head until the first write of the body, so a fence that refuses
    there keeps every byte from leaving. One that refuses later leaves the request incomplete, and
    its receiver drops it. In both cases aiohttp closes the connection.

    Attributes:
        refused: What the fence raised; aiohttp raises another error instead.
        sent: The whole body has been written.
    """

    _autoclose = True  # nothing is open

    def __init__(self, body: bytes, fence: Fence) -> None:
        super().__init__(body)
        self._size = len(body)
        self._fence = fence
        self.refused: Exception | None = None
        self.sent = False

    def decode(self, encoding: str = "utf-8", errors: str = "strict") -> str:
        """The body as text."""
        return bytes(self._value).decode(encoding, errors)

    async def write(self, writer: AbstractStreamWriter) -> None:
        """Write all of it."""
        await self.write_with_length(writer, None)

    async def write_with_length(
        self,
        writer: AbstractStreamWriter,
        content_length: int | None,  # noqa: ARG002 - it is the length of the body
    ) -> None:
        """Write all of it."""
        left = memoryview(self._value)
        while True:
            piece, left = left[:_PIECE_BYTES], left[_PIECE_BYTES:]
            self._ask()
            await writer.write(piece)
            if not left:
                break
            await anyio.lowlevel.checkpoint()
        self.sent = True

    def _ask(self) -> None:
        """Call the fence; nothing may come between this and the write."""
        try:
            self._fence()
        except Exception as refusal:
            self.refused = refusal
            raise


MAX_BODY_BYTES: Final = 16 * 1024 * 1024
"""Of a single object; lists name their own limit."""

MOST_REQUESTS: Final = 16
"""At a time. At 5 ms each, 3,000 a second: more than one core can make."""

PATIENCE_S: Final = 1.0
"""A request that takes longer no longer counts, and costs one more connection."""

_READS: Final = frozenset({"GET", "HEAD"})


class RequestOptions(TypedDict, total=False):
    """Options of a request.

    Attributes:
        content_type: Of the body; JSON where not given.
        max_bytes: A longer answer is refused; ``MAX_BODY_BYTES`` where not given.
        fence: Called on each attempt of a request that isn't a read, as the last thing before its
            bytes leave. A handle calls its own fence first.
    """

    params: Mapping[str, str] | None
    body: bytes | None
    content_type: str | None
    timeout_s: Required[float]
    max_bytes: int
    fence: Fence | None


class Requests(Protocol):
    """Makes requests: a ``KubeClient``, or a handle to one."""

    async def request(self, method: str, path: str, **options: Unpack[RequestOptions]) -> bytes:
        """Make one request.

        The path is from the server's root, with a slash.

        Returns:
            The body of a successful answer.

        Raises:
            NotLeading: A fence refuses; other exceptions of a fence are raised, too.
            KubeError: There was no answer, or an error.
        """


def request_limiter(*, patience_s: float = PATIENCE_S) -> Limiter:
    """A limiter for the many requests of exporters and SecretRequests."""
    return Limiter(MOST_REQUESTS, patience_s=patience_s)


@dataclass(frozen=True, slots=True)
class Call:
    """One request, the same on each attempt."""

    method: str
    path: str
    timeout_s: float
    params: Mapping[str, str] | None = None
    body: bytes | None = None
    content_type: str | None = None
    max_bytes: int = MAX_BODY_BYTES
    fence: Fence | None = None

    @property
    def what(self) -> str:
        """For messages."""
        return f"{self.method} {self.path}"


class Handle:
    """Requests through a client under a fence and a limiter; made by ``KubeClient.requests``."""

    def __init__(
        self, client: "KubeClient", *, fence: Fence | None, limiter: Limiter | None
    ) -> None:
        self._client = client
        self._fence = fence
        self._limiter = limiter

    async def request(self, method: str, path: str, **options: Unpack[RequestOptions]) -> bytes:
        """As ``Requests`` says; waiting for the limiter counts against the deadline.

        Raises:
            Unavailable: The limiter let it through too late.
            NotLeading: A fence refuses a write.
            KubeError: There was no answer, or an error.
        """
        timeout_s, fence = options["timeout_s"], options.get("fence")
        by_s = anyio.current_time() + timeout_s
        async with AsyncExitStack() as stack:
            if self._limiter is not None:
                try:
                    with anyio.fail_after(timeout_s):
                        await stack.enter_async_context(self._limiter.turn())
                except TimeoutError as error:
                    others = f"{MOST_REQUESTS} other requests"
                    message = f"{method} {path}: no turn beside {others} within {timeout_s:g} s"
                    raise Unavailable(message, kind=Reason.TIMEOUT) from error
            options["timeout_s"] = round(by_s - anyio.current_time(), 3)
            options["fence"] = None if method in _READS else _both(self._fence, fence)
            return await self._client.request(method, path, **options)


def _both(first: Fence | None, second: Fence | None) -> Fence | None:
    if first is None or second is None:
        return first or second

    def ask() -> None:
        first()
        second()

    return ask
