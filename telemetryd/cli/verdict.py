"""What `telemetryd check-config` says of a valid text: whether a daemon could start with it.

Everything that ``run`` reads and builds before it listens is read and built here; nothing is sent,
written or bound. What may pass by itself, such as a token file that isn't there yet, is a warning.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, cast

import anyio
from anyio import to_thread

from telemetryd.config import Config, ConfigFile, ExporterConfig
from telemetryd.config.schema import keys_of
from telemetryd.daemon.exporters import ExporterFactory
from telemetryd.doctor.checking import Grade
from telemetryd.doctor.local import check_control_socket
from telemetryd.errors import ConfigError, HistoryError, Problem
from telemetryd.history.dsn import read_dsn
from telemetryd.kube.client import KubeClient
from telemetryd.serve.http.security import CertificateFiles, load_certificates
from telemetryd.stats import KubeStats

DISK_TIMEOUT_S = 10.0
"""For each look at the disk, which may hang."""


@dataclass(frozen=True, slots=True)
class ConfigVerdict:
    """What was found.

    Attributes:
        problems: A start would be refused.
        warnings: A start would not be refused, but something won't work yet.
    """

    problems: tuple[Problem, ...]
    warnings: tuple[Problem, ...] = ()


async def judge_config(
    config: Config, file: ConfigFile, *, now: Callable[[], float]
) -> ConfigVerdict:
    """Look at every file that is named, the login, and build every exporter.

    Args:
        config: With every restriction applied.
        file: Of which it was made, for the lines.
        now: Unix time in seconds.
    """
    problems: list[Problem] = []
    warnings: list[Problem] = []
    problems += await _try_login(config, now)
    problems += await _in_thread(partial(_judge_server, config, file, now()), file)
    # Sinks use it when they write, which none does here.
    factory = ExporterFactory(cast("Any", None), now=now)
    for exporter in config.exporters:
        problems += _try_exporter(factory, exporter, file)
        warnings += await _in_thread(partial(_missing_files, exporter, file), file)
    warnings += await _in_thread(partial(_judge_dsn, config, file), file)
    located = tuple(file.locate(each) for each in problems)
    wrong = {each.key for each in located}
    return ConfigVerdict(
        located, tuple(file.locate(each) for each in warnings if each.key not in wrong)
    )


async def _try_login(config: Config, now: Callable[[], float]) -> list[Problem]:
    try:
        async with KubeClient.connect(config.kubernetes, KubeStats(), now=now):
            return []
    except ConfigError as error:
        return list(error.problems)


async def _in_thread(look: Callable[[], list[Problem]], file: ConfigFile) -> list[Problem]:
    try:
        with anyio.fail_after(DISK_TIMEOUT_S):
            return await to_thread.run_sync(look, abandon_on_cancel=True)
    except TimeoutError:
        message = f"a file that it names can't be read within {DISK_TIMEOUT_S:g} s: check the disk"
        return [Problem(file.where, "", message)]


def _judge_server(config: Config, file: ConfigFile, now_s: float) -> list[Problem]:
    problems: list[Problem] = []
    files = CertificateFiles.of(config.server)
    try:
        if files is not None:
            load_certificates(files, file.where, now_s)
    except ConfigError as error:
        problems += error.problems
    return problems + [
        Problem(file.where, "server.control_socket", f"{found.detail}: {found.fix}")
        for found in check_control_socket(config.server.control_socket)
        if found.grade is Grade.FAIL
    ]


def _try_exporter(
    factory: ExporterFactory, exporter: ExporterConfig, file: ConfigFile
) -> list[Problem]:
    try:
        factory.build(exporter)
    except ConfigError as error:
        return list(error.problems)
    except (OSError, ValueError) as error:
        return [Problem(file.where, f"exporters.{exporter.name}", f"is unusable: {error}")]
    return []


def _judge_dsn(config: Config, file: ConfigFile) -> list[Problem]:
    try:
        if config.history.enabled and config.history.dsn_file is not None:
            read_dsn(config.history.dsn_file)
    except HistoryError as error:
        return [Problem(file.where, "history.dsn_file", f"no history is kept until then: {error}")]
    return []


def _missing_files(exporter: ExporterConfig, file: ConfigFile) -> list[Problem]:
    named = {
        key.name: getattr(exporter, key.attribute)
        for key in keys_of(type(exporter))
        if key.name.endswith("_file")
    }
    message = "names a file that isn't there yet: exports fail until it is"
    return [
        Problem(file.where, f"exporters.{exporter.name}.{name}", message)
        for name, path in named.items()
        if isinstance(path, str) and not Path(path).exists()
    ]
