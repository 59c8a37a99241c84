"""From an exporter's table in the configuration to what the manager registers."""

from collections.abc import Callable

import anyio

from telemetryd.config import ExporterConfig, FileExporterConfig, SecretExporterConfig
from telemetryd.config.values import HOUR_S
from telemetryd.export.exporter import Exporter
from telemetryd.export.file import FileExporter
from telemetryd.export.formats import PAYLOAD_FORMATS
from telemetryd.export.secret import KubeRequests, SecretExporter
from telemetryd.export.spec import ExporterSpec

_REQUEST_TIMEOUT_S = HOUR_S
"""As long as an attempt may be made to take. An attempt's own time is kept by the manager, for it
may be changed while the sink lives."""


class ExporterFactory:
    """Builds exporters without side effects: nothing is opened, asked or written before a run."""

    def __init__(self, client: KubeRequests, *, now: Callable[[], float]) -> None:
        """Prepare.

        Args:
            client: The API server; stays the caller's.
            now: Unix time in seconds.
        """
        self._client = client
        self._now = now
        self._render = {name: each.renderer() for name, each in PAYLOAD_FORMATS.items()}

    def build(self, config: ExporterConfig) -> tuple[ExporterSpec, Exporter]:
        """What the manager is told of the exporter, and the sink itself.

        Raises:
            TypeError: No such type is known here.
        """
        match config:
            case SecretExporterConfig():
                return self._spec(config, verifies_destination=True), self._secret(config)
            case FileExporterConfig():
                return self._spec(config, verifies_destination=True), self._file(config)
            case _:
                raise TypeError(f"no exporter is of type {config.type!r}")

    def _spec(self, config: ExporterConfig, *, verifies_destination: bool) -> ExporterSpec:
        return ExporterSpec(
            name=config.name,
            type=config.type,
            render=self._render[config.format],
            format=config.format,
            interval_s=config.interval_s,
            timeout_s=config.timeout_s,
            jitter=config.jitter,
            splay_max_s=config.splay_max_s,
            retry_base_s=config.retry_base_s,
            retry_cap_s=config.retry_cap_s,
            retry_budget_s=config.retry_budget_s,
            max_silence_s=config.max_silence_s,
            verifies_destination=verifies_destination,
            enabled=config.enabled,
        )

    def _secret(self, config: SecretExporterConfig) -> SecretExporter:
        return SecretExporter(
            self._client,
            namespace=config.namespace,
            secret=config.secret,
            max_silence_s=config.max_silence_s,
            timeout_s=_REQUEST_TIMEOUT_S,
            quiet_period_s=config.quiet_period_s,
            takeover=config.takeover,
            now=self._now,
            clock=anyio.current_time,
        )

    def _file(self, config: FileExporterConfig) -> FileExporter:
        return FileExporter(
            name=config.name,
            directory=config.directory,
            keep=config.keep,
            max_bytes=config.max_bytes,
            compress=config.compress,
            max_silence_s=config.max_silence_s,
            now=self._now,
        )
