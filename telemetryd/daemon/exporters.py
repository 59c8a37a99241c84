"""From an exporter's table in the configuration to what the manager registers.

Nothing here opens, requests or writes anything, but certificates are checked.
"""

import logging
import os
import threading
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

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
    WebExporterConfig,
)
from telemetryd.config.exporters import is_in_clear, is_over_tls, metrics_url
from telemetryd.config.plugins import load_plugin
from telemetryd.config.values import HOUR_S, InvalidValue
from telemetryd.control.secretrequest.targetsecrets import PREFIX
from telemetryd.errors import ConfigError, Problem
from telemetryd.export.exporter import (
    GIVEN,
    BuildContext,
    Exporter,
    ExporterSpec,
    why_no_exporter,
)
from telemetryd.export.payloads.formats import PAYLOAD_FORMATS
from telemetryd.export.payloads.payload import Renderer
from telemetryd.export.sinks import secret
from telemetryd.export.sinks.secret import SecretExporter
from telemetryd.export.threads import shared_threads
from telemetryd.kube.address import proxy_for
from telemetryd.kube.requests import Requests
from telemetryd.kube.tls import Origin, TlsFiles, build_context
from telemetryd.limiter import Limiter
from telemetryd.model import Disclosure

if TYPE_CHECKING:
    from telemetryd.export.sinks.http import HttpExporter, OtlpExporter
    from telemetryd.export.sinks.transport import HttpTransport

log = logging.getLogger(__name__)

_REQUEST_TIMEOUT_S = HOUR_S
"""Upper limit of an attempt's timeout. The manager keeps the timeout itself, which may change while
the sink lives."""

LONGEST_INITIAL_DELAY_S = 30.0
"""Daemons that start together don't all send at once."""

CHECK_PATIENCE_S: Final = 1.0
"""For a check of an exporter's certificates before it is made."""
_CHECK_AGAIN_S: Final = 0.1
"""The same while an earlier check hangs: a daemon with many exporters must start all the same."""
MOST_CHECKS: Final = 8
"""Checks that may hang at a time; beyond them none is started."""
_CHECK: Final = "exporter certificates"


def spool_dir(config: Config) -> str | None:
    """Where exporters keep pending payloads, None without a usable state folder."""
    return None if config.state_dir is None else f"{config.state_dir}/spool"


def renderer_of(config: ExporterConfig) -> Renderer:
    """The renderer of this exporter's payloads."""
    return _make_renderer("otlp" if isinstance(config, OtlpExporterConfig) else config.format)


def _make_renderer(name: str) -> Renderer:
    if name == "otlp":
        from telemetryd.export.payloads import otlp_metrics  # noqa: PLC0415 - where it is used

        return otlp_metrics.OtlpRenderer()
    return PAYLOAD_FORMATS[name].renderer()


def disclosure_of(config: ExporterConfig) -> Disclosure:
    """All that this exporter sends.

    Raises:
        InvalidValue: It is a plug-in that can't be used.
    """
    match config:
        case OtlpExporterConfig():
            return _disclosure("otlp", "")
        case HttpExporterConfig():
            return _disclosure("http", config.format)
        case SecretExporterConfig():
            return _disclosure("secret", config.format)
        case FileExporterConfig():
            return _disclosure("file", config.format)
        case _:
            plugin = load_plugin(config.type)
            shared = _disclosure("", config.format)
            return replace(shared, plugin=plugin.distribution, given=GIVEN)


@cache
def _disclosure(sink: str, format_: str) -> Disclosure:
    """What such a sink sends; one object for all exporters that are alike."""
    fields = PAYLOAD_FORMATS[format_].fields if format_ else ()
    match sink:
        case "secret":
            fields += secret.ANNOTATIONS
        case "http":
            from telemetryd.export.sinks import http  # noqa: PLC0415 - where it is used

            fields += http.HEADERS
        case "otlp":
            from telemetryd.export.payloads import otlp_metrics  # noqa: PLC0415 - where it is used
            from telemetryd.export.sinks import http  # noqa: PLC0415

            fields = (*otlp_metrics.FIELDS, *http.HEADERS)
    return Disclosure(format_, fields)


