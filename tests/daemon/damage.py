"""What may happen to a configuration file, and all that a daemon sends meanwhile.

A daemon here is a real process without the right to read what its mode forbids, so that a file
that is locked is locked for root too.
"""

import json
import os
import shutil
import subprocess
import time
import tomllib
from base64 import b64decode
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from telemetryd.errors import NoDaemon
from telemetryd.serve.control.client import ask
from telemetryd.serve.control.protocol import CommandAnswer, Request
from tests.support import starter
from tests.support.embedded import NAMESPACE, SECRETS, FleetServer
from tests.support.processes import whole_lines
from tests.support.receiver import Request as Sent
from tests.support.receiver import Verdict, receiving_in_threads
from tests.support.waiting import until

Fields = frozenset[str]

CUT_EVERY_BYTES = 50
_GIVE_UP_S = 300


# -- damages


def unlock_and_remove(file: Path) -> None:
    """Removes whatever stands there, and what a ConfigMap needs beside it."""
    for each in (file, *file.parent.glob("..*"), file.with_suffix(".old")):
        if each.is_dir() and not each.is_symlink():
            shutil.rmtree(each)
        else:
            each.unlink(missing_ok=True)


def restore(file: Path, content: bytes) -> None:
    """Puts a whole file there by a rename, whatever was there before."""
    if file.is_dir() or file.is_symlink():
        unlock_and_remove(file)
    new = file.with_suffix(".new")
    new.write_bytes(content)
    new.rename(file)
    file.with_suffix(".old").unlink(missing_ok=True)


def _put_folder(file: Path, _content: bytes) -> None:
    file.unlink()
    file.mkdir()


def _lose_key(file: Path, content: bytes) -> None:
    """A ConfigMap without the key: kubelet makes a new folder and swaps one link."""
    for number in (1, 2):
        (file.parent / f"..{number}").mkdir()
    (file.parent / "..1" / file.name).write_bytes(content)
    (file.parent / "..data").symlink_to("..1")
    file.unlink()
    file.symlink_to(f"..data/{file.name}")
    (file.parent / "..data_tmp").symlink_to("..2")
    (file.parent / "..data_tmp").rename(file.parent / "..data")


DAMAGES: dict[str, Callable[[Path, bytes], object]] = {
    "removed": lambda file, _: file.unlink(),
    "renamed": lambda file, _: file.rename(file.with_suffix(".old")),
    "emptied": lambda file, _: file.write_bytes(b""),
    "comments": lambda file, _: file.write_bytes(b"# nothing\n\n[privacy] # here\n"),
    "folder": _put_folder,
    "locked": lambda file, _: file.chmod(0),
    "key gone": _lose_key,
}


def cuts_of(content: bytes) -> dict[str, Callable[[Path, bytes], object]]:
    """The file cut at every fiftieth byte, and at the end of every line with a statement."""
    places = {*range(CUT_EVERY_BYTES, len(content), CUT_EVERY_BYTES)}
    places |= {place + 1 for place, byte in enumerate(content) if byte == ord("\n")}
    places.discard(len(content))
    return {f"cut {place}": _cutting(place) for place in sorted(places)}


def is_broken(damage: str, content: bytes) -> bool:
    """Whether no configuration can be made of what is left."""
    if damage in DAMAGES:
        return True
    try:
        tomllib.loads(content[: int(damage.removeprefix("cut "))].decode())
    except tomllib.TOMLDecodeError:
        return True
    return False


def _cutting(place: int) -> Callable[[Path, bytes], object]:
    return lambda file, content: file.write_bytes(content[:place])


# -- receivers


def fields_of(value: Any, path: str = "$") -> Fields:
    """The JSON paths that hold something; all items of an array count as one."""
    match value:
        case dict():
            inner = (fields_of(each, f"{path}.{name}") for name, each in value.items())
            return frozenset().union(*inner)
        case list():
            return frozenset().union(*(fields_of(each, f"{path}[]") for each in value))
        case None | "":
            return frozenset()
    return frozenset({path})


class HttpReceiver:
    """Takes every payload, and keeps which fields each destination got."""

    def __init__(self) -> None:
        self.fields: dict[str, Fields] = defaultdict(frozenset)
        self.refuses = False
        self.counts: Counter[str] = Counter()
        self.url = ""

    def take(self, request: Sent) -> Verdict:
        if self.refuses:
            return Verdict(503)
        self.fields[request.target] |= fields_of(json.loads(request.body))
        self.counts[request.target] += 1
        return Verdict(200)

    @contextmanager
    def running(self) -> Iterator["HttpReceiver"]:
        with receiving_in_threads(self.take) as self.url:
            yield self


