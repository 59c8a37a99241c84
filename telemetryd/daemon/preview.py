"""Collects once without a daemon and renders a payload, which isn't sent."""

import random
from collections.abc import Callable
from dataclasses import dataclass

import anyio

from telemetryd.config import Config, EnvironmentSwitches
from telemetryd.config.restrictions import COLLECTION, OPT_OUT, OUT
from telemetryd.daemon.collection import (
    FinderTiming,
    SourceFinder,
    build_collection,
    find_build,
)
from telemetryd.daemon.exporters import disclosure_of, renderer_of
from telemetryd.daemon.restrictions import switches_of
from telemetryd.errors import KubeError, NotReady, Unauthorized, UnknownExporter
from telemetryd.export.payloads.formats import PAYLOAD_FORMATS, Format
from telemetryd.export.payloads.payload import Renderer
from telemetryd.gather.clusters import CLUSTERS
from telemetryd.gather.consumer import RancherBuild
from telemetryd.gather.project import OPT_OUT_SETTING, SETTINGS
from telemetryd.informer.source import serves_group
from telemetryd.kube.client import KubeClient
from telemetryd.model import Delivery, Disclosure, Payload, SettingRecord, SourceKind, Switches
from telemetryd.stats import GatherStats, KubeStats

_SECOND_LOOK_S = 1.0

ONCE = FinderTiming(confirmations=1)
"""A daemon confirms that there is no Rancher before it gives up one that it has collected from."""


@dataclass(frozen=True, slots=True)
class Collected:
    """What would be sent, and why it is incomplete, if it is.

    ``switches`` are what would stop a daemon from sending it.
    """

    payload: Payload
    incomplete_reasons: tuple[str, ...]
    source: SourceKind
    switches: Switches
    build: RancherBuild | None


@dataclass(frozen=True, slots=True)
class Preview:
    """How the printed payload is made."""

    render: Renderer
    format: Format
    disclosure: Disclosure


def preview_of_format(name: str) -> Preview:
    """The payload of a format."""
    chosen = PAYLOAD_FORMATS[name]
    return Preview(chosen.renderer(), chosen, Disclosure(name, chosen.fields))


def preview_of_exporter(config: Config, name: str) -> Preview:
    """The payload of an exporter of the configuration, whether it is enabled or not.

    Raises:
        UnknownExporter: There is none of that name.
    """
    for exporter in config.exporters:
        if exporter.name == name:
            chosen = PAYLOAD_FORMATS[exporter.format]
            return Preview(renderer_of(exporter), chosen, disclosure_of(exporter))
    known = ", ".join(exporter.name for exporter in config.exporters) or "none"
    raise UnknownExporter(f"there is no exporter {name!r} in the configuration, which has: {known}")


async def collect_once(
    config: Config,
    environment: EnvironmentSwitches,
    *,
    preview: Preview,
    timeout_s: float,
    now: Callable[[], float],
    rng: random.Random,
    remembered: frozenset[str] = frozenset(),
) -> Collected:
    """Sync every informer once and render the payload, as the daemon's first would be.

    It collects also what is switched off, because nothing is sent.

    Args:
        config: With every restriction that is written or remembered.
        environment: What the environment leaves on.
        preview: What is made of the snapshot.
        timeout_s: How long the sync may take.
        now: Unix time in seconds.
        rng: Spreads retries.
        remembered: Keys of remembered restrictions that alone keep collection off.

    Raises:
        ConfigError: The access to the API server isn't configured.
        NotReady: The sync didn't end within the timeout; says what is missing and why.
        Unauthorized: The API server doesn't know the user, which waiting doesn't change.
    """
    async with KubeClient.connect(config.kubernetes, KubeStats()) as client:
        ends_s = anyio.current_time() + timeout_s
        has_rancher = await _check_login(client, timeout_s=timeout_s)
        left_s = ends_s - anyio.current_time()
        source = await _find_source(config, client, has_rancher, timeout_s=left_s, rng=rng)
        collection = build_collection(
            source,
            config,
            client,
            now=now,
            rng=rng,
            stats=GatherStats(),
        )
        if preview.format.needs_detail:
            collection.gatherer.add_detail()
        async with anyio.create_task_group() as collecting:
            collecting.start_soon(collection.run)
            with anyio.move_on_after(ends_s - anyio.current_time()):
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
    settings = collection.informers.find(SETTINGS.id)
    opt_out = settings.reader.get(OPT_OUT_SETTING) if settings is not None else None
    said = opt_out.value if isinstance(opt_out, SettingRecord) else ""
    if said:
        remembered -= {OPT_OUT}
    at = now()
    return Collected(
        preview.render(snapshot, Delivery(at=at, sequence=int(at * 1000))),
        snapshot.incomplete_reasons + (snapshot.doubts if preview.format.tells_doubts else ()),
        source,
        switches_of(
            environment,
            enabled=config.enabled or COLLECTION in remembered,
            opted_out=said == OUT,
            remembered=bool(remembered),
        ),
        find_build(collection.informers.all()),
    )


async def _check_login(client: KubeClient, *, timeout_s: float) -> bool | None:
    """Check that the API server knows the user; whether it serves Rancher's API group.

    None where that isn't known.

    A refused credential gets a second try, with what its file or plugin holds by then. Other errors
    may pass: the sync waits for them.

    Raises:
        Unauthorized: The API server doesn't know the user.
    """
    with anyio.move_on_after(timeout_s):
        for last in (False, True):
            try:
                return await serves_group(
                    client, CLUSTERS.group, CLUSTERS.version, timeout_s=timeout_s
                )
            except Unauthorized as error:
                if last or error.status != 401:  # noqa: PLR2004 - HTTP
                    raise Unauthorized(f"{client.server}: {error}", status=error.status) from error
                await anyio.sleep(_SECOND_LOOK_S)
            except KubeError:
                return None
    return None


async def _find_source(
    config: Config,
    client: KubeClient,
    has_rancher: bool | None,  # noqa: FBT001 - what the first answer said
    *,
    timeout_s: float,
    rng: random.Random,
) -> SourceKind:
    """The source that is configured, or is there.

    Raises:
        NotReady: It isn't found within the timeout.
    """
    if config.kubernetes.source != "auto":
        return SourceKind(config.kubernetes.source)
    if has_rancher is not None:
        return SourceKind.RANCHER if has_rancher else SourceKind.KUBERNETES
    finder = SourceFinder(client, rng=rng, changed=lambda: None, timing=ONCE)
    with anyio.move_on_after(timeout_s):
        return await finder.find()
    raise NotReady((f"source: {client.server}: {finder.error or 'no answer in time'}",))
