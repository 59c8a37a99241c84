"""The parts of a support bundle that show a daemon, or what can be had where none runs.

Nothing of a Secret, a payload or an object is in them; names of clusters and nodes, the server's
URL and the identity are taken out here, where they are known. ``cli.supportbundle`` adds what it
can find out by itself, and writes the archive.
"""

import os
import re
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeAlias

import anyio
import orjson
from anyio import to_thread

from telemetryd.config import Config, ConfigFile, ConfigSource
from telemetryd.config.show import render_in_force
from telemetryd.daemon.reload import Reloader
from telemetryd.errors import ConfigError
from telemetryd.informer.informer import Informer
from telemetryd.logs import RECENT
from telemetryd.model import RestrictionStatus
from telemetryd.scrubbing import Scrubber, words_of_url
from telemetryd.serve.control.protocol import Document
from telemetryd.serve.metrics.metrics import MetricsRenderer
from telemetryd.serve.page.facts import StatusFacts, render_time
from telemetryd.serve.page.status import render_status
from telemetryd.sharedread import SharedRead

STATUS: Final = "status.json"
METRICS: Final = "metrics.txt"
LOG: Final = "log.jsonl"
CONFIG: Final = "config.toml"
ENVIRONMENT: Final = "environment.txt"
FILES: Final = "state-folder.json"
OF_DAEMON: Final = (STATUS, METRICS, LOG)
"""Parts that only a running daemon has."""

Part: TypeAlias = Document | list[Any] | str
"""A document, lines, or why there is none."""

LocalReads: TypeAlias = SharedRead[dict[str, Part]]

DISK_TIMEOUT_S: Final = 10.0
MOST_FILES: Final = 1000
MOST_METRIC_LINES: Final = 40_000
"""Some MiB: of hundreds of exporters."""
_DEEPEST: Final = 3
_NAMED_OBJECTS: Final = frozenset(
    {"clusters.management.cattle.io", "nodes.management.cattle.io", "nodes"}
)
_VARIABLES: Final = re.compile(
    r"TELEMETRYD_\w+|DO_NOT_TRACK|KUBE\w+|\w+_PROXY|(STATE|RUNTIME)_DIRECTORY|XDG_STATE_HOME|HOME"
    r"|HOSTNAME|JOURNAL_STREAM|NOTIFY_SOCKET|WATCHDOG_\w+|INVOCATION_ID|SSL_CERT_\w+|PYTHON\w+"
    r"|MALLOC_\w+|LC_\w+|LANG|TZ",
    re.IGNORECASE,
)
"""What telemetryd or a library of it reads."""


@dataclass(frozen=True, slots=True)
class LocalFacts:
    """What the parts are made of that need no daemon.

    Attributes:
        restrict: The configuration with every restriction applied.
        restrictions: Each that is written or remembered.
    """

    source: ConfigSource
    file: ConfigFile
    restrict: Callable[[Config], Config]
    restrictions: tuple[RestrictionStatus, ...]


async def daemon_parts(
    facts: StatusFacts,
    metrics: MetricsRenderer,
    reloader: Reloader,
    informers: Iterable[Informer[Any, Any]],
    reads: LocalReads,
) -> Document:
    """What a running daemon shows: ``parts`` by their names.

    ``hidden`` has the words and names that were taken out, so that they can be taken out of what
    else comes into the bundle. It goes to the client alone.
    """
    names = [
        part
        for informer in informers
        if informer.resource.id in _NAMED_OBJECTS
        for key in informer.reader.keys()  # noqa: SIM118 - it is no mapping
        for part in key.split("/")
    ]
    config, snapshot = reloader.config, facts.snapshot
    words = [*words_of_url(facts.api_server), *words_of_config(config)]
    if snapshot is not None:
        known = snapshot.identity
        words += [known.install_uuid, known.cluster_uuid, *words_of_url(known.server_url)]
    exposition = await metrics.render()
    source, file, restrictions = reloader.source, reloader.file, reloader.restrictions
    local = await local_parts(
        LocalFacts(
            source,
            file,
            restrict=lambda config: restrictions.restrict(config, source.statements(file)),
            restrictions=restrictions.statuses(),
        ),
        reads,
    )
    status = render_status(facts)
    return await to_thread.run_sync(
        partial(_scrubbed, local, status, exposition.body, words, names)
    )


