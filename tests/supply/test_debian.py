"""The Debian package: one version with the rest, and really installed, upgraded and purged."""

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from supply.lock import ROOT
from telemetryd import __version__
from tests.supply.conftest import git
from tests.supply.machine import Machine, machine

CONFIG = "/etc/telemetryd/config.toml"
UNIT = "/lib/systemd/system/telemetryd.service"
ENABLED = "/etc/systemd/system/multi-user.target.wants/telemetryd.service"
STATE = "/var/lib/private/telemetryd"


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
        yield found


def install(host: Machine, package: Path) -> str:
    host.write("/telemetryd.deb", package.read_bytes())
    # As `apt` without a terminal: a changed configuration file is kept.
    return host.run("dpkg", "--force-confold", "-i", "/telemetryd.deb")


@pytest.mark.index
@pytest.mark.timeout(600)
@pytest.mark.xdist_group("release")
def test_package_is_installed_upgraded_and_purged(
    host: Machine, package: Path, newer: Path, tree: Path
) -> None:
    install(host, package)

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

    install(host, newer)
    assert "99.0.0" in host.run("dpkg-query", "-W", "telemetryd")
    assert host.run("cat", CONFIG).encode() == config
    assert host.run("systemctl", "is-enabled", "telemetryd") == "enabled\n"
    assert host.run("cat", f"{STATE}/restrictions.json") == "{}"

    host.run("dpkg", "-r", "telemetryd")
    assert host.attempt("telemetryd", "version")[0] == 127
    assert host.run("cat", CONFIG).encode() == config
    assert host.run("cat", f"{STATE}/restrictions.json") == "{}"

    host.run("dpkg", "-P", "telemetryd")
    host.run("rm", "/telemetryd.deb")
    assert host.run("ls", "/etc/telemetryd") == "ca.crt\n"
    assert host.left("*telemetryd*") == ["etc/telemetryd"]
