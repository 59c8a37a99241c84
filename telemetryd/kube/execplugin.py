"""Credential plugins (``users[].user.exec``), run and read as client-go does.

A plugin gets a process group, a deadline and no terminal. When it ends, the rest of its group is
killed. Its output holds secrets: no message quotes it. The format is
client.authentication.k8s.io/v1 and v1beta1.
"""

import base64
import errno
import json
import os
import re
import select
import signal
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from telemetryd.bounds import free_text
from telemetryd.errors import ConfigError, Reason, Unavailable
from telemetryd.kube.credentials import Grant, clean_token
from telemetryd.kube.entries import KubeconfigEntry
from telemetryd.kube.files import MIB, PEM_BYTES, read_small_file, why_unreadable
from telemetryd.kube.pem import load_pair_from_memory
from telemetryd.kube.yamljson import NotYamlError, load_first_document
from telemetryd.sharedread import SharedRead

RUN_TIMEOUT_S = 30.0
"""Deadline of one run."""

_KIND = re.compile(r"[A-Z][A-Za-z]{1,30}")
_API_VERSION = re.compile(r"(?:[a-z.0-9]{1,60}/)?v[0-9][0-9a-z]{0,9}")
_EXTENSION = "client.authentication.k8s.io/exec"
_POLL_MS = 50
_LAST_WORDS_S = 1.0
"""For a pipe that another process holds open after the plugin has ended."""

_TRANSIENT_ERRNOS = {errno.EAGAIN, errno.ENOMEM, errno.EMFILE, errno.ENFILE, errno.ETXTBSY}
"""Why a plugin can't be started now, but may be later."""