SECRET_NAMES = ("rancher-scc-telemetry", "other")


@dataclass
class Receivers:
    """All that may be sent to: the API server's Secrets and an HTTP receiver."""

    fleet: FleetServer
    http: HttpReceiver

    def forget(self) -> None:
        """As if nothing had been sent."""
        self.http.fields.clear()
        for name in SECRET_NAMES:
            if self.fleet.get(SECRETS, name, NAMESPACE) is not None:
                self.fleet.remove(SECRETS, name, NAMESPACE)

    def fields(self) -> dict[str, Fields]:
        """What has arrived, by destination."""
        found = dict(self.http.fields)
        for name in SECRET_NAMES:
            secret = self.fleet.get(SECRETS, name, NAMESPACE)
            if secret is not None:
                found[name] = fields_of(json.loads(b64decode(secret["data"]["payload"])))
        return found


# -- processes


OVERRIDES = ("dac_override", "dac_read_search")
"""Without these even root reads only what a mode allows."""


def with_own_etc(folder: Path) -> tuple[str, ...]:
    """The command under which ``/etc`` is that folder, for one process alone."""
    own = ("--mount",) if os.geteuid() == 0 else ("--mount", "--map-root-user")
    return ("unshare", *own, "sh", "-ec", 'mount --bind "$0" /etc; exec "$@"', str(folder))


class Process:
    """`telemetryd run`, with its state and its socket in one folder and its log in a file."""

    def __init__(
        self,
        folder: Path,
        kubeconfig: Path,
        arguments: Sequence[str],
        environ: Mapping[str, str] | None = None,
        under: Sequence[str] = (),
    ) -> None:
        folder.mkdir(exist_ok=True)
        self._socket = folder / "control.sock"
        self._log_file = folder / "log"
        self._log_file.write_bytes(b"")
        kept = {name: value for name, value in os.environ.items() if "TELEMETRYD" not in name}
        with self._log_file.open("ab") as log:
            self.process = starter.start(
                *("run", *arguments),
                under=under,
                without=OVERRIDES if under or os.geteuid() == 0 else (),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={
                    **kept,
                    "KUBECONFIG": str(kubeconfig),
                    "STATE_DIRECTORY": str(folder),
                    "RUNTIME_DIRECTORY": str(folder),
                    "TELEMETRYD_LISTEN": "127.0.0.1:0",
                    **(environ or {}),
                },
            )

    def ask(self, command: Any, name: str = "") -> CommandAnswer:
        """What `telemetryd ctl` asks."""
        return ask([str(self._socket)], Request(command, name), timeout_s=_GIVE_UP_S)

    def status(self) -> dict[str, Any]:
        """The document of `/status.json`."""
        return self.ask("status").result

    def runs(self) -> bool:
        """Whether it takes commands."""
        try:
            return self.ask("status").ok
        except NoDaemon:
            return False

    def starts_or_ends(self) -> int | None:
        """Waits for either; the exit status where it ended."""
        self.until("a start or an end", lambda: self.process.poll() is not None or self.runs())
        return self.process.poll()

    def log(self) -> str:
        """All it has logged so far."""
        return whole_lines(self._log_file)

    def lines(self, *, since: int = 0) -> list[dict[str, Any]]:
        """What it has logged since that line; a line that is no JSON has but a message."""
        found = self.log().splitlines()[since:]
        return [
            json.loads(line) if line.startswith("{") else {"level": "error", "message": line}
            for line in found
        ]

    def until(self, what: str, probe: Callable[[], Any], *, may_end: bool = True) -> Any:
        """The first truthy result of the probe."""
        return until(
            probe,
            what,
            deadline_s=_GIVE_UP_S,
            more=lambda: self.log()[-4000:],
            ended=None if may_end else self.process.poll,
        )

    def settle(self) -> None:
        """Until whatever its exporters send has been sent at least once from now on."""
        began = time.time()
        for exporter in self.status()["exporters"]:
            if exporter["enabled"]:
                self.ask("trigger", exporter["name"])

        def all_sent() -> bool:
            status = self.status()
            if not status["collection"]["enabled"]:
                return True
            ended = [_seconds(each) for each in status["exporters"] if each["enabled"]]
            return all(each > began for each in ended)

        self.until("its exporters' runs", all_sent, may_end=False)

    def stop(self) -> int:
        """Asks it to end; its exit status."""
        if self.process.poll() is None:
            self.process.terminate()
        try:
            return self.process.wait(timeout=60)
        finally:
            self.process.kill()
            self.process.wait()


def _seconds(exporter: Mapping[str, Any]) -> float:
    last = exporter["last_success_at"]
    return datetime.fromisoformat(last).timestamp() if last else 0.0