class ExporterFactory:
    """Builds exporters without side effects."""

    def __init__(
        self,
        requests: Requests,
        *,
        now: Callable[[], float],
        saw_epoch: Callable[[int], None] = lambda _: None,
    ) -> None:
        """Requests need the fence; ``saw_epoch`` gets each epoch that a destination names."""
        self._requests = requests
        self._saw_epoch = saw_epoch
        self._now = now
        self._renderers: dict[str, Renderer] = {}
        # One limiter for each kind, so that a disk that hangs delays other kinds only briefly.
        self._file_threads = shared_threads()
        self._web_threads = shared_threads()

    def build(self, config: ExporterConfig) -> tuple[ExporterSpec, Exporter]:
        """What the manager needs to know about the exporter, and the sink.

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
                return self._spec(config, render=self._render("otlp"), destination=destination)
            case _:
                return self._spec(config)

    def _render(self, name: str) -> Renderer:
        """The renderer of a format, which all exporters share."""
        if name not in self._renderers:
            self._renderers[name] = _make_renderer(name)
        return self._renderers[name]

    def _sink(self, config: ExporterConfig) -> Exporter:
        match config:
            case SecretExporterConfig():
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
            case FileExporterConfig():
                from telemetryd.export.sinks.file import FileExporter  # noqa: PLC0415 - where used

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
            case HttpExporterConfig():
                return build_http(config, now=self._now, threads=self._web_threads)
            case OtlpExporterConfig():
                return build_otlp(config, now=self._now, threads=self._web_threads)
            case _:
                return self._from_plugin(config)

    def _spec(self, config: ExporterConfig, **more: Any) -> ExporterSpec:
        remote = isinstance(config, RemoteExporterConfig)
        given = {"render": self._render(config.format), **more}
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

    def _from_plugin(self, config: ExporterConfig) -> Exporter:
        """The sink of a plug-in.

        Raises:
            ConfigError: The plug-in can't be used.
        """
        from telemetryd.export.sinks.transport import USER_AGENT  # noqa: PLC0415 - where it is used

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
        if why := why_no_exporter(made):
            said = f"build() made no exporter: {why}"
            raise ConfigError(Problem(where, "", f"{plugin.distribution}: {said}"))
        return made


def _destination(config: ExporterConfig, url: str) -> str:
    """Distinguishes destinations without revealing them."""
    return sha256(f"{config.type}\0{url}".encode()).hexdigest()


def build_http(
    config: HttpExporterConfig,
    *,
    now: Callable[[], float],
    environ: Mapping[str, str] = os.environ,
    threads: Limiter | None = None,
) -> "HttpExporter":
    """A sink of type ``http``; nothing is opened.

    ``environ`` names the proxy; ``threads`` may be shared with other such sinks.

    Raises:
        ConfigError: The proxy or a certificate can't be used.
    """
    from telemetryd.export.sinks.http import HttpExporter  # noqa: PLC0415 - where it is used

    transport = build_transport(config, config.url, now=now, environ=environ, threads=threads)
    return HttpExporter(transport)


def build_otlp(
    config: OtlpExporterConfig,
    *,
    now: Callable[[], float],
    environ: Mapping[str, str] = os.environ,
    threads: Limiter | None = None,
) -> "OtlpExporter":
    """A sink of type ``otlp``, as ``build_http`` makes one.

    Raises:
        ConfigError: The proxy or a certificate can't be used.
    """
    from telemetryd.export.sinks.http import OtlpExporter  # noqa: PLC0415 - where it is used

    url = metrics_url(config.endpoint)
    return OtlpExporter(build_transport(config, url, now=now, environ=environ, threads=threads))


def build_transport(
    config: WebExporterConfig,
    url: str,
    *,
    now: Callable[[], float],
    environ: Mapping[str, str] = os.environ,
    threads: Limiter | None = None,
) -> "HttpTransport":
    """What sends to a URL as the keys of an exporter's table say. Nothing is requested yet.

    Certificates that exist already are checked, which blocks for a second at most.

    Args:
        config: Its files are read again for each request.
        url: http or https. Most types have it in their table.
        now: Unix time in seconds.
        environ: Its ``HTTPS_PROXY``, ``HTTP_PROXY`` and ``NO_PROXY`` say which proxy is used.
        threads: Limits how many exporters read files at a time; None for a limiter of its own.

    Raises:
        ConfigError: The proxy or a certificate can't be used.
    """
    from telemetryd.export.sinks.transport import HttpTransport  # noqa: PLC0415 - where it is used

    tls_files = None
    if is_over_tls(url):
        where = f"exporter {config.name}"
        tls_files = TlsFiles(
            ca_file=config.ca_file,
            cert_file=config.client_cert_file,
            key_file=config.client_key_file,
            verify=True,
            ca_origin=Origin(where, "ca_file"),
            cert_origin=Origin(where, "client_cert_file"),
        )
        if tls_files.ca_file is not None or tls_files.cert_file is not None:
            _check(tls_files, config.name)
    elif is_in_clear(url):
        log.warning("payloads leave in clear text: give an https URL exporter=%s", config.name)
    return HttpTransport(
        url=url,
        proxy=proxy_for(url, environ),
        headers_file=config.headers_file,
        bearer_token_file=config.bearer_token_file,
        compress=config.compress,
        tls_files=tls_files,
        now=now,
        threads=threads or shared_threads(),
    )


def _check(files: TlsFiles, exporter: str) -> None:
    """Refuse invalid certificates; blocks for ``CHECK_PATIENCE_S`` at most.

    If their disk hangs, the exporter is made all the same: each of its attempts reads them, and
    fails as long as it can't.

    Raises:
        ConfigError: They can't be used.
    """
    failed: list[Exception] = []

    def look() -> None:
        try:
            # A certificate of our own may be issued later, as a token may.
            issued = files.cert_file is not None and Path(files.cert_file).exists()
            build_context(files if issued else replace(files, cert_file=None, key_file=None))
        except Exception as error:  # noqa: BLE001 - it is raised where it is waited for
            failed.append(error)

    hanging = sum(thread.name == _CHECK for thread in threading.enumerate())
    thread = threading.Thread(target=look, name=_CHECK, daemon=True)
    if hanging < MOST_CHECKS:
        thread.start()
        thread.join(_CHECK_AGAIN_S if hanging else CHECK_PATIENCE_S)
    if thread.ident is None or thread.is_alive():
        log.warning(
            "certificates can't be read, their disk is slow or hangs: "
            "attempts fail until they can exporter=%s ca_file=%s client_cert_file=%s",
            exporter,
            files.ca_file,
            files.cert_file,
        )
    elif failed:
        raise failed[0]
