"""What differs between two configurations: pure, and by their effective values alone.

Order, comments and ways of writing (``"60s"``, ``"1m"``) make no difference.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import MISSING, dataclass
from hashlib import sha256
from typing import Any

from telemetryd.config.exporters import ExporterConfig
from telemetryd.config.schema import Key, Table, Variants, keys_of
from telemetryd.config.settings import Config
from telemetryd.config.values import Duration, render_duration

RELOADABLE = (
    "enabled",
    "log_level",
    "log_format",
    "drain_timeout",
    "reload_on_change",
    "identity",
    "privacy",
    "secret_requests",
    "history",
    "entitlement",
)
"""Keys and tables that a running daemon can change, beside the exporters.

Every other one needs a restart: a new key does until something here says otherwise.
"""

RELOADABLE_ALONE = frozenset(
    {
        "server.expose_payload",
        "server.expose_history",
        "server.tls_cert_file",
        "server.tls_key_file",
        "server.client_ca_file",
        "server.kubernetes_auth",
    }
)
"""Keys that it can change in a table of which others need a restart."""

IN_PLACE = frozenset({"interval", "timeout"})
"""Keys of an exporter that change without an end of what it does."""

_EXPORTERS = "exporters"
_HIDDEN = re.compile(r"identity\..*|.*_file|kubernetes\.kubeconfig")
"""Keys whose values no message shows: a credential may have been given in place of its file."""
_HASH_BYTES = 6  # a float holds 48 bits exactly, which is why kube-state-metrics shows so many


@dataclass(frozen=True, slots=True)
class KeyChange:
    """One key with another value.

    Attributes:
        path: ``server.listen``; for a key of an exporter its name alone.
        old: The former effective value as the file would write it, None for unset.
        new: The new one, as old.
    """

    path: str
    old: object
    new: object


@dataclass(frozen=True, slots=True)
class ExporterChange:
    """An exporter that stays under its name and isn't as it was.

    Attributes:
        config: The new one.
        keys: What differs, at least one; ``type`` alone where that does.
    """

    config: ExporterConfig
    keys: tuple[KeyChange, ...]


@dataclass(frozen=True, slots=True)
class ConfigDiff:
    """What it takes to come from one configuration to another; exporters by name, in file order.

    Attributes:
        restart_only: Keys that a running daemon can't change.
        reloadable: Keys that it can, exporters left out.
        rescheduled: Exporters of which only keys of ``IN_PLACE`` differ.
        changed: Those of which more differs.
        untouched: Names of those that are the same.
    """

    restart_only: tuple[KeyChange, ...]
    reloadable: tuple[KeyChange, ...]
    added: tuple[ExporterConfig, ...]
    removed: tuple[ExporterConfig, ...]
    changed: tuple[ExporterChange, ...]
    rescheduled: tuple[ExporterChange, ...]
    untouched: tuple[str, ...]


def diff_configs(old: Config, new: Config) -> ConfigDiff:
    """Compare two configurations."""
    keys = _differing(dict(_flatten(canonical(old))), dict(_flatten(canonical(new))))
    former = {exporter.name: exporter for exporter in old.exporters}
    changes: list[ExporterChange] = []
    untouched: list[str] = []
    for exporter in new.exporters:
        if exporter.name in former:
            differing = _compare(former[exporter.name], exporter)
            if differing:
                changes.append(ExporterChange(exporter, differing))
            else:
                untouched.append(exporter.name)
    names = {exporter.name for exporter in new.exporters}
    return ConfigDiff(
        restart_only=tuple(key for key in keys if not is_reloadable(key.path)),
        reloadable=tuple(key for key in keys if is_reloadable(key.path)),
        added=tuple(exporter for exporter in new.exporters if exporter.name not in former),
        removed=tuple(exporter for exporter in old.exporters if exporter.name not in names),
        changed=tuple(change for change in changes if not _is_in_place(change)),
        rescheduled=tuple(change for change in changes if _is_in_place(change)),
        untouched=tuple(untouched),
    )


def render_changes(diff: ConfigDiff) -> tuple[str, ...]:
    """What is applied, a line each for people; of the identity and of files the names alone."""
    lines = [
        f"{key.path} changed"
        if is_hidden(key.path)
        else f"{key.path} changed from {render_value(key.old)} to {render_value(key.new)}"
        for key in diff.reloadable
    ]
    lines += [f"exporter {exporter.name} removed" for exporter in diff.removed]
    lines += [f"exporter {exporter.name} added ({exporter.type})" for exporter in diff.added]
    lines += [
        f"exporter {change.config.name} replaced ({', '.join(key.path for key in change.keys)})"
        for change in diff.changed
    ]
    for change in diff.rescheduled:
        what = ", ".join(
            f"{key.path} from {render_value(key.old)} to {render_value(key.new)}"
            for key in change.keys
        )
        lines.append(f"exporter {change.config.name} rescheduled ({what})")
    return tuple(lines)


def is_hidden(path: str) -> bool:
    """Whether no message may show the value of this key."""
    return _HIDDEN.fullmatch(path) is not None


def render_value(value: object) -> str:
    """A value of a ``KeyChange`` as the file would write it."""
    return "unset" if value is None else json.dumps(value, ensure_ascii=False)


def config_hash(config: Config) -> int:
    """48 bits over all effective values; the order of the exporters makes no difference."""
    document = canonical(config)
    document[_EXPORTERS] = sorted(
        (_canonical_exporter(exporter) for exporter in config.exporters),
        key=lambda exporter: str(exporter["name"]),
    )
    text = json.dumps(document, sort_keys=True)
    return int.from_bytes(sha256(text.encode()).digest()[:_HASH_BYTES], "big")


def canonical(table: Any) -> dict[str, Any]:
    """A declaration's values by the names and in the form of the file; arrays of tables left out.

    Args:
        table: A ``Config``, or a table of one.
    """
    values: dict[str, Any] = {}
    for key in keys_of(type(table)):
        value = getattr(table, key.attribute)
        match key.kind:
            case Variants():
                continue
            case Table():
                values[key.name] = canonical(value)
            case _:
                values[key.name] = _as_written(key, value)
    return values


def render_default(key: Key) -> object:
    """A key's default as the file would write it, None where it has none."""
    return None if key.default is MISSING else _as_written(key, key.default)


