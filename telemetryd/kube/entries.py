"""A cluster and a user of a kubeconfig: what they may hold, each mistake with its mend.

Which ones count is ``kubeconfig``'s business, and what is made of them ``loader``'s.
"""

import base64
import binascii
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from telemetryd.config.values import InvalidValue, Url
from telemetryd.errors import Problem
from telemetryd.kube.credentials import clean_token
from telemetryd.kube.files import MIB, PEM_BYTES, read_small_file, why_unreadable
from telemetryd.kube.proxy import what_is_wrong_with_proxy

_FILES = {
    "cluster": ("certificate-authority",),
    "user": ("client-certificate", "client-key", "tokenFile"),
}
_DATA = {
    "cluster": ("certificate-authority-data",),
    "user": ("client-certificate-data", "client-key-data"),
}
_IMPERSONATION = ("as", "as-uid", "as-groups", "as-user-extra")
_EXEC_GROUP = "client.authentication.k8s.io"
_EXEC_VERSIONS = tuple(f"{_EXEC_GROUP}/{version}" for version in ("v1", "v1beta1"))
_INTERACTIVE_MODES = ("Never", "IfAvailable", "Always")
_JWT_PARTS = 3


@dataclass(frozen=True, slots=True)
class Entry:
    """One named context, cluster or user.

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


def normalise(body: Mapping[str, Any], singular: str, folder: Path) -> dict[str, Any]:
    """The body of an entry as everyone after this reads it; what is wrong in it stays wrong.

    Relative paths count from the folder of the file they stand in; what is empty isn't there; a
    scheme is in small letters; a token has no white space around it, as YAML's ``|`` leaves it.
    """
    changed = {key: value for key, value in body.items() if value is not None and value != ""}
    for key in _FILES.get(singular, ()):
        if isinstance(body.get(key), str) and body[key]:
            changed[key] = str(folder / body[key])
    plugin = body.get("exec")
    command = plugin.get("command") if isinstance(plugin, dict) else None
    if isinstance(plugin, dict) and isinstance(command, str) and "/" in command:
        changed["exec"] = {**plugin, "command": str(folder / command)}
    server, token = body.get("server"), body.get("token")
    if singular == "cluster" and isinstance(server, str) and "://" in server:
        scheme, _, rest = server.partition("://")
        changed["server"] = f"{scheme.lower()}://{rest}"
    if singular == "user" and isinstance(token, str) and token:
        changed["token"] = token.strip()
    return changed


def check_cluster(cluster: Entry) -> list[Problem]:
    """Everything that stands in the way of reaching it."""
    problems = _check_files(cluster, "cluster")
    body = cluster.body
    if "server" not in body:
        problems.append(cluster.problem("server", "give the URL of the API server"))
    elif (why := what_is_wrong_with_server(body["server"])) is not None:
        problems.append(cluster.problem("server", why))
    if not isinstance(body.get("insecure-skip-tls-verify", False), bool):
        why = "must be true or false, without quotes"
        problems.append(cluster.problem("insecure-skip-tls-verify", why))
    if not _is_server_name(body.get("tls-server-name", "host")):
        why = "must be the host name that the server's certificate has"
        problems.append(cluster.problem("tls-server-name", why))
    if "proxy-url" in body and (why := what_is_wrong_with_proxy(body["proxy-url"])) is not None:
        problems.append(cluster.problem("proxy-url", why))
    return problems


def what_is_wrong_with_server(server: object) -> str | None:
    """What is wrong with the URL of an API server, None where nothing is; never shows it."""
    if not isinstance(server, str):
        return 'must be a URL in quotes such as "https://rancher.example.com"'
    try:
        Url().parse(server)
    except InvalidValue as error:
        return str(error)
    return None


def _is_server_name(name: object) -> bool:
    if not isinstance(name, str) or name.startswith(".") or not name.isprintable() or " " in name:
        return False
    try:
        name.encode("idna")
    except UnicodeError:
        return False
    return True


def check_user(user: Entry) -> list[Problem]:
    """Everything that stands in the way of asking as that user."""
    problems = _check_files(user, "user")
    body = user.body
    has_certificate = bool(body.get("client-certificate") or body.get("client-certificate-data"))
    has_key = bool(body.get("client-key") or body.get("client-key-data"))
    if has_certificate != has_key:
        missing = "client-key" if has_certificate else "client-certificate"
        problems.append(user.problem(missing, "a client certificate needs both it and its key"))
    token = body.get("token", "absent")
    if not isinstance(token, str):
        problems.append(user.problem("token", "must be text in quotes"))
    elif clean_token(token.encode(errors="replace")) is None:
        problems.append(user.problem("token", "not a token: it holds white space or worse"))
    problems += _check_password(user)
    problems += check_impersonation(user)
    if "exec" in body:
        problems += _check_exec(user, body["exec"])
    if "auth-provider" in body:
        problems += _check_provider(user, body["auth-provider"])
    return problems


def check_impersonation(entry: Entry) -> list[Problem]:
    """Whoever is to act as another must not act as himself instead, who may do more or less."""
    return [
        entry.problem(key, "impersonation isn't supported: give a user that has the rights itself")
        for key in _IMPERSONATION
        if entry.body.get(key)
    ]


def _check_password(user: Entry) -> list[Problem]:
    keys = ("username", "password")
    given = [key for key in keys if key in user.body]
    problems = [
        user.problem(key, "must be text in quotes")
        for key in given
        if not isinstance(user.body[key], str)
    ]
    if len(given) == 1:
        (missing,) = set(keys) - set(given)
        problems.append(user.problem(missing, "basic authentication needs both it and the other"))
    return problems


def _check_exec(user: Entry, plugin: object) -> list[Problem]:
    if not isinstance(plugin, dict):
        return [user.problem("exec", "must be a mapping")]
    problems = [
        user.problem(f"exec.{key}", "must be given")
        for key in ("command", "apiVersion")
        if not isinstance(plugin.get(key), str) or not plugin[key]
    ]
    if not problems and plugin["apiVersion"] not in _EXEC_VERSIONS:
        why = f"must be one of {', '.join(_EXEC_VERSIONS)}"
        problems.append(user.problem("exec.apiVersion", why))
    elif not problems and (plugin.get("interactiveMode") or "") not in _interactive_modes(plugin):
        why = f"must be one of {', '.join(_INTERACTIVE_MODES)}"
        problems.append(user.problem("exec.interactiveMode", why))
    if not isinstance(plugin.get("provideClusterInfo") or False, bool):
        why = "must be true or false, without quotes"
        problems.append(user.problem("exec.provideClusterInfo", why))
    arguments, variables = plugin.get("args") or [], plugin.get("env") or []
    if not isinstance(arguments, list) or not all(map(_is_argument, arguments)):
        problems.append(user.problem("exec.args", "must be a list of text, each in quotes"))
    if not isinstance(variables, list) or not all(map(_is_variable, variables)):
        problems.append(user.problem("exec.env", "must be a list, each with a name and a value"))
    return problems


def _interactive_modes(plugin: Mapping[str, Any]) -> tuple[str, ...]:
    """The modes that may be given; v1 alone has none by default, as for kubectl."""
    return _INTERACTIVE_MODES if plugin["apiVersion"].endswith("/v1") else (*_INTERACTIVE_MODES, "")


def _is_argument(value: object) -> bool:
    return isinstance(value, str) and "\0" not in value


def _is_variable(item: object) -> bool:
    if not isinstance(item, dict):
        return False
    name, value = item.get("name"), item.get("value")
    return (
        isinstance(name, str) and bool(name) and not {"=", "\0"} & set(name) and _is_argument(value)
    )


def _check_provider(user: Entry, provider: object) -> list[Problem]:
    if not isinstance(provider, dict):
        return [user.problem("auth-provider", "must be a mapping")]
    name = provider.get("name")
    if name not in {"oidc", "gcp"}:
        why = "must be oidc or gcp; others have exec plugins now"
        return [user.problem("auth-provider.name", why)]
    config = provider.get("config")
    if not isinstance(config, dict):
        return [user.problem("auth-provider.config", "must be a mapping")]
    if name == "gcp":
        needed: tuple[str, ...] = () if "access-token" in config else ("cmd-path", "cmd-args")
    else:
        needed = ("client-id", "client-secret", "idp-issuer-url") if _refreshes(config) else ()
        token = config.get("id-token")
        if token is None and not needed:
            needed = ("id-token",)
        elif token is not None and not _is_jwt(token):
            return [user.problem("auth-provider.config.id-token", "not a JSON Web Token")]
    return [
        user.problem(f"auth-provider.config.{key}", "must be given, as text in quotes")
        for key in needed
        if not isinstance(config.get(key), str)
    ]


def _refreshes(config: Mapping[str, Any]) -> bool:
    return config.get("refresh-token") is not None


def _is_jwt(token: object) -> bool:
    return isinstance(token, str) and len(token.split(".")) == _JWT_PARTS


def _check_files(entry: Entry, singular: str) -> list[Problem]:
    problems = []
    for key in _DATA[singular]:
        data = entry.body.get(key)
        if not data:
            continue
        try:
            base64.b64decode("".join(data.split()), validate=True)
        except (AttributeError, TypeError, ValueError, binascii.Error):
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
            problems.append(entry.problem(key, f"{path!r}: {problem}"))
    return problems


def _check_file(path: str, *, is_token: bool) -> str:
    try:
        raw = read_small_file(path, MIB if is_token else PEM_BYTES)
    except (OSError, ValueError) as error:
        return f"can't be read ({why_unreadable(error)})"
    if not raw.strip():
        return "is empty"
    return "holds no token" if is_token and clean_token(raw) is None else ""
