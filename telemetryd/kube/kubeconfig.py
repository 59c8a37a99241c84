"""Kubeconfig files: read, merged as kubectl does, and checked, so that every mistake has its mend.

What is done with the outcome is ``connection``'s business. Importing this module is cheap but for
PyYAML.
"""

import base64
import binascii
import copy
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import yaml

from telemetryd.errors import ConfigError, Problem
from telemetryd.kube.credentials import clean_token, read_small_file

_FILES = {
    "cluster": ("certificate-authority",),
    "user": ("client-certificate", "client-key", "tokenFile"),
}
_DATA = {
    "cluster": ("certificate-authority-data",),
    "user": ("client-certificate-data", "client-key-data"),
}


@dataclass(frozen=True, slots=True)
class Entry:
    """One named cluster or user.

    Attributes:
        body: What is under ``cluster`` or ``user``, with absolute paths; empty for no user.
        file: The kubeconfig it stands in.
        key: Key path of the body in it.
    """

    body: Mapping[str, Any]
    file: str
    key: str

    def problem(self, key: str, message: str) -> Problem:
        """A problem with one of its keys."""
        return Problem(self.file, f"{self.key}.{key}" if key else self.key, message)

    def __repr__(self) -> str:
        return f"Entry({self.file}: {self.key})"


@dataclass(frozen=True, slots=True)
class Chosen:
    """What one context names."""

    context: str
    cluster: Entry
    user: Entry

    def as_kubeconfig(self) -> dict[str, Any]:
        """A kubeconfig of this one context, for kubernetes_asyncio's loader."""
        return {
            "current-context": "it",
            "contexts": [{"name": "it", "context": {"cluster": "it", "user": "it"}}],
            "clusters": [{"name": "it", "cluster": copy.deepcopy(dict(self.cluster.body))}],
            "users": [{"name": "it", "user": copy.deepcopy(dict(self.user.body))}],
        }


@dataclass(slots=True)
class _Merged:
    files: list[str] = field(default_factory=list)
    current: str = ""
    named: dict[str, dict[str, Entry]] = field(
        default_factory=lambda: {"contexts": {}, "clusters": {}, "users": {}}
    )


def choose(paths: list[str], context: str | None) -> Chosen:
    """What the context of these files names; the first file that says something has it its way.

    Args:
        paths: Of the files; blocks while they are read.
        context: Its name, None for the current one.

    Raises:
        ConfigError: With each problem that stands in the way of a connection.
    """
    merged = _merge(paths)
    where = ":".join(merged.files)
    name = context if context is not None else merged.current
    if not name:
        problem = "name a context here or in kubernetes.context"
        raise ConfigError(Problem(where, "current-context", problem))
    if name not in merged.named["contexts"]:
        known = ", ".join(sorted(merged.named["contexts"])) or "none"
        raise ConfigError(
            Problem(where, "contexts", f"no context {name!r}; there are: {known}"),
        )
    entry = merged.named["contexts"][name]
    cluster = _find(entry, "cluster", merged, where)
    user = (
        _find(entry, "user", merged, where)
        if entry.body.get("user")
        else Entry({}, entry.file, entry.key)
    )
    problems = [*_check_cluster(cluster), *_check_user(user)]
    if problems:
        raise ConfigError(*problems)
    return Chosen(name, cluster, user)


def _merge(paths: list[str]) -> _Merged:
    merged = _Merged()
    problems: list[Problem] = []
    for path in paths:
        try:
            content = _load(path)
        except ConfigError as error:
            problems += error.problems
            continue
        merged.files.append(path)
        current = content.get("current-context")
        if isinstance(current, str) and not merged.current:
            merged.current = current
        for kind, entries in merged.named.items():
            problems += _collect(kind, content.get(kind), path, entries)
    if problems:
        raise ConfigError(*problems)
    return merged


def _load(path: str) -> dict[str, Any]:
    try:
        content = yaml.safe_load(read_small_file(path))  # type: ignore[no-untyped-call]
    except OSError as error:
        raise ConfigError(
            Problem(path, "", f"can't be read ({error.strerror}): give a readable kubeconfig")
        ) from error
    except Exception as error:  # noqa: BLE001 - PyYAML's constructors raise all sorts
        # Neither the message nor the chain: both quote the line, which may hold a token.
        mark = getattr(error, "problem_mark", None)
        line = f" (line {mark.line + 1})" if mark is not None else ""
        raise ConfigError(Problem(path, "", f"not YAML{line}: give a kubeconfig")) from None
    if content is None:
        raise ConfigError(Problem(path, "", "is empty: give a kubeconfig"))
    if not isinstance(content, dict):
        raise ConfigError(Problem(path, "", "not a mapping: give a kubeconfig"))
    return content


