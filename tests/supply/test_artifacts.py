"""What a release consists of: the same bytes each time, and each file fit for its use."""

import http.server
import json
import re
import subprocess
import sys
import tarfile
import threading
import tomllib
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import yaml
from readme_renderer import markdown

from supply import sbom
from supply.lock import ROOT
from telemetryd import __version__
from tests.charts.conftest import find_or_skip
from tests.charts.helm import Helm
from tests.docs.markdown import links
from tests.supply.conftest import git
from tests.supply.machine import Machine, machine

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
SOURCE = f"telemetryd-{__version__}"
WHEEL = f"{SOURCE}-py3-none-any.whl"
NAMES = {
    "RELEASE-NOTES.md",
    "SHA256SUMS",
    "icon.svg",
    "index.yaml",
    WHEEL,
    f"{SOURCE}.tar.gz",
    f"{SOURCE}.tgz",
    f"{SOURCE}.cdx.json",
}

CONFIG = "/etc/telemetryd/config.toml"
UNIT = "/lib/systemd/system/telemetryd.service"
STATE = "/var/lib/private/telemetryd"
ASKED = "/asked-of-systemctl"
SYSTEMCTL = f"""#!/bin/sh
echo "$*" >>{ASKED}
SYSTEMD_OFFLINE=1 exec systemctl.real "$@"
"""
"""It does what it can without a systemd that runs, and writes down what that would be asked."""


def in_release(test: Any) -> Any:
    return pytest.mark.index(pytest.mark.timeout(1800)(test))


def moment(tree: Path) -> int:
    return int(git(tree, "log", "-1", "--format=%ct"))


@in_release
def test_two_releases_of_a_commit_have_the_same_bytes(
    releases: tuple[Path, Path], tree: Path
) -> None:
    first, second = releases
    names = {path.name for path in first.iterdir()}
    (package,) = (name for name in names if name.endswith(".deb"))
    assert re.fullmatch(
        rf"telemetryd_{re.escape(__version__)}\+\w+[\d.]*_(amd64|arm64)\.deb", package
    )
    assert names == {*NAMES, package} == {path.name for path in second.iterdir()}
    assert not [
        name for name in names if (first / name).read_bytes() != (second / name).read_bytes()
    ]
    done = subprocess.run(
        ["sha256sum", "--check", "--strict", "SHA256SUMS"],
        cwd=second,
        check=True,
        capture_output=True,
        text=True,
    )
    assert set(done.stdout.splitlines()) == {f"{name}: OK" for name in names - {"SHA256SUMS"}}
    for folder in releases:
        assert git(folder.parent, "status", "--porcelain") == ""
        assert not (folder.parent / "telemetryd" / "REVISION").exists()


@in_release
def test_notes_name_each_file_and_say_that_the_image_is_missing(
    releases: tuple[Path, Path], tree: Path
) -> None:
    notes = (releases[0] / "RELEASE-NOTES.md").read_text()
    assert git(tree, "rev-parse", "HEAD") in notes
    files = {path.name for path in releases[0].iterdir()} - {"RELEASE-NOTES.md", "SHA256SUMS"}
    assert all(f"\n| {name} | " in notes for name in files)
    assert "There is no image among these files" in notes
    assert "### Added" in notes


@in_release
def test_source_archive_holds_the_commit_and_makes_the_same_wheel(
    releases: tuple[Path, Path], tree: Path, tmp_path: Path
) -> None:
    with tarfile.open(releases[0] / f"{SOURCE}.tar.gz") as archive:
        archive.extractall(tmp_path, filter="data")
    unpacked = tmp_path / SOURCE
    files = {str(path.relative_to(unpacked)) for path in unpacked.rglob("*") if path.is_file()}
    committed = set(git(tree, "ls-files").splitlines())
    assert files == committed | {"PKG-INFO", "telemetryd/REVISION"}
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", tmp_path],
        cwd=unpacked,
        env={"SOURCE_DATE_EPOCH": str(moment(tree))},
        check=True,
        capture_output=True,
    )
    assert (tmp_path / WHEEL).read_bytes() == (releases[0] / WHEEL).read_bytes()


@in_release
def test_wheel_holds_the_commit(releases: tuple[Path, Path], tree: Path) -> None:
    with zipfile.ZipFile(releases[0] / WHEEL) as wheel:
        revision = wheel.read("telemetryd/REVISION").decode()
    assert revision == git(tree, "rev-parse", "HEAD") + "\n"