class ExecPlugin:
    """The plugin of one user; one run at a time, in a thread. It goes on if its caller gives up."""

    def __init__(
        self, user: KubeconfigEntry, cluster: KubeconfigEntry, settle: Callable[[Grant], None]
    ) -> None:
        """Run nothing yet.

        ``settle`` gets each grant, also one that comes after the caller gave up.

        Raises:
            ConfigError: It needs a terminal.
        """
        plugin = user.body["exec"]
        if plugin.get("interactiveMode") == "Always":
            why = "Always needs a terminal, which telemetryd has none of: give Never or IfAvailable"
            raise ConfigError(user.problem("exec.interactiveMode", why))
        self._user = user
        self._cluster = cluster if plugin.get("provideClusterInfo") else None
        self._version: str = plugin["apiVersion"]
        self._running: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()
        self._is_closed = False
        self._shared: SharedRead[Grant] = SharedRead("exec plugin", settle)

    async def fetch(self) -> Grant:
        """Run it, or wait for the current run.

        Raises:
            ConfigError: It can't be run, or what it grants can't be used: a person must fix it.
            Unavailable: It failed, and may succeed the next time.
        """
        try:
            return await self._shared.take(partial(self._run, RUN_TIMEOUT_S))
        except OSError as error:  # no thread
            raise Unavailable(why_unreadable(error), kind=Reason.AUTH) from error

    def close(self) -> None:
        """End the current run, and allow no other."""
        with self._lock:
            self._is_closed = True
            if self._running is not None:
                _kill_group(self._running)

    def _run(self, timeout_s: float) -> Grant:
        plugin = self._user.body["exec"]
        environ = {
            **os.environ,
            **{item["name"]: item.get("value") or "" for item in plugin.get("env") or []},
            "KUBERNETES_EXEC_INFO": json.dumps(self._info(), default=str),
        }
        command = self._find(plugin["command"])
        try:
            printed, status = self._execute(
                [command, *(plugin.get("args") or [])], environ, timeout_s
            )
        except TimeoutError:
            why = f"no answer within {timeout_s:.1f} s"
            raise Unavailable(why, kind=Reason.AUTH) from None
        except OSError as error:
            why = f"can't be run ({error.strerror})"
            if error.errno in _TRANSIENT_ERRNOS:
                raise Unavailable(f"it {why}", kind=Reason.AUTH) from error
            raise self._problem("command", f"the plugin {command} {why}{self._hint}") from error
        except ValueError as error:
            why = "no plugin can have such a name or argument"
            raise self._problem("command", why) from error
        if status != 0:
            why = f"it ended with status {status}, run it by hand to see why"
            raise Unavailable(why, kind=Reason.AUTH)
        try:
            return read_credential(printed, self._version)
        except ValueError as error:
            raise self._problem("", f"the plugin {command}: {error}") from None

    @property
    def _hint(self) -> str:
        hint = self._user.body["exec"].get("installHint")
        return f": {free_text(' '.join(hint.split()))}" if isinstance(hint, str) and hint else ""

    def _problem(self, key: str, why: str) -> ConfigError:
        return ConfigError(self._user.problem(f"exec.{key}" if key else "exec", why))

    def _find(self, command: str) -> str:
        """Path of the plugin, found in our own PATH, not in that of its ``env``, as in client-go.

        Raises:
            ConfigError: There is none.
        """
        if "\0" in command:
            raise self._problem("command", "no plugin can have such a name or argument")
        if "/" in command:
            return command
        for folder in os.environ.get("PATH", "").split(os.pathsep):
            path = f"{folder or '.'}/{command}"
            if Path(path).is_file() and os.access(path, os.X_OK):
                if os.path.isabs(path):  # noqa: PTH117 - a path is only a name here
                    return path
                break  # as Go: what lies in the current folder isn't run by its bare name
        raise self._problem("command", f"the plugin {command} isn't in $PATH{self._hint}")

    def _info(self) -> dict[str, Any]:
        spec: dict[str, Any] = {"interactive": False}
        if self._cluster is not None:
            spec["cluster"] = _cluster_info(self._cluster)
        return {"kind": "ExecCredential", "apiVersion": self._version, "spec": spec}

    def _execute(
        self, command: list[str], environ: Mapping[str, str], timeout_s: float
    ) -> tuple[bytes, int]:
        """Its output and exit status; its whole process group is killed afterwards.

        Raises:
            OSError: It can't be started.
        """
        with self._lock:
            if self._is_closed:
                raise OSError(errno.EAGAIN, "telemetryd is stopping")
            process = self._running = subprocess.Popen(  # noqa: S603 - as configured
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env=environ,
                start_new_session=True,
            )
        try:
            printed = _drain(process, time.monotonic() + timeout_s)
        finally:
            with self._lock:
                # While it isn't reaped, its number can't become another group's.
                _kill_group(process)
                process.wait()
                self._running = None
            if process.stdout is not None:
                process.stdout.close()
        return printed, process.returncode


def _kill_group(process: subprocess.Popen[bytes]) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)


def _has_ended(process: subprocess.Popen[bytes]) -> bool:
    return os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def _drain(process: subprocess.Popen[bytes], deadline_s: float) -> bytes:
    """Its output; one MiB and the byte after it at most.

    Raises:
        TimeoutError: The deadline, in seconds of the monotonic clock, passes before.
    """
    assert process.stdout is not None  # noqa: S101 - a pipe was asked for
    pipe = process.stdout.fileno()
    os.set_blocking(pipe, False)
    poll = select.poll()
    poll.register(pipe, select.POLLIN)
    printed = bytearray()
    is_open = True
    until_s = deadline_s
    while is_open or not _has_ended(process):
        if time.monotonic() >= until_s:
            if _has_ended(process):
                break  # what it started holds the pipe
            raise TimeoutError
        if not is_open:
            time.sleep(_POLL_MS / 1000)
            continue
        if poll.poll(_POLL_MS):
            chunk = os.read(pipe, 65536)
            is_open = bool(chunk)
            printed += chunk[: MIB + 1 - len(printed)]
        elif _has_ended(process):
            until_s = min(until_s, time.monotonic() + _LAST_WORDS_S)
    return bytes(printed)


