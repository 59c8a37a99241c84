"""Field ownership: server-side apply, and what a plain write does to the owners.

Works on decoded objects alone; preconditions, validation and storing are ``writes``'s. The rules
are those of sigs.k8s.io/structured-merge-diff as kube-apiserver 1.20.2 was measured to follow them.
"""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from telemetryd.demo import status
from telemetryd.demo.fieldsets import (
    FINALIZERS,
    FieldSet,
    Path,
    applied_fields,
    compare,
    from_fields_v1,
    in_order,
    path_text,
    to_fields_v1,
    without,
)
from telemetryd.demo.resources import JsonObject, Resource

BEFORE_FIRST_APPLY = "before-first-apply"


@dataclass(frozen=True, slots=True)
class Manager:
    """Who writes; the same name applying and updating are two managers."""

    name: str
    operation: Literal["Apply", "Update"]
    subresource: str = ""

    def described(self, api_version: str) -> str:
        """As a conflict message names it."""
        text = f'"{self.name}"'
        if self.subresource:
            text += f' with subresource "{self.subresource}"'
        return f"{text} using {api_version}" if self.operation == "Update" else text


@dataclass(frozen=True, slots=True)
class Ownership:
    """What one manager owns, and when that last changed (RFC 3339)."""

    fields: FieldSet
    time: str


@dataclass(frozen=True, slots=True)
class Write:
    """The circumstances of one write.

    Attributes:
        time: RFC 3339, whole seconds, UTC.
        force: Take fields from other managers instead of refusing.
    """

    resource: Resource
    manager: Manager
    time: str
    force: bool = False


def read_managers(obj: JsonObject) -> dict[Manager, Ownership]:
    """The owners that ``metadata.managedFields`` records."""
    return {
        Manager(entry["manager"], entry["operation"], entry.get("subresource", "")): Ownership(
            from_fields_v1(entry.get("fieldsV1", {})), entry.get("time", "")
        )
        for entry in obj["metadata"].get("managedFields") or []
    }


def with_managers(
    obj: JsonObject, managers: Mapping[Manager, Ownership], api_version: str
) -> JsonObject:
    """The object with these owners recorded; an owner of nothing is left out."""
    entries = []
    # Apply before Update, then by age: the order of the real server.
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


def apply_config(live: JsonObject | None, config: JsonObject, write: Write) -> JsonObject:
    """The object that results from applying a configuration.

    Args:
        live: What exists, None on creation.
        config: What is applied, with apiVersion, kind and metadata.
        write: By whom and when.

    Returns:
        Live and configuration merged, without what this manager alone applied before and no longer
        does, and with the new owners.

    Raises:
        _apply_conflict: 409 with a cause for each field that another manager owns with another
            value, unless forced.
    """
    custom = write.resource.custom
    if not custom:
        config = _without_nulls(config)
    managers = {} if live is None else read_managers(live)
    if live is None:
        live = {}
    elif not managers:
        owned = compare({}, live, custom=custom).added
        managers[Manager(BEFORE_FIRST_APPLY, "Update")] = Ownership(owned, write.time)
    claimed = applied_fields(config, custom=custom)
    before = managers.pop(write.manager, Ownership(frozenset(), write.time))
    kept = frozenset[Path]().union(claimed, *(other.fields for other in managers.values()))
    merged: JsonObject = without(_merge(live, config, ()), before.fields - kept)
    changes = compare(live, merged, custom=custom)
    conflicts = {
        manager: taken
        for manager, other in managers.items()
        if (taken := other.fields & (changes.added | changes.modified))
    }
    if conflicts and not write.force:
        raise _apply_conflict(conflicts, write.resource.api_version)
    for manager, other in managers.items():
        left = other.fields - conflicts.get(manager, frozenset()) - changes.removed
        managers[manager] = Ownership(left, other.time)
    unchanged = changes.same and claimed == before.fields
    managers[write.manager] = Ownership(claimed, before.time if unchanged else write.time)
    return with_managers(merged, managers, write.resource.api_version)


def update_owners(live: JsonObject | None, new: JsonObject, write: Write) -> JsonObject:
    """An object that was created, replaced or patched, with the owners that follow from it.

    Who changes a field owns it from then on. Objects that were stored without owners stay without
    until somebody applies to them; an empty list or one empty entry in the request clears them.
    """
    custom = write.resource.custom
    managers = {} if live is None else read_managers(live)
    reset = new["metadata"].get("managedFields") in ([], [{}])
    if reset or (live is not None and not managers):
        return with_managers(new, {}, write.resource.api_version)
    changes = compare(live or {}, new, custom=custom)
    mine = managers.get(write.manager, Ownership(frozenset(), write.time))
    touched = changes.added | changes.modified
    for manager, other in managers.items():
        managers[manager] = Ownership(other.fields - touched - changes.removed, other.time)
    managers[write.manager] = Ownership(
        (mine.fields | touched) - changes.removed, mine.time if changes.same else write.time
    )
    return with_managers(new, managers, write.resource.api_version)


def _without_nulls(config: JsonObject) -> JsonObject:
    """The configuration of a typed object, in which a field that is null isn't there."""
    metadata = {name: value for name, value in config["metadata"].items() if value is not None}
    fields = {name: value for name, value in config.items() if value is not None}
    return {**fields, "metadata": metadata}


def _merge(live: Any, config: Any, path: Path) -> Any:
    if isinstance(live, dict) and isinstance(config, dict):
        merged = dict(live)
        for name, value in config.items():
            merged[name] = _merge(live.get(name), value, (*path, f"f:{name}"))
        return merged
    if path == FINALIZERS and isinstance(live, list) and isinstance(config, list):
        return [*live, *(item for item in config if item not in live)]
    return config


def _apply_conflict(conflicts: Mapping[Manager, FieldSet], api_version: str) -> status.ApiError:
    paths: dict[str, list[str]] = defaultdict(list)
    for manager in sorted(conflicts, key=lambda manager: (manager.name, manager.operation)):
        described = manager.described(api_version)
        paths[described].extend(path_text(path) for path in in_order(conflicts[manager]))
    causes = [
        status.Cause("FieldManagerConflict", f"conflict with {described}", path)
        for described, texts in paths.items()
        for path in texts
    ]
    if len(causes) == 1:
        message = f"Apply failed with 1 conflict: {causes[0].message}: {causes[0].field}"
    else:
        blocks = [
            "\n".join([f"conflicts with {described}:", *(f"- {path}" for path in texts)])
            for described, texts in paths.items()
        ]
        message = f"Apply failed with {len(causes)} conflicts: " + "\n".join(blocks)
    return status.ApplyConflict(message, causes)
