"""Kubeconfig files: read, merged and checked as kubectl does, each mistake with its fix.

The fields and their types are those that client-go's ``clientcmd/api/v1`` declares. A value of
another type is an error anywhere in the file, as for kubectl. Other fields are ignored, and null
counts as absent.
"""

import base64
import binascii
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any, Final

from telemetryd.errors import ConfigError, Problem
from telemetryd.kube.address import may_carry_credentials
from telemetryd.kube.entries import KubeconfigEntry, check_cluster, check_user, in_use, normalise
from telemetryd.kube.files import MIB, read_small_file, show_path, why_unreadable
from telemetryd.kube.yamljson import NotYamlError, load_first_document

Kind = str | list["Kind"] | dict[str, "Kind"]
"""``text``, ``flag``, ``base64`` or ``any``; a list of one kind; fields by name, ``*`` for any."""

_EXTENSIONS: list[Kind] = [{"name": "text", "extension": "any"}]
_EXEC: Kind = {
    "command": "text",
    "args": ["text"],
    "env": [{"name": "text", "value": "text"}],
    "apiVersion": "text",
    "installHint": "text",
    "provideClusterInfo": "flag",
    "interactiveMode": "text",
}
_CLUSTER: Kind = {
    "server": "text",
    "tls-server-name": "text",
    "insecure-skip-tls-verify": "flag",
    "certificate-authority": "text",
    "certificate-authority-data": "base64",
    "proxy-url": "text",
    "disable-compression": "flag",
    "extensions": _EXTENSIONS,
}
_USER: Kind = {
    "client-certificate": "text",
    "client-certificate-data": "base64",
    "client-key": "text",
    "client-key-data": "base64",
    "token": "text",
    "tokenFile": "text",
    "as": "text",
    "as-uid": "text",
    "as-groups": ["text"],
    "as-user-extra": {"*": ["text"]},
    "username": "text",
    "password": "text",
    "auth-provider": {"name": "text", "config": {"*": "text"}},
    "exec": _EXEC,
    "extensions": _EXTENSIONS,
}
_CONTEXT: Kind = {
    "cluster": "text",
    "user": "text",
    "namespace": "text",
    "extensions": _EXTENSIONS,
}
KUBECONFIG: Final[dict[str, Kind]] = {
    "kind": "text",
    "apiVersion": "text",
    "current-context": "text",
    "preferences": {"colors": "flag", "extensions": _EXTENSIONS},
    "clusters": [{"name": "text", "cluster": _CLUSTER}],
    "users": [{"name": "text", "user": _USER}],
    "contexts": [{"name": "text", "context": _CONTEXT}],
    "extensions": _EXTENSIONS,
}

_RIGHT = {
    "text": "must be text: put it in quotes",
    "flag": "must be true or false, without quotes",
    "base64": "not base64",
}


def fit(content: Mapping[str, Any], path: str) -> tuple[dict[str, Any], list[Problem]]:
    """The fields of a kubeconfig that client-go knows, and each one that has another type."""
    problems: list[Problem] = []
    fitted = _fit_fields(content, KUBECONFIG, "", path, problems)
    return fitted, problems


def _fit(value: Any, kind: Kind, key: str, path: str, problems: list[Problem]) -> Any:
    if isinstance(kind, list):
        if isinstance(value, list):
            (item,) = kind
            if kind is _EXTENSIONS and _has_twice(value):
                why = "there are two extensions of one name: remove one of them"
                problems.append(Problem(path, key, why))
            return [
                _fit(_zero(item) if one is None else one, item, _at(key, i, one), path, problems)
                for i, one in enumerate(value)
            ]
        right = "must be a list"
    elif isinstance(kind, dict):
        if isinstance(value, dict):
            return _fit_fields(value, kind, f"{key}.", path, problems)
        right = "must be a mapping"
    elif kind == "any" or _is(value, kind):
        return value
    else:
        right = _RIGHT[kind]
    problems.append(Problem(path, key, right))
    return _zero(kind)