def _collect(kind: str, listed: object, path: str, entries: dict[str, Entry]) -> list[Problem]:
    """Add the entries of one list of one file to those known before."""
    if listed is None:
        return []
    if not isinstance(listed, list):
        return [Problem(path, kind, "must be a list of entries with a name")]
    problems = []
    for index, item in enumerate(listed):
        singular = kind.removesuffix("s")
        body = item.get(singular) if isinstance(item, dict) else None
        name = item.get("name") if isinstance(item, dict) else None
        if not isinstance(name, str) or not name:
            problems.append(Problem(path, f"{kind}[{index}].name", "must be a name"))
        elif not isinstance(body, dict | None):
            problems.append(Problem(path, f"{kind}[name={name}].{singular}", "must be a mapping"))
        elif name not in entries:
            absolute = _absolute(body or {}, singular, Path(path).absolute().parent)
            entries[name] = Entry(absolute, path, f"{kind}[name={name}].{singular}")
    return problems


def _absolute(body: dict[str, Any], singular: str, folder: Path) -> dict[str, Any]:
    """Relative paths count from the folder of the file they stand in; what is empty isn't there."""
    changed = {key: value for key, value in body.items() if value is not None and value != ""}
    for key in _FILES.get(singular, ()):
        if isinstance(body.get(key), str) and body[key]:
            changed[key] = str(folder / body[key])
    plugin = body.get("exec")
    command = plugin.get("command") if isinstance(plugin, dict) else None
    if isinstance(plugin, dict) and isinstance(command, str) and "/" in command:
        changed["exec"] = {**plugin, "command": str(folder / command)}
    return changed


def _find(context: Entry, key: str, merged: _Merged, where: str) -> Entry:
    name = context.body.get(key)
    found = merged.named[f"{key}s"].get(name) if isinstance(name, str) else None
    if found is None:
        message = f"no {key} {name!r} in {where}" if name else f"name a {key}"
        raise ConfigError(context.problem(key, message))
    return found


def _check_cluster(cluster: Entry) -> list[Problem]:
    problems = _check_files(cluster, "cluster")
    server = cluster.body.get("server")
    if not isinstance(server, str) or not server:
        problems.append(cluster.problem("server", "give the URL of the API server"))
    elif (why := check_server(server)) is not None:
        problems.append(cluster.problem("server", why))
    return problems


def check_server(server: str) -> str | None:
    """What is wrong with the URL of an API server, None where nothing is."""
    try:
        parts = urlsplit(server)
        usable = parts.scheme in {"http", "https"} and bool(parts.hostname)
        has_user = parts.username is not None or parts.port == 0
    except ValueError:
        usable = has_user = False
    if not usable:
        return "must be a URL that begins with https://"
    return "must be a URL without user and password" if has_user else None


def _check_user(user: Entry) -> list[Problem]:
    problems = _check_files(user, "user")
    body = user.body
    has_certificate = bool(body.get("client-certificate") or body.get("client-certificate-data"))
    has_key = bool(body.get("client-key") or body.get("client-key-data"))
    if has_certificate != has_key:
        missing = "client-key" if has_certificate else "client-certificate"
        problems.append(user.problem(missing, "a client certificate needs both it and its key"))
    token = body.get("token")
    if token and clean_token(str(token).encode()) is None:
        problems.append(user.problem("token", "not a token: it holds white space or worse"))
    plugin = body.get("exec")
    if plugin is not None:
        if not isinstance(plugin, dict):
            problems.append(user.problem("exec", "must be a mapping"))
        else:
            problems += [
                user.problem(f"exec.{key}", "must be given")
                for key in ("command", "apiVersion")
                if not isinstance(plugin.get(key), str) or not plugin[key]
            ]
    return problems


def _check_files(entry: Entry, singular: str) -> list[Problem]:
    problems = []
    for key in _DATA[singular]:
        data = entry.body.get(key)
        if not data:
            continue
        try:
            base64.b64decode("".join(data.split()), validate=True)
        except (AttributeError, ValueError, binascii.Error):
            problems.append(entry.problem(key, "not base64"))
    for key in _FILES[singular]:
        path = entry.body.get(key)
        if not path or entry.body.get(f"{key}-data"):
            continue
        if not isinstance(path, str):
            problems.append(entry.problem(key, "must be a path"))
            continue
        problem = _check_file(path, is_token=key == "tokenFile")
        if problem:
            problems.append(entry.problem(key, f"{path}: {problem}"))
    return problems


def _check_file(path: str, *, is_token: bool) -> str:
    try:
        raw = read_small_file(path)
    except OSError as error:
        return f"can't be read ({error.strerror})"
    if not raw.strip():
        return "is empty"
    return "holds no token" if is_token and clean_token(raw) is None else ""
