"""Exporters that send over HTTP: from their table in the configuration to the sink."""

import logging
import os
import queue
import threading
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Final

from telemetryd.config import HttpExporterConfig, OtlpExporterConfig, WebExporterConfig
from telemetryd.config.exporters import is_in_clear, is_over_tls, metrics_url
from telemetryd.export.sinks.http import HttpExporter
from telemetryd.export.sinks.otlp import OtlpExporter
from telemetryd.export.sinks.transport import Destination, HttpTransport
from telemetryd.export.turn import shared_threads
from telemetryd.kube.proxy import proxy_for
from telemetryd.kube.tls import Origin, TlsFiles, build_context
from telemetryd.limiter import Limiter

log = logging.getLogger(__name__)

CHECK_PATIENCE_S: Final = 1.0
"""For a look at an exporter's certificates before it is made."""
_CHECK_AGAIN_S: Final = 0.1
"""The same while an earlier look hangs: a daemon with many exporters must start all the same."""
MOST_CHECKS: Final = 8
"""Looks that hang at a time; beyond them none is begun."""
_CHECK: Final = "exporter certificates"


def build_http(
    config: HttpExporterConfig,
    *,
    now: Callable[[], float],
    environ: Mapping[str, str] = os.environ,
    threads: Limiter | None = None,
) -> HttpExporter:
    """A sink of type ``http``; nothing is opened.

    Args:
        config: Its table.
        now: Unix time in seconds.
        environ: Names the proxy.
        threads: Shared with other such sinks, None for its own.

    Raises:
        ConfigError: The proxy or a certificate can't be used.
    """
    return HttpExporter(_build_transport(config, config.url, now, environ, threads))


def build_otlp(
    config: OtlpExporterConfig,
    *,
    now: Callable[[], float],
    environ: Mapping[str, str] = os.environ,
    threads: Limiter | None = None,
) -> OtlpExporter:
    """A sink of type ``otlp``; nothing is opened.

    Args:
        config: Its table.
        now: Unix time in seconds.
        environ: Names the proxy.
        threads: Shared with other such sinks, None for its own.

    Raises:
        ConfigError: The proxy or a certificate can't be used.
    """
    url = metrics_url(config.endpoint)
    return OtlpExporter(_build_transport(config, url, now, environ, threads))


def _build_transport(
    config: WebExporterConfig,
    url: str,
    now: Callable[[], float],
    environ: Mapping[str, str],
    threads: Limiter | None,
) -> HttpTransport:
    """The way there, once what is there already of its files has been looked at.

    Raises:
        ConfigError: The proxy or a certificate can't be used.
    """
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
        Destination(
            url=url,
            proxy=proxy_for(url, environ),
            headers_file=config.headers_file,
            bearer_token_file=config.bearer_token_file,
            compress=config.compress,
        ),
        tls_files=tls_files,
        now=now,
        threads=threads or shared_threads(),
    )


def _check(files: TlsFiles, exporter: str) -> None:
    """Refuse certificates that can't be used; blocks for ``CHECK_PATIENCE_S`` at most.

    Where their disk hangs the exporter is made all the same: each of its attempts reads them, and
    fails as long as it can't.

    Raises:
        ConfigError: They can't be used.
    """
    results: queue.SimpleQueue[Exception | None] = queue.SimpleQueue()

    def look() -> None:
        try:
            # A certificate of our own may be issued later, as a token may.
            issued = files.cert_file is not None and Path(files.cert_file).exists()
            build_context(files if issued else replace(files, cert_file=None, key_file=None))
        except Exception as error:  # noqa: BLE001 - it is raised where it is waited for
            results.put(error)
        else:
            results.put(None)

    hanging = sum(thread.name == _CHECK for thread in threading.enumerate())
    patience_s = _CHECK_AGAIN_S if hanging else CHECK_PATIENCE_S
    if hanging < MOST_CHECKS:
        threading.Thread(target=look, name=_CHECK, daemon=True).start()
    else:
        patience_s = 0.0
    try:
        error = results.get(timeout=patience_s)
    except queue.Empty:
        log.warning(
            "certificates can't be read, their disk is slow or hangs: "
            "attempts fail until they can exporter=%s ca_file=%s client_cert_file=%s",
            exporter,
            files.ca_file,
            files.cert_file,
        )
        return
    if error is not None:
        raise error
