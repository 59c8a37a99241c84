"""What a proxy may answer instead of the API server, and what it may say in a watch."""

import asyncio
import gzip
import json
from email.utils import formatdate
from typing import Any

from aiohttp import web

from tests.faults.proxy import Act, Exchange

HTML = b"<!doctype html><title>Sign in</title><p>Sign in to go on."


def status_of(code: int, reason: str, **more: Any) -> dict[str, Any]:
    """A Status as the API server writes it."""
    return {
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {},
        "status": "Failure",
        "message": f"{reason} by the proxy",
        "reason": reason,
        "code": code,
        **more,
    }


def event(kind: str, body: Any) -> bytes:
    """A line of a watch."""
    return json.dumps({"type": kind, "object": body}).encode() + b"\n"


def error(code: int, reason: str, **more: Any) -> bytes:
    """An ERROR event."""
    return event("ERROR", status_of(code, reason, **more))


def answer(
    code: int,
    body: bytes | dict[str, Any],
    content_type: str = "application/json",
    **headers: str,
) -> Act:
    """A whole answer; underscores in names of headers are dashes."""
    raw = json.dumps(body).encode() if isinstance(body, dict) else body
    named = {name.replace("_", "-"): value for name, value in headers.items()}

    async def act(_: Exchange) -> web.StreamResponse:
        return web.Response(status=code, body=raw, headers={"Content-Type": content_type, **named})

    return act


def refusal(code: int, reason: str, retry_after: str = "", **more: Any) -> Act:
    """A Status as an answer."""
    headers = {"Retry_After": retry_after} if retry_after else {}
    return answer(code, status_of(code, reason, **more), **headers)


def http_date(unix_s: float) -> str:
    """The moment as in a header."""
    return formatdate(unix_s, usegmt=True)


async def silence(exchange: Exchange) -> web.StreamResponse:
    """Not even headers."""
    await asyncio.Event().wait()
    raise AssertionError(exchange)


async def headers_alone(exchange: Exchange) -> web.StreamResponse:
    """Headers of a good answer and nothing after them."""
    response = await exchange.start()
    await asyncio.Event().wait()
    return response


async def drip(exchange: Exchange) -> web.StreamResponse:
    """One byte each second, of a line that never ends."""
    response = await exchange.start()
    while True:
        await response.write(b" ")
        await asyncio.sleep(1)


async def end_at_once(exchange: Exchange) -> web.StreamResponse:
    """A good watch without an event."""
    return await exchange.start()


async def truncated_gzip(exchange: Exchange) -> web.StreamResponse:
    """A list that breaks off in the middle of its compressed form."""
    packed = gzip.compress(b'{"kind":"NodeList","metadata":{"resourceVersion":"1"},"items":[]}')
    return web.Response(
        body=packed[: len(packed) // 2],
        headers={"Content-Type": "application/json", "Content-Encoding": "gzip"},
    )


def older_and_empty(version: str) -> Act:
    """A list, in pages or as a stream, as of a moment long past, when nothing was there."""
    end = {"resourceVersion": version, "annotations": {"k8s.io/initial-events-end": "true"}}

    def change(body: bytes) -> bytes:
        document = json.loads(body)
        document["metadata"] = {"resourceVersion": version}
        document["items"] = []
        return json.dumps(document).encode()

    async def act(exchange: Exchange) -> web.StreamResponse:
        if exchange.ask.is_stream:
            response = await exchange.start()
            await response.write(event("BOOKMARK", {"metadata": end}))
            return response
        return await exchange.proxy.pass_on(exchange, change)

    return act


def second_page(act: Act) -> Act:
    """The act for pages after the first, which is passed on."""

    async def only(exchange: Exchange) -> web.StreamResponse:
        follows = "continue" in exchange.ask.query
        return await (act(exchange) if follows else exchange.proxy.pass_on(exchange))

    return only


def as_stream(act: Act) -> Act:
    """The act for streams alone, which a server authorises as a watch; pages are passed on."""

    async def only(exchange: Exchange) -> web.StreamResponse:
        return await (act(exchange) if exchange.ask.is_stream else exchange.proxy.pass_on(exchange))

    return only


def refuse_token(token: str) -> Act:
    """401 for one token; others are passed on."""
    refused = refusal(401, "Unauthorized")

    async def act(exchange: Exchange) -> web.StreamResponse:
        is_it = exchange.ask.authorization == f"Bearer {token}"
        return await (refused(exchange) if is_it else exchange.proxy.pass_on(exchange))

    return act
