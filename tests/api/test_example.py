"""A plug-in that is written from the page alone, in a distribution of its own, beside a wheel.

The files of docs/writing-an-exporter.md are those of the example. They are written to a folder,
built, and installed with telemetryd's own wheel into an environment in which nothing of this
project's tree can be imported.
"""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.docs.commands import commands_of
from tests.docs.markdown import ROOT
from tests.support.daemon import free_port
from tests.support.embedded import FleetServer, serve_fleet
from tests.support.waiting import until

PAGE = ROOT / "docs" / "writing-an-exporter.md"
EXAMPLE = "examples/telemetryd-exporter-example/"
DEPENDENCIES = next(path for path in sys.path if path.endswith("site-packages"))
RUN_S = 300.0

pytestmark = pytest.mark.timeout(600)  # it builds wheels on a busy machine


def files_of_page() -> dict[str, str]:
    """The content of each file that the page shows, by its path in the distribution."""
    commands = commands_of(PAGE.name, PAGE.read_text())
    return {
        each.writes.removeprefix(EXAMPLE): "\n".join(each.text.splitlines()[1:-1]) + "\n"
        for each in commands
        if each.writes
    }


@dataclass(frozen=True)
class Installed:
    """An environment with both distributions.

    Attributes:
        source: The folder of the plug-in's files.
    """

    folder: Path
    source: Path

    def run(self, *command: str, **environ: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [self.python, *command],
            cwd=self.folder,
            env=self.environ(**environ),
            capture_output=True,
            text=True,
            timeout=RUN_S,
            check=False,
        )

    @property
    def python(self) -> str:
        return str(self.folder / "venv" / "bin" / "python")

    def environ(self, **environ: str) -> dict[str, str]:
        hidden = {"PYTHONPATH", "COVERAGE_PROCESS_START", "COVERAGE_PROCESS_CONFIG"}
        return {key: value for key, value in os.environ.items() if key not in hidden} | environ


def make(*command: str | Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", *map(str, command)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Installed:
    """Wheels of telemetryd and of the page's plug-in, in an environment of their own."""
    folder = tmp_path_factory.mktemp("author")
    source = folder / "telemetryd-exporter-example"
    for name, content in files_of_page().items():
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_text(content)
    quiet = ("--quiet", "--disable-pip-version-check", "--no-deps", "--no-index")
    wheels = folder / "wheels"
    make("pip", "wheel", *quiet, "--no-build-isolation", "-w", wheels, ROOT, source)
    make("venv", "--without-pip", folder / "venv")
    (site,) = (folder / "venv" / "lib").glob("python*/site-packages")
    make("pip", "install", *quiet, "--target", site, *sorted(wheels.glob("*.whl")))
    # What telemetryd needs, without this tree: lines of .pth files count in a site folder alone.
    (site / "dependencies.pth").write_text(DEPENDENCIES + "\n")
    return Installed(folder, source)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FleetServer]:
    with serve_fleet(tmp_path_factory.mktemp("embedded")) as fleet:
        yield fleet


@pytest.fixture
def config(tmp_path: Path, server: FleetServer) -> Path:
    file = tmp_path / "config.toml"
    file.write_text(
        f'state_dir = "{tmp_path}"\n[kubernetes]\nkubeconfig = "{server.kubeconfig}"\n'
        f'[server]\nlisten = "127.0.0.1:{free_port()}"\n'
        '[[exporters]]\nname = "lines"\ntype = "lines"\ninterval = "1s"\n'
        f'path = "{tmp_path}/payloads.jsonl"\n'
    )
    return file


def test_files_of_the_page_are_those_of_the_example() -> None:
    files = files_of_page()
    assert set(files) == {
        "pyproject.toml",
        "telemetryd_exporter_example/__init__.py",
        "tests/test_lines.py",
    }
    for name, content in files.items():
        assert (ROOT / EXAMPLE / name).read_text() == content, name


def test_nothing_of_this_tree_is_in_the_authors_environment(installed: Installed) -> None:
    code = "import telemetryd, telemetryd_exporter_example as it; print(telemetryd, it)"
    done = installed.run("-c", code)
    assert done.stdout.count(str(installed.folder / "venv")) == 2, done.stderr
    assert str(ROOT) not in done.stdout


def test_plugin_passes_its_own_tests_with_the_installed_kit(installed: Installed) -> None:
    done = installed.run("-m", "pytest", "-q", "-p", "no:cacheprovider", str(installed.source))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 passed" in done.stdout


def test_configuration_of_the_plugin_is_checked(installed: Installed, config: Path) -> None:
    done = installed.run("-m", "telemetryd", "check-config", "--config", str(config))
    assert (done.returncode, done.stdout) == (0, f"{config}: valid\n"), done.stderr
    config.write_text(config.read_text().replace("path =", "paths ="))
    done = installed.run("-m", "telemetryd", "check-config", "--config", str(config))
    assert done.returncode == 78
    assert 'exporters.lines.paths: unknown key; did you mean "path"?' in done.stderr


def test_payload_of_the_plugin_is_printed_and_names_it(installed: Installed, config: Path) -> None:
    done = installed.run(
        *("-m", "telemetryd", "payload", "--config", str(config), "--exporter", "lines")
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["subscription"]["product"] == "rancher-prime"
    assert "telemetryd-exporter-example 1.0" in done.stderr
    assert not (config.parent / "payloads.jsonl").exists()


def test_daemon_exports_by_the_plugin(installed: Installed, config: Path) -> None:
    lines, log = config.parent / "payloads.jsonl", config.parent / "log"
    with log.open("wb") as out:
        daemon = subprocess.Popen(
            [installed.python, "-m", "telemetryd", "run", "--config", str(config)],
            cwd=installed.folder,
            env=installed.environ(RUNTIME_DIRECTORY=str(config.parent)),
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
        )
    try:
        until(
            lambda: lines.exists() and lines.read_text().endswith("\n"),
            "a line",
            more=log.read_text,
            ended=daemon.poll,
        )
        status = installed.run(
            *("-m", "telemetryd", "ctl", "status", "--json", "--config", str(config)),
            RUNTIME_DIRECTORY=str(config.parent),
        )
    finally:
        daemon.send_signal(signal.SIGTERM)
        try:
            assert daemon.wait(timeout=RUN_S) == 0, log.read_text()
        finally:
            daemon.kill()
            daemon.wait()
    (exporter,) = json.loads(status.stdout)["exporters"]
    assert (exporter["name"], exporter["type"]) == ("lines", "lines")
    assert exporter["last_error"] in ("", None)
    assert json.loads(lines.read_text().splitlines()[0])["subscription"]["product"]
