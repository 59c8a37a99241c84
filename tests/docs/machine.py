"""A clean machine for the commands of one page, on which nothing was prepared for them.

Its root is this machine's with an empty layer above it, and its network has a loopback alone. So
`/etc/telemetryd`, `/opt/telemetryd` and port 10464 are as on a machine that never had telemetryd,
and nothing of what a page does is seen outside. The reader is root, has a clone of the project in
the home folder and a kubeconfig, and goes on in one shell: what a command exports, the next has.
"""

import http.client
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final

from tests.docs.inside import Relay, within
from tests.docs.markdown import ROOT
from tests.support.gobuild import cache
from tests.support.waiting import until

HOME: Final = "/home/reader"
TREE: Final = f"{HOME}/telemetryd"
PROGRAM: Final = f"""#!/bin/sh
PYTHONPATH={ROOT}${{PYTHONPATH:+:$PYTHONPATH}} exec {sys.executable} -m telemetryd "$@"
"""

_OWN = ("unshare", "--mount", "--net", "--")
_RUN_S = 300.0
_WAIT_S = 120.0
_NEEDED = ":".join(map(str, (ROOT, Path(sys.prefix), Path(sys.base_prefix), cache())))
_SITE = next(path for path in map(Path, sys.path) if path.name == "site-packages")
_LEFT_OUT = shutil.ignore_patterns(".*", "__pycache__", "node_modules", "screenshots")

LAYER: Final = """set -e
mount -t tmpfs -o mode=0755 none "$1"
mkdir "$1/upper" "$1/work" "$1/root"
mount -t overlay none -o "lowerdir=/,upperdir=$1/upper,workdir=$1/work" "$1/root"
cd "$1/root"
for each in proc dev sys; do mount --rbind "/$each" "$each"; done
for each in tmp run; do mount -t tmpfs -o mode=1777 none "$each"; done
IFS=:
for each in $2; do
  [ -n "$(ls -A ".$each" 2>/dev/null)" ] || { mkdir -p ".$each"; mount --rbind "$each" ".$each"; }
done
unset IFS
"""
"""Makes a root of its own in the folder `$1`, which shows the folders `$2`, and enters it."""
_CLEAN = f"""
rm -rf etc/telemetryd etc/systemd/system/telemetryd.service opt/telemetryd usr/bin/telemetryd \\
  var/lib/telemetryd
mkdir -p .{HOME} usr/local/bin
ip link set lo up
exec chroot . sh -c 'echo ready; exec sleep infinity'
"""
_SHELL = """[ ! -e /run/reader ] || . /run/reader
cd "$2" || exit
set -o pipefail
eval "$1"
code=$?
export -p >/run/reader
pwd >/run/reader.folder
exit $code
"""
_START = """[ ! -e /run/reader ] || . /run/reader
cd "$2" || exit
eval "exec $1"
"""