def _fit_fields(
    value: Mapping[str, Any], kind: dict[str, Kind], prefix: str, path: str, problems: list[Problem]
) -> dict[str, Any]:
    other = kind.get("*")
    return {
        name: _fit(field, known, f"{prefix}{name}", path, problems)
        for name, field in value.items()
        if (known := kind.get(name, other)) is not None and field is not None
    }


def _has_twice(extensions: list[Any]) -> bool:
    """Whether a name occurs twice; like client-go, ignores extensions without a value."""
    seen = set()
    for item in extensions:
        name = item.get("name") if isinstance(item, dict) else None
        if name in seen:
            return True
        if isinstance(name, str) and item.get("extension") is not None:
            seen.add(name)
    return False


def _at(key: str, index: int, item: object) -> str:
    name = item.get("name") if isinstance(item, dict) else None
    return f"{key}[name={name}]" if isinstance(name, str) and name else f"{key}[{index}]"


def _zero(kind: Kind) -> Any:
    if isinstance(kind, str):
        return {"flag": False, "any": None}.get(kind, "")
    return type(kind)()


def _is(value: object, kind: str) -> bool:
    if kind == "flag":
        return isinstance(value, bool)
    if not isinstance(value, str):
        return False
    return kind == "text" or _is_base64(value)


def _is_base64(text: str) -> bool:
    """Whether Go's decoder takes it: it skips line ends, and no other white space."""
    try:
        base64.b64decode(text.translate({10: None, 13: None}), validate=True)
    except (binascii.Error, ValueError):
        return False
    return True


MAX_BYTES = 16 * MIB
"""Limit of one file. client-go has none; 400 clusters of Rancher make 2 MB."""

_VERSIONS = {"", "/", "v1", "/v1"}
"""Values that mean version v1 to client-go."""


@dataclass(frozen=True, slots=True)
class Chosen:
    """The cluster and the user of one context."""

    context: str
    cluster: KubeconfigEntry
    user: KubeconfigEntry


@dataclass(slots=True)
class _Merged:
    files: list[str] = field(default_factory=list)
    current: str = ""
    named: dict[str, dict[str, KubeconfigEntry]] = field(
        default_factory=lambda: {"contexts": {}, "clusters": {}, "users": {}}
    )


