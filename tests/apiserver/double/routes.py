"""From a URL path to what is asked for, and the discovery documents.

No aiohttp here: strings in, targets and JSON out. Which verbs a target takes is ``apiserver``'s.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tests.apiserver.double import status
from tests.apiserver.double.resources import (
    NAMESPACES,
    RESOURCES,
    JsonObject,
    RequestTarget,
    ServedResource,
    discovery_entries,
)


class PlainNotFound(Exception):
    """404 as plain text: how the real server answers for groups and CRDs that it doesn't have."""


@dataclass(frozen=True, slots=True)
class Routes:
    """The paths below ``/api`` and ``/apis``.

    Attributes:
        serves: Tells whether a resource of the table is there now.
    """

    serves: Callable[[ServedResource], bool]

    def served(self, group: str, version: str = "") -> list[ServedResource]:
        """The resources of one group that are there now."""
        return [
            resource
            for resource in RESOURCES
            if resource.group == group
            and version in {"", resource.version}
            and self.serves(resource)
        ]

    def resolve(self, path: str) -> RequestTarget | JsonObject:
        """What a path stands for: a target, or a discovery document.

        Raises:
            ApiError: 404 as a Status.
            PlainNotFound: 404 as text.
        """
        found: RequestTarget | JsonObject
        match path.strip("/").split("/"):
            case ["api"]:
                found = {"kind": "APIVersions", "versions": ["v1"]}
            case ["apis"]:
                found = self._groups()
            case ["apis", group]:
                found = self._group(group)
            case ["api", version, *rest]:
                found = self._below("", version, rest)
            case ["apis", group, version, *rest]:
                found = self._below(group, version, rest)
            case _:
                raise PlainNotFound
        return found

    def _below(self, group: str, version: str, rest: Sequence[str]) -> RequestTarget | JsonObject:
        return self._target(group, version, rest) if rest else self._resources(group, version)

    def _target(self, group: str, version: str, rest: Sequence[str]) -> RequestTarget:
        match rest:
            case ["namespaces", name] if not group:
                return RequestTarget(NAMESPACES, name=name)
            case ["namespaces", name, "status" as below_name] if not group:
                return RequestTarget(NAMESPACES, name=name, subresource=below_name)
            case ["namespaces", namespace, plural, *below]:
                pass
            case _:
                namespace, (plural, *below) = "", rest
        resource = self._resource(group, version, plural)
        name, subresource, *more = [*below, "", ""]
        # Cluster scope has no namespace; objects of namespaces are reached only through theirs.
        misplaced = name and not namespace if resource.namespaced else namespace
        if any(more) or misplaced:
            raise self._missing(group)
        if subresource and subresource not in resource.subresources:
            # For a CRD the real server blames the object.
            raise status.NoSuchObject(resource, name) if resource.custom else self._missing(group)
        return RequestTarget(resource, namespace, name, subresource)

    def _resource(self, group: str, version: str, plural: str) -> ServedResource:
        for resource in self.served(group, version):
            if resource.plural == plural:
                return resource
        raise self._missing(group)

    def _missing(self, group: str) -> Exception:
        """What is said of an unknown resource: built-in groups answer with a Status."""
        builtin = any(row.group == group and not row.custom for row in RESOURCES)
        return status.NoSuchResource() if builtin else PlainNotFound()

    def _groups(self) -> JsonObject:
        names = dict.fromkeys(row.group for row in RESOURCES if row.group and self.serves(row))
        groups = [self._group_entry(name) for name in names]
        return {"kind": "APIGroupList", "apiVersion": "v1", "groups": groups}

    def _group(self, group: str) -> JsonObject:
        return {"kind": "APIGroup", "apiVersion": "v1", **self._group_entry(group)}

    def _group_entry(self, group: str) -> JsonObject:
        served = self.served(group)
        if not group or not served:
            raise PlainNotFound
        version = {"groupVersion": served[0].api_version, "version": served[0].version}
        return {"name": group, "versions": [version], "preferredVersion": version}

    def _resources(self, group: str, version: str) -> JsonObject:
        served = self.served(group, version)
        if not served:
            raise PlainNotFound
        return {
            "kind": "APIResourceList",
            "apiVersion": "v1",
            "groupVersion": served[0].api_version,
            "resources": [entry for row in served for entry in discovery_entries(row)],
        }
