"""Checks a cluster and a user of a kubeconfig, by the rules of client-go's ``clientcmd``."""

import os.path
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from telemetryd.errors import Problem
from telemetryd.kube.address import parse_server, what_is_wrong_with_proxy
from telemetryd.kube.credentials import clean_token
from telemetryd.kube.files import MIB, PEM_BYTES, read_small_file, show_path, why_unreadable

_FILES = {
    "cluster": ("certificate-authority",),
    "user": ("client-certificate", "client-key", "tokenFile"),
}
_IMPERSONATION = ("as", "as-uid", "as-groups", "as-user-extra")
_EXEC_GROUP = "client.authentication.k8s.io"
_EXEC_VERSIONS = tuple(f"{_EXEC_GROUP}/{version}" for version in ("v1", "v1beta1"))
_INTERACTIVE_MODES = ("Never", "IfAvailable", "Always")
_JWT_PARTS = 3
_HEADER_NAME = frozenset(
    "!#$&'*+-.0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ^_`abcdefghijklmnopqrstuvwxyz|~"
)
"""The characters of a header's name (RFC 9110, section 5.6.2), without the percent sign."""


@dataclass(frozen=True, slots=True)
class KubeconfigEntry:
    """One named context, cluster or user.

    Attributes:
        body: What is under ``cluster`` or ``user``, with absolute paths; empty for no user.
        file: The kubeconfig that holds it.
        key: Key path of the body in it.
    """

    body: Mapping[str, Any]
    file: str
    key: str

    def problem(self, key: str, message: str) -> Problem:
        """A problem with one of its keys."""
        return Problem(self.file, f"{self.key}.{key}" if key else self.key, message)

    def __repr__(self) -> str:
        return f"KubeconfigEntry({self.file}: {self.key})"


def _absolute(folder: Path, path: str) -> str:
    """The path as client-go joins it: ``..`` is taken by name alone; a full path stays as it is."""
    joined = os.path.join(folder, path)  # noqa: PTH118 - a path is only a name
    return path if joined == path else os.path.normpath(joined)


def normalise(body: Mapping[str, Any], singular: str, folder: Path) -> dict[str, Any]:
    """The body of an entry in the form that is used from here on; errors in it stay.

    Relative paths count from the folder of their file. Empty values are left out. The URL of the
    server is complete, and a token has no white space around it, such as YAML's ``|`` leaves.
    """
    changed = {
        key: value for key, value in body.items() if value or key in {"exec", "auth-provider"}
    }
    for key in _FILES.get(singular, ()):
        if key in changed:
            changed[key] = _absolute(folder, changed[key])
    plugin = changed.get("exec")
    if plugin is not None and "/" in plugin.get("command", ""):
        changed["exec"] = {**plugin, "command": _absolute(folder, plugin["command"])}
    if singular == "cluster" and "server" in changed:
        changed["server"] = _complete(changed["server"])
    if "token" in changed:
        changed["token"] = changed["token"].strip()
    return changed


def _complete(server: str) -> str:
    try:
        return parse_server(server)
    except ValueError:
        return server


def in_use(user: KubeconfigEntry, *, is_sent: bool) -> KubeconfigEntry:
    """The fields of a checked user that client-go uses.

    A credential in the kubeconfig goes before a plugin or a provider, a key without its certificate
    doesn't count, and where no credential may be sent there is none.
    """
    body = dict(user.body)
    if not is_sent:
        return KubeconfigEntry(
            {key: body[key] for key in _IMPERSONATION if key in body}, user.file, user.key
        )
    has_certificate = _has_certificate(body)
    has_header = "token" in body or "tokenFile" in body or "username" in body
    dropped = set()
    if not has_certificate:
        dropped |= {"client-key", "client-key-data"}
    if has_header:
        dropped |= {"exec", "auth-provider"}
    elif has_certificate:
        dropped.add("exec")
    if provider := body.get("auth-provider"):
        config = {"client-secret": "", **provider.get("config", {})}
        body["auth-provider"] = {**provider, "config": config}
    if "username" in body:
        body.setdefault("password", "")
    else:
        dropped.add("password")
    return KubeconfigEntry(
        {key: body[key] for key in body if key not in dropped}, user.file, user.key
    )