@in_release
def test_bill_of_materials_is_that_of_the_tree(releases: tuple[Path, Path]) -> None:
    assert (releases[0] / f"{SOURCE}.cdx.json").read_text() == sbom.bill()


@in_release
def test_files_of_a_release_are_a_helm_repository(
    releases: tuple[Path, Path], tree: Path, tmp_path: Path
) -> None:
    dist = releases[0]
    load: Any = yaml.safe_load
    index = load((dist / "index.yaml").read_text())
    (entry,) = index["entries"]["telemetryd"]
    at = datetime.fromtimestamp(moment(tree), UTC).isoformat().replace("+00:00", "Z")
    assert index["generated"] == entry["created"] == at
    assert (dist / entry["icon"]).read_bytes() == (ROOT / "charts/telemetryd/icon.svg").read_bytes()
    with tarfile.open(dist / f"{SOURCE}.tgz") as archive:
        assert {member.mtime for member in archive} == {moment(tree)}
    helm = Helm(find_or_skip(4), tmp_path)
    with served(dist) as url:
        helm.run("repo", "add", "released", url)
        # It compares the chart with the index's digest.
        helm.run("pull", "released/telemetryd", "--untar", "--destination", str(tmp_path))
    assert "0 chart(s) failed" in helm.run("lint", "--strict", str(tmp_path / "telemetryd"))
    chart = load((tmp_path / "telemetryd" / "Chart.yaml").read_text())
    assert chart["version"] == chart["appVersion"] == __version__


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """The address of a folder's files on loopback."""

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=folder))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class Rendered(HTMLParser):
    """Where the links and pictures of a page lead, and how many tables it has."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.targets: list[str] = []
        self.tables = 0
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.targets += [value for name, value in attrs if name in {"href", "src"} and value]
        self.tables += tag == "table"


def test_description_renders_on_an_index_with_links_that_lead_out_of_it() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "hatchling", "metadata"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    )
    readme = json.loads(done.stdout)["readme"]
    assert readme["content-type"] == "text/markdown"
    page = markdown.render(readme["text"])
    assert page is not None
    rendered = Rendered(page)
    source = PROJECT["urls"]["Source"]
    wanted = {
        link.target if ":" in link.target or link.target[0] == "#" else f"{source}/{link.target}"
        for link in links((ROOT / "README.md").read_text())
    }
    assert wanted
    headings = {target for target in rendered.targets if target.startswith("#user-content-")}
    assert set(rendered.targets) - headings == wanted
    assert rendered.tables == len(re.findall(r"(?m)^\|---", readme["text"]))


def test_every_address_of_the_metadata_is_the_projects_own() -> None:
    source = PROJECT["urls"]["Source"]
    paths = [url.removeprefix(source) for url in PROJECT["urls"].values()]
    assert all(url.startswith(source) for url in PROJECT["urls"].values())
    assert all((ROOT / path.strip("/")).exists() for path in paths if path.strip("/"))
    control = (ROOT / "debian" / "control").read_text()
    assert f"\nHomepage: {source}\n" in control
    (author,) = PROJECT["authors"]
    assert f"\nMaintainer: {author['name']} <{author['email']}>\n" in control


def test_package_is_of_this_version_for_the_machines_of_the_lock() -> None:
    changelog = (ROOT / "debian" / "changelog").read_text()
    assert changelog.startswith(f"telemetryd ({__version__}) ")
    control = (ROOT / "debian" / "control").read_text()
    # x86_64 and aarch64 elsewhere.
    assert "\nArchitecture: amd64 arm64\n" in control


@pytest.fixture(scope="module")
def package(releases: tuple[Path, Path]) -> Path:
    (found,) = releases[0].glob("*.deb")
    return found


@pytest.fixture(scope="module")
def newer(package: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same package as a later version, with another configuration file."""
    folder = tmp_path_factory.mktemp("newer")
    subprocess.run(["dpkg-deb", "-R", package, folder / "content"], check=True)
    control = folder / "content" / "DEBIAN" / "control"
    control.write_text(re.sub("(?m)^Version: .*", "Version: 99.0.0", control.read_text()))
    with (folder / "content" / CONFIG[1:]).open("a") as config:
        config.write("# of a later version\n")
    made = folder / "newer.deb"
    subprocess.run(["dpkg-deb", "--root-owner-group", "-b", folder / "content", made], check=True)
    return made


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Machine]:
    folder = tmp_path / "machine"
    folder.mkdir()
    with machine(folder) as found:
        # As where systemd runs, and no policy of a container forbids what packages ask of it.
        found.run("mkdir", "-p", "/run/systemd/system")
        found.run("rm", "-f", "/usr/sbin/policy-rc.d", ASKED)
        found.run("mv", "/usr/bin/systemctl", "/usr/bin/systemctl.real")
        found.write("/usr/bin/systemctl", SYSTEMCTL.encode())
        found.run("chmod", "0755", "/usr/bin/systemctl")
        yield found


