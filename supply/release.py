"""Builds a release of the commit that is checked out, into `dist/`.

    make release PYTHON_IMAGE=python:3.13-slim@sha256:...
    make release IMAGE=no

Wheel, source archive, chart with its index, bill of materials and Debian package have the same
bytes each time. They are built from a copy of the commit, so the tree stays as it is. What can be
checked is checked first, and `dist/` is replaced at the end, so it never holds half a release. The
notes name a part that is left out.

Environment:
    PYTHON_IMAGE: The base of the image, by its digest. A tag can name another image tomorrow.
    CONTAINER_ENGINE: docker or podman, by default the one on PATH.
    PLATFORMS: What images are built for, by default `linux/amd64 linux/arm64`.
    IMAGE, DEB: `no` leaves the images or the Debian package out.
    HELM: Helm 3 or 4, by default the one on PATH, then the one that `make helm` built.
"""

import gzip
import io
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from types import MappingProxyType

from supply import notes, sbom
from supply.lock import ROOT, LockError
from supply.notes import Commit
from tests.charts.versions import MAJORS, find_program

BY_DIGEST = re.compile(r"[^@\s]+@sha256:[0-9a-f]{64}")
DEFAULT_PLATFORMS = "linux/amd64 linux/arm64"
CHECKSUMS = "SHA256SUMS"
_RESERVED = ".example"
_SAID_LINES = 30
_OF_OTHERS = {"DESTDIR", "MAKEFLAGS", "MFLAGS", "PYTHON", "REVISION"}
"""Variables for `make` and `supply/install` that are not meant for what a release runs."""


class ReleaseError(Exception):
    """There is no release; the message says why and what to do."""


@dataclass(frozen=True, slots=True)
class Engine:
    """The container engine, and what it builds on and for."""

    program: str
    base: str
    platforms: tuple[str, ...]


def find_commit() -> Commit:
    """The commit that is checked out.

    Raises:
        ReleaseError: The tree has changes, or the version isn't that of a release.
    """
    if _output("git", "status", "--porcelain"):
        raise ReleaseError("the tree has changes that are not committed: commit or remove them")
    text = (ROOT / "telemetryd" / "__init__.py").read_text()
    found = re.search(r'^__version__ = "(\d+\.\d+\.\d+)"$', text, re.MULTILINE)
    if not found:
        raise ReleaseError("the version in telemetryd/__init__.py must be three numbers")
    revision, time = _output("git", "log", "-1", "--format=%H %ct").split()
    return Commit(found[1], revision, int(time))


def find_engine(environ: Mapping[str, str]) -> Engine | None:
    """The container engine, or None where `IMAGE=no` asks for none.

    Raises:
        ReleaseError: The base has no digest, or there is no engine that runs.
    """
    if not _wanted(environ, "IMAGE"):
        return None
    base = environ.get("PYTHON_IMAGE") or "python:3.13-slim"
    if not BY_DIGEST.fullmatch(base):
        raise ReleaseError(
            "PYTHON_IMAGE must name the image's base by digest (NAME@sha256:<64 hex digits>), not"
            f" {base!r}: 'docker buildx imagetools inspect NAME' prints it. IMAGE=no leaves the"
            " image out"
        )
    program = environ.get("CONTAINER_ENGINE") or shutil.which("docker") or shutil.which("podman")
    advice = "name another in CONTAINER_ENGINE, or leave the image out with IMAGE=no"
    if program is None:
        raise ReleaseError(f"there is no docker or podman on PATH: {advice}")
    try:
        _run(program, "version")
    except ReleaseError as error:
        raise ReleaseError(f"{error}\n{program} does not run here: {advice}") from None
    return Engine(program, base, tuple((environ.get("PLATFORMS") or DEFAULT_PLATFORMS).split()))


def find_helm(environ: Mapping[str, str]) -> str:
    """Helm.

    Raises:
        ReleaseError: There is none.
    """
    built = (find_program(major) for major in MAJORS)
    found = environ.get("HELM") or shutil.which("helm") or next(filter(None, built), None)
    if found is None:
        raise ReleaseError("there is no helm on PATH: install it, or build it with 'make helm'")
    return str(found)


