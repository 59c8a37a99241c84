"""The API server for callers who are many: few of their requests are under way at a time.

A connection costs a TLS handshake, and a quarter of a megabyte for as long as it is kept. Informers
and the Lease don't come this way, so whoever does can't hold them up. What is asked is the
callers' affair.
"""

from collections.abc import Mapping
from contextlib import AsyncExitStack
from typing import Final, Protocol

import anyio

from telemetryd.errors import Reason, Unavailable
from telemetryd.turnstile import Turnstile

MOST_REQUESTS: Final = 16
"""At a time. At 5 ms each, 3,000 a second: more than one core makes."""

PATIENCE_S: Final = 1.0
"""A request that takes longer gives its turn away, and its connection is one more."""


class Requests(Protocol):
    """What of ``KubeClient`` goes through a lane."""

    async def request(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, str] | None = None,
        body: bytes | None = None,
        content_type: str | None = None,
        timeout_s: float,
    ) -> bytes:
        """Make one request; the answer's body.

        Raises:
            KubeError: There was no answer, or an error.
        """


class Lane:
    """Requests in the order in which they are made, a few at a time."""

    def __init__(self, client: Requests, *, patience_s: float = PATIENCE_S) -> None:
        """Prepare.

        Args:
            client: Makes them.
            patience_s: After so many seconds a request lets others pass it.
        """
        self._client = client
        self._turnstile = Turnstile(MOST_REQUESTS, patience_s=patience_s)

    async def request(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, str] | None = None,
        body: bytes | None = None,
        content_type: str | None = None,
        timeout_s: float,
    ) -> bytes:
        """Make one request when it is its turn; the answer's body.

        Args:
            method: HTTP method.
            path: From the server's root, with a slash.
            params: Query.
            body: What is sent.
            content_type: Of the body.
            timeout_s: Deadline of the whole, the wait for its turn included.

        Raises:
            Unavailable: It didn't get its turn in time, of kind TIMEOUT, or there was no answer.
            KubeError: There was an error.
        """
        by_s = anyio.current_time() + timeout_s
        async with AsyncExitStack() as stack:
            try:
                with anyio.fail_after(timeout_s):
                    await stack.enter_async_context(self._turnstile.turn())
            except TimeoutError as error:
                others = f"{MOST_REQUESTS} other requests"
                message = f"{method} {path}: no turn beside {others} within {timeout_s:g} s"
                raise Unavailable(message, kind=Reason.TIMEOUT) from error
            return await self._client.request(
                method,
                path,
                params=params,
                body=body,
                content_type=content_type,
                timeout_s=round(by_s - anyio.current_time(), 3),
            )
