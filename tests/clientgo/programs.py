"""Runs the three programs on a case, each against a listener of its own, and compares them."""

import ipaddress
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from telemetryd.kube.connection import SERVICE_ACCOUNT
from tests.clientgo.recorder import Answers, Recorder
from tests.clientgo.table import Case, written

_TIMEOUT_S: Final = 100.0
_ROOT: Final = Path(__file__).parents[2]
_ADDRESSES: Final = frozenset({"connect", "host", "tls"})


@dataclass(frozen=True)
class Outcome:
    """What one program did with a case.

    Attributes:
        said: Why it didn't connect, in its own words; empty where it did.
        dialled: Each address it dialled first, in order; None where that is unknown.
        path: What the servers on the way and the API server saw of the first request.
        tried: The same of a connection that didn't get as far as a request.
    """

    said: str
    dialled: tuple[str | None, ...] | None
    path: tuple[dict[str, Any], ...]
    tried: tuple[dict[str, Any], ...]

    @property
    def connects(self) -> bool:
        """Whether a request reached the API server."""
        return bool(self.path)

    def has_credential(self) -> bool:
        """Whether the API server saw one."""
        return any(layer.get("who") or layer.get("certificate") for layer in self.path[-2:])

    def facts(self, *, dialled: bool) -> dict[str, Any]:
        """What must be the same."""
        facts: dict[str, Any] = {"connects": self.connects, "path": list(self.path)}
        if dialled and self.connects:
            facts["dialled"] = sorted(set(self.dialled or ()), key=str)
        return facts


class Telemetryd:
    """telemetryd's own client, in one process for all cases."""

    def __init__(self) -> None:
        self._process = self._start()

    def close(self) -> None:
        self._process.communicate(timeout=_TIMEOUT_S)

    def run(self, case: Case, certificates: Path) -> Outcome:
        """What it does."""
        assert self._process.stdin
        assert self._process.stdout
        with _prepared(case, certificates) as (recorder, folder, environ):
            asked = {
                "environ": environ,
                "folder": str(folder),
                "port": recorder.port,
                "context": case.use,
                "service_account": f"{folder}/serviceaccount",
            }
            self._process.stdin.write(json.dumps(asked) + "\n")
            self._process.stdin.flush()
            answer = self._process.stdout.readline()
        if not answer:
            self.close()
            self._process = self._start()
            return _outcome(recorder, "crashed", [], folder)
        said = json.loads(answer)
        return _outcome(recorder, said["refused"] or said["failed"], said["dialled"], folder)

    def _start(self) -> "subprocess.Popen[str]":
        return subprocess.Popen(
            [sys.executable, "-m", "tests.clientgo.driver"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=_ROOT,
        )


def run_clientgo(program: Path, case: Case, certificates: Path) -> Outcome:
    """What client-go does."""
    with _prepared(case, certificates) as (recorder, folder, environ):
        done = subprocess.run(
            [
                *_mounting(folder),
                program,
                f"127.0.0.1:{recorder.port}",
                *([case.use] if case.use else []),
            ],
            cwd=folder,
            env=environ,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_TIMEOUT_S,
            check=False,
        )
    if done.returncode:
        return _outcome(recorder, done.stderr.decode(errors="replace"), [], folder)
    said = json.loads(done.stdout)
    return _outcome(recorder, said["refused"] or said["failed"], said["dialled"], folder)


def run_kubectl(program: Path, case: Case, certificates: Path) -> Outcome:
    """What kubectl does; it dials what the case says, so that must be the listener."""
    with _prepared(case, certificates) as (recorder, folder, environ):
        done = subprocess.run(
            [
                *_mounting(folder),
                program,
                "version",
                "--output=json",
                # With an option that is a part of kubeconfigs it doesn't think of being in a pod.
                *([] if (folder / "serviceaccount").is_dir() else ["--request-timeout=60s"]),
                *(["--context", case.use] if case.use else []),
            ],
            cwd=folder,
            env=environ,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_TIMEOUT_S,
            check=False,
        )
    return _outcome(recorder, done.stderr.decode(errors="replace"), None, folder)


def _mounting(folder: Path) -> list[str]:
    """Runs what follows with the case's service account where Go looks for it.

    In a mount namespace of its own: no other process sees that.
    """
    if not (folder / "serviceaccount").is_dir():
        return []
    script = (
        'mount -t tmpfs none /var/run && mkdir -p "$1" && mount --bind "$0" "$1" && '
        'shift && exec "$@"'
    )
    return [
        "unshare",
        "--mount",
        "--map-root-user",
        "sh",
        "-c",
        script,
        f"{folder}/serviceaccount",
        SERVICE_ACCOUNT,
    ]


@contextmanager
def _prepared(case: Case, certificates: Path) -> Iterator[tuple[Recorder, Path, dict[str, str]]]:
    files = {"cert": case.server, "proxy_cert": "proxy.pem", **case.answers}
    files = {
        key: str(certificates / value) if key in {"cert", "proxy_cert"} else value
        for key, value in files.items()
    }
    answers = Answers(client_ca=str(certificates / "clientca.crt"), **files)
    with (
        tempfile.TemporaryDirectory(prefix="td-") as folder,
        Recorder(answers) as recorder,
    ):
        yield recorder, Path(folder), written(case, Path(folder), certificates, recorder.port)


def _outcome(recorder: Recorder, said: str, dialled: list[str] | None, folder: Path) -> Outcome:
    """Without what differs from run to run: the port and the folder."""

    def plain(value: Any) -> Any:
        text = json.dumps(value).replace(f":{recorder.port}", ":PORT")
        text = re.sub(r"[?&]timeout=\w+", "", text)  # Go sends it along
        return json.loads(text.replace(str(folder), "DIR"))

    def one(path: list[dict[str, Any]]) -> tuple[dict[str, Any], ...]:
        return tuple(
            {
                key: _address(value, key) if key in _ADDRESSES else value
                for key, value in layer.items()
            }
            for layer in plain(path)
        )

    requests = recorder.requests()
    tried = [path for path in recorder.paths if path]
    return Outcome(
        "" if requests else plain(said),
        None if dialled is None else tuple(map(_address, plain(dialled))),
        one(requests[0]) if requests else (),
        () if requests or not tried else one(tried[0]),
    )


def _address(text: str | None, key: str = "") -> str | None:
    """One of the ways to write it: in small letters, IPv6 at its shortest.

    A `Host` may go without the usual port.
    """
    if text is None:
        return None
    host, colon, port = text.lower().rpartition(":")
    if not colon or "]" in port or (":" in host and not host.endswith("]")):
        host, port = text.lower(), ""
    bare, percent, zone = host.strip("[]").partition("%")
    try:
        address = ipaddress.ip_address(bare)
        mapped = getattr(address, "ipv4_mapped", None)
        # `compressed` writes IPv4 in IPv6 in two ways, by the version of Python.
        bare = f"::ffff:{int(mapped) >> 16:x}:{int(mapped) & 0xFFFF:x}" if mapped else str(address)
    except ValueError:
        bare = bare.removesuffix(".")
    port = port.lstrip("0")
    is_left_out = not port or (key == "host" and port in {"443", "80"})
    return f"{bare}{percent}{zone}" + ("" if is_left_out else f" {port}")


def is_dialled_by_kubectl(by_clientgo: Outcome) -> bool:
    """Whether kubectl can be tried: it has no dialler of ours, so it may only dial the listener."""
    return all(address == "127.0.0.1 port" for address in by_clientgo.dialled or ())
