"""This machine: folders, the control socket, where HTTP is served. Everything here may block.

What is tried leaves nothing behind.
"""

import errno
import http.client
import os
import pwd
import socket
import stat
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import msgspec

from telemetryd.config import ControlSocket, FileExporterConfig, ListenAddress, ServerConfig
from telemetryd.config.paths import LONGEST_SOCKET_PATH_BYTES, is_too_long
from telemetryd.config.values import render_duration
from telemetryd.doctor.checking import CheckResult, fail, passed, warn
from telemetryd.errors import ConfigError
from telemetryd.kube.pem import Validity
from telemetryd.serve.http.health import connect
from telemetryd.serve.http.security import CertificateFiles, load_certificates

LOW_SPACE_BYTES: Final = 16 << 20
"""Sixteen payloads of the largest size that a Secret takes: below, writing may soon fail."""

PROBE_BYTES: Final = 64 << 10
"""Written to see whether a disk has space: a payload of a hundred clusters."""

LITTLE_VALIDITY: Final = 0.1
"""Of a certificate's lifetime: cert-manager renews it while a third is left."""

_ASK_S: Final = 3.0
_MAX_STATUS_BYTES: Final = 4 << 20
_OTHERS_WRITE: Final = stat.S_IWGRP | stat.S_IWOTH
_STATE: Final = "state directory"
_SOCKET: Final = "control socket"
_LISTEN: Final = "listen address"
_CERTIFICATE: Final = "server certificate"
_FULL: Final = os.strerror(errno.ENOSPC).lower()


class _UnusablePlace(Exception):
    """There can be no socket at this path; the message says why."""


class _OwnStatus(msgspec.Struct, gc=False):
    """The keys by which our own ``/status.json`` is recognised."""

    version: str
    informers: list[msgspec.Raw]
    exporters: list[msgspec.Raw]


def check_state_dir(path: str | None) -> list[CheckResult]:
    """Whether the state directory can be used, or made."""
    if path is None:
        fix = "set state_dir to a folder that this user may write to"
        return [fail(_STATE, "no folder is usable", fix)]
    found = _look_at_folder(_STATE, path, parents=True)
    return [*found, *_judge_mode(path)]


def check_file_exporter(exporter: FileExporterConfig) -> list[CheckResult]:
    """Whether the exporter's directory can be written to, or made."""
    what = f"directory of exporter {exporter.name}"
    needed = max(LOW_SPACE_BYTES, exporter.max_bytes or 0)
    return _look_at_folder(what, exporter.directory, parents=False, needed_bytes=needed)


def check_control_socket(place: ControlSocket | None) -> list[CheckResult]:
    """Whether the daemon can listen for commands, or does already."""
    if place is None:
        return [warn(_SOCKET, "no folder is usable", "set server.control_socket")]
    try:
        return [passed(_SOCKET, f"{place}: {_look_at_socket(Path(place.path))}")]
    except _UnusablePlace as unusable:
        judge = fail if place.explicit else warn
        fix = "set server.control_socket to another place"
        return [judge(_SOCKET, f"{place}: {unusable}", fix)]


def _look_at_socket(path: Path) -> str:
    """What is there, where the daemon can have its socket there or has it.

    Raises:
        _UnusablePlace: It can't.
    """
    if is_too_long(str(path)):
        raise _UnusablePlace(f"longer than {LONGEST_SOCKET_PATH_BYTES} bytes")
    try:
        mode = path.lstat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        reason = _why_unusable(path.parent, parents=True, probe_bytes=0)
        if reason:
            raise _UnusablePlace(reason) from None
        return "can be made"
    except OSError as error:
        raise _UnusablePlace(_why(error)) from error
    if not stat.S_ISSOCK(mode):
        raise _UnusablePlace("is something else than a socket")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        code = probe.connect_ex(str(path))
    if code in {0, errno.EAGAIN}:
        return "a daemon listens there"
    if code != errno.ECONNREFUSED:
        raise _UnusablePlace(os.strerror(code).lower())
    return "left by a daemon that is gone, will be replaced"


def check_certificates(server: ServerConfig, now_s: float) -> list[CheckResult]:
    """Whether TLS can be served with what is configured, and for how long yet."""
    files = CertificateFiles.of(server)
    if files is None:
        return []
    try:
        validity = load_certificates(files, "", now_s).validity
    except ConfigError as error:
        return [fail(problem.key, *split_message(problem.message)) for problem in error.problems]
    if validity is None:
        return [passed(_CERTIFICATE, f"{files.cert_file} and its key fit")]
    return judge_validity(_CERTIFICATE, files.cert_file, validity, now_s, invalid=warn)


def judge_validity(
    what: str,
    certificate: str,
    validity: Validity,
    now_s: float,
    *,
    invalid: Callable[[str, str, str], CheckResult] = fail,
) -> list[CheckResult]:
    """Whether a certificate is valid now, and for how long yet."""
    why = validity.why_not(now_s)
    if why:
        return [invalid(what, f"{certificate} {why}", "renew it, or check the clock")]
    left_s = validity.not_after_s - now_s
    left = f"{certificate} is valid for {render_duration(left_s // 3600 * 3600)} more"
    if left_s < LITTLE_VALIDITY * (validity.not_after_s - validity.not_before_s):
        return [warn(what, left, "renew it: the new one is used without a restart")]
    return [passed(what, left)]


