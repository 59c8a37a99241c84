"""The commands of pages that can't be run here, for want of a cluster's or a system's tools.

This is the whole list of them, and each says what is checked instead: that the files it names are
there and can be used, and that the telemetryd command which it leads to runs.
"""

import os
import re
import shlex
from collections.abc import Callable, Iterator
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

from telemetryd import __version__
from tests.charts.documented import check_helm
from tests.deploy import kustomize
from tests.docs.commands import Command, NoSuchForm
from tests.docs.markdown import ROOT
from tests.docs.sandbox import Sandbox

Run = Callable[[str], None]
"""Runs the command that one of these leads to."""

Check = Callable[[Command, Sandbox, Run], None]
"""Checks one; a ``NoSuchForm`` where it isn't one that this can check."""

_UNIT: Final = "systemd/telemetryd.service"
_NAMESPACED: Final = re.compile(r"^(deploy|deployment|svc|service|configmap)/([\w-]+)$")
_KINDS: Final = {"deploy": "deployment", "svc": "service"}
_KUBECTL: Final = frozenset(
    {"annotate", "apply", "create", "delete", "exec", "get", "logs", "port-forward", "rollout"}
)
_DOCKER: Final = frozenset({"build", "push", "run", "save"})
_SYSTEMCTL: Final = frozenset({"daemon-reload", "enable", "reload", "restart", "status"})


def find_declared(command: Command) -> "Check | None":
    """What checks a command of ``DECLARED``, None for any other."""
    words = command.simple_commands()[0]
    return DECLARED.get(" ".join(words[:2])) or DECLARED.get(words[0])


def _make(command: Command, sandbox: Sandbox, run: Run) -> None:
    """The target exists; where it only runs telemetryd, that is run, for a shorter time."""
    words = _words(command)
    shown = sandbox.run(shlex.join(["make", "-n", *words]))
    if shown.returncode:
        raise NoSuchForm(f"make {words}: {shown.stderr}")
    for line in shown.stdout.splitlines():
        _, found, arguments = line.strip().partition(".venv/bin/telemetryd ")
        if found:
            run("telemetryd " + arguments.replace("--duration 20s", "--duration 6s"))


def _kubectl(command: Command, sandbox: Sandbox, run: Run) -> None:
    """What it names is in ``deploy``; a command for the pod is run here, beside a daemon."""
    words = command.simple_commands()[0][1:]
    options = words[: words.index("--")] if "--" in words else words
    rest = list(_without_values(options, {"-n", "--namespace", "-k", "-f", "-c", "-l"}))
    if not rest or rest[0] not in _KUBECTL:
        raise NoSuchForm(f"kubectl {words}: teach tests/docs/declared.py what it is to do")
    for option, value in pairwise(options):
        if option == "-k":
            _check_kustomization(sandbox.cwd / value)
        elif option == "-f" and value != "-":
            kustomize.parse_documents((sandbox.cwd / value).read_text())
        elif option in {"-n", "--namespace"}:
            namespaces = {_namespace(obj) for obj in _every_object()}
            _expect(value in namespaces, f"no object of deploy/ is in the namespace {value}")
    for word in rest[1:]:
        if found := _NAMESPACED.match(word):
            kind = _KINDS.get(found[1], found[1])
            named = {(obj["kind"].lower(), obj["metadata"]["name"]) for obj in _every_object()}
            _expect((kind, found[2]) in named, f"deploy/ has no {word}")
    if options != words:
        sandbox.ensure_daemon()
        run(command.text.partition(" -- ")[2])


def _docker(command: Command, sandbox: Sandbox, run: Run) -> None:
    """The Dockerfile knows the arguments of a build; what a container runs is run here."""
    verb, *rest = words = _words(command)
    if verb not in _DOCKER:
        raise NoSuchForm(f"docker {words}: teach tests/docs/declared.py what it is to do")
    values = {"-t", "--tag", "-o", "--build-arg", "-p", "-v", "-e", "--name", "--user", "--network"}
    plain = list(_without_values(rest, values))
    if verb == "build":
        known = re.findall(r"^ARG (\w+)", (sandbox.tree / "Dockerfile").read_text(), re.MULTILINE)
        for option, value in pairwise(rest):
            if option == "--build-arg":
                _expect(value.partition("=")[0] in known, f"the Dockerfile has no ARG {value}")
        _expect((sandbox.cwd / plain[-1]).is_dir(), f"there is no folder {plain[-1]}")
    elif verb == "run" and len(plain) > 1:
        run(shlex.join(["telemetryd", *plain[1:]]))


