"""Makes `deploy/` of the chart: `make manifests`.

The base is what the chart makes of the default values. A component is what it makes otherwise of
further values: patches, and objects that are added. Keys of the configuration become variables, so
that components go together in any combination. No variable can name an exporter: the component that
adds one puts another file in the place of the base's. `deploy/monitoring` is what the chart's own
files are made of, and stays.
"""

import json
import re
import tempfile
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeAlias

import yaml

from telemetryd.config.overrides import variable_of
from tests.apiserver.admin import Object, Objects
from tests.charts.helm import (
    Helm,
    Values,
    container_of,
    example,
    overlay,
    read_values,
    toml_of,
)
from tests.charts.versions import program
from tests.deploy.kustomize import DEPLOY, parse_documents

Key: TypeAlias = tuple[str, str, str]
"""Kind, namespace and name of an object."""

MADE: Final = "# Made of the chart by `make manifests`: what is changed here is lost.\n"
# As Rancher's fleet has it: a component takes the rights for it away where there is no Rancher.
_BASE: Final[Values] = {"config": {"reload_on_change": True, "kubernetes": {"source": "rancher"}}}
_CLAIM: Final = "PersistentVolumeClaim"
_OF_HELM: Final = re.compile(
    r"^ *(helm\.sh/chart|app\.kubernetes\.io/managed-by): .*\n", re.MULTILINE
)
_MONITORING: Final[Values] = {
    "monitoring": {
        "podMonitor": {"enabled": True},
        "prometheusRule": {"enabled": True},
        "dashboard": {"enabled": True, "namespace": "cattle-dashboards"},
    }
}


@dataclass(frozen=True, slots=True)
class Component:
    """A folder of `deploy/components`.

    Attributes:
        about: What it is for.
        values: What makes it.
        beside: What is there already: the base, or these components.
    """

    about: str
    values: Values
    beside: tuple[str, ...] = ("base",)


def _of_example(name: str) -> Component:
    path = example(name)
    about = re.match(r"(# .*\n)+", path.read_text())
    assert about, path
    return Component(about[0], overlay(read_values(path), {"persistence": {"retain": False}}))


_MONITORED = (
    "# PodMonitor, alerts and dashboard, for the Prometheus Operator and Grafana's sidecar.\n"
    "# Rancher Monitoring finds them; the namespace cattle-dashboards must exist.\n"
)
_TLS = _of_example("tls")
COMPONENTS: Final[Mapping[str, Component]] = {
    **{name: _of_example(name) for name in ("ha", "kubernetes", "scc-operator")},
    "air-gapped": _of_example("air-gapped"),
    "tls": _TLS,
    "monitoring": Component(_MONITORED, _MONITORING),
    "monitoring-tls": Component(
        "# monitoring and tls together: name it after both. Prometheus has a token of its own.\n",
        overlay(_TLS.values, _MONITORING),
        ("tls", "monitoring"),
    ),
}


def render(helm: Helm) -> dict[Path, str]:
    """Every file, by its path."""
    variants: dict[str, Sequence[Values | Path]] = {"base": [_BASE]}
    for name, component in COMPONENTS.items():
        variants[name] = [_BASE, component.values]
        exporters = component.values.get("config", {}).get("exporters", {})
        variants[f"{name}-file"] = [_BASE, {"config": {"exporters": exporters}}]
    texts = {
        name: [_clean(text) for text in found]
        for name, found in helm.texts_of_each(variants).items()
    }
    base = DEPLOY / "base"
    files = {
        base / "kustomization.yaml": f"{MADE}{_header('v1beta1', 'Kustomization')}"
        "resources:\n- manifests.yaml\n",
        base / "manifests.yaml": MADE + "---\n".join(texts["base"]),
    }
    for name, component in COMPONENTS.items():
        folder = DEPLOY / "components" / name
        known: dict[Key, Object] = {}
        for each in component.beside:
            known = {_key(obj): obj for obj in _objects(texts[each])} | known
        before, after = [*known.values()], _objects(texts[name])
        _use_variables(before, toml_of(_objects(texts["base"])))
        _use_variables(after, toml_of(_objects(texts[f"{name}-file"])))
        added = [
            text
            for text, obj in zip(texts[name], _objects(texts[name]), strict=True)
            if _key(obj) not in known
        ]
        claims = [text for text in added if f"kind: {_CLAIM}\n" in text]
        added = [text for text in added if text not in claims]
        if added:
            files[folder / "added.yaml"] = MADE + "---\n".join(added)
        for text in claims:
            files[DEPLOY / "volume.yaml"] = f"{MADE}{_VOLUME}{text}"
        files[folder / "kustomization.yaml"] = _component(component.about, added, before, after)
    return files