class Machine:
    """One machine.

    Attributes:
        pid: A process in its namespaces, which lasts as long as it.
        root: Its root folder, as seen from here.
        cwd: Where the reader's shell is.
    """

    def __init__(self, folder: Path) -> None:
        base = folder / "machine"
        base.mkdir()
        self._folder = folder
        self._holder = subprocess.Popen(
            [*_OWN, "bash", "-c", LAYER + _CLEAN, "machine", str(base), _NEEDED],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert self._holder.stdout is not None
        said = self._holder.stdout.readline()
        assert said == "ready\n", said + self._holder.stdout.read()
        self.pid = self._holder.pid
        self.root = Path(f"/proc/{self.pid}/root")
        self._started: dict[str, tuple[subprocess.Popen[bytes], Path]] = {}
        self._relays: list[Relay] = []
        self.cwd = TREE
        shutil.copytree(ROOT, self.at(TREE), ignore=_LEFT_OUT)
        self.script("/usr/local/bin/python3", f'#!/bin/sh\nexec {_base_python()} "$@"\n')

    def at(self, path: str) -> Path:
        """One of its paths, as seen from here."""
        return self.root / path.lstrip("/")

    def script(self, path: str, text: str) -> None:
        """Puts a program there."""
        self.at(path).write_text(text)
        self.at(path).chmod(0o755)

    def give_program(self) -> None:
        """Has telemetryd on its path, and a `pip` that installs beside it."""
        self.script("/usr/local/bin/telemetryd", PROGRAM)
        pip = f'#!/bin/sh\nexec {sys.executable} -m pip "$@" --target {HOME}/site\n'
        self.script("/usr/local/bin/pip", pip)

    def give_cluster(self, port: int, kubeconfig: str) -> None:
        """Leads to the API server on that port of this machine's loopback, also by default."""
        self._relays.append(Relay(self.pid, port))
        path = self.at(f"{HOME}/.kube/config")
        path.parent.mkdir()
        path.write_text(kubeconfig)

    def run(self, text: str) -> "subprocess.CompletedProcess[str]":
        """Has the shell run a command, to its end."""
        done = subprocess.run(
            [*self.entered(), "bash", "-c", _SHELL, "reader", text, self.cwd],
            env=self.environ(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_RUN_S,
            check=False,
        )
        if (folder := self.at("/run/reader.folder")).exists():
            self.cwd = folder.read_text().strip()
        return done

    def start(self, name: str, text: str) -> None:
        """Starts a command that runs until it is stopped, in the place of that of this name."""
        self.stop(name)
        log = self._folder / f"{name}.log"
        log.unlink(missing_ok=True)
        with log.open("wb") as output:
            process = subprocess.Popen(
                [*self.entered(), "bash", "-c", _START, "reader", text, self.cwd],
                env=self.environ(),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        self._started[name] = process, log

    def runs(self, name: str) -> bool:
        """Whether that command was started and not stopped."""
        return name in self._started

    def log(self, name: str) -> str:
        """What it has said so far."""
        return self._started[name][1].read_text(errors="replace")

    def wait(self, name: str, what: str, condition: Callable[[], object]) -> None:
        """Until it is true, for as long as the command runs."""
        process, _ = self._started[name]
        until(condition, what, deadline_s=_WAIT_S, more=lambda: self.log(name), ended=process.poll)

    def stop(self, name: str) -> int | None:
        """Ends it as Ctrl-C would; the exit status, None where it doesn't run."""
        if name not in self._started:
            return None
        process, _ = self._started.pop(name)
        process.send_signal(signal.SIGINT)
        try:
            return process.wait(timeout=_WAIT_S)
        finally:
            process.kill()
            process.wait()

    def get(self, path: str, port: int) -> tuple[int, str]:
        """Status and body of a GET from its loopback; (0, "") where nothing answers."""
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        try:
            connection.sock = within(
                self.pid, lambda: socket.create_connection(("127.0.0.1", port), timeout=30)
            )
            connection.request("GET", path)
            answer = connection.getresponse()
            return answer.status, answer.read().decode()
        except OSError:
            return 0, ""
        finally:
            connection.close()

    def entered(self) -> list[str]:
        """What runs a command on this machine."""
        return ["nsenter", f"--target={self.pid}", "--mount", "--net", "--root", "--wd"]

    def environ(self) -> dict[str, str]:
        """Of the reader's first command; what pip would fetch is here already."""
        return {
            "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            "HOME": HOME,
            "LANG": "C.UTF-8",
            "PYTHONPATH": f"{HOME}/site:{_SITE}",
            "PYTHONDONTWRITEBYTECODE": "1",
            "PIP_NO_INDEX": "1",
            "PIP_NO_DEPS": "1",
            "PIP_NO_BUILD_ISOLATION": "0",
            "PIP_QUIET": "1",
            "PIP_DISABLE_PIP_VERSION_CHECK": "1",
            "PIP_ROOT_USER_ACTION": "ignore",
        }

    def close(self) -> None:
        """Ends all that runs on it, and it."""
        for name in [*self._started]:
            self.stop(name)
        for relay in self._relays:
            relay.close()
        self._holder.kill()
        self._holder.communicate()


def _base_python() -> str:
    return os.path.realpath(sys.executable)
