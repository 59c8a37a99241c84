"""The commands for pending payloads: list them, copy them, and send the copies elsewhere.

They only read the files of a running daemon. A copy keeps the epoch and sequence of its payload, so
that a receiver knows whether it has it. A payload that was made under less strict ``[privacy]``
settings than those in force is neither listed, copied nor sent.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Final

import anyio
import msgspec

from telemetryd.atomicfile import explain_newer, write_file
from telemetryd.config import Config, HttpExporterConfig
from telemetryd.daemon.exporters import build_http, spool_dir
from telemetryd.errors import ExportError, PermanentError, Reason, RetryableError, SpoolError
from telemetryd.export.exporter import ExportContext
from telemetryd.export.outbox.spool import LARGEST_BYTES, PendingPayload, SpoolFolder, exporters_in
from telemetryd.export.payloads.payload import render_rfc3339
from telemetryd.kube.files import read_small_file, why_unreadable
from telemetryd.model import Payload
from telemetryd.serve.control.text import render_columns

MANIFEST: Final = "manifest.json"
_VERSION: Final = 1


class ManifestEntry(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, omit_defaults=True
):
    """One payload of a manifest.

    Attributes:
        file: Its name in the manifest's folder.
        collected_at: Unix time in seconds.
        sha256: Of the file, in hex.
        omitted: Names of the ``[privacy]`` keys that omitted something from it.
    """

    file: str
    exporter: str
    installation_id: str
    sequence: int
    epoch: int
    collected_at: float
    digest: str
    content_type: str
    bytes: int
    sha256: str
    omitted: list[str] = []


class _AnyManifest(msgspec.Struct, frozen=True):
    """What a manifest of any version has."""

    telemetryd_spool: int


class Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The file that describes exported payloads."""

    telemetryd_spool: int
    payloads: list[ManifestEntry]


@dataclass(frozen=True, slots=True)
class Spooled:
    """What one exporter has on disk.

    Attributes:
        pending: None if nothing is pending, or it can't be read or must not leave.
        corrupt: Files that can't be read.
    """

    exporter: str
    pending: PendingPayload | None
    corrupt: int


def read_spool(config: Config) -> tuple[Spooled, ...]:
    """The pending payloads on disk, by exporter; exporters without any are left out.

    Raises:
        SpoolError: There is no folder for it, or it can't be read.
    """
    folder = spool_dir(config)
    if folder is None:
        raise SpoolError("there is no usable state_dir: configure one")
    found = []
    try:
        for name in exporters_in(folder):
            contents = SpoolFolder(folder, name).peek()
            pending = contents.pending
            if pending is not None and not config.privacy.omitted <= pending.omitted:
                pending = None
            if pending is not None or contents.damaged:
                found.append(Spooled(name, pending, len(contents.damaged)))
    except OSError as error:
        raise SpoolError(f"{folder} can't be read: {why_unreadable(error)}") from error
    return tuple(found)


def describe(spooled: Spooled) -> dict[str, object]:
    """As a document for programs."""
    pending = spooled.pending
    document: dict[str, object] = {"exporter": spooled.exporter, "corrupt_files": spooled.corrupt}
    if pending is not None:
        document |= {
            "sequence": pending.delivery.sequence,
            "epoch": pending.delivery.epoch,
            "collected_at": render_rfc3339(pending.delivery.at),
            "bytes": len(pending.payload.body),
            "content_type": pending.payload.content_type,
            "digest": pending.payload.digest,
        }
    return document


def render_table(found: Iterable[Spooled]) -> str:
    """As lines for people."""
    rows = []
    for spooled in found:
        document = {name: str(value) for name, value in describe(spooled).items()}
        sequence, collected_at, size, digest = (
            document.get(name, "-") for name in ("sequence", "collected_at", "bytes", "digest")
        )
        corrupt = document["corrupt_files"]
        rows.append((spooled.exporter, sequence, collected_at, size, digest[:12], corrupt))
    head = ("EXPORTER", "SEQUENCE", "COLLECTED", "BYTES", "DIGEST", "CORRUPT")
    return "".join(f"{line}\n" for line in render_columns(head, rows))


def export_spool(
    found: Sequence[Spooled], folder: Path, names: Sequence[str]
) -> tuple[ManifestEntry, ...]:
    """Copy payloads into a folder, with a manifest that is written last.

    ``folder`` is created if missing; ``names`` are of exporters, empty for all.

    Raises:
        SpoolError: One of them has nothing, or the folder can't be written to.
    """
    waiting = {each.exporter: each.pending for each in found if each.pending is not None}
    if missing := sorted(set(names) - set(waiting)):
        raise SpoolError(f"no pending payload of exporter {', '.join(missing)}")
    entries = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if (folder / MANIFEST).exists():
            raise SpoolError(f"{folder} holds an export already: give another folder")
        for name in names or sorted(waiting):
            entry = _entry(name, waiting[name])
            write_file(folder / entry.file, waiting[name].payload.body)
            entries.append(entry)
        manifest = Manifest(telemetryd_spool=_VERSION, payloads=entries)
        write_file(folder / MANIFEST, msgspec.json.format(msgspec.json.encode(manifest), indent=2))
    except OSError as error:
        fix = "name a folder that you may write to, with space"
        raise SpoolError(f"{folder} can't be written to: {why_unreadable(error)}: {fix}") from error
    return tuple(entries)


