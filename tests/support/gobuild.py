"""Builds Go programs for tests from a folder with `go.mod` and `go.sum`, by the go command.

`python3 -m tests.support.gobuild MODULE PACKAGE TARGET [LDFLAGS]` builds the package, `.` for a
program of the folder's own, into the file TARGET. Nothing but the standard library is needed.
"""

import contextlib
import fcntl
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

_HEARTBEAT_S = 15.0
_RETRY_S = 1.0
_LOG_LINES = 25
_SWITCHES_BY_ITSELF = (1, 21)
"""From this version on, the go command gets the toolchain that a go.mod asks for, if it may."""


class GoBuildError(Exception):
    """A program could not be built; the message says why and what to do."""


def build(module: Path, package: str, target: Path, *, ldflags: str = "") -> bool:
    """Builds one program unless it is there and newer than its sources; tells whether it was built.

    The program gets a temporary name and is renamed at the end, under a lock beside it, so that
    no other run sees half of it. Progress is printed.

    Args:
        module: The folder of `go.mod` and `go.sum`.
        package: What to build, by its import path or relative to the folder.
        target: The file to write; its folder is created.
        ldflags: Further flags of the linker.

    Raises:
        GoBuildError: Go is missing or too old, or the build failed.
    """
    if _is_current(module, target):
        _say(f"already built: {target}")
        return False
    _require_go(module, target.name)
    target.parent.mkdir(parents=True, exist_ok=True)
    with _locked(target.with_name(f".{target.name}.lock"), target):
        if _is_current(module, target):
            _say(f"built meanwhile: {target}")
            return False
        with tempfile.TemporaryDirectory(prefix=".build-", dir=target.parent) as folder:
            unfinished = Path(folder, target.name)
            flags = f"-s -w {ldflags}".strip()
            command = ["go", "build", "-v", "-trimpath", "-buildvcs=false", "-mod=readonly"]
            _run([*command, "-ldflags", flags, "-o", str(unfinished), package], module, target)
            unfinished.replace(target)
    return True


def go_version(module: Path) -> str:
    """Returns the version of Go that the module asks for, such as `1.26.0`."""
    return _field(module, r"^go (\S+)$")


def required(module: Path, path: str) -> str:
    """Returns the version of a module that `go.mod` requires, without its `v`."""
    return _field(module, rf"^(?:require )?\s*{re.escape(path)} v(\S+)")


def cache() -> Path:
    """Returns the folder of everything that is built for tests."""
    home = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(home, "telemetryd")


def _field(module: Path, pattern: str) -> str:
    match = re.search(pattern, (module / "go.mod").read_text(encoding="utf-8"), re.MULTILINE)
    if match is None:
        raise GoBuildError(f"{module / 'go.mod'}: nothing matches {pattern}")
    return match[1]


def _is_current(module: Path, target: Path) -> bool:
    """Tells whether the target is newer than the module's own sources.

    The files of a checkout have the time of the checkout, so modules without sources of their own
    count as current while the version is the same: it is part of the target's path.
    """
    if not os.access(target, os.X_OK):
        return False
    built = target.stat().st_mtime
    return all(source.stat().st_mtime <= built for source in module.rglob("*.go"))


def _require_go(module: Path, name: str) -> None:
    needed = go_version(module)
    advice = f"install Go {needed} or newer (go on PATH), then run this again"
    try:
        answer = subprocess.run(
            ["go", "env", "GOVERSION", "GOTOOLCHAIN"],
            check=True,
            capture_output=True,
            text=True,
            cwd="/",
        ).stdout.split()
    except (OSError, subprocess.CalledProcessError) as error:
        raise GoBuildError(f"Go is needed to build {name} and was not found: {advice}") from error
    found = answer[0].removeprefix("go")
    if _numbers(found) >= _numbers(needed):
        return
    if _numbers(found) < _SWITCHES_BY_ITSELF or answer[1:] in ([], ["local"]):
        raise GoBuildError(f"Go {found} is too old to build {name}: {advice}")


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", version)[:3])


@contextlib.contextmanager
def _locked(lock: Path, target: Path) -> Iterator[None]:
    with lock.open("w") as held:
        said_s = -_HEARTBEAT_S
        while True:
            try:
                fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() - said_s >= _HEARTBEAT_S:
                    _say(f"waiting for another build of {target}")
                    said_s = time.monotonic()
                time.sleep(_RETRY_S)
        yield


def _run(command: Sequence[str], module: Path, target: Path) -> None:
    """Runs the build, with a line every few seconds, and the end of its output if it fails."""
    started = time.monotonic()
    environ = {**os.environ, "CGO_ENABLED": "0", "GOFLAGS": "", "GOWORK": "off"}
    _say(f"building {target}")
    lines: list[str] = []
    with subprocess.Popen(
        command,
        cwd=module,
        env=environ,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        assert process.stdout is not None
        reader = threading.Thread(target=lines.extend, args=(process.stdout,), daemon=True)
        reader.start()
        try:
            while True:
                try:
                    status = process.wait(timeout=_HEARTBEAT_S)
                    break
                except subprocess.TimeoutExpired:
                    passed = time.monotonic() - started
                    _say(f"  {target.name}: {len(lines)} packages after {passed:.0f} s")
            reader.join()
        except BaseException:
            process.kill()
            raise
    passed = time.monotonic() - started
    if status:
        sys.stderr.writelines(lines[-_LOG_LINES:])
        raise GoBuildError(f"cannot build {target.name}: go build ended with {status}, see above")
    _say(f"built {target} in {passed:.0f} s")


def _say(line: str) -> None:
    sys.stdout.write(f"[{time.strftime('%H:%M:%S')}] {line}\n")
    sys.stdout.flush()


def main(arguments: Sequence[str]) -> int:
    """Builds what the command line names; the exit status is 1 where that failed."""
    module, package, target, *flags = arguments
    try:
        build(Path(module), package, Path(target), ldflags=" ".join(flags))
    except GoBuildError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
