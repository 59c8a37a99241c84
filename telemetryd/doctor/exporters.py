"""What each exporter that runs needs on this machine and on the way to its receiver.

Secrets are checked with the cluster. Nothing is sent.
"""

import ssl
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any, cast

import anyio

from telemetryd.bounds import error_text, free_text
from telemetryd.config import (
    Config,
    ExporterConfig,
    FileExporterConfig,
    HttpExporterConfig,
    OtlpExporterConfig,
    SecretExporterConfig,
    WebExporterConfig,
)
from telemetryd.config.exporters import is_over_tls, metrics_url
from telemetryd.config.plugins import load_plugin
from telemetryd.daemon.exporters import ExporterFactory
from telemetryd.doctor import local
from telemetryd.doctor.checking import CheckResult, PlannedCheck, fail, local_check, passed
from telemetryd.doctor.receiver import Receiver, check_receiver
from telemetryd.errors import ConfigError, ExportError, PermanentError
from telemetryd.export.sinks.credentials import read_credentials
from telemetryd.kube.files import PEM_BYTES, read_small_file
from telemetryd.kube.pem import certificates_in, parse_validity, read_validity
from telemetryd.kube.tls import TlsFiles, build_context

AT_A_TIME = 32
"""Exporters that are checked at the same time: each waits for another receiver."""

_NO_RESTART = "fix the file: it is read again for each attempt"


def exporter_checks(
    config: Config, environ: Mapping[str, str], now: Callable[[], float]
) -> list[PlannedCheck]:
    """The checks of every exporter that runs; ``environ`` names proxies."""
    return [
        check
        for exporter in config.exporters
        if exporter.enabled
        for check in _checks_of(exporter, environ, now)
    ]


def _checks_of(
    exporter: ExporterConfig, environ: Mapping[str, str], now: Callable[[], float]
) -> Iterator[PlannedCheck]:
    match exporter:
        case SecretExporterConfig():
            return
        case FileExporterConfig():
            what = f"directory of exporter {exporter.name}"
            yield local_check(what, partial(local.check_file_exporter, exporter))
        case HttpExporterConfig():
            yield from _web_checks(exporter, exporter.url, environ, now)
        case OtlpExporterConfig():
            yield from _web_checks(exporter, metrics_url(exporter.endpoint), environ, now)
        case _:
            what = f"check of exporter {exporter.name}"
            yield local_check(what, partial(check_plugin, exporter, now))


def _web_checks(
    exporter: WebExporterConfig, url: str, environ: Mapping[str, str], now: Callable[[], float]
) -> Iterator[PlannedCheck]:
    files = TlsFiles(
        ca_file=exporter.ca_file,
        cert_file=exporter.client_cert_file,
        key_file=exporter.client_key_file,
    )
    receiver = Receiver(exporter.name, url, files if is_over_tls(url) else None)
    look = partial(check_files, exporter, now)
    yield local_check(f"files of exporter {exporter.name}", look)

    async def reach() -> list[CheckResult]:
        return await check_receiver(receiver, environ, now())

    yield PlannedCheck(f"connection of exporter {exporter.name}", reach)


def check_files(exporter: WebExporterConfig, now: Callable[[], float]) -> list[CheckResult]:
    """Whether each file that it names can be read and used; blocks."""
    return [*_check_credentials(exporter), *_check_certificates(exporter, now())]


def _check_credentials(exporter: WebExporterConfig) -> Iterator[CheckResult]:
    headers, token = exporter.headers_file, exporter.bearer_token_file
    usable = True
    for key, path, files in (
        ("headers_file", headers, (headers, None)),
        ("bearer_token_file", token, (None, token)),
    ):
        if path is None:
            continue
        what = f"{key} of exporter {exporter.name}"
        try:
            read_credentials(*files)
            if key == "bearer_token_file" and usable:
                read_credentials(headers, token)  # only one of them may have Authorization
        except PermanentError as error:
            usable = False
            yield fail(what, str(error), _NO_RESTART)
        else:
            yield passed(what, f"{path} can be used")


def _check_certificates(exporter: WebExporterConfig, now_s: float) -> Iterator[CheckResult]:
    ca, cert, key = exporter.ca_file, exporter.client_cert_file, exporter.client_key_file
    if ca is not None:
        what = f"ca_file of exporter {exporter.name}"
        yield _try_to_load(what, TlsFiles(ca_file=ca)) or _judge_authorities(what, ca, now_s)
    if cert is None:
        return
    what = f"client_cert_file of exporter {exporter.name}"
    wrong = _try_to_load(what, TlsFiles(cert_file=cert, key_file=key))
    if wrong is not None:
        yield wrong
    elif validity := read_validity(cert):
        yield from local.judge_validity(what, cert, validity, now_s)
    else:
        yield passed(what, f"{cert} and its key fit")


def _try_to_load(what: str, files: TlsFiles) -> CheckResult | None:
    try:
        build_context(files)
    except ConfigError as error:
        named = " and ".join(filter(None, (files.ca_file, files.cert_file, files.key_file)))
        found, fix = local.split_message(error.problems[0].message)
        return fail(what, f"{named}: {found}", fix)
    return None


def _judge_authorities(what: str, path: str, now_s: float) -> CheckResult:
    """Others in a bundle may have expired; one must be valid."""
    found = certificates_in(read_small_file(path, PEM_BYTES))
    reasons = [_why_invalid(each, now_s) for each in found]
    if reasons and all(reasons):
        return fail(what, f"{path}: its certificate {reasons[0]}", "renew it, or check the clock")
    return passed(what, f"{path} can be used")


def _why_invalid(certificate: bytes, now_s: float) -> str:
    try:
        validity = parse_validity(ssl.DER_cert_to_PEM_cert(certificate).encode())
    except ValueError:
        return ""  # it was loaded, so it may be good
    return validity.why_not(now_s)


def check_plugin(exporter: ExporterConfig, now: Callable[[], float]) -> list[CheckResult]:
    """The check that another distribution brings, on a loop of its own; blocks for as long.

    It may hang there, or never let go of its thread, and costs itself alone.
    """
    return [anyio.run(partial(_run_plugin, exporter, now))]


async def _run_plugin(exporter: ExporterConfig, now: Callable[[], float]) -> CheckResult:
    what = f"check of exporter {exporter.name}"
    by = load_plugin(exporter.type).distribution
    try:
        _, sink = ExporterFactory(cast("Any", None), now=now).build(exporter)
    except ConfigError as error:
        problem = error.problems[0]
        fix = "fix its table in the configuration"
        return fail(what, f"{problem.key} {problem.message}".strip(), fix)
    check = getattr(sink, "check", None)
    if check is None:
        return passed(what, f"{by} brings none")
    try:
        said = await check()
    except ExportError as error:
        return fail(what, free_text(str(error)), f"see the documentation of {by}")
    except (Exception, SystemExit) as error:  # noqa: BLE001 - another distribution's code
        return fail(what, f"failed: {error_text(error)}", f"report it to those who make {by}")
    finally:
        await sink.aclose()
    return passed(what, free_text(str(said)) if said else f"{by} finds nothing wrong")
