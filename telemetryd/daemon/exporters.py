"""From an exporter's table in the configuration to what the manager registers."""

from collections.abc import Callable
from dataclasses import replace
from hashlib import sha256
from typing import Any

import anyio

from telemetryd.bounds import error_text
from telemetryd.config import (
    Config,
    ExporterConfig,
    FileExporterConfig,
    HttpExporterConfig,
    OtlpExporterConfig,
    RemoteExporterConfig,
    SecretExporterConfig,
)
from telemetryd.config.plugins import load_plugin
from telemetryd.config.values import HOUR_S, InvalidValue
from telemetryd.control.secretrequest.serving import PREFIX
from telemetryd.daemon.web import build_http, build_otlp
from telemetryd.errors import ConfigError, Problem
from telemetryd.export.exporter import GIVEN, BuildContext, Exporter
from telemetryd.export.payloads import otlp_metrics
from telemetryd.export.payloads.formats import PAYLOAD_FORMATS
from telemetryd.export.payloads.payload import Renderer
from telemetryd.export.sinks import http, secret
from telemetryd.export.sinks.file import FileExporter
from telemetryd.export.sinks.secret import SecretExporter
from telemetryd.export.sinks.transport import USER_AGENT
from telemetryd.export.spec import ExporterSpec
from telemetryd.export.threads import shared_threads
from telemetryd.kube.requests import Requests
from telemetryd.model import Disclosure, Field

_REQUEST_TIMEOUT_S = HOUR_S
"""As long as an attempt may be made to take. An attempt's own time is kept by the manager, for it
may be changed while the sink lives."""

LONGEST_INITIAL_DELAY_S = 30.0
"""Daemons that start together don't all send at once; operations, section 2.2."""


def spool_dir(config: Config) -> str | None:
    """Where exporters keep what isn't delivered, None where no state folder is usable."""
    return None if config.state_dir is None else f"{config.state_dir}/spool"


def renderer_of(config: ExporterConfig) -> Renderer:
    """What makes the payloads of this exporter."""
    if isinstance(config, OtlpExporterConfig):
        return otlp_metrics.OtlpRenderer()
    return PAYLOAD_FORMATS[config.format].renderer()


def disclosure_of(config: ExporterConfig) -> Disclosure:
    """All that this exporter sends.

    Raises:
        InvalidValue: It is of another distribution, which can't be used.
    """
    match config:
        case OtlpExporterConfig():
            return Disclosure(fields=(*otlp_metrics.FIELDS, *http.HEADERS))
        case HttpExporterConfig():
            return _of_format(config, http.HEADERS)
        case SecretExporterConfig():
            return _of_format(config, secret.ANNOTATIONS)
        case FileExporterConfig():
            return _of_format(config)
        case _:
            plugin = load_plugin(config.type)
            return replace(_of_format(config), plugin=plugin.distribution, given=GIVEN)


def _of_format(config: ExporterConfig, beside: tuple[Field, ...] = ()) -> Disclosure:
    return Disclosure(config.format, (*PAYLOAD_FORMATS[config.format].fields, *beside))


