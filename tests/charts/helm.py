"""Helm by its command line: what it renders, says and does."""

import json
import os
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import yaml

from tests.apiserver.admin import Object, Objects
from tests.docs.values import CHART

KUBERNETES: Final = "1.37.2"
MONITORING: Final = "monitoring.coreos.com/v1"
EXAMPLES: Final = CHART / "examples"
RELEASE: Final = "telemetryd"
NAMESPACE: Final = "cattle-telemetry-system"

Values = Mapping[str, Any]

_RUN_S = 120.0


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
        return parse(self.run("template", release, str(CHART), *where, *served, *given))

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
        """Upgrades the release to these values; returns the notes."""
        where = ["--namespace", namespace]
        return self.run("upgrade", release, str(CHART), *where, *self._arguments(values))

    def uninstall(self, *, namespace: str = NAMESPACE, release: str = RELEASE) -> str:
        """Removes the release."""
        return self.run("uninstall", release, "--namespace", namespace)

    def manifest(self, *, namespace: str = NAMESPACE, release: str = RELEASE) -> Objects:
        """What is installed."""
        return parse(self.run("get", "manifest", release, "--namespace", namespace))

    def _arguments(self, values: Sequence[Values | Path], sets: Sequence[str] = ()) -> list[str]:
        arguments: list[str] = []
        for number, each in enumerate(values):
            file = each if isinstance(each, Path) else self._folder / f"values-{number}.yaml"
            if not isinstance(each, Path):
                file.write_text(json.dumps(each))  # JSON is YAML
            arguments += ["--values", str(file)]
        return [*arguments, *(word for text in sets for word in ("--set", text))]


def parse(text: str) -> Objects:
    """Every object of a manifest, by YAML as Kubernetes reads it."""
    load: Any = yaml.safe_load_all
    return [document for document in load(text) if document]


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