_VOLUME = (
    "# For components/air-gapped: applied once, and left by `kubectl delete -k`. With\n"
    "# components/ha it must be one that several pods can mount: ReadWriteMany.\n"
)


def _clean(text: str) -> str:
    """Without what only Helm needs, and without spaces at the end of lines."""
    return re.sub(r" +$", "", _OF_HELM.sub("", text), flags=re.MULTILINE).strip() + "\n"


def _objects(texts: Sequence[str]) -> Objects:
    return parse_documents("---\n".join(texts))


def _key(obj: Object) -> Key:
    return obj["kind"], obj["metadata"].get("namespace", ""), obj["metadata"]["name"]


def _use_variables(objects: Objects, file: str) -> None:
    """Lets the ConfigMap hold the file, and the container's environment what it lacks."""
    wanted, given = tomllib.loads(toml_of(objects)), tomllib.loads(file)
    assert wanted.pop("exporters") == given.pop("exporters")
    before = dict(_leaves(given))
    for path, value in _leaves(wanted):
        if before.pop(path, None) != value:
            text = json.dumps(value) if isinstance(value, bool) else str(value)
            container_of(objects)["env"].append({"name": variable_of(path), "value": text})
    assert not before, f"no variable takes a key away: {before}"
    (stored,) = (obj for obj in objects if "config.toml" in obj.get("data", {}))
    stored["data"]["config.toml"] = file


def _leaves(table: Mapping[str, Any], path: tuple[str, ...] = ()) -> Iterator[tuple[Any, Any]]:
    for key, value in table.items():
        if isinstance(value, dict):
            yield from _leaves(value, (*path, key))
        else:
            yield (*path, key), value


def _component(about: str, added: Sequence[str], before: Objects, after: Objects) -> str:
    """A kustomization that adds these texts and patches what was there before."""
    lines = [MADE, about, _header("v1alpha1", "Component")]
    if added:
        lines.append("resources:\n- added.yaml\n")
    now = {_key(obj): obj for obj in after}
    patches = {_key(obj): [*_differences(obj, now[_key(obj)])] for obj in before}
    lines += ["patches:\n"] if any(patches.values()) else []
    for (kind, _, name), operations in patches.items():
        if operations:
            lines.append(f"- target: {{kind: {kind}, name: {name}}}\n  patch: |-\n")
            lines += [f"    {line}".rstrip() + "\n" for line in _dump(operations).splitlines()]
    return "".join(lines)


def _header(version: str, kind: str) -> str:
    return f"apiVersion: kustomize.config.k8s.io/{version}\nkind: {kind}\n"


def _differences(old: Any, new: Any, path: str = "") -> Iterator[Object]:
    """A JSON patch from one to the other."""
    if old == new:
        return
    match old, new:
        case {}, {}:
            yield from _of_tables(old, new, path)
        case list(), list():
            yield from _of_lists(old, new, path)
        case _:
            yield {"op": "replace", "path": path, "value": new}


def _of_tables(old: Object, new: Object, path: str) -> Iterator[Object]:
    for key in {**old, **new}:
        where = f"{path}/{key.replace('~', '~0').replace('/', '~1')}"
        if key not in new:
            yield {"op": "remove", "path": where}
        elif key not in old:
            yield {"op": "add", "path": where, "value": new[key]}
        else:
            yield from _differences(old[key], new[key], where)


def _of_lists(old: list[Any], new: list[Any], path: str) -> Iterator[Object]:
    """What is added comes at the end, so that patches of other components find their places."""
    if _names(old) == _names(new) != []:
        for number, (one, other) in enumerate(zip(old, new, strict=True)):
            yield from _differences(one, other, f"{path}/{number}")
        return
    gone = [number for number, each in enumerate(old) if each not in new]
    yield from ({"op": "remove", "path": f"{path}/{number}"} for number in reversed(gone))
    for each in new:
        if each not in old:
            yield {"op": "add", "path": f"{path}/-", "value": each}


def _names(objects: list[Any]) -> list[str]:
    return [each["name"] for each in objects if isinstance(each, dict) and "name" in each]


class _Dumper(yaml.SafeDumper):
    """Texts of several lines as such."""


def _represent(dumper: Any, text: str) -> Any:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else "")


def _dump(document: Any) -> str:
    dumper: Any = _Dumper
    dumper.add_representer(str, _represent)
    dump: Any = yaml.dump
    text: str = dump(document, Dumper=dumper, sort_keys=False, width=110)
    return text


def main() -> None:
    """Writes every file."""
    with tempfile.TemporaryDirectory() as folder:
        files = render(Helm(program(4), Path(folder)))
    for path, text in files.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


if __name__ == "__main__":
    main()