class ExporterFactory:
    """Builds exporters without side effects: nothing is opened, asked or written before a run."""

    def __init__(
        self,
        requests: Requests,
        *,
        now: Callable[[], float],
        saw_epoch: Callable[[int], None] = lambda _: None,
    ) -> None:
        """Prepare.

        Args:
            requests: To the API server, under the fence of leadership.
            now: Unix time in seconds.
            saw_epoch: Called with each leadership epoch that a destination names.
        """
        self._requests = requests
        self._saw_epoch = saw_epoch
        self._now = now
        self._render = {name: each.renderer() for name, each in PAYLOAD_FORMATS.items()}
        self._render_otlp = otlp_metrics.OtlpRenderer()
        # One for each kind: a disk that hangs holds up those who write to others for moments.
        self._file_threads = shared_threads()
        self._web_threads = shared_threads()

    def build(self, config: ExporterConfig) -> tuple[ExporterSpec, Exporter]:
        """What the manager is told of the exporter, and the sink itself.

        Raises:
            ConfigError: What it needs from the start can't be used.
        """
        sink = self._sink(config)
        return self.spec(config), sink

    def spec(self, config: ExporterConfig) -> ExporterSpec:
        """What the manager needs to know about the exporter."""
        match config:
            case SecretExporterConfig() | FileExporterConfig():
                return self._spec(config, verifies_destination=True)
            case HttpExporterConfig():
                destination = _destination(config, config.url) if config.spool else ""
                return self._spec(config, destination=destination, spooled=config.spool)
            case OtlpExporterConfig():
                destination = _destination(config, config.endpoint)
                return self._spec(config, render=self._render_otlp, destination=destination)
            case _:
                return self._spec(config)

    def _sink(self, config: ExporterConfig) -> Exporter:
        match config:
            case SecretExporterConfig():
                return self._secret(config)
            case FileExporterConfig():
                return self._file(config)
            case HttpExporterConfig():
                return build_http(config, now=self._now, threads=self._web_threads)
            case OtlpExporterConfig():
                return build_otlp(config, now=self._now, threads=self._web_threads)
            case _:
                return self._foreign(config)

    def _spec(self, config: ExporterConfig, **more: Any) -> ExporterSpec:
        remote = isinstance(config, RemoteExporterConfig)
        given = {"render": self._render[config.format], **more}
        return ExporterSpec(
            name=config.name,
            type=config.type,
            disclosure=disclosure_of(config),
            interval_s=config.interval_s,
            timeout_s=config.timeout_s,
            jitter=config.jitter,
            splay_max_s=config.splay_max_s,
            initial_delay_max_s=min(config.interval_s / 10, LONGEST_INITIAL_DELAY_S) * remote,
            retry_base_s=config.retry_base_s,
            retry_cap_s=config.retry_cap_s,
            retry_budget_s=config.retry_budget_s,
            max_silence_s=config.max_silence_s,
            enabled=config.enabled,
            **given,
        )

    def _secret(self, config: SecretExporterConfig) -> SecretExporter:
        return SecretExporter(
            self._requests,
            namespace=config.namespace,
            secret=config.secret,
            max_silence_s=config.max_silence_s,
            timeout_s=_REQUEST_TIMEOUT_S,
            quiet_period_s=config.quiet_period_s,
            takeover=config.takeover,
            requested=config.name.startswith(PREFIX),
            now=self._now,
            clock=anyio.current_time,
            saw_epoch=self._saw_epoch,
        )

    def _foreign(self, config: ExporterConfig) -> Exporter:
        """The sink of another distribution.

        Raises:
            ConfigError: It makes none.
        """
        where = f"exporter {config.name}"
        try:
            plugin = load_plugin(config.type)
        except InvalidValue as error:
            raise ConfigError(Problem(where, "type", str(error))) from error
        try:
            made: Exporter = plugin.factory.build(config, BuildContext(self._now, USER_AGENT))
        except ConfigError:
            raise
        except (Exception, SystemExit) as error:
            said = error_text(error)
            raise ConfigError(Problem(where, "", f"{plugin.distribution}: {said}")) from error
        if not all(callable(getattr(made, name, None)) for name in ("export", "aclose")):
            said = "build() made no exporter: it must have export() and aclose()"
            raise ConfigError(Problem(where, "", f"{plugin.distribution}: {said}"))
        return made

    def _file(self, config: FileExporterConfig) -> FileExporter:
        return FileExporter(
            name=config.name,
            directory=config.directory,
            keep=config.keep,
            max_bytes=config.max_bytes,
            compress=config.compress,
            max_silence_s=config.max_silence_s,
            now=self._now,
            threads=self._file_threads,
        )


def _destination(config: ExporterConfig, url: str) -> str:
    """Tells a destination from another without telling where it is."""
    return sha256(f"{config.type}\0{url}".encode()).hexdigest()
