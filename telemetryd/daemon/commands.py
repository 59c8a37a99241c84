"""The commands of the control socket; ``serve.control`` receives them."""

from collections import Counter
from collections.abc import Callable, Iterable
from hashlib import sha256
from itertools import islice
from typing import TYPE_CHECKING, Any

import anyio

from telemetryd.config.restrictions import IMPLIED
from telemetryd.daemon.collector import Collector
from telemetryd.daemon.history import HistoryKeeper
from telemetryd.daemon.reload import Reloader
from telemetryd.errors import CommandRefused
from telemetryd.export.engine.manager import ExporterManager
from telemetryd.history.store import instance_of
from telemetryd.informer.informer import Informer
from telemetryd.informer.source import KubeSource
from telemetryd.informer.store import Reader
from telemetryd.kube.client import KubeClient
from telemetryd.model import ExporterState, Unreadable
from telemetryd.serve.control.protocol import CommandAnswer, Document, Request
from telemetryd.serve.metrics.family import MetricsFacts
from telemetryd.serve.metrics.metrics import MetricsRenderer
from telemetryd.serve.page.facts import StatusFacts, render_time
from telemetryd.sharedread import SharedRead

if TYPE_CHECKING:
    from telemetryd.daemon.supportbundle import LocalReads
    from telemetryd.informer.verify import Verification

VERIFY_TIMEOUT_S = 300.0
"""For all lists of one comparison: a hundred thousand nodes take a minute each."""
_LOOK_S = 0.05
_IN_RUN = frozenset({ExporterState.RUNNING, ExporterState.BACKOFF})
_NO_RUN = frozenset(
    {
        ExporterState.DISABLED,
        ExporterState.STANDBY,
        ExporterState.STOPPED,
        ExporterState.STOPPING,
    }
)
MOST_SLOTS = 200
"""In one answer: some 600 KB, which hold up the event loop for a few milliseconds."""
MOST_SHOWN_KEYS = 1000
"""Of those that differ, in either direction, and of those that can't be read."""


