"""Where the commands of a page are run: a copy of the project, and a machine that is made up.

There is an API server with a fleet, a home, folders in the place of the system's, and a daemon
where a command needs one. Nothing outside of the sandbox is touched. Which commands there are, and
what the cluster's tools come to here, is elsewhere.
"""

import http.client
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import chdir, contextmanager
from pathlib import Path

from tests.cli.test_commands import telemetryd
from tests.docs.markdown import ROOT
from tests.support.daemon import free_port
from tests.support.embedded import FleetServer, serve_fleet
from tests.support.receiver import Verdict, receiving_in_threads
from tests.support.starter import shell_command
from tests.support.waiting import until

PORT = "10464"
SERVER = "https://10.0.0.1:6443"
RECEIVER = "127.0.0.1:8080"
PLACES = (
    "/etc/telemetryd",
    "/etc/systemd/system",
    "/var/lib/telemetryd",
    "/run/telemetryd",
    "/opt/telemetryd",
    "/media/usb",
)
"""Folders of a real machine that pages speak of; each is one of the sandbox here."""

RUN_S = 300.0
_WAIT_S = 120.0
_POLL_S = 0.1
_LEFT_OUT = shutil.ignore_patterns(".*", "__pycache__", "node_modules", "screenshots")
_ENDED = re.compile(
    r"^telemetryd_exporter_last_(?:success|failure)_timestamp_seconds\{", re.MULTILINE
)
_GET = """
import sys, urllib.request
print(urllib.request.urlopen("http://" + sys.argv[-1]).read().decode())
"""
_SITE = next(path for path in map(Path, sys.path) if path.name == "site-packages")


class Sandbox:
    """A machine with telemetryd on it.

    Attributes:
        tree: The copy of the project.
        cwd: Where commands are run.
    """

    def __init__(self, folder: Path, fleet: FleetServer, receiver: str) -> None:
        self.tree = self.cwd = folder / "telemetryd"
        self._folder = folder
        self._fleet = fleet
        self._receiver = receiver
        self._daemon: subprocess.Popen[bytes] | None = None
        self._port = str(free_port())
        self._log = folder / "log"
        shutil.copytree(ROOT, self.tree, ignore=_LEFT_OUT)
        for place in ("/home", "/bin", *PLACES):
            self._at(place).mkdir(parents=True)
        shutil.copy(fleet.kubeconfig, self.tree / "kubeconfig")  # as pages name it
        python = sys.executable
        self._script("python3", f'exec {python} "$@"')
        self._script("telemetryd", f'exec {shell_command()} "$@"')
        if shutil.which("curl") is None:  # a machine without it can still show what it would get
            self._script("curl", f"exec {python} -c '{_GET}' \"$@\"")
        self._script("pip", f'exec {python} -m pip "$@" --target {folder}/site')

    def run(self, text: str) -> "subprocess.CompletedProcess[str]":
        """Have the shell run a command of a page, its places put in for those of a real machine.

        Where the shell has nothing to do but to start telemetryd, that runs in this process.
        """
        text = self.place(text)
        words = _plain_words(text)
        if words[:1] == ["telemetryd"] and not (self._folder / "site").exists():
            with chdir(self.cwd):
                return telemetryd(*words[1:], **self._environ())
        return subprocess.run(
            ["bash", "-uo", "pipefail", "-c", text],
            cwd=self.cwd,
            env=self._environ(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=RUN_S,
            check=False,
        )

    def place(self, text: str) -> str:
        """The same text with this machine's folders, port and API server."""
        for place in PLACES:
            text = text.replace(place, str(self._at(place)))
        text = text.replace(RECEIVER, self._receiver).replace(f":{PORT}", f":{self._port}")
        return text.replace(SERVER, self._fleet.url)

    def start(self, text: str) -> None:
        """Start the daemon by its command, in the place of any other, and wait for it."""
        self.stop()
        with self._log.open("ab") as log:
            self._daemon = subprocess.Popen(
                ["bash", "-c", f"exec {self.place(text)}"],
                cwd=self.tree,
                env=self._environ(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        self._wait_until_ready()

    def ensure_daemon(self) -> None:
        """Start the daemon where none runs."""
        if self._daemon is None:
            self.start("telemetryd run")

    def stop(self) -> None:
        """End the daemon, where one runs."""
        daemon, self._daemon = self._daemon, None
        if daemon is None:
            return
        daemon.send_signal(signal.SIGTERM)
        try:
            daemon.wait(timeout=_WAIT_S)
        finally:
            daemon.kill()
            daemon.wait()
        assert daemon.returncode == 0, self._log.read_text()

    def _wait_until_ready(self) -> None:
        assert self._daemon is not None
        until(
            self._has_tried,
            "the first export",
            more=self._log.read_text,
            ended=self._daemon.poll,
        )

    def _has_tried(self) -> bool:
        connection = http.client.HTTPConnection("127.0.0.1", int(self._port), timeout=30)
        try:
            connection.request("GET", "/metrics")
            text = connection.getresponse().read().decode()
        except OSError:
            return False
        finally:
            connection.close()
        return _ENDED.search(text) is not None

    def _environ(self) -> dict[str, str]:
        config = self._at("/etc/telemetryd") / "config.toml"
        return {
            "PATH": f"{self._at('/bin')}:{os.environ['PATH']}",
            "HOME": str(self._at("/home")),
            "LANG": "C.UTF-8",
            "KUBECONFIG": str(self._fleet.kubeconfig),
            "STATE_DIRECTORY": str(self._at("/var/lib/telemetryd")),
            "RUNTIME_DIRECTORY": str(self._at("/run/telemetryd")),
            "TELEMETRYD_LISTEN": f"127.0.0.1:{self._port}",
            **({"TELEMETRYD_CONFIG": str(config)} if config.exists() else {}),
            # What pip would fetch is here already; what it builds with, too.
            "PYTHONPATH": f"{self._folder}/site:{_SITE}",
            "PIP_NO_INDEX": "1",
            "PIP_NO_DEPS": "1",
            "PIP_NO_BUILD_ISOLATION": "0",
            "PIP_QUIET": "1",
            "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        }

    def _at(self, place: str) -> Path:
        return self._folder / "root" / place.lstrip("/")

    def _script(self, name: str, line: str) -> None:
        path = self._at("/bin") / name
        path.write_text(f"#!/bin/bash\n{line}\n")
        path.chmod(0o755)


def _plain_words(text: str) -> list[str]:
    """The words of a command that uses nothing of a shell; none of any other."""
    lexer = shlex.shlex(text, posix=True, punctuation_chars="();<>|&$`*?~!\n")
    lexer.whitespace_split = True
    lexer.commenters = "#"
    words = list(lexer)
    return [] if any(set(word) & set("();<>|&$`*?~!\n") for word in words) else words


@contextmanager
def sandbox(folder: Path) -> Iterator[Sandbox]:
    """A sandbox in an empty folder whose path is short; it is left with nothing running."""
    with (
        serve_fleet(folder, clusters=20, nodes=3) as fleet,
        receiving_in_threads(lambda _: Verdict(204)) as url,
    ):
        made = Sandbox(folder, fleet, url.removeprefix("http://"))
        try:
            yield made
        finally:
            made.stop()
