"""What the daemon does on command: a thin adapter from the control socket to the parts it runs.

Who may command, and how commands travel, belongs to ``serve.control``.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from hashlib import sha256
from itertools import islice
from typing import Any

import anyio

from telemetryd.config.restrictions import IMPLIED
from telemetryd.daemon.collector import Collector
from telemetryd.daemon.reload import Reloader
from telemetryd.errors import CommandRefused
from telemetryd.export.engine.manager import ExporterManager
from telemetryd.informer.informer import Informer
from telemetryd.informer.resource import Reader
from telemetryd.informer.source import ApiClient, KubeSource
from telemetryd.informer.verify import Verification, verify
from telemetryd.model import Unreadable
from telemetryd.serve.control.protocol import CommandAnswer, Document, Request
from telemetryd.serve.page.status import (
    StatusFacts,
    render_restriction,
    render_status,
    render_time,
)

VERIFY_TIMEOUT_S = 300.0
"""For all lists of one comparison: a hundred thousand nodes take a minute each."""
MOST_SHOWN_KEYS = 1000
"""Of those that differ, in either direction, and of those that can't be read."""


@dataclass(frozen=True, slots=True)
class Commanded:
    """The parts of a running daemon that commands reach.

    Attributes:
        informers: Those that run now.
        page_size: Objects a page, for fresh lists.
    """

    status: Callable[[], StatusFacts]
    reloader: Reloader
    manager: ExporterManager
    informers: Callable[[], Iterable[Informer[Any, Any]]]
    collector: Collector
    client: ApiClient
    page_size: int


class DaemonCommands:
    """Carries commands out."""

    def __init__(self, parts: Commanded) -> None:
        self._parts = parts
        self._verifying = anyio.Lock()

    async def execute(self, request: Request) -> CommandAnswer:
        """Carry a command out, and wait until it has ended.

        Raises:
            TelemetrydError: It is refused.
        """
        manager, name = self._parts.manager, request.name
        match request.command:
            case "status":
                return CommandAnswer(ok=True, result=render_status(self._parts.status()))
            case "reload":
                reloaded = await self._parts.reloader.reload("control")
                changes, problems = list(reloaded.changes), list(reloaded.problems)
                result = {"changes": changes, "problems": problems}
                return CommandAnswer(reloaded.ok, result=result)
            case "opt-in":
                return await self._opt_in()
            case "cache":
                return await self._cache(name, verify=request.verify)
            case "trigger":
                return CommandAnswer(ok=True, result={"run": manager.trigger(name)})
            case "start":
                manager.start(name)
            case "stop":
                await manager.stop(name)
            case "restart":
                await manager.restart(name)
        return self._exporter(name)

    async def _opt_in(self) -> CommandAnswer:
        """End every restriction that is remembered and not written; say what remains.

        ``ended`` and ``remaining`` are lists; not ok where one remains that is written.
        """
        reloader = self._parts.reloader
        restrictions = reloader.restrictions
        ended = await restrictions.opt_in()
        result = await reloader.reapplied()
        remaining = restrictions.statuses()
        problems = [
            f"{each.what}: {each.restriction.where}: {each.end}"
            for each in remaining
            if each.restriction.key != IMPLIED
        ]
        leader = self._parts.status().leader
        if leader is not None and not leader.leading and leader.holder:
            problems.append(
                f"{leader.holder} leads: run telemetryd ctl opt-in there to end what it remembers"
            )
        document = {
            "ended": [render_restriction(each) for each in ended],
            "remaining": [render_restriction(each) for each in remaining],
            "problems": [*result.problems, *problems],
        }
        return CommandAnswer(result.ok and not problems, result=document)

    async def _cache(self, resource: str, *, verify: bool) -> CommandAnswer:
        """What is held of a resource, and how it differs from the API server's own.

        Raises:
            CommandRefused: Nothing is held of such a resource, or another comparison is at work.
            KubeError: It can't be listed.
        """
        informers = {informer.resource.id: informer for informer in self._parts.informers()}
        informer = informers.get(resource)
        if informer is None:
            collector = self._parts.collector
            switches = collector.switches
            if not switches.enabled:
                raise CommandRefused(f"nothing is held of {resource!r}: {switches.detail}")
            if collector.source is None:
                raise CommandRefused(f"nothing is held yet: waiting for {collector.unsettled()}")
            held = ", ".join(informers)
            raise CommandRefused(f"nothing is held of {resource!r}: there are {held}")
        found = None
        if verify and informer.reader.synced:
            found = await self._verify(informer.resource, informer.reader)
        document = describe_cache(informer.reader)
        if found is not None:
            document["verification"] = _describe(found)
        ok = document["synced"] and (found is None or found.equal)
        return CommandAnswer(ok, result=document)

    async def _verify(self, resource: Any, reader: Reader[Any]) -> Verification:
        try:
            self._verifying.acquire_nowait()
        except anyio.WouldBlock:
            raise CommandRefused("another comparison is at work: try again later") from None
        try:
            with anyio.fail_after(VERIFY_TIMEOUT_S):
                return await verify(
                    resource,
                    reader,
                    KubeSource(self._parts.client, resource),
                    page_size=self._parts.page_size,
                )
        except TimeoutError as error:
            message = f"{resource.id} can't be listed within {VERIFY_TIMEOUT_S:g} s"
            raise CommandRefused(message) from error
        finally:
            self._verifying.release()

    def _exporter(self, name: str) -> CommandAnswer:
        found = self._parts.manager.status(name)
        document: Document = {"name": found.name, "state": str(found.state), "detail": found.detail}
        return CommandAnswer(ok=True, result={"exporter": document})


def describe_cache(reader: Reader[Any]) -> Document:
    """What a store holds, without any of it: keys only go into a digest.

    Objects that can't be read are named, with the reason that counts them: who may command the
    daemon may fix them.
    """
    status = reader.status()
    keys = reader.keys()
    document: Document = {
        "resource": status.resource,
        "objects": len(keys),
        "resource_version": status.resource_version,
        "synced": status.synced,
        "last_contact": render_time(status.last_contact_at),
        "keys_sha256": sha256("\n".join(keys).encode()).hexdigest(),
    }
    if reader.unreadable:
        held = ((key, reader.get(key)) for key in keys)
        odd = ((key, value.reason) for key, value in held if isinstance(value, Unreadable))
        document["unreadable"] = dict(islice(odd, MOST_SHOWN_KEYS))
        document["unreadable_count"] = reader.unreadable
    return document


def _describe(found: Verification) -> Document:
    return {
        "equal": found.equal,
        "listed": found.listed,
        "resource_version": found.resource_version,
        "missing": list(found.missing[:MOST_SHOWN_KEYS]),
        "missing_count": len(found.missing),
        "extra": list(found.extra[:MOST_SHOWN_KEYS]),
        "extra_count": len(found.extra),
    }
