"""Helm by its command line: what it renders, says and does."""

import json
import os
import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from tests.apiserver.admin import Object, Objects
from tests.deploy.kustomize import NAMESPACE, parse_documents
from tests.docs.values import CHART

KUBERNETES: Final = "1.37.2"
MONITORING: Final = "monitoring.coreos.com/v1"
EXAMPLES: Final = CHART / "examples"
RELEASE: Final = "telemetryd"

Values = Mapping[str, Any]

_RUN_S = 120.0
_UMBRELLA: Final = "umbrella"
# A dependency is called as its alias.
_NAMED: Final[Values] = {"nameOverride": "telemetryd", "fullnameOverride": RELEASE}


class HelmError(Exception):
    """Helm ended with another status than 0; the text is what it said."""


class Helm:
    """One Helm, with folders and a cluster of its own.

    Args:
        program: The executable.
        folder: For its caches and for the values it is given.
        kubeconfig: Of the cluster, where there is one.
    """

    def __init__(self, program: Path, folder: Path, kubeconfig: Path | None = None) -> None:
        self._program = program
        self._folder = folder
        self._environ = {
            "PATH": os.environ["PATH"],
            "HOME": str(folder),
            "HELM_CACHE_HOME": str(folder / "cache"),
            "HELM_CONFIG_HOME": str(folder / "config"),
            "HELM_DATA_HOME": str(folder / "data"),
            "KUBECONFIG": str(kubeconfig or "/nonexistent"),
        }

    def run(self, *arguments: str) -> str:
        """What a command printed.

        Raises:
            HelmError: It failed.
        """
        done = subprocess.run(
            [self._program, *arguments],
            env=self._environ,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=_RUN_S,
        )
        if done.returncode:
            raise HelmError(done.stderr + done.stdout)
        return done.stdout

    def template(
        self,
        *values: Values | Path,
        namespace: str = NAMESPACE,
        release: str = RELEASE,
        monitoring: bool = False,
        sets: Sequence[str] = (),
    ) -> Objects:
        """Every object that the chart makes of the values, without a cluster."""
        served = ["--api-versions", MONITORING] if monitoring else []
        given = self._arguments(values, sets)
        where = ["--namespace", namespace, "--kube-version", KUBERNETES]
        return parse_documents(self.run("template", release, str(CHART), *where, *served, *given))

    def template_each(
        self, variants: Mapping[str, Sequence[Values | Path]], *, monitoring: bool = False
    ) -> dict[str, Objects]:
        """Every object that the chart makes of each variant's values, by one run of Helm."""
        found = self.texts_of_each(variants, monitoring=monitoring)
        return {name: parse_documents("---\n".join(texts)) for name, texts in found.items()}

    def texts_of_each(
        self, variants: Mapping[str, Sequence[Values | Path]], *, monitoring: bool = False
    ) -> dict[str, list[str]]:
        """The same as texts: the chart is a dependency of another one, once for each variant."""
        chart = self._folder / _UMBRELLA
        if not chart.exists():
            shutil.copytree(CHART, chart / "charts" / "telemetryd")
        (described,) = parse_documents((CHART / "Chart.yaml").read_text())
        dependency = {"name": described["name"], "version": described["version"]}
        umbrella = {
            "apiVersion": "v2",
            "name": _UMBRELLA,
            "version": "0.0.0",
            "dependencies": [{**dependency, "alias": name} for name in variants],
        }
        (chart / "Chart.yaml").write_text(json.dumps(umbrella))
        values = {name: overlay(_NAMED, *map(read_values, each)) for name, each in variants.items()}
        served = ["--api-versions", MONITORING] if monitoring else []
        where = ["--namespace", NAMESPACE, "--kube-version", KUBERNETES]
        given = self._arguments([values])
        text = self.run("template", RELEASE, str(chart), *where, *served, *given)
        texts: dict[str, list[str]] = {name: [] for name in variants}
        for document in re.split(r"^---\n", text, flags=re.MULTILINE):
            if found := re.match(rf"# Source: {_UMBRELLA}/charts/([^/]+)/.*\n", document):
                texts[found[1]].append(document[found.end() :])
        return texts

    def lint(self, *values: Values | Path) -> str:
        """What it has to say of the chart with these values."""
        known = ["--kube-version", KUBERNETES]
        return self.run("lint", "--strict", str(CHART), *known, *self._arguments(values))

    def install(
        self, *values: Values | Path, namespace: str = NAMESPACE, release: str = RELEASE
    ) -> str:
        """Installs the chart, and the namespace where it is missing; returns the notes."""
        given = self._arguments(values)
        where = ["--namespace", namespace, "--create-namespace"]
        return self.run("install", release, str(CHART), *where, *given)

    def upgrade(
        self, *values: Values | Path, namespace: str = NAMESPACE, release: str = RELEASE
    ) -> str:
        """Upgrades the release to these values; returns the notes.

        Without `--reset-values` Helm keeps those of before where none are given.
        """
        where = ["--namespace", namespace, "--reset-values"]
        return self.run("upgrade", release, str(CHART), *where, *self._arguments(values))

    def uninstall(self, *, namespace: str = NAMESPACE, release: str = RELEASE) -> str:
        """Removes the release."""
        return self.run("uninstall", release, "--namespace", namespace)

    def manifest(self, *, namespace: str = NAMESPACE, release: str = RELEASE) -> Objects:
        """What is installed."""
        return parse_documents(self.run("get", "manifest", release, "--namespace", namespace))

    def _arguments(self, values: Sequence[Values | Path], sets: Sequence[str] = ()) -> list[str]:
        arguments: list[str] = []
        for number, each in enumerate(values):
            file = each if isinstance(each, Path) else self._folder / f"values-{number}.yaml"
            if not isinstance(each, Path):
                file.write_text(_as_yaml(each))
            arguments += ["--values", str(file)]
        return [*arguments, *(word for text in sets for word in ("--set", text))]


def _as_yaml(values: Values) -> str:
    """JSON, but for what it escapes otherwise than YAML, and for what ends a line in YAML."""
    text = json.dumps(values, ensure_ascii=False)
    return text.translate({code: f"\\u{code:04x}" for code in (0x85, 0x2028, 0x2029)})


def read_values(values: Values | Path) -> Values:
    """Values of a file, or as they are."""
    return parse_documents(values.read_text())[0] if isinstance(values, Path) else values


def overlay(*given: Values) -> dict[str, Any]:
    """Values with those of each next one in their places, as Helm has them; `None` stays."""
    result: dict[str, Any] = {}
    for each in given:
        for key, value in each.items():
            before: Any = result.get(key)
            both = isinstance(before, dict) and isinstance(value, dict)
            result[key] = overlay(before, value) if both else value
    return result


def example(name: str) -> Path:
    """The values of an example."""
    return EXAMPLES / f"{name}.yaml"


def find(objects: Objects, kind: str) -> Object:
    """The one object of that kind."""
    (found,) = [obj for obj in objects if obj["kind"] == kind]
    return found


def container_of(objects: Objects) -> Object:
    """The one container of the Deployment."""
    (found,) = find(objects, "Deployment")["spec"]["template"]["spec"]["containers"]
    container: Object = found
    return container


def toml_of(objects: Objects) -> str:
    """The configuration in the ConfigMap."""
    (found,) = [
        obj["data"]["config.toml"]
        for obj in objects
        if obj["kind"] == "ConfigMap" and "config.toml" in obj["data"]
    ]
    text: str = found
    return text