def _systemctl(command: Command, sandbox: Sandbox, run: Run) -> None:
    """The unit is ours; what it runs is run here."""
    words = _words(command)
    verb, *units = [word for word in words if not word.startswith("-")]
    if verb not in _SYSTEMCTL:
        raise NoSuchForm(f"systemctl {words}: teach tests/docs/declared.py what it is to do")
    _expect(set(units) <= {"telemetryd"}, f"there is no unit {units}")
    if verb == "enable":
        sandbox.ensure_daemon()
    elif verb == "reload":
        unit = (sandbox.tree / _UNIT).read_text()
        (reload,) = re.findall(r"^ExecReload=/usr/bin/(.*)", unit, re.MULTILINE)
        run(reload)


def _journalctl(command: Command, _sandbox: Sandbox, _run: Run) -> None:
    """The unit is ours."""
    words = _words(command)
    _expect(words[:2] == ["-u", "telemetryd"], f"journalctl {words}: of which unit?")


def _on_files(command: Command, sandbox: Sandbox, _run: Run) -> None:
    """The files it is given are there."""
    paths = [word for word in _words(command) if re.search(r"[/.]\w", word) and word[0] != "-"]
    _expect(bool(paths), f"{command.text} names no file")
    for path in paths:
        _expect((sandbox.cwd / sandbox.place(path)).exists(), f"there is no {path}")


def _gate(_command: Command, _sandbox: Sandbox, _run: Run) -> None:
    """It can be run; that takes minutes, and this test is part of it."""
    _expect(os.access(ROOT / ".ci/run", os.X_OK), "there is no .ci/run, or it can't be run")


def _apt(command: Command, _sandbox: Sandbox, _run: Run) -> None:
    """The package is of this version; `tests/supply` installs it."""
    name = rf"\./telemetryd_{re.escape(__version__)}\+\w+_amd64\.deb"
    _expect(bool(re.fullmatch(name, _words(command)[-1])), f"{command.text}: a release has no such")


DECLARED: Final[dict[str, Check]] = {
    "apt install": _apt,
    ".ci/run": _gate,
    "make": _make,
    "helm": check_helm,
    "kubectl": _kubectl,
    "docker": _docker,
    "systemctl": _systemctl,
    "journalctl": _journalctl,
    "systemd-analyze": _on_files,
    "promtool": _on_files,
    "pip download": _on_files,
}


def _expect(holds: bool, otherwise: str) -> None:
    if not holds:
        raise NoSuchForm(otherwise)


def _words(command: Command) -> list[str]:
    """Of a command that stands alone, those after its name."""
    words, *others = command.simple_commands()
    _expect(not others, f"{command.where}: only kubectl exec may be piped into something")
    return words[1:]


def _without_values(words: list[str], valued: set[str]) -> Iterator[str]:
    """The words that are neither options nor the values of these."""
    rest = iter(words)
    for word in rest:
        if word in valued:
            next(rest, None)
        elif not word.startswith("-"):
            yield word


def _check_kustomization(folder: Path) -> None:
    """All that it is made of is there; that it builds is what the tests of ``deploy`` show."""
    (found,) = kustomize.parse_documents((folder / "kustomization.yaml").read_text())
    generators = found.get("configMapGenerator", ())
    files = [file.rpartition("=")[2] for each in generators for file in each.get("files", ())]
    patches = [patch["path"] for patch in found.get("patches", ()) if "path" in patch]
    for name in (*found.get("resources", ()), *found.get("components", ()), *patches, *files):
        path = folder / name
        _expect(path.exists(), f"{folder.name} has no {name}")
        if path.is_dir():
            _check_kustomization(path)


@cache
def _every_object() -> tuple[Any, ...]:
    return tuple(kustomize.every_object())


def _namespace(obj: Any) -> str:
    named: str = obj["metadata"].get("namespace", "")
    return named
