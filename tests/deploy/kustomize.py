"""Builds the kustomizations of `deploy/`: the few features they use, and an error for any other.

Where a real `kustomize` or `kubectl` is at hand, a test holds this to it.
"""

import json
import os
from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from tests.apiserver.admin import Object, Objects

DEPLOY = Path(__file__).parents[2] / "deploy"
VARIANTS = (
    "base",
    "overlays/scc",
    "overlays/kubernetes",
    "overlays/kubernetes-auth",
    "overlays/ha",
    "overlays/air-gapped",
    "overlays/scc+components/ha",
    "overlays/kubernetes+components/ha",
    "overlays/scc+components/air-gapped",
    "overlays/kubernetes+components/air-gapped",
    "overlays/kubernetes+components/kubernetes-auth",
    "overlays/ha+components/kubernetes-auth",
)
"""Each a folder of `deploy/`, or one and a component as an overlay of one's own has them."""

_KNOWN = {"apiVersion", "kind", "resources", "components", "patches"}


def build(variant: str) -> Objects:
    """Every object of one of the `VARIANTS`, in the order of the files."""
    folder, *components = variant.split("+")
    objects = _build(DEPLOY / folder)
    for component in components:
        _extend(objects, DEPLOY / component)
    return objects


def folder_of(variant: str, own: Path) -> Path:
    """The folder to give to kustomize; for a combination, one that is written into `own`."""
    folder, *components = variant.split("+")
    if not components:
        return DEPLOY / folder
    document = {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "resources": [os.path.relpath(DEPLOY / folder, own.resolve())],
        "components": [os.path.relpath(DEPLOY / each, own.resolve()) for each in components],
    }
    (own / "kustomization.yaml").write_text(json.dumps(document))
    return own


def _build(folder: Path) -> Objects:
    objects: Objects = []
    _extend(objects, folder)
    return objects


def _extend(objects: Objects, folder: Path) -> None:
    """What a kustomization adds to objects and changes of them; only a component may change."""
    (kustomization,) = _documents(folder / "kustomization.yaml")
    unknown = set(kustomization) - _KNOWN
    assert not unknown, f"{folder}: teach this builder {unknown}"
    for resource in kustomization["resources"]:
        path = folder / resource
        objects += _build(path.resolve()) if path.is_dir() else _documents(path)
    for component in kustomization.get("components", ()):
        _extend(objects, (folder / component).resolve())
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
    return deepcopy(_parsed(path))


@cache
def _parsed(path: Path) -> list[Any]:
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
    *parents, last = (
        name.replace("~1", "/").replace("~0", "~")
        for name in operation["path"].lstrip("/").split("/")
    )
    place: Any = obj
    for parent in parents:
        place = place[_index(place, parent)]
    key = _index(place, last)
    match operation["op"]:
        case "test":
            assert place[key] == operation["value"], operation
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