def find_debian_tools(environ: Mapping[str, str]) -> bool:
    """Whether a Debian package is built; `DEB=no` asks for none.

    Raises:
        ReleaseError: What builds it isn't here.
    """
    if not _wanted(environ, "DEB"):
        return False
    if not (shutil.which("dpkg-buildpackage") and shutil.which("dh")):
        raise ReleaseError(
            "there is no dpkg-buildpackage or no dh here: install debhelper (Debian: apt install"
            " debhelper), or leave the Debian package out with DEB=no"
        )
    return True


def export_commit(commit: Commit, tree: Path) -> None:
    """Write the files of the commit, and its hash as `telemetryd/REVISION`."""
    command = ["git", "-c", "tar.umask=0022", "archive", commit.revision]
    archive = subprocess.run(command, cwd=ROOT, check=True, capture_output=True).stdout
    with tarfile.open(fileobj=io.BytesIO(archive)) as files:
        files.extractall(tree, filter="data")
    (tree / "telemetryd" / "REVISION").write_text(f"{commit.revision}\n")


def build_distributions(tree: Path, dist: Path, commit: Commit) -> None:
    """Build the wheel and the source archive."""
    command = [sys.executable, "-m", "hatchling", "build", "-t", "sdist", "-t", "wheel"]
    _run(*command, "-d", dist, cwd=tree, environ=_clock(commit))


def build_chart(helm: str, tree: Path, dist: Path, commit: Commit) -> None:
    """Package the chart and write the index of a repository that consists of `dist/`."""
    chart, name = tree / "charts" / "telemetryd", f"telemetryd-{commit.version}.tgz"
    with tempfile.TemporaryDirectory() as folder:
        _run(helm, "package", chart, "--destination", folder)
        _write_normalised(Path(folder, name), dist / name, commit.time)
    _run(helm, "repo", "index", dist)
    index = dist / "index.yaml"
    moment = datetime.fromtimestamp(commit.time, UTC).isoformat().replace("+00:00", "Z")
    text = re.sub(r"(?m)^( *(?:created|generated): ).*$", rf'\1"{moment}"', index.read_text())
    # In a repository of Git, Rancher finds the icon in the chart; in this one, beside the index.
    index.write_text(text.replace("icon: file://icon.svg", "icon: icon.svg"))
    shutil.copy(chart / "icon.svg", dist)


def _write_normalised(source: Path, target: Path, time: int) -> None:
    """Write the same files in a fixed order, with the time of the commit and no owner."""
    with (
        tarfile.open(source) as read,
        target.open("wb") as file,
        gzip.GzipFile("", "wb", fileobj=file, mtime=time) as packed,
        tarfile.open(fileobj=packed, mode="w") as written,
    ):
        for member in sorted(read, key=lambda each: each.name):
            plain = tarfile.TarInfo(member.name)
            plain.size, plain.mtime, plain.mode = member.size, time, 0o644
            written.addfile(plain, read.extractfile(member))


def build_images(engine: Engine, tree: Path, dist: Path, commit: Commit) -> dict[str, str]:
    """Build an image for each platform and save it as an archive that engines load.

    Returns:
        The image's id, a digest, by the name of the archive.

    Raises:
        ReleaseError: The engine can't build for one of the platforms.
    """
    tag, ids = f"telemetryd:{commit.version}", {}
    values = {
        "PYTHON_IMAGE": engine.base,
        "VERSION": commit.version,
        "REVISION": commit.revision,
        "SOURCE_DATE_EPOCH": str(commit.time),
    }
    given = [word for each in values.items() for word in ("--build-arg", "=".join(each))]
    if "podman" in _output(engine.program, "--version"):
        # Its default format, OCI, has no HEALTHCHECK; Docker's builder takes the time by itself.
        given += ["--format", "docker", "--timestamp", str(commit.time)]
    for platform in engine.platforms:
        archive = f"telemetryd-{commit.version}-image-{platform.split('/')[1]}.tar"
        command = [engine.program, "build", "--no-cache", "--platform", platform, *given]
        try:
            _run(*command, "--tag", tag, tree)
        except ReleaseError as error:
            raise ReleaseError(
                f"{error}\nthere is no image for {platform}: if this machine can't run its"
                " programs, install an emulator (Debian: apt install qemu-user-static), or name"
                " the platforms that it can build for, as in PLATFORMS=linux/amd64"
            ) from None
        _run(engine.program, "save", "--output", dist / archive, tag)
        ids[archive] = _output(engine.program, "image", "inspect", "--format", "{{.Id}}", tag)
    return {name: found if ":" in found else f"sha256:{found}" for name, found in ids.items()}