def _scrubbed(
    local: Mapping[str, Part],
    status: Document,
    metrics: bytes,
    words: list[str],
    names: list[str],
) -> Document:
    scrubber = Scrubber(words, names=names)
    lines = metrics.decode().splitlines()
    parts = {
        **local,
        STATUS: status,
        METRICS: lines[:MOST_METRIC_LINES],
        LOG: [orjson.loads(line) for line in RECENT.take()],
    }
    left_out = len(lines) - MOST_METRIC_LINES
    if left_out > 0:
        parts[METRICS] = [*lines[:MOST_METRIC_LINES], f"# {left_out} more lines are left out"]
    hidden = {"words": words, "names": sorted(set(names))}
    return {"parts": scrubber.scrub_document(parts), "hidden": hidden}


async def local_parts(facts: LocalFacts, reads: LocalReads) -> dict[str, Part]:
    """Configuration, names of variables, and names and sizes of the files in the state folder.

    A disk that hangs costs its parts, and one thread of ``reads``.
    """
    found: dict[str, Part] = {ENVIRONMENT: variables(facts.source.environ)}
    try:
        with anyio.fail_after(DISK_TIMEOUT_S):
            found |= await reads.begin(partial(_on_disk, facts))
    except (TimeoutError, OSError):
        why = f"the disk doesn't answer within {DISK_TIMEOUT_S:g} s"
        found |= {CONFIG: why, FILES: why}
    return found


def _on_disk(facts: LocalFacts) -> dict[str, Part]:
    try:
        config = facts.restrict(facts.source.parse(facts.file))
        lines = list(render_in_force(config, facts.source, facts.file, facts.restrictions))
    except ConfigError as error:
        why = "; ".join(map(str, error.problems))
        return {CONFIG: why, FILES: f"the configuration can't be used: {why}"}
    return {CONFIG: lines, FILES: describe_folder(config.state_dir)}


def words_of_config(config: Config) -> list[str]:
    """What a configuration says of the site: identity, context, and the paths of receivers."""
    identity = config.identity
    words = [identity.install_uuid or "", identity.cluster_uuid or ""]
    words += words_of_url(identity.server_url or "")
    words.append(config.kubernetes.context or "")
    for exporter in config.exporters:
        for key in ("url", "endpoint"):
            # The path may be a credential, as that of a webhook is; the host is the receiver's.
            words += words_of_url(getattr(exporter, key, None) or "")[1:]
    return words


def variables(environ: Mapping[str, str]) -> list[Any]:
    """Names of the variables that count, without their values."""
    return sorted(name for name in environ if _VARIABLES.fullmatch(name))


def describe_folder(state_dir: str | None) -> Part:
    """Names, sizes and times of the files in the state folder; why not where they can't be had."""
    if state_dir is None:
        return "there is no usable state_dir"
    try:
        found = sorted(_files(Path(state_dir), "", _DEEPEST))
    except OSError as error:
        return f"{state_dir}: {(error.strerror or str(error)).lower()}"
    files = [
        {"name": name, "kind": kind, "bytes": size, "modified_at": render_time(at)}
        for name, kind, size, at in found[:MOST_FILES]
    ]
    return {"folder": state_dir, "files": files, "left_out": max(0, len(found) - MOST_FILES)}


def _files(folder: Path, prefix: str, depth: int) -> Iterator[tuple[str, str, int, float]]:
    with os.scandir(folder) as entries:
        for entry in entries:
            status = entry.stat(follow_symlinks=False)
            is_folder = stat.S_ISDIR(status.st_mode)
            kind = "folder" if is_folder else "file" if stat.S_ISREG(status.st_mode) else "other"
            yield prefix + entry.name, kind, status.st_size, status.st_mtime
            if is_folder and depth > 1:
                yield from _files(Path(entry.path), f"{prefix}{entry.name}/", depth - 1)