class DaemonCommands:
    """Carries commands out."""

    def __init__(
        self,
        *,
        status: Callable[[], StatusFacts],
        metrics: Callable[[], MetricsFacts],
        reloader: Reloader,
        manager: ExporterManager,
        informers: Callable[[], Iterable[Informer[Any, Any]]],
        collector: Collector,
        client: KubeClient,
        history: HistoryKeeper,
    ) -> None:
        """Over the parts of a running daemon."""
        self._status = status
        self._metrics = metrics
        self._reloader = reloader
        self._manager = manager
        self._informers = informers
        self._collector = collector
        self._client = client
        self._history = history
        self._verifying = anyio.Lock()
        self._local_reads: LocalReads = SharedRead("support bundle")

    async def execute(  # noqa: C901, PLR0911 - one a command
        self, request: Request
    ) -> CommandAnswer:
        """Carry a command out, and wait until it has ended.

        Raises:
            TelemetrydError: It is refused.
        """
        manager, name = self._manager, request.name
        match request.command:
            case "status":
                from telemetryd.serve.page.status import render_status  # noqa: PLC0415 - on demand

                return CommandAnswer(ok=True, result=render_status(self._status()))
            case "support-bundle":
                return await self._bundle()
            case "reload":
                return await self._reload()
            case "opt-in":
                return await self._opt_in()
            case "cache":
                return await self._cache(name, verify=request.verify)
            case "trigger":
                return await self._trigger(name, wait=request.wait)
            case "history":
                return await self._about_history()
            case "slots":
                return await self._slots(request)
            case "prune":
                return await self._prune(request)
            case "start":
                manager.start(name)
            case "stop":
                await manager.stop(name)
            case "restart":
                await manager.restart(name)
        return self._exporter(name)

    async def _reload(self) -> CommandAnswer:
        reloaded = await self._reloader.reload("control")
        result = {"changes": list(reloaded.changes), "problems": list(reloaded.problems)}
        return CommandAnswer(reloaded.ok, result=result)

    async def _bundle(self) -> CommandAnswer:
        from telemetryd.daemon.supportbundle import daemon_parts  # noqa: PLC0415 - on demand

        metrics = MetricsRenderer(self._metrics)
        parts = await daemon_parts(
            self._status(), metrics, self._reloader, self._informers(), self._local_reads
        )
        return CommandAnswer(ok=True, result=parts)

    async def _trigger(self, name: str, *, wait: bool) -> CommandAnswer:
        """Have an exporter run, and wait for the end of that run where that is wanted.

        Raises:
            ManagerError: It can't run, or is gone before it has.
            CommandRefused: It stopped before it has run.
        """
        manager = self._manager
        if not wait:
            return CommandAnswer(ok=True, result={"run": manager.trigger(name)})
        before = self._runs(name)
        in_progress = manager.status(name).state in _IN_RUN
        run = manager.trigger(name)
        while (runs := self._runs(name)).total() < before.total() + 1 + in_progress:
            state = manager.status(name).state
            if state in _NO_RUN:
                raise CommandRefused(f"{run} was not made: the exporter is {state}")
            await anyio.sleep(_LOOK_S)
        status = manager.status(name)
        failed = runs["failure"] > before["failure"]
        ended = (
            "failed" if failed else "unchanged" if runs["unchanged"] > before["unchanged"] else ""
        )
        document: Document = {
            "run": run,
            "result": ended or "delivered",
            "exporter": {
                "state": str(status.state),
                "last_error": status.last_error,
                "last_error_reason": status.last_error_reason,
            },
        }
        return CommandAnswer(not failed, result=document)

    def _runs(self, name: str) -> Counter[str]:
        """How many runs of the exporter have ended, by their result."""
        found = self._manager.stats().get(name)
        runs = Counter(found.runs if found is not None else ())
        del runs["skipped"]
        return runs

    async def _opt_in(self) -> CommandAnswer:
        """End every restriction that is remembered and not written; say what remains.

        ``ended`` and ``remaining`` are lists; not ok where one remains that is written.
        """
        from telemetryd.serve.page.status import render_restriction  # noqa: PLC0415 - on demand

        reloader = self._reloader
        restrictions = reloader.restrictions
        ended = await restrictions.opt_in()
        result = await reloader.reapplied()
        remaining = restrictions.statuses()
        problems = [
            f"{each.what}: {each.restriction.where}: {each.end}"
            for each in remaining
            if each.restriction.key != IMPLIED
        ]
        leader = self._status().leader
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
            CommandRefused: Nothing is held of the resource, or another comparison is running.
            KubeError: It can't be listed.
        """
        informers = {informer.resource.id: informer for informer in self._informers()}
        informer = informers.get(resource)
        if informer is None:
            collector = self._collector
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

    async def _verify(self, resource: Any, reader: Reader[Any]) -> "Verification":
        from telemetryd.informer.verify import verify  # noqa: PLC0415 - on demand

        try:
            self._verifying.acquire_nowait()
        except anyio.WouldBlock:
            raise CommandRefused("another comparison is at work: try again later") from None
        try:
            with anyio.fail_after(VERIFY_TIMEOUT_S):
                return await verify(
                    resource,
                    reader,
                    KubeSource(self._client, resource),
                    page_size=self._reloader.config.kubernetes.page_size,
                )
        except TimeoutError as error:
            message = f"{resource.id} can't be listed within {VERIFY_TIMEOUT_S:g} s"
            raise CommandRefused(message) from error
        finally:
            self._verifying.release()

    async def _about_history(self) -> CommandAnswer:
        document: Document = {
            "instance": instance_of(self._reloader.config),
            "state_dir": self._reloader.config.state_dir,
            "installations": await self._history.ask(lambda store: store.installations()),
        }
        return CommandAnswer(ok=True, result=document)

    async def _slots(self, request: Request) -> CommandAnswer:
        """The first slots of those asked for; with ``next``, from where to ask for more."""
        from telemetryd.history.transfer import describe_slot  # noqa: PLC0415 - on demand

        found = await self._history.ask(
            lambda store: store.read(
                request.name,
                request.size,
                request.begin,
                request.end,
                series=request.series,
                most=MOST_SLOTS,
            )
        )
        document: Document = {"slots": [describe_slot(request.name, slot) for slot in found]}
        if len(found) == MOST_SLOTS:
            document["next"] = found[-1].start + request.size
        return CommandAnswer(ok=True, result=document)

    async def _prune(self, request: Request) -> CommandAnswer:
        if request.all:
            await self._history.clear()
            return CommandAnswer(ok=True)
        removed = await self._history.prune(request.keep, request.keep_daily)
        return CommandAnswer(ok=True, result={"removed": removed})

    def _exporter(self, name: str) -> CommandAnswer:
        found = self._manager.status(name)
        document: Document = {"name": found.name, "state": str(found.state), "detail": found.detail}
        return CommandAnswer(ok=True, result={"exporter": document})


def describe_cache(reader: Reader[Any]) -> Document:
    """What a store holds: a digest of the keys, and the unreadable objects with the reason."""
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


def _describe(found: "Verification") -> Document:
    return {
        "equal": found.equal,
        "listed": found.listed,
        "resource_version": found.resource_version,
        "missing": list(found.missing[:MOST_SHOWN_KEYS]),
        "missing_count": len(found.missing),
        "extra": list(found.extra[:MOST_SHOWN_KEYS]),
        "extra_count": len(found.extra),
    }
