"""Field ownership: server-side apply, and what a plain write does to the owners.

Works on decoded objects alone. Maps are granular and lists are atomic, which is all that Secrets
and SecretRequests need; the real API server knows more.

Format: ``metadata.managedFields`` of meta/v1 with FieldsV1.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from tests.apiserver.double import status
from tests.apiserver.double.resources import JsonObject, ServedResource

BEFORE_FIRST_APPLY = "before-first-apply"

Path: TypeAlias = tuple[str, ...]

_UNOWNED_METADATA = frozenset(
    {
        "creationTimestamp",
        "deletionGracePeriodSeconds",
        "deletionTimestamp",
        "generation",
        "managedFields",
        "name",
        "namespace",
        "resourceVersion",
        "uid",
    }
)
"""These belong to the server or name the object."""


@dataclass(frozen=True, slots=True)
class Manager:
    """A writer; the same name applying and updating are two managers."""

    name: str
    operation: Literal["Apply", "Update"]
    subresource: str = ""


@dataclass(frozen=True, slots=True)
class Ownership:
    """The fields of one manager, and when they last changed (RFC 3339)."""

    fields: frozenset[Path]
    time: str


@dataclass(frozen=True, slots=True)
class Write:
    """The circumstances of one write.

    Attributes:
        time: RFC 3339, whole seconds, UTC.
        force: Take fields from other managers instead of refusing.
    """

    resource: ServedResource
    manager: Manager
    time: str
    force: bool = False


def apply_config(live: JsonObject | None, config: JsonObject, write: Write) -> JsonObject:
    """The object that results from applying a configuration.

    Args:
        live: The stored object, None on creation.
        config: The configuration, with apiVersion, kind and metadata.
        write: By whom and when.

    Returns:
        Live and configuration merged, without the fields that this manager alone applied before and
        no longer does, and with the new owners.

    Raises:
        ApplyConflict: Another manager owns a field with another value, and it isn't forced.
    """
    claimed = leaves(config)
    found = {} if live is None else leaves(live)
    managers = {} if live is None else _read_managers(live)
    if live is not None and not managers:
        owned = Ownership(frozenset(found), write.time)
        managers[Manager(BEFORE_FIRST_APPLY, "Update")] = owned
    before = managers.pop(write.manager, Ownership(frozenset(), write.time))
    changed = {path for path, value in claimed.items() if value != found.get(path)}
    conflicts = {
        manager: taken for manager, other in managers.items() if (taken := other.fields & changed)
    }
    if conflicts and not write.force:
        raise status.ApplyConflict(*_described(conflicts, write.resource.api_version))
    for manager, taken in conflicts.items():
        left = managers[manager]
        managers[manager] = Ownership(left.fields - taken, left.time)
    shared = {path for other in managers.values() for path in other.fields}
    merged = _without(_merge(live or {}, config), before.fields - set(claimed) - shared)
    unchanged = frozenset(claimed) == before.fields and leaves(merged) == found
    managers[write.manager] = Ownership(
        frozenset(claimed), before.time if unchanged else write.time
    )
    return _with_managers(merged, managers, write.resource.api_version)


def update_owners(live: JsonObject | None, new: JsonObject, write: Write) -> JsonObject:
    """An object that was created or patched, with the owners that follow from it.

    A manager that changes a field owns it from then on. Objects that were stored without owners
    stay so until an apply.
    """
    managers = {} if live is None else _read_managers(live)
    if live is not None and not managers:
        return _with_managers(new, {}, write.resource.api_version)
    old, now = ({} if live is None else leaves(live)), leaves(new)
    touched = {path for path, value in now.items() if path not in old or old[path] != value}
    removed = set(old) - set(now)
    mine = managers.pop(write.manager, Ownership(frozenset(), write.time))
    for manager, other in managers.items():
        managers[manager] = Ownership(other.fields - touched - removed, other.time)
    managers[write.manager] = Ownership(
        (mine.fields | touched) - removed, write.time if touched or removed else mine.time
    )
    return _with_managers(new, managers, write.resource.api_version)


def leaves(obj: JsonObject) -> dict[Path, Any]:
    """The fields that a manager can own: everything in maps that isn't a map itself."""
    found: dict[Path, Any] = {}

    def visit(value: Any, path: Path) -> None:
        if isinstance(value, dict) and (value or len(path) <= 1):
            for name, child in value.items():
                if not (path == ("metadata",) and name in _UNOWNED_METADATA):
                    visit(child, (*path, name))
        elif value is not None and path not in {("apiVersion",), ("kind",)}:
            found[path] = value

    visit(obj, ())
    return found