def _as_written(key: Key, value: Any) -> object:
    if isinstance(key.kind, Duration):
        return render_duration(value)
    plain = isinstance(value, bool | int | float | str) or value is None
    return value if plain else str(value)


def _canonical_exporter(exporter: ExporterConfig) -> dict[str, Any]:
    return {"type": exporter.type, **canonical(exporter)}


def _compare(old: ExporterConfig, new: ExporterConfig) -> tuple[KeyChange, ...]:
    if old.type != new.type:
        return (KeyChange("type", old.type, new.type),)  # the other keys aren't comparable
    return _differing(_canonical_exporter(old), _canonical_exporter(new))


def _flatten(table: dict[str, Any], path: str = "") -> Iterator[tuple[str, object]]:
    for name, value in table.items():
        if isinstance(value, dict):
            yield from _flatten(value, f"{path}{name}.")
        else:
            yield f"{path}{name}", value


def _differing(old: dict[str, Any], new: dict[str, Any]) -> tuple[KeyChange, ...]:
    return tuple(KeyChange(path, old[path], new[path]) for path in old if old[path] != new[path])


def is_reloadable(path: str) -> bool:
    """Whether a running daemon can change the key of this path, one outside of the exporters."""
    return path in RELOADABLE_ALONE or path.partition(".")[0] in RELOADABLE


def _is_in_place(change: ExporterChange) -> bool:
    return all(key.path in IN_PLACE for key in change.keys)
