"""What keeps telemetryd from collecting or sending, and when that ends: pure decisions.

A restriction ends only when the source that made it writes its opposite, or by an opt-in. That a
key, a table, a file or a Setting is missing ends nothing. Where the restrictions are stored
belongs to the daemon.

A choice is a key of an exporter that says what is sent or where to, with another value than its
default: a file that is cut before it would send something else, or to another place. So a choice
that was written once must stay written, and its default too must be written.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from telemetryd.config.exporters import EXPORTER_TYPES, ExporterConfig, SecretExporterConfig
from telemetryd.config.overrides import ENABLED_VARIABLE, ENVIRONMENT, NO, OPTION, YES
from telemetryd.config.reading import Given
from telemetryd.config.schema import keys_of
from telemetryd.config.settings import Config, PrivacyConfig
from telemetryd.config.values import show
from telemetryd.errors import ConfigError, Problem
from telemetryd.model import Restriction

FILE: Final = "file"
SETTING: Final = "setting"

DO_NOT_TRACK_VARIABLE: Final = "DO_NOT_TRACK"
"""As ``ENABLED_VARIABLE`` it turns collection off whatever the file says, never on."""

NOT_REMEMBERED: Final = frozenset({ENVIRONMENT, OPTION})
"""Sources whose restrictions hold for as long as they are written."""

COLLECTION: Final = "enabled"
IMPLIED_EXPORTER: Final = "scc"
IMPLIED: Final = f"exporters.{IMPLIED_EXPORTER}"
"""The exporter of a file that names none: a file that names others leaves it out."""
OPT_OUT: Final = "telemetry-opt"
OUT: Final = "out"
PERMITTING: Final = frozenset({"in", "prompt"})
"""Values of the Setting that end an opt-out; an empty one, and none at all, says nothing."""

_EXPORTER_PREFIX: Final = "exporters."
_ENABLED_SUFFIX: Final = ".enabled"
_PRIVACY_PREFIX: Final = "privacy."
_OMIT: Final = "omit"
_PRIVACY_KEYS: Final = tuple(key.name for key in keys_of(PrivacyConfig))
_CHOICES: Final = {
    key.name: key.default
    for key in keys_of(SecretExporterConfig)
    if key.name in {"format", "namespace", "secret"}
}
"""The choices of our own types, and what each is where it is left out."""
_COMMON_KEYS: Final = {"type", *(key.name for key in keys_of(ExporterConfig))}
_OWN_TYPES: Final = {each.type for each in EXPORTER_TYPES}


@dataclass(frozen=True, slots=True)
class Statement:
    """One thing that a source writes about a key.

    Attributes:
        source: ``file``, ``environment``, ``option``, ``setting``.
        key: As of ``Restriction``.
        restricts: It is the restricting value; else the value that permits.
        where: The file's path, the variable or the Setting.
        since: Unix time in seconds when it was first seen; None for now.
    """

    source: str
    key: str
    restricts: bool
    where: str
    since: float | None = None


@dataclass(frozen=True, slots=True)
class Decision:
    """What holds now.

    Attributes:
        effective: Every restriction, written or remembered.
        remembered: Those to remember from now on, and choices.
        missing: Choices that are remembered and not written.
    """

    effective: tuple[Restriction, ...]
    remembered: tuple[Restriction, ...]
    missing: tuple[Restriction, ...]


def decide(
    statements: Iterable[Statement], remembered: Iterable[Restriction], *, at: float
) -> Decision:
    """Weigh what is written against what is remembered; the strictest wins.

    Args:
        statements: Of any number of sources.
        remembered: From earlier decisions.
        at: Unix time in seconds.
    """
    written: dict[tuple[str, str], Statement] = {}
    permitted: set[tuple[str, str]] = set()
    for each in statements:
        if each.restricts:
            written[each.source, each.key] = each
        else:
            permitted.add((each.source, each.key))
    permitted -= written.keys()
    held = {(each.source, each.key): each for each in remembered}
    effective = {
        place: replace(each, written=False)
        for place, each in held.items()
        if place not in permitted
    }
    for place, statement in written.items():
        since = at if statement.since is None else statement.since
        if place in held:
            since = held[place].since
        effective[place] = Restriction(
            source=statement.source,
            key=statement.key,
            where=statement.where,
            since=since,
            written=True,
        )
    choices = [each for each in effective.values() if _is_choice(each.key)]
    said_elsewhere = {key for _, key in (*written, *permitted)}
    return Decision(
        effective=tuple(each for each in effective.values() if not _is_choice(each.key)),
        remembered=tuple(
            replace(each, written=False) if each.written else each
            for each in effective.values()
            if not each.written or each.source not in NOT_REMEMBERED
        ),
        missing=tuple(
            each for each in choices if not each.written and each.key not in said_elsewhere
        ),
    )


def file_statements(table: Mapping[str, Any], where: str) -> tuple[Statement, ...]:
    """What a valid file writes about keys that restrict.

    Args:
        table: The decoded file.
        where: Its path.
    """

    def statement(key: str, *, restricts: bool) -> Statement:
        return Statement(FILE, key, restricts, where)

    found = []
    if COLLECTION in table:
        found.append(statement(COLLECTION, restricts=not table[COLLECTION]))
    found += [
        statement(f"{_PRIVACY_PREFIX}{name}", restricts=value == _OMIT)
        for name, value in table.get("privacy", {}).items()
    ]
    if "exporters" in table:
        named = {exporter["name"]: exporter for exporter in table["exporters"]}
        implied = named.get(IMPLIED_EXPORTER, {}).get("type") == SecretExporterConfig.type
        found.append(statement(IMPLIED, restricts=not implied))
        found += [
            statement(exporter_key(name), restricts=not exporter["enabled"])
            for name, exporter in named.items()
            if "enabled" in exporter
        ]
        found += [
            statement(f"{_EXPORTER_PREFIX}{name}.{key}", restricts=value != _CHOICES.get(key))
            for name, exporter in named.items()
            for key, value in exporter.items()
            if _is_choice_key(key, exporter["type"])
        ]
    return tuple(found)


def override_statements(given: Iterable[Given], config: Config) -> tuple[Statement, ...]:
    """What variables and options say about keys that restrict.

    Args:
        given: All that they set.
        config: The configuration with it.
    """
    types = {each.name: each.type for each in config.exporters}
    found = []
    for each in given:
        path, value = each.override.path, each.value
        key = path[-1]
        match path:
            case ("enabled",):
                restricts = not value
            case ("privacy", _):
                restricts = value == _OMIT
            case ("exporters", _, "enabled"):
                restricts = not value
            case ("exporters", name, _) if _is_choice_key(key, types[name]):
                restricts = value != _CHOICES.get(key)
            case _:
                continue
        shown, where = ".".join(path), each.override.where
        found.append(Statement(each.override.source, shown, restricts, where))
    return tuple(found)


def _is_choice_key(key: str, type_name: str) -> bool:
    return key in _CHOICES or (key not in _COMMON_KEYS and type_name not in _OWN_TYPES)


@dataclass(frozen=True, slots=True)
class EnvironmentSwitches:
    """What the environment leaves on.

    Attributes:
        enabled: False where ``TELEMETRYD_ENABLED`` says so.
        tracking: False where ``DO_NOT_TRACK`` is set to anything that isn't a no.
    """

    enabled: bool
    tracking: bool


def read_switches(environ: Mapping[str, str]) -> EnvironmentSwitches:
    """The switches of an environment; unset and empty leave everything on.

    What neither says yes nor no is never taken as leave to collect.
    """
    enabled = environ.get(ENABLED_VARIABLE, "").strip().lower()
    do_not_track = environ.get(DO_NOT_TRACK_VARIABLE, "").strip().lower()
    return EnvironmentSwitches(
        enabled=not enabled or enabled in YES, tracking=not do_not_track or do_not_track in NO
    )


def find_problem(environ: Mapping[str, str]) -> Problem | None:
    """What is wrong with ``TELEMETRYD_ENABLED``, None where nothing is."""
    given = environ.get(ENABLED_VARIABLE, "").strip()
    if not given or given.lower() in YES | NO:
        return None
    return Problem(f"${ENABLED_VARIABLE}", "", f"is {show(given)}: must be true or false")


def environment_statements(environ: Mapping[str, str], *, since: float) -> tuple[Statement, ...]:
    """What the environment switches off; it permits nothing.

    Args:
        environ: Read once, as it can't change while the process runs.
        since: Unix time in seconds when the process began.
    """
    switches = read_switches(environ)
    found = {ENABLED_VARIABLE: switches.enabled, DO_NOT_TRACK_VARIABLE: switches.tracking}
    return tuple(
        Statement(ENVIRONMENT, f"${name}", True, f"${name}", since)
        for name, allowed in found.items()
        if not allowed
    )


def restrict(config: Config, effective: Iterable[Restriction]) -> Config:
    """The configuration with every restriction of its keys applied.

    Switches of the environment and the Setting are no keys of it.
    """
    keys = {each.key for each in effective}
    if COLLECTION in keys:
        config = replace(config, enabled=False)
    omitted = {name: _OMIT for name in _PRIVACY_KEYS if f"{_PRIVACY_PREFIX}{name}" in keys}
    if omitted:
        config = replace(config, privacy=replace(config.privacy, **omitted))
    exporters = tuple(
        replace(each, enabled=False) if exporter_key(each.name) in keys else each
        for each in config.exporters
        if not (IMPLIED in keys and _is_implied(each))
    )
    return config if exporters == config.exporters else replace(config, exporters=exporters)


def require_choices(config: Config, missing: Iterable[Restriction], where: str) -> None:
    """Refuse a file that leaves out a choice of an exporter that would run.

    Args:
        config: The file's, with every restriction applied.
        missing: As of ``Decision``.
        where: The file's path, empty where there is none.

    Raises:
        ConfigError: With a problem for each.
    """
    keys = {
        f"{_EXPORTER_PREFIX}{each.name}.{key.name}"
        for each in config.exporters
        if each.enabled
        for key in keys_of(type(each))
    }
    problems = [
        Problem(where or each.where, each.key, _LOST) for each in missing if each.key in keys
    ]
    if problems:
        raise ConfigError(*problems)


_LOST: Final = (
    "is missing, and says what is sent or where to: the file had it before and may be cut: write "
    "it, also where it has its default"
)


def _is_implied(exporter: ExporterConfig) -> bool:
    return exporter.name == IMPLIED_EXPORTER and isinstance(exporter, SecretExporterConfig)


def _is_choice(key: str) -> bool:
    """Whether it is a choice's: ``exporters.NAME.KEY``; names have no dots."""
    prefix, *names = key.split(".")
    return f"{prefix}." == _EXPORTER_PREFIX and len(names) == 2 and names[1] != "enabled"  # noqa: PLR2004