def split_message(message: str) -> tuple[str, str]:
    """What was found, and the fix that a configuration error ends with."""
    found, _, fix = message.rpartition(": ")
    return found, fix


def check_listen(address: ListenAddress, *, tls: bool = False) -> list[CheckResult]:
    """Whether the listen address is free, or held by a telemetryd."""
    host = address.host
    try:
        _try_to_bind(host, address.port)
    except OSError as error:
        if error.errno == errno.EADDRINUSE and _is_ours(host, address.port, tls=tls):
            return [passed(_LISTEN, f"{address} is held by a running telemetryd")]
        fix = "set server.listen to an address of this machine and a free port"
        return [fail(_LISTEN, f"{address}: {_why(error)}", fix)]
    return [passed(_LISTEN, f"{address} is free")]


def _try_to_bind(host: str, port: int) -> None:
    """Take the address for a moment, as the daemon does, without listening.

    Raises:
        OSError: It is taken, or not an address of this machine.
    """
    if host in {"", "::"}:
        _try_everywhere(port)
        return
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    # One of a name's addresses is used, IPv4 first.
    family, *_, address = min(found, key=lambda each: each[0] != socket.AF_INET)
    _try(family, address)


def _try_everywhere(port: int) -> None:
    if socket.has_dualstack_ipv6():
        try:
            _try(socket.AF_INET6, ("::", port), dualstack=True)
        except OSError as error:
            if error.errno not in {errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT}:
                raise
        else:
            return
    _try(socket.AF_INET, ("0.0.0.0", port))  # noqa: S104 - asked for


def _try(family: int, address: tuple[Any, ...], *, dualstack: bool = False) -> None:
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if dualstack:
            probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        probe.bind(address)


def _is_ours(host: str, port: int, *, tls: bool) -> bool:
    reachable = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104
    connection = connect(reachable, port, tls=tls, timeout_s=_ASK_S)
    try:
        connection.request("GET", "/status.json")
        answer = connection.getresponse()
        if answer.status == http.HTTPStatus.UNAUTHORIZED:  # it shows it to others only
            return answer.headers["Server"] == "telemetryd"
        msgspec.json.decode(answer.read(_MAX_STATUS_BYTES), type=_OwnStatus)
    except (OSError, http.client.HTTPException, msgspec.MsgspecError, UnicodeError):
        return False
    finally:
        connection.close()
    return True


def _look_at_folder(
    what: str, path: str, *, parents: bool, needed_bytes: int = LOW_SPACE_BYTES
) -> list[CheckResult]:
    reason = _why_unusable(Path(path), parents=parents)
    if reason:
        fix = f"let user {_user()} write there, or configure another directory"
        if reason.endswith(_FULL):
            fix = "free space or inodes there, or configure another directory"
        return [fail(what, f"{path}: {reason}", fix)]
    there = Path(path).is_dir()
    findings = [passed(what, f"{path} {'is writable' if there else 'can be made'}")]
    free = _free_bytes(Path(path))
    if free is not None and free < needed_bytes:
        fix = "free space or inodes there, or configure another directory"
        findings.append(warn(what, f"{path}: {free >> 20} MiB free", fix))
    return findings


def _judge_mode(path: str) -> list[CheckResult]:
    try:
        mode = Path(path).stat().st_mode
    except OSError:
        return []
    if not mode & _OTHERS_WRITE:
        return []
    shown = f"{path} has mode {stat.S_IMODE(mode):04o}: others may write there"
    return [warn(_STATE, shown, f"chmod go-w {path}")]


def _why_unusable(folder: Path, *, parents: bool, probe_bytes: int = PROBE_BYTES) -> str:
    """Why nothing can be written there, empty where it can.

    ``folder`` may not exist; with ``parents``, those above it are made as well.
    """
    missing = 0
    try:
        while not folder.exists() and folder != folder.parent:
            folder, missing = folder.parent, missing + 1
        if missing > 1 and not parents:
            return f"can't be made, for only {folder} exists"
        if not folder.is_dir():
            return f"{folder} isn't a folder"
        # What the mode says isn't all: only a file that is made there proves it. It has no name.
        with tempfile.TemporaryFile(dir=folder, buffering=0) as probe:
            while probe_bytes:  # the last that fits is written without an error
                probe_bytes -= probe.write(bytes(probe_bytes))
            return ""
    except OSError as error:
        return f"{folder}: {_why(error)}" if missing else _why(error)


def _free_bytes(folder: Path) -> int | None:
    """Space for us where it is or will be; 0 without inodes, None where it isn't known."""
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    try:
        found = os.statvfs(folder)
    except OSError:
        return None
    if found.f_files and not found.f_favail:
        return 0
    return found.f_bavail * found.f_frsize


def _user() -> str:
    number = os.geteuid()
    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:
        return str(number)


def _why(error: OSError) -> str:
    return (error.strerror or type(error).__name__).lower()
