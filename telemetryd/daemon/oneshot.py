"""One collection without a daemon: sync, render, and send nothing."""

import random
from collections.abc import Callable
from dataclasses import dataclass

import anyio

from telemetryd.config import Config
from telemetryd.daemon.collection import Collection
from telemetryd.errors import NotReady
from telemetryd.export.formats import PAYLOAD_FORMATS
from telemetryd.kube.client import KubeClient
from telemetryd.model import Delivery, Payload
from telemetryd.stats import KubeStats


@dataclass(frozen=True, slots=True)
class Collected:
    """What would be sent, and why it isn't the whole truth, if it isn't."""

    payload: Payload
    incomplete_reasons: tuple[str, ...]


async def collect_once(
    config: Config,
    *,
    payload_format: str,
    timeout_s: float,
    now: Callable[[], float],
    rng: random.Random,
) -> Collected:
    """Sync every informer once and render the payload, as the daemon's first would be.

    Args:
        config: Effective values of everything.
        payload_format: One of ``PAYLOAD_FORMATS``.
        timeout_s: How long the sync may take.
        now: Unix time in seconds.
        rng: Spreads retries.

    Raises:
        ConfigError: The API server can't be reached for want of a usable configuration.
        NotReady: The sync didn't end within the timeout; says what is missing and why.
    """
    async with KubeClient.connect(config.kubernetes, KubeStats()) as client:
        collection = Collection(config, client, now=now, rng=rng)
        chosen = PAYLOAD_FORMATS[payload_format]
        if chosen.needs_detail:
            collection.gatherer.add_detail()
        async with anyio.create_task_group() as collecting:
            collecting.start_soon(collection.run)
            with anyio.move_on_after(timeout_s):
                await collection.gatherer.wait_ready()
            missing = collection.gatherer.missing()
            if missing:
                errors = {status.last_error for status in collection.gatherer.required()} - {""}
                reasons = (f"{client.server}: {error}" for error in sorted(errors)[:1])
                collecting.cancel_scope.cancel()
            else:
                snapshot = collection.gatherer.snapshot()
                collecting.cancel_scope.cancel()
    if missing:
        raise NotReady((*missing, *reasons))
    at = now()
    delivery = Delivery(at=at, sequence=int(at * 1000))
    return Collected(chosen.renderer()(snapshot, delivery), snapshot.incomplete_reasons)