def choose(paths: list[str], context: str | None) -> Chosen:
    """The context's cluster and user; the first file that has an entry of a name wins.

    Raises:
        ConfigError: Each reason why there is no login.
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
        else KubeconfigEntry({}, entry.file, entry.key)
    )
    problems = check_cluster(cluster)
    is_sent = not problems and may_carry_credentials(cluster.body["server"])
    problems += check_user(user, is_sent=is_sent or bool(problems))
    if problems:
        raise ConfigError(*problems)
    return Chosen(name, cluster, in_use(user, is_sent=is_sent))


def says_nothing(paths: list[str]) -> bool:
    """Whether no file has any context, cluster or user, so that kubectl looks elsewhere; blocks.

    Raises:
        ConfigError: A file can't be used.
    """
    merged = _merge(paths)
    return not merged.current and not any(merged.named.values())


def fingerprint(paths: list[str]) -> bytes:
    """A digest that changes with the content of files; blocks."""
    digest = sha256()
    for path in paths:
        try:
            content = read_small_file(path, MAX_BYTES)
        except (OSError, ValueError) as error:
            content = why_unreadable(error).encode()
        digest.update(f"{path}\n{len(content)}\n".encode(errors="backslashreplace") + content)
    return digest.digest()


def found_files(environ: Mapping[str, str]) -> list[str]:
    """The files that ``$KUBECONFIG`` names, else the default one; those that exist."""
    named = environ.get("KUBECONFIG", "")
    default = f"{environ.get('HOME') or '~'}/.kube/config"
    parts = [part for part in named.split(os.pathsep) if part] if named else [default]
    # Path.expanduser raises where there is no such user; a name that stays as it is isn't found.
    paths = [os.path.expanduser(part) for part in parts]  # noqa: PTH111
    return [path for path in paths if may_exist(path)]


def may_exist(path: str) -> bool:
    """Whether something is there; another error than that it is missing is left to its reader."""
    try:
        os.stat(path)  # noqa: PTH116 - a path is only a name here
    except FileNotFoundError:
        return False
    except (OSError, ValueError):
        return True
    return True


def named_files(kubeconfig: str | None, environ: Mapping[str, str]) -> list[str]:
    """The kubeconfigs that count: the one that is configured, else those of the environment.

    Raises:
        ConfigError: There are none.
    """
    if kubeconfig is not None:
        return [os.path.expanduser(kubeconfig)]  # noqa: PTH111 - as above
    found = found_files(environ)
    if not found:
        where = "$KUBECONFIG" if environ.get("KUBECONFIG") else "~/.kube/config"
        raise ConfigError(
            Problem(
                where,
                "",
                "no kubeconfig found, and this is no pod with a service account: "
                "set kubernetes.kubeconfig or $KUBECONFIG",
            )
        )
    return found


def _merge(paths: list[str]) -> _Merged:
    merged = _Merged()
    problems: list[Problem] = []
    for path in dict.fromkeys(paths):
        try:
            content = _load(path)
        except ConfigError as error:
            problems += error.problems
            continue
        merged.files.append(path)
        merged.current = merged.current or content.get("current-context", "")
        for kind, entries in merged.named.items():
            problems += _collect(kind, content.get(kind, []), path, entries)
    if problems:
        raise ConfigError(*problems)
    return merged


def _load(path: str) -> dict[str, Any]:
    try:
        content = load_first_document(read_small_file(path, MAX_BYTES))
    except NotYamlError as error:
        raise ConfigError(Problem(path, "", f"{error}: give a kubeconfig")) from None
    except (OSError, ValueError) as error:
        why = f"can't be read ({why_unreadable(error)}): give a readable kubeconfig"
        raise ConfigError(Problem(_where(path, error), "", why)) from error
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise ConfigError(Problem(path, "", "not a mapping: give a kubeconfig"))
    fitted, problems = fit(content, path)
    if fitted.get("kind") not in {None, "", "Config"}:
        problems.append(Problem(path, "kind", 'must be "Config": give a kubeconfig'))
    if fitted.get("apiVersion", "") not in _VERSIONS:
        problems.append(Problem(path, "apiVersion", 'must be "v1": give a kubeconfig'))
    if problems:
        raise ConfigError(*problems)
    return fitted


def _where(path: str, error: OSError | ValueError) -> str:
    """The file for a message, or its key where nothing is there: it may be a pasted kubeconfig."""
    return path if show_path(path, error) == path else "kubernetes.kubeconfig or $KUBECONFIG"


def _collect(
    kind: str, listed: list[dict[str, Any]], path: str, entries: dict[str, KubeconfigEntry]
) -> list[Problem]:
    """Add the entries of one list of one file to those of the files before."""
    singular = kind.removesuffix("s")
    folder = Path(path).absolute().parent
    here: dict[str, KubeconfigEntry] = {}
    problems = []
    for index, item in enumerate(listed):
        name = item.get("name", "")
        key = f"{kind}[name={name}]" if name else f"{kind}[{index}]"
        if name in here:
            why = "there are two of this name in the file: remove one of them"
            problems.append(Problem(path, key, why))
            continue
        body = item.get(singular, {})
        here[name] = KubeconfigEntry(normalise(body, singular, folder), path, f"{key}.{singular}")
    for name, entry in here.items():
        entries.setdefault(name, entry)
    return problems


def _find(context: KubeconfigEntry, key: str, merged: _Merged, where: str) -> KubeconfigEntry:
    name = context.body.get(key, "")
    found = merged.named[f"{key}s"].get(name)
    if found is None:
        message = f"no {key} {name!r} in {where}" if name else f"name a {key}"
        raise ConfigError(context.problem(key, message))
    return found