def check_cluster(cluster: KubeconfigEntry) -> list[Problem]:
    """Each reason why it can't be used."""
    body = cluster.body
    is_tls = body.get("server", "").startswith("https:")
    problems = _check_files(cluster, "cluster")
    if "server" not in body:
        problems.append(cluster.problem("server", "give the URL of the API server"))
    elif (why := what_is_wrong_with_server(body["server"])) is not None:
        problems.append(cluster.problem("server", why))
    has_ca = "certificate-authority" in body or "certificate-authority-data" in body
    if is_tls and has_ca and body.get("insecure-skip-tls-verify"):
        why = "can't be used with a certificate-authority: remove one of the two"
        problems.append(cluster.problem("insecure-skip-tls-verify", why))
    if not _is_server_name(body.get("tls-server-name", "host")):
        why = "must be the host name that the server's certificate has"
        problems.append(cluster.problem("tls-server-name", why))
    if "proxy-url" in body and (why := what_is_wrong_with_proxy(body["proxy-url"])) is not None:
        problems.append(cluster.problem("proxy-url", why))
    return problems


def what_is_wrong_with_server(server: str) -> str | None:
    """What is wrong with the URL of an API server, None where nothing is; never shows it."""
    try:
        parse_server(server)
    except ValueError as error:
        return str(error)
    return None


def _is_server_name(name: str) -> bool:
    if name.startswith(".") or not name.isprintable() or " " in name:
        return False
    try:
        name.encode("idna")
    except UnicodeError:
        return False
    return True


def check_user(user: KubeconfigEntry, *, is_sent: bool) -> list[Problem]:
    """Each reason why requests can't be made as that user."""
    problems = _check_files(user, "user", is_sent=is_sent)
    body = user.body
    has_certificate = _has_certificate(body)
    has_key = "client-key" in body or "client-key-data" in body
    if has_certificate and not has_key:
        problems.append(user.problem("client-key", "a client certificate needs its key"))
    if (
        is_sent
        and "token" in body
        and clean_token(body["token"].encode(errors="replace")) != body["token"]
    ):
        why = "not a token: it holds white space or worse"
        problems.append(user.problem("token", why))
    has_password = "username" in body or "password" in body
    has_both = is_sent and "tokenFile" in body and "username" in body
    if has_both or (has_password and "token" in body):
        why = "two ways to log in, a token and a user name: remove one of the two"
        problems.append(user.problem("token" if "token" in body else "tokenFile", why))
    problems += _check_impersonation(user)
    if "exec" in body:
        problems += _check_exec(user, body["exec"])
    if "auth-provider" in body:
        problems += _check_provider(user, body["auth-provider"])
        if "exec" in body:
            why = "can't be used with an exec plugin: remove one of the two"
            problems.append(user.problem("auth-provider", why))
    return problems


def impersonation(user: KubeconfigEntry) -> tuple[tuple[str, str], ...]:
    """Headers that ask the API server to act for someone else; names may repeat.

    As client-go, keys of ``as-user-extra`` are percent-escaped and values are sent as they are.
    """
    body = user.body
    if "as" not in body:
        return ()
    headers = [("Impersonate-User", body["as"])]
    if "as-uid" in body:
        headers.append(("Impersonate-Uid", body["as-uid"]))
    headers += [("Impersonate-Group", group) for group in body.get("as-groups", ())]
    headers += [
        (f"Impersonate-Extra-{_escape(key)}", value)
        for key, values in body.get("as-user-extra", {}).items()
        for value in values
    ]
    return tuple(headers)


def _escape(key: str) -> str:
    return "".join(
        chr(byte) if chr(byte) in _HEADER_NAME else f"%{byte:02X}"
        for byte in key.encode("utf-8", "surrogatepass")
    )