def _cluster_info(cluster: KubeconfigEntry) -> dict[str, Any]:
    body = cluster.body
    info: dict[str, Any] = {"server": body["server"]}
    for key in ("tls-server-name", "insecure-skip-tls-verify", "proxy-url", "disable-compression"):
        if body.get(key):
            info[key] = body[key]
    ca = body.get("certificate-authority-data")
    if ca:
        ca = "".join(ca.split())
    elif path := body.get("certificate-authority"):
        try:
            ca = base64.b64encode(read_small_file(path, PEM_BYTES)).decode()
        except (OSError, ValueError) as error:
            why = f"the CA {path} can't be read ({why_unreadable(error)})"
            raise Unavailable(why, kind=Reason.AUTH) from error
    if ca:
        info["certificate-authority-data"] = ca
    extensions = body.get("extensions")
    info["config"] = next(
        (
            item.get("extension")
            for item in (extensions if isinstance(extensions, list) else [])
            if isinstance(item, dict) and item.get("name") == _EXTENSION
        ),
        None,
    )
    return info


def read_credential(printed: bytes, version: str) -> Grant:
    """The grant of an ExecCredential in JSON or YAML.

    Raises:
        ValueError: It grants nothing that can be used; the message quotes no secret.
    """
    if len(printed) > MIB:
        raise ValueError("it printed more than 1 MiB")
    credential = _parse(printed)
    if not isinstance(credential, dict):
        raise ValueError("it printed no ExecCredential")  # noqa: TRY004 - of what was printed
    kind = credential.get("kind") or "ExecCredential"
    if kind != "ExecCredential":
        raise ValueError(f"it printed {_name(_KIND, kind, 'a')}, not an ExecCredential")
    if credential.get("apiVersion") != version:
        other = _name(_API_VERSION, credential.get("apiVersion"))
        raise ValueError(f"it printed no ExecCredential of {version}, but of {other}")
    status = credential.get("status")
    if not isinstance(status, dict):
        raise ValueError("it printed an ExecCredential without a status")  # noqa: TRY004
    return _grant(status)


def _name(pattern: re.Pattern[str], value: object, article: str = "") -> str:
    """The name where it looks like one: a plugin may print a token in any place."""
    if isinstance(value, str) and pattern.fullmatch(value):
        return f"{article} {value}".lstrip()
    return "something else" if value is not None else "None"


def _parse(printed: bytes) -> object:
    neither = "it printed no ExecCredential, neither in JSON nor in YAML"
    try:
        return json.loads(printed)
    except (ValueError, RecursionError):
        if printed.lstrip().startswith(b"{"):  # client-go takes that for JSON alone
            raise ValueError(neither) from None
    try:
        return load_first_document(printed)
    except NotYamlError:
        raise ValueError(neither) from None


def _grant(status: Mapping[str, Any]) -> Grant:
    token, certificate, key = (
        _text(status, name) for name in ("token", "clientCertificateData", "clientKeyData")
    )
    if not token and not certificate and not key:
        raise ValueError("it grants neither a token nor a certificate")
    clean = clean_token(token.encode(errors="replace"))
    if token and clean is None:
        raise ValueError("what it grants isn't a token")
    if bool(certificate) != bool(key):
        missing = "key" if certificate else "certificate"
        raise ValueError(f"it grants a certificate and its key without its {missing}")
    pair = (certificate.encode(), key.encode()) if certificate else None
    if pair is not None:
        try:
            load_pair_from_memory(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), *pair)
        except (OSError, ValueError):
            raise ValueError("the certificate and key that it grants can't be used") from None
    expires_at = _unix_time(status.get("expirationTimestamp"))
    return Grant(f"Bearer {clean}" if clean else None, expires_at, pair)


def _text(status: Mapping[str, Any], name: str) -> str:
    value = status.get(name)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise ValueError(f"status.{name} isn't text")  # noqa: TRY004 - of what was printed
    return value


def _unix_time(stamp: object) -> float | None:
    if stamp is None:
        return None
    try:
        at = datetime.fromisoformat(stamp) if isinstance(stamp, str) and "T" in stamp else None
    except ValueError:
        at = None
    if at is None or at.tzinfo is None:
        raise ValueError("status.expirationTimestamp isn't an RFC 3339 time")
    return at.astimezone(UTC).timestamp()
