"""The configuration in force as TOML, each value with where it is from; a secret is never shown."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path as FilePath
from typing import Any, Final
from urllib.parse import urlsplit

from telemetryd.bounds import visible
from telemetryd.config.diff import canonical, render_value
from telemetryd.config.load import ConfigFile, ConfigSource
from telemetryd.config.overrides import EXPORTERS, Path
from telemetryd.config.reading import Reading, may_be_credential
from telemetryd.config.schema import Key, Table, Variants, keys_of
from telemetryd.config.settings import Config
from telemetryd.config.values import Url
from telemetryd.model import RestrictionStatus

_DEFAULT: Final = "default"
_WIDTH: Final = 44
"""Of a value, before its origin."""

Exists = Callable[[str], bool]


def render_in_force(
    config: Config,
    source: ConfigSource,
    file: ConfigFile,
    restrictions: Iterable[RestrictionStatus],
) -> Iterator[str]:
    """The lines, the first of which names the file; looks at the disk.

    ``config`` has every restriction applied.

    Raises:
        ConfigError: The file isn't valid.
    """
    _, reading = source.examine(file)
    held = {}
    for each in (status.restriction for status in restrictions):
        if each.key.startswith("$"):  # a variable that only switches off
            config = replace(config, enabled=False)
            held["enabled"] = each.where
        elif not each.written:
            held[each.key] = f"remembered from {each.where}"
    yield f"# {file.where}"
    yield from render_config(config, reading, held, exists=lambda path: FilePath(path).exists())


def render_config(
    config: Config, reading: Reading, held: Mapping[str, str], *, exists: Exists
) -> Iterator[str]:
    """The lines.

    Args:
        config: With every restriction applied.
        reading: Says where each value was set.
        held: Why a key is restricted that nothing restricts in writing, by its path.
        exists: Whether there is such a file: a path is shown only if there is.
    """

    def lines(table: Any, path: Path) -> Iterator[str]:
        values = canonical(table)
        for key in keys_of(type(table)):
            if not isinstance(key.kind, Table | Variants):
                here = (*path, key.name)
                dotted = ".".join(here)
                origin = held.get(dotted) or reading.origin(here) or _DEFAULT
                yield _line(key, values[key.name], origin, exists)

    yield from lines(config, ())
    for key in keys_of(Config):
        if isinstance(key.kind, Table):
            yield from ("", f"[{key.name}]", *lines(getattr(config, key.attribute), (key.name,)))
    for exporter in config.exporters:
        yield from ("", f"[[{EXPORTERS}]]", f'type = "{exporter.type}"')
        yield from lines(exporter, (EXPORTERS, exporter.name))
    if not config.exporters:
        yield from ("", *_none(held))
    yield from (f"# {line}" for line in reading.conflicts)


def _none(held: Mapping[str, str]) -> Iterable[str]:
    why = held.get(f"{EXPORTERS}.scc", "")
    return (f"# no exporter{f': {why}' if why else ''}",)


def _line(key: Key, value: object, origin: str, exists: Exists) -> str:
    if value is None:
        return f"# {key.name} is not set"
    if not _may_be_shown(key, value, exists):
        return f"# {key.name} is set, and not shown: {visible(origin)}"
    if isinstance(key.kind, Url) and isinstance(value, str):
        # The path may be a credential, as that of a webhook is.
        parts = urlsplit(value)
        if parts.path.strip("/"):
            value = f"{parts.scheme}://{parts.netloc}/..."
    shown = visible(f"{key.name} = {render_value(value)}")
    return f"{shown.ljust(_WIDTH)}  # {visible(origin)}"


def _may_be_shown(key: Key, value: object, exists: Exists) -> bool:
    if key.name.endswith("_file") or key.name == "kubeconfig":
        return isinstance(value, str) and exists(value)  # a token in place of its file isn't there
    return not may_be_credential(key.name)
