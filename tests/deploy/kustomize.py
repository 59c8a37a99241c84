"""Builds the kustomizations of `deploy/`: the few features they use, and an error for any other.

Where a real `kustomize` or `kubectl` is at hand, a test holds this to it.
"""

from pathlib import Path
from typing import Any

import yaml

from tests.apiserver.admin import Object, Objects

DEPLOY = Path(__file__).parents[2] / "deploy"
VARIANTS = ("base", "overlays/scc", "overlays/kubernetes", "overlays/kubernetes-auth")

_KNOWN = {"apiVersion", "kind", "resources", "components", "patches"}


def build(variant: str) -> Objects:
    """Every object of one of the `VARIANTS`, in the order of the files."""
    objects: Objects = []
    _build(DEPLOY / variant, objects)
    return objects


def _build(folder: Path, objects: Objects) -> None:
    """Add the objects of a kustomization, or of a component, which changes those before it too."""
    (kustomization,) = _documents(folder / "kustomization.yaml")
    unknown = set(kustomization) - _KNOWN
    assert not unknown, f"{folder}: teach this builder {unknown}"
    for resource in kustomization["resources"]:
        path = folder / resource
        if path.is_dir():
            _build(path.resolve(), objects)
        else:
            objects += _documents(path)
    for component in kustomization.get("components", ()):
        _build((folder / component).resolve(), objects)
    for patch in kustomization.get("patches", ()):
        (patched,) = [obj for obj in objects if _matches(obj, patch["target"])]
        (operations,) = _documents(folder / patch["path"])
        for operation in operations:
            _apply(patched, operation)


def parse_documents(text: str) -> list[Any]:
    """Every YAML document of a text that isn't empty."""
    load: Any = yaml.safe_load_all
    return [document for document in load(text) if document]


def _documents(path: Path) -> list[Any]:
    return parse_documents(path.read_text())


def _matches(obj: Object, target: Object) -> bool:
    group, _, version = obj["apiVersion"].rpartition("/")
    seen = {
        "group": group,
        "version": version,
        "kind": obj["kind"],
        "name": obj["metadata"]["name"],
    }
    return all(seen[key] == value for key, value in target.items())


def _apply(obj: Object, operation: Object) -> None:
    """One operation of a JSON patch (RFC 6902), of those that are used."""
    *parents, last = operation["path"].lstrip("/").split("/")
    place: Any = obj
    for parent in parents:
        name = parent.replace("~1", "/").replace("~0", "~")
        place = place[int(name)] if isinstance(place, list) else place[name]
    match operation["op"]:
        case "add" if isinstance(place, list):
            assert last == "-"
            place.append(operation["value"])
        case "add":
            place[last] = operation["value"]
        case "replace":
            assert last in place
            place[last] = operation["value"]
        case other:
            raise AssertionError(f"teach this builder {other}")