def exporter_key(name: str) -> str:
    """The key that switches this exporter off."""
    return f"{_EXPORTER_PREFIX}{name}{_ENABLED_SUFFIX}"


def is_known_key(key: str) -> bool:
    """Whether a remembered key can be applied by this version."""
    if key in {COLLECTION, OPT_OUT, IMPLIED}:
        return True
    if key.startswith(_PRIVACY_PREFIX):
        return key.removeprefix(_PRIVACY_PREFIX) in _PRIVACY_KEYS
    name = key.removeprefix(_EXPORTER_PREFIX).removesuffix(_ENABLED_SUFFIX)
    return _is_choice(key) or (bool(name) and key == exporter_key(name))


def describe(key: str) -> str:
    """What a restriction does, in a few words."""
    if key == IMPLIED:
        return f"the implied exporter {IMPLIED_EXPORTER} is left out"
    if key == OPT_OUT:
        return "the Rancher setting telemetry-opt is out"
    if key == COLLECTION or key.startswith("$"):
        return "collection is off"
    if key.startswith(_PRIVACY_PREFIX):
        return f"{key.removeprefix(_PRIVACY_PREFIX)} is omitted"
    return f"exporter {key.removeprefix(_EXPORTER_PREFIX).removesuffix(_ENABLED_SUFFIX)} is off"


def how_to_end(restriction: Restriction) -> str:
    """What ends it, for people."""
    opt_in = "" if restriction.written else ", or run telemetryd ctl opt-in"
    if restriction.source == ENVIRONMENT:
        return f"take {restriction.where} out of the environment and restart"
    if restriction.source == OPTION:
        return f"take {restriction.where} out of the command line and restart"
    if restriction.source == SETTING:
        return f"give the setting {OPT_OUT} another value (in, prompt){opt_in}"
    return f"write {_permissive(restriction.key)} in the configuration file{opt_in}"


def _permissive(key: str) -> str:
    if key == IMPLIED:
        return f'an exporter with name = "{IMPLIED_EXPORTER}" and type = "secret"'
    if key == "privacy.server_url":
        return '[privacy] server_url = "send"'
    if key.startswith(_PRIVACY_PREFIX):
        return f'[privacy] {key.removeprefix(_PRIVACY_PREFIX)} = "anonymous"'
    return "enabled = true" + ("" if key == COLLECTION else " for the exporter")