def build_debian(tree: Path, dist: Path, commit: Commit) -> None:
    """Build the Debian package, for this machine's release of its distribution."""
    _run("dpkg-buildpackage", "--build=binary", "--no-sign", cwd=tree, environ=_clock(commit))
    for package in tree.parent.glob("telemetryd_*.deb"):
        shutil.copy(package, dist)


def render_checksums(dist: Path) -> str:
    """What `sha256sum --check` reads."""
    files = sorted(path for path in dist.iterdir() if path.name != CHECKSUMS)
    return "".join(f"{sha256(path.read_bytes()).hexdigest()}  {path.name}\n" for path in files)


def release(environ: Mapping[str, str]) -> Iterator[str]:
    """Build everything; yields the lines to print.

    Raises:
        ReleaseError: There is no release, and `dist/` is as it was.
    """
    commit, engine = find_commit(), find_engine(environ)
    helm, debian = find_helm(environ), find_debian_tools(environ)
    with tempfile.TemporaryDirectory(prefix="telemetryd-release-") as folder:
        tree, dist = Path(folder, "tree"), Path(folder, "dist")
        dist.mkdir()
        export_commit(commit, tree)
        yield f"telemetryd {commit.version} of {commit.revision}"
        yield "wheel and source archive"
        build_distributions(tree, dist, commit)
        yield "chart and index"
        build_chart(helm, tree, dist, commit)
        yield "bill of materials"
        (dist / f"telemetryd-{commit.version}.cdx.json").write_text(sbom.bill())
        images = {}
        if engine:
            yield f"images for {' and '.join(engine.platforms)}"
            images = build_images(engine, tree, dist, commit)
        if debian:
            yield "Debian package"
            build_debian(tree, dist, commit)
        names = sorted(path.name for path in dist.iterdir())
        base = engine.base if engine else None
        (dist / notes.NAME).write_text(notes.render(commit, names, images, base))
        (dist / CHECKSUMS).write_text(render_checksums(dist))
        shutil.rmtree(ROOT / "dist", ignore_errors=True)
        shutil.copytree(dist, ROOT / "dist")
    yield from (f"dist/{path.name}" for path in sorted((ROOT / "dist").iterdir()))
    source = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["urls"]["Source"]
    if source.endswith(_RESERVED):
        yield f"{source} is a reserved address: set [project.urls] in pyproject.toml to publish"


def _wanted(environ: Mapping[str, str], name: str) -> bool:
    match environ.get(name) or "yes":
        case "yes":
            return True
        case "no":
            return False
        case other:
            raise ReleaseError(f"{name}={other}: it is yes or no")


def _clock(commit: Commit) -> dict[str, str]:
    return {"SOURCE_DATE_EPOCH": str(commit.time)}


def _output(*command: str) -> str:
    return _run(*command).strip()


def _run(
    *command: str | Path, cwd: Path = ROOT, environ: Mapping[str, str] = MappingProxyType({})
) -> str:
    """What a program printed.

    Raises:
        ReleaseError: It failed; the message ends with what it said.
    """
    inherited = {name: value for name, value in os.environ.items() if name not in _OF_OTHERS}
    try:
        done = subprocess.run(
            command,
            cwd=cwd,
            env={**inherited, **environ},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
    except OSError as error:
        raise ReleaseError(f"cannot run {command[0]}: {error.strerror}") from None
    if done.returncode:
        said = "\n".join((done.stdout + done.stderr).strip().splitlines()[-_SAID_LINES:])
        raise ReleaseError(f"{command[0]} {command[1]} ended with {done.returncode}:\n{said}")
    return done.stdout


def main() -> None:
    """Build it and print what there is."""
    os.umask(0o022)
    for line in release(os.environ):
        sys.stdout.write(f"{line}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    try:
        main()
    except (LockError, ReleaseError) as error:
        sys.exit(f"supply.release: {error}")