def _merge(live: Any, config: Any) -> Any:
    if not (isinstance(live, dict) and isinstance(config, dict)):
        return config
    given = {name: value for name, value in config.items() if value is not None}
    return live | {name: _merge(live.get(name), value) for name, value in given.items()}


def _without(obj: JsonObject, paths: set[Path] | frozenset[Path]) -> JsonObject:
    """A copy without these leaves."""

    def prune(value: Any, path: Path) -> Any:
        if not isinstance(value, dict):
            return value
        return {
            name: prune(child, (*path, name))
            for name, child in value.items()
            if (*path, name) not in paths
        }

    pruned: JsonObject = prune(obj, ())
    return pruned


def _read_managers(obj: JsonObject) -> dict[Manager, Ownership]:
    return {
        Manager(entry["manager"], entry["operation"], entry.get("subresource", "")): Ownership(
            frozenset(_from_fields_v1(entry["fieldsV1"], ())), entry["time"]
        )
        for entry in obj["metadata"].get("managedFields") or []
    }


def _with_managers(
    obj: JsonObject, managers: Mapping[Manager, Ownership], api_version: str
) -> JsonObject:
    """The object with these owners recorded; an owner of nothing is left out."""
    entries = []
    for manager, ownership in sorted(
        managers.items(), key=lambda item: (item[0].operation, item[1].time, item[0].name)
    ):
        if not ownership.fields:
            continue
        entry: JsonObject = {
            "manager": manager.name,
            "operation": manager.operation,
            "apiVersion": api_version,
            "time": ownership.time,
            "fieldsType": "FieldsV1",
            "fieldsV1": to_fields_v1(ownership.fields),
        }
        if manager.subresource:
            entry["subresource"] = manager.subresource
        entries.append(entry)
    metadata = {key: value for key, value in obj["metadata"].items() if key != "managedFields"}
    if entries:
        metadata["managedFields"] = entries
    return {**obj, "metadata": metadata}


def to_fields_v1(fields: Iterable[Path]) -> JsonObject:
    """Fields as managedFields holds them."""
    root: JsonObject = {}
    for path in sorted(fields):
        node = root
        for name in path:
            node = node.setdefault(f"f:{name}", {})
    return root


def _from_fields_v1(node: JsonObject, path: Path) -> set[Path]:
    if not node:
        return {path}
    below = (_from_fields_v1(child, (*path, name[2:])) for name, child in node.items())
    return set().union(*below)


def _described(
    conflicts: Mapping[Manager, frozenset[Path]], api_version: str
) -> tuple[str, list[status.StatusCause]]:
    """The message and the causes of a refusal."""
    causes = []
    for manager in sorted(conflicts, key=lambda manager: (manager.name, manager.operation)):
        text = f'conflict with "{manager.name}"'
        if manager.subresource:
            text += f' with subresource "{manager.subresource}"'
        if manager.operation == "Update":
            text += f" using {api_version}"
        causes += [
            status.StatusCause("FieldManagerConflict", text, "." + ".".join(path))
            for path in sorted(conflicts[manager])
        ]
    listed = ", ".join(f"{cause.message}: {cause.field}" for cause in causes)
    plural = "" if len(causes) == 1 else "s"
    return f"Apply failed with {len(causes)} conflict{plural}: {listed}", causes