def read_export(path: Path) -> tuple[tuple[ManifestEntry, bytes], ...]:
    """The payloads of an export, oldest first, held against their checksums.

    ``path`` is its folder or its manifest.

    Raises:
        SpoolError: Something is missing, altered, or no export at all.
    """
    manifest_file = path / MANIFEST if path.is_dir() else path
    content = _read(manifest_file)
    try:
        version = msgspec.json.decode(content, type=_AnyManifest).telemetryd_spool
        if version > _VERSION:
            raise SpoolError(f"{manifest_file} {explain_newer(version, _VERSION)}")
        manifest = msgspec.json.decode(content, type=Manifest)
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        fix = "name the folder of a telemetryd spool export"
        raise SpoolError(f"{manifest_file} isn't a manifest ({error}): {fix}") from error
    if manifest.telemetryd_spool != _VERSION:
        raise SpoolError(f"{manifest_file} is of a version that isn't known here")
    found = []
    for entry in sorted(manifest.payloads, key=lambda each: each.sequence):
        if "/" in entry.file or entry.file in {"", ".", ".."}:
            raise SpoolError(f"{manifest_file} names a file outside of its folder")
        body = _read(manifest_file.parent / entry.file)
        if sha256(body).hexdigest() != entry.sha256:
            raise SpoolError(f"{entry.file} isn't what was exported: export it again")
        found.append((entry, body))
    return tuple(found)


async def replay(
    payloads: Iterable[tuple[ManifestEntry, bytes]],
    exporters: Callable[[str], HttpExporterConfig],
    *,
    omitted: frozenset[str],
    now: Callable[[], float],
    done: Callable[[ManifestEntry, ExportError | None], None],
) -> None:
    """Send exported payloads as they would have been, one attempt each.

    ``exporters`` has the configuration to send by, by the name in the manifest; ``done`` is called
    for each payload, with the error, if any.

    Raises:
        ConfigError: A proxy or a certificate can't be used.
    """
    for entry, body in payloads:
        config = exporters(entry.exporter)
        if missing := sorted(omitted.difference(entry.omitted)):
            said = f'made without [privacy] {", ".join(missing)} = "omit": it is not sent'
            done(entry, PermanentError(Reason.REJECTED, said))
            continue
        sink = build_http(config, now=now)
        payload = Payload(
            body=body,
            content_type=entry.content_type,
            digest=entry.digest,
            revision=0,
            schema_valid=True,
            schema_error="",
        )
        context = ExportContext(
            name=config.name,
            attempt=1,
            epoch=entry.epoch,
            installation_id=entry.installation_id,
            sequence=entry.sequence,
            collected_at=entry.collected_at,
        )
        try:
            with anyio.fail_after(config.timeout_s):
                await sink.export(payload, context)
        except ExportError as error:
            done(entry, error)
        except TimeoutError:
            said = f"no answer within {config.timeout_s:g} s"
            done(entry, RetryableError(Reason.TIMEOUT, said))
        else:
            done(entry, None)


def choose_exporter(config: Config, instead: str | None) -> Callable[[str], HttpExporterConfig]:
    """How an exporter of the configuration is found by the name that a manifest has.

    ``instead`` is the one to use for all, None for that of the same name.
    """

    def choose(name: str) -> HttpExporterConfig:
        wanted = instead or name
        for each in config.exporters:
            if isinstance(each, HttpExporterConfig) and each.name == wanted:
                if not each.enabled:
                    raise SpoolError(f"exporter {wanted!r} is off (enabled = false)")
                return each
        raise SpoolError(
            f"no exporter {wanted!r} of type http is configured: name another with --exporter"
        )

    return choose


def _entry(name: str, pending: PendingPayload) -> ManifestEntry:
    payload, delivery = pending.payload, pending.delivery
    suffix = "json" if payload.content_type == "application/json" else "payload"
    return ManifestEntry(
        file=f"{name}-{delivery.sequence}.{suffix}",
        exporter=name,
        installation_id=pending.installation_id,
        sequence=delivery.sequence,
        epoch=delivery.epoch,
        collected_at=delivery.at,
        digest=payload.digest,
        content_type=payload.content_type,
        bytes=len(payload.body),
        sha256=sha256(payload.body).hexdigest(),
        omitted=sorted(pending.omitted),
    )


def _read(path: Path) -> bytes:
    try:
        return read_small_file(str(path), LARGEST_BYTES)
    except (OSError, ValueError) as error:
        fix = "name the folder of a telemetryd spool export, readable by you"
        raise SpoolError(f"{path} can't be read: {why_unreadable(error)}: {fix}") from error
