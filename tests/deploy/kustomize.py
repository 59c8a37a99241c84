"""Builds `deploy/` as kustomize does: the few features it uses, and an error for any other.

A test holds this to a real `kubectl`.
"""

import json
import os
import shutil
from collections.abc import Iterator
from copy import deepcopy
from functools import cache
from itertools import combinations
from pathlib import Path
from typing import Any, Final, TypeAlias

import yaml

from tests.apiserver.admin import Object, Objects
from tests.clientgo.binaries import kubectl

DEPLOY: Final = Path(__file__).parents[2] / "deploy"
NAMESPACE: Final = "cattle-telemetry-system"

Variant: TypeAlias = tuple[str, ...]
"""Components beside the base."""

_ALONE: Final = ("kubernetes", "scc-operator", "ha", "air-gapped", "tls")
_KNOWN = {"apiVersion", "kind", "resources", "components", "patches"}


def _variants() -> Iterator[Variant]:
    """The components in every combination that has a meaning: scc-operator belongs to Rancher."""
    for count in range(len(_ALONE) + 1):
        for chosen in combinations(_ALONE, count):
            if not {"kubernetes", "scc-operator"} <= {*chosen}:
                both = ("monitoring-tls",) if "tls" in chosen else ()
                yield (*chosen, "monitoring", *both)
    yield ()


VARIANTS: Final = tuple(_variants())


def build(*components: str) -> Objects:
    """Every object of the base with these components."""
    objects: Objects = []
    for folder in ("base", *(f"components/{name}" for name in components)):
        _extend(objects, DEPLOY / folder)
    return objects


def every_object() -> Objects:
    """Each object of all variants that differs from the others."""
    found = (obj for variant in VARIANTS for obj in build(*variant))
    return [*{json.dumps(obj, sort_keys=True): obj for obj in found}.values()]


def write_overlay(folder: Path, *components: str, **more: Any) -> Path:
    """A kustomization of one's own, as the documentation has it."""

    def path(name: str) -> str:
        return os.path.relpath(DEPLOY / name, folder.resolve())

    document = {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "resources": [path("base")],
        "components": [path(f"components/{name}") for name in components],
        **more,
    }
    (folder / "kustomization.yaml").write_text(json.dumps(document))
    return folder


def find_kubectl() -> str | None:
    """A kubectl: the one of `make clientgo`, or the system's."""
    built = kubectl()
    return str(built) if os.access(built, os.X_OK) else shutil.which("kubectl")


def _extend(objects: Objects, folder: Path) -> None:
    """What a kustomization adds to objects and changes of them."""
    (kustomization,) = _documents(folder / "kustomization.yaml")
    unknown = set(kustomization) - _KNOWN
    assert not unknown, f"{folder}: teach this builder {unknown}"
    for resource in kustomization.get("resources", ()):
        objects += _documents(folder / resource)
    for patch in kustomization.get("patches", ()):
        (patched,) = [obj for obj in objects if _matches(obj, patch["target"])]
        (operations,) = parse_documents(patch["patch"])
        for operation in operations:
            _apply(patched, operation)


def parse_documents(text: str) -> list[Any]:
    """Every YAML document of a text that isn't empty."""
    load: Any = yaml.load_all
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    return [document for document in load(text, loader) if document]


def _documents(path: Path) -> list[Any]:
    return deepcopy(_parsed(path))


@cache
def _parsed(path: Path) -> list[Any]:
    return parse_documents(path.read_text())


def _matches(obj: Object, target: Object) -> bool:
    seen = {"kind": obj["kind"], "name": obj["metadata"]["name"]}
    return all(seen[key] == value for key, value in target.items())


def _apply(obj: Object, operation: Object) -> None:
    """One operation of a JSON patch (RFC 6902), of those that are used."""
    *parents, last = (
        name.replace("~1", "/").replace("~0", "~")
        for name in operation["path"].lstrip("/").split("/")
    )
    place: Any = obj
    for parent in parents:
        place = place[_index(place, parent)]
    key = _index(place, last)
    match operation["op"]:
        case "remove":
            del place[key]
        case "replace":
            assert place[key] is not None
            place[key] = operation["value"]
        case "add" if isinstance(place, list):
            assert key == "-", "teach this builder to add within lists"
            place.append(operation["value"])
        case "add":
            assert key not in place
            place[key] = operation["value"]
        case other:
            raise AssertionError(f"teach this builder {other}")


def _index(place: Any, name: str) -> str | int:
    return int(name) if isinstance(place, list) and name != "-" else name
