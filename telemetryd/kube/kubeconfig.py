"""Kubeconfig files: read, merged as kubectl does, and checked, so that every mistake has its mend.

What is done with the outcome is ``connection``'s business. Importing this module is cheap but for
PyYAML.
"""

import copy
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

import yaml

from telemetryd.errors import ConfigError, Problem
from telemetryd.kube.entries import (
    Entry,
    check_cluster,
    check_impersonation,
    check_user,
    normalise,
)
from telemetryd.kube.files import read_small_file, why_unreadable


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
    problems = [*check_impersonation(entry), *check_cluster(cluster), *check_user(user)]
    if problems:
        raise ConfigError(*problems)
    return Chosen(name, cluster, user)


def fingerprint(paths: list[str]) -> bytes:
    """What tells whether files have changed: a digest of their content; blocks."""
    digest = sha256()
    for path in paths:
        try:
            content = read_small_file(path)
        except (OSError, ValueError) as error:
            content = why_unreadable(error).encode()
        digest.update(f"{path}\n{len(content)}\n".encode(errors="backslashreplace") + content)
    return digest.digest()


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
    except (OSError, UnicodeEncodeError) as error:
        why = f"can't be read ({why_unreadable(error)}): give a readable kubeconfig"
        raise ConfigError(Problem(path, "", why)) from error
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
            normal = normalise(body or {}, singular, Path(path).absolute().parent)
            entries[name] = Entry(normal, path, f"{kind}[name={name}].{singular}")
    return problems


def _find(context: Entry, key: str, merged: _Merged, where: str) -> Entry:
    name = context.body.get(key)
    found = merged.named[f"{key}s"].get(name) if isinstance(name, str) else None
    if found is None:
        message = f"no {key} {name!r} in {where}" if name else f"name a {key}"
        raise ConfigError(context.problem(key, message))
    return found