def asked_of_systemd(host: Machine) -> set[str]:
    """What was asked for the unit, and for all units, since it was looked at last."""
    lines = host.run("sh", "-c", f"cat {ASKED}; rm {ASKED}").splitlines()
    verbs = ("start", "restart", "try-restart", "stop", "daemon-reload")
    return {word for line in lines for word in line.split() if word in verbs}


def install(host: Machine, package: Path) -> str:
    host.write("/telemetryd.deb", package.read_bytes())
    # As `apt` without a terminal: a changed configuration file is kept.
    return host.run("dpkg", "--force-confold", "-i", "/telemetryd.deb")


@in_release
def test_package_is_installed_upgraded_and_purged(
    host: Machine, package: Path, newer: Path, tree: Path
) -> None:
    install(host, package)
    assert asked_of_systemd(host) == {"daemon-reload"}

    version = host.run("telemetryd", "version").splitlines()
    assert version[:2] == [
        f"telemetryd {__version__}",
        f"revision {git(tree, 'rev-parse', 'HEAD')}",
    ]
    assert version[2].endswith("(/usr/lib/telemetryd/bin/python)")
    assert host.run("telemetryd", "--help").startswith("usage: telemetryd")
    assert host.run("telemetryd", "check-config", "--offline").strip() == f"{CONFIG}: valid"
    assert host.run("systemd-analyze", "verify", UNIT) == ""
    status, said = host.attempt("systemctl", "is-enabled", "telemetryd")
    assert (status, said) == (1, "disabled\n")
    completed = "complete -p telemetryd"
    completion = "/usr/share/bash-completion/completions/telemetryd"
    assert "telemetryd" in host.run("bash", "-c", f". {completion}; {completed}")
    assert host.run("lexgrog", "/usr/share/man/man1/telemetryd.1.gz").endswith(
        '"telemetryd - telemetry daemon for Rancher and Kubernetes"\n'
    )
    assert host.run("dpkg", "--verify", "telemetryd") == ""

    # What an operator and the service leave.
    config = host.run("cat", CONFIG).encode() + b"# my own\n"
    host.write(CONFIG, config)
    host.write("/etc/telemetryd/kubeconfig", b"{}")
    host.write("/etc/telemetryd/ca.crt", b"a file of mine")
    host.run("mkdir", "-p", STATE)
    host.run("ln", "-s", "private/telemetryd", "/var/lib/telemetryd")
    host.write(f"{STATE}/restrictions.json", b"{}")
    host.run("systemctl", "enable", "telemetryd")

    host.run("rm", ASKED)
    install(host, newer)
    assert asked_of_systemd(host) == {"daemon-reload", "try-restart"}
    assert "99.0.0" in host.run("dpkg-query", "-W", "telemetryd")
    assert host.run("cat", CONFIG).encode() == config
    assert host.run("systemctl", "is-enabled", "telemetryd") == "enabled\n"
    assert host.run("cat", f"{STATE}/restrictions.json") == "{}"

    host.run("rm", ASKED)
    host.run("dpkg", "-r", "telemetryd")
    assert asked_of_systemd(host) == {"stop", "daemon-reload"}
    assert host.attempt("telemetryd", "version")[0] == 127
    assert host.run("cat", CONFIG).encode() == config
    assert host.run("cat", f"{STATE}/restrictions.json") == "{}"

    host.run("dpkg", "-P", "telemetryd")
    host.run("rm", "/telemetryd.deb")
    assert host.run("ls", "/etc/telemetryd") == "ca.crt\n"
    assert host.left("*telemetryd*") == ["etc/telemetryd"]
