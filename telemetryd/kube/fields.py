"""The fields of a kubeconfig and their types, as client-go's ``clientcmd/api/v1`` declares them.

A value of another type is an error anywhere in the file, as for kubectl. Other fields are ignored,
and null counts as absent.
"""

import base64
import binascii
from collections.abc import Mapping
from typing import Any, Final

from telemetryd.errors import Problem

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
    """The fields of a kubeconfig that client-go knows, and each one that has another type.

    Args:
        content: What the file holds.
        path: Of the file, for the problems.
    """
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
