"""A container engine by its command line, which docker and podman share.

`$CONTAINER_ENGINE` names it, by default whichever of the two is there; `$PYTHON_IMAGE` is the base.
"""

import io
import json
import os
import shutil
import subprocess
import tarfile
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).parents[2]
EPOCH = "1767225600"
"""2026-01-01, as the time of every layer where the engine can set it."""
REVISION = "0123456789abcdef0123456789abcdef01234567"
"""The commit that the image is of, as its builder has it."""


class Entry(NamedTuple):
    """One file of an image.

    Attributes:
        content: The SHA-256 of a file, the target of a link, else empty.
    """

    kind: bytes
    mode: int
    uid: int
    gid: int
    size: int
    content: str


class Engine:
    """Builds images and runs containers."""

    def __init__(self) -> None:
        candidates = [os.environ.get("CONTAINER_ENGINE"), "docker", "podman"]
        found = next((name for name in candidates if name and shutil.which(name)), None)
        assert found is not None, "no docker or podman here: name another in CONTAINER_ENGINE"
        self._program = found
        self._is_podman = "podman" in self.run("--version")

    def run(self, *arguments: str, timeout_s: float = 60) -> str:
        """What a command printed on both streams; fails with it otherwise."""
        done = self.attempt(*arguments, timeout_s=timeout_s)
        assert done.returncode == 0, f"{arguments}: {done.stdout}"
        return done.stdout.strip()

    def attempt(self, *arguments: str, timeout_s: float = 60) -> subprocess.CompletedProcess[str]:
        """A command's status, and what it printed on both streams."""
        return subprocess.run(
            [self._program, *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
            timeout=timeout_s,
        )

    def build(self, tag: str) -> None:
        """Builds the tree without a cache."""
        options = ["--no-cache", "--build-arg", f"SOURCE_DATE_EPOCH={EPOCH}", "--tag", tag]
        options += ["--build-arg", f"REVISION={REVISION}"]
        base = os.environ.get("PYTHON_IMAGE")
        if base:
            options += ["--build-arg", f"PYTHON_IMAGE={base}"]
        if self._is_podman:
            # Its default, OCI, has no HEALTHCHECK; Docker's builder takes the time by itself.
            options += ["--format", "docker", "--timestamp", EPOCH]
        self.run("build", *options, str(ROOT), timeout_s=900)

    def inspect(self, kind: str, name: str) -> dict[str, Any]:
        """What the engine tells of an image or a container."""
        (document,) = json.loads(self.run(kind, "inspect", name))
        found: dict[str, Any] = document
        return found

    def layers(self, image: str) -> list[str]:
        """The digests of its layers, if this engine makes the same ones again."""
        found: list[str] = (
            self.inspect("image", image)["RootFS"]["Layers"] if self._is_podman else []
        )
        return found

    def healthcheck(self, image: str) -> list[str]:
        """The command of its HEALTHCHECK, without `CMD`."""
        document = self.inspect("image", image)
        check = document.get("Healthcheck") or document["Config"]["Healthcheck"]
        kind, *command = check["Test"]
        assert kind == "CMD"
        return [str(word) for word in command]

    def files(self, image: str) -> dict[str, Entry]:
        """Everything in an image by its path."""
        container = self.run("create", image).splitlines()[-1]
        try:
            done = subprocess.run(
                [self._program, "export", container],
                stdout=subprocess.PIPE,
                check=True,
                timeout=120,
            )
        finally:
            self.run("rm", "--force", container)
        with tarfile.open(fileobj=io.BytesIO(done.stdout)) as archive:
            return dict(_entries(archive))


def _entries(archive: tarfile.TarFile) -> Iterator[tuple[str, Entry]]:
    for member in archive:
        content = member.linkname
        if member.isreg():
            file = archive.extractfile(member)
            assert file is not None
            content = sha256(file.read()).hexdigest()
        yield (
            member.name.removeprefix("./"),
            Entry(member.type, member.mode, member.uid, member.gid, member.size, content),
        )
