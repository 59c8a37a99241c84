"""What a daemon writes and where, for people; and a run that writes nothing but logs what it would.

In a dry run every sink is replaced by one that logs, and a request that would change the API server
is answered with the object as it is. There is no Lease, state folder or control socket.
"""

import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any, Final
from urllib.parse import urlsplit

from telemetryd.config import (
    Config,
    ExporterConfig,
    FileExporterConfig,
    HttpExporterConfig,
    OtlpExporterConfig,
    SecretExporterConfig,
)
from telemetryd.export.exporter import ExportContext, Exporter, ExporterSpec, Outcome
from telemetryd.kube.client import KubeClient
from telemetryd.model import Payload

log = logging.getLogger(__name__)

IN_POD: Final = "KUBERNETES_SERVICE_HOST"
"""Set in every pod."""

_READS: Final = frozenset({"GET", "HEAD"})
_QUESTIONS: Final = ("tokenreviews", "subjectaccessreviews", "selfsubjectaccessreviews")
"""Created without being kept: they are questions to the API server."""
_MOST_REMEMBERED: Final = 1024

Build = Callable[[ExporterConfig], tuple[ExporterSpec, Exporter]]


def without_places(config: Config) -> Config:
    """The configuration of a dry run: nothing outlives it, and no other replica is kept off."""
    return replace(
        config,
        state_dir=None,
        history=replace(config.history, store="sqlite", dsn_file=None),
        server=replace(config.server, control_socket=None),
        leader_election=replace(config.leader_election, enabled=False),
    )


def announce(config: Config, api_server: str, environ: Mapping[str, str], *, dry_run: bool) -> None:
    """Say what will be written where; outside of a pod a daemon may be started by mistake."""
    writes = "; ".join(describe_writes(config))
    if dry_run:
        log.info("dry run: nothing is written api_server=%s would_write=%r", api_server, writes)
    elif not environ.get(IN_POD):
        message = "runs outside a pod and writes, run --dry-run would not api_server=%s writes=%r"
        log.warning(message, api_server, writes)


def describe_writes(config: Config) -> Iterator[str]:
    """Everything that this configuration writes, a line each."""
    for exporter in config.exporters:
        if config.enabled and exporter.enabled:
            yield f"exporter {exporter.name}: {describe_destination(exporter)}"
    if config.enabled and config.secret_requests.enabled is not False:
        yield "SecretRequests: their status, and the Secrets that they ask for"
    election = config.leader_election
    if election.enabled:
        yield f"leader election: Lease {election.namespace}/{election.name}"
    if config.state_dir is not None:
        yield f"state: files in {config.state_dir}"


def describe_destination(exporter: ExporterConfig) -> str:
    """Where an exporter writes; of a URL no more than its origin."""
    match exporter:
        case SecretExporterConfig():
            return f"Secret {exporter.namespace}/{exporter.secret}"
        case FileExporterConfig():
            return f"files in {exporter.directory}"
        case HttpExporterConfig():
            return f"POST to {_origin(exporter.url)}"
        case OtlpExporterConfig():
            return f"POST to {_origin(exporter.endpoint)}"
        case _:
            return f"by the plug-in of type {exporter.type}"


def dry(build: Build) -> Build:
    """Builds exporters that log in place of writing."""

    def build_dry(config: ExporterConfig) -> tuple[ExporterSpec, Exporter]:
        spec, sink = build(config)
        return spec, DryRunExporter(sink, describe_destination(config))

    return build_dry


class DryRunExporter:
    """Logs each payload that its sink would get."""

    def __init__(self, sink: Exporter, destination: str) -> None:
        """The sink is only closed."""
        self._sink = sink
        self._destination = destination
        self._digest = ""

    async def export(self, payload: Payload, context: ExportContext) -> Outcome:
        """Log the size and digest of a new payload; `telemetryd payload` shows what is in it."""
        if payload.digest == self._digest:
            return Outcome.UNCHANGED
        self._digest = payload.digest
        message = "dry run: payload not written exporter=%s destination=%r bytes=%d digest=%s"
        log.info(message, context.name, self._destination, len(payload.body), payload.digest)
        return Outcome.WRITTEN

    async def aclose(self) -> None:
        """Release what the sink holds."""
        await self._sink.aclose()


class ReadOnlyClient(KubeClient):
    """Sends no request that would change the API server: it logs it, and reads the object."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        """As a ``KubeClient``."""
        super().__init__(*arguments, **options)
        self._logged: set[tuple[str, str]] = set()

    async def request(self, method: str, path: str, **options: Any) -> bytes:
        """As that of a ``KubeClient``, except for a request that isn't a read."""
        if method in _READS or path.endswith(_QUESTIONS):
            return await super().request(method, path, **options)
        if (method, path) not in self._logged:  # a controller tries again and again
            if len(self._logged) < _MOST_REMEMBERED:
                self._logged.add((method, path))
            log.info("dry run: request not sent method=%s path=%s", method, path)
        return await super().request("GET", path, timeout_s=options["timeout_s"])


def _origin(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}"