def _check_impersonation(user: KubeconfigEntry) -> list[Problem]:
    body = user.body
    others = [key for key in _IMPERSONATION[1:] if key in body]
    if others and "as" not in body:
        return [user.problem("as", f"{' and '.join(others)} can't be used without it: give a name")]
    values = {
        "as": [body.get("as", "")],
        "as-uid": [body.get("as-uid", "")],
        "as-groups": body.get("as-groups", []),
        "as-user-extra": [v for vs in body.get("as-user-extra", {}).values() for v in vs],
    }
    return [
        user.problem(key, "has a control character, which no header can hold: remove it")
        for key, texts in values.items()
        if any(not _fits_header(text) for text in texts)
    ]


def _fits_header(text: str) -> bool:
    return not any((char < " " and char != "\t") or char == "\x7f" for char in text)


def _check_exec(user: KubeconfigEntry, plugin: Mapping[str, Any]) -> list[Problem]:
    problems = [
        user.problem(f"exec.{key}", "must be given")
        for key in ("command", "apiVersion")
        if not plugin.get(key)
    ]
    if not problems and plugin["apiVersion"] not in _EXEC_VERSIONS:
        why = f"must be one of {', '.join(_EXEC_VERSIONS)}"
        problems.append(user.problem("exec.apiVersion", why))
    elif not problems and (plugin.get("interactiveMode") or "") not in _interactive_modes(plugin):
        why = f"must be one of {', '.join(_INTERACTIVE_MODES)}"
        problems.append(user.problem("exec.interactiveMode", why))
    if "\0" in "".join(plugin.get("args", ())):
        problems.append(user.problem("exec.args", "no argument can hold a NUL character"))
    if not all(map(_is_variable, plugin.get("env", ()))):
        problems.append(user.problem("exec.env", "must be a list, each with a name and a value"))
    return problems


def _interactive_modes(plugin: Mapping[str, Any]) -> tuple[str, ...]:
    """The modes that may be given; v1 alone has none by default, as for kubectl."""
    return _INTERACTIVE_MODES if plugin["apiVersion"].endswith("/v1") else (*_INTERACTIVE_MODES, "")


def _is_variable(item: Mapping[str, str]) -> bool:
    name, value = item.get("name", ""), item.get("value", "")
    return bool(name) and not {"=", "\0"} & set(name) and "\0" not in value


def _check_provider(user: KubeconfigEntry, provider: Mapping[str, Any]) -> list[Problem]:
    if provider.get("name") != "oidc":
        why = "must be oidc; others have exec plugins now, such as gke-gcloud-auth-plugin"
        return [user.problem("auth-provider.name", why)]
    config = provider.get("config", {})
    needed = ["idp-issuer-url", "client-id"]
    if not config.get("refresh-token"):
        needed.append("id-token")
    problems = [
        user.problem(f"auth-provider.config.{key}", "must be given")
        for key in needed
        if not config.get(key)
    ]
    token = config.get("id-token")
    if token and len(token.split(".")) != _JWT_PARTS:
        problems.append(user.problem("auth-provider.config.id-token", "not a JSON Web Token"))
    return problems


def _check_files(entry: KubeconfigEntry, singular: str, *, is_sent: bool = True) -> list[Problem]:
    problems = []
    for key in _FILES[singular]:
        path = entry.body.get(key)
        if path is None or _is_unused(key, entry.body, is_sent=is_sent):
            continue
        if f"{key}-data" in entry.body:
            problems.append(
                entry.problem(key, f"is there beside {key}-data: remove one of the two")
            )
        elif why := _check_file(path, is_token=key == "tokenFile"):
            problems.append(entry.problem(key, why))
    return problems


def _is_unused(key: str, body: Mapping[str, Any], *, is_sent: bool) -> bool:
    """Whether a file may be missing."""
    if key == "tokenFile":
        return "token" in body or not is_sent
    return key == "client-key" and not _has_certificate(body)


def _has_certificate(body: Mapping[str, Any]) -> bool:
    return "client-certificate" in body or "client-certificate-data" in body


def _check_file(path: str, *, is_token: bool) -> str:
    try:
        raw = read_small_file(path, MIB if is_token else PEM_BYTES)
    except (OSError, ValueError) as error:
        return f"{show_path(path, error)} can't be read ({why_unreadable(error)})"
    if not raw.strip():
        return f"{path!r}: is empty"
    return f"{path!r}: holds no token" if is_token and clean_token(raw) is None else ""
