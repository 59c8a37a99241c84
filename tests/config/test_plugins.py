"""Exporters of other distributions, installed as such: the example, and some that are no good."""

import json
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from telemetryd.config import parse_config
from telemetryd.daemon.exporters import ExporterFactory
from telemetryd.errors import ConfigError
from tests.cli.test_commands import telemetryd
from tests.support.daemon import Daemon
from tests.support.embedded import FleetServer, serve_fleet

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "telemetryd-exporter-example"


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder into which pip has installed the example."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    options = ["--no-deps", "--no-build-isolation", "--no-index", "--target", str(folder)]
    done = subprocess.run(
        [*command, *options, str(EXAMPLE)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FleetServer]:
    with serve_fleet(tmp_path_factory.mktemp("embedded")) as fleet:
        yield fleet


def install(folder: Path, name: str, points: dict[str, str], code: str | None = None) -> None:
    """What pip would leave of a distribution with one module."""
    about = folder / f"{name}-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    lines = (f"{point} = {target}\n" for point, target in points.items())
    (about / "entry_points.txt").write_text("[telemetryd.exporters]\n" + "".join(lines))
    if code is not None:
        (folder / f"{name}.py").write_text(code)


def check(folder: Path, *sites: Path, **keys: object) -> "subprocess.CompletedProcess[str]":
    """`telemetryd check-config` of one exporter."""
    path = folder / "config.toml"
    given = {"name": "it", **keys}
    lines = (f"{key} = {json.dumps(value)}\n" for key, value in given.items())
    path.write_text("[[exporters]]\n" + "".join(lines))
    return telemetryd_with(sites, "check-config", "--offline", "--config", str(path))


def telemetryd_with(
    sites: Sequence[Path], *arguments: str, **environ: str
) -> "subprocess.CompletedProcess[str]":
    """The command where other distributions are installed for the moment."""
    return telemetryd(*arguments, **{"PYTHONPATH": ":".join(map(str, sites)), **environ})


def test_example_that_pip_has_installed_exports_from_a_running_daemon(
    tmp_path: Path, installed: Path, server: FleetServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(installed))
    lines = tmp_path / "payloads.jsonl"
    table = f'[[exporters]]\nname = "it"\ntype = "lines"\ninterval = "1s"\npath = "{lines}"\n'
    daemon = Daemon(tmp_path, server.kubeconfig, table)
    try:
        daemon.wait_for("a line", lambda: lines.exists() and lines.read_text(), 20)
        daemon.wait_for("idle", lambda: daemon.exporter("it")["state"] == "idle", 30)
        assert daemon.metric('telemetryd_exporter_info{exporter="it",type="lines"}') == 1
    finally:
        assert daemon.stop() == 0
    (line,) = lines.read_text().splitlines()
    assert json.loads(line)["subscription"]["product"]


def test_keys_of_the_example_are_validated_like_our_own(tmp_path: Path, installed: Path) -> None:
    done = check(tmp_path, installed, type="lines", path="x", syncs=True, interval="5")
    file = f"{tmp_path}/config.toml"
    assert done.returncode == 78
    assert done.stderr.splitlines() == [
        f'{file}:4: exporters.it.path: must be an absolute path such as "/var/lib/telemetryd/scc"',
        f'{file}:5: exporters.it.syncs: unknown key; did you mean "sync"?',
        f'{file}:6: exporters.it.interval: "5" has no unit: write "5s" for seconds',
    ]
    assert check(tmp_path, installed, type="lines", path="/x").returncode == 0


def test_unknown_type_is_reported_with_those_that_are_installed(
    tmp_path: Path, installed: Path
) -> None:
    done = check(tmp_path, installed, type="line")
    assert done.returncode == 78
    assert done.stderr == (
        f'{tmp_path}/config.toml:3: exporters.it.type: is "line": must be "secret", "file", '
        '"http", "otlp", "lines"; did you mean "lines"?\n'
    )


BROKEN = 'raise SystemExit("broken on purpose")\n'
CLASSLESS = "class _It:\n    config = dict\n    def build(self, config, context): ...\nIT = _It()\n"


@pytest.mark.parametrize(
    ("code", "why"),
    [
        (BROKEN, "is of its 1.0, which can't be imported (SystemExit: broken on purpose)"),
        ("IT = None\n", "whose class of tables isn't a dataclass derived from ExporterConfig"),
        (CLASSLESS, "whose class of tables isn't a dataclass derived from ExporterConfig"),
        ("", "which can't be imported (AttributeError: "),
    ],
)
def test_distribution_that_is_no_good_costs_only_who_asks_for_it(
    tmp_path: Path, code: str, why: str
) -> None:
    site = tmp_path / "site"
    site.mkdir()
    install(site, "its", {"it": "its:IT"}, code)
    done = check(tmp_path, site, type="it")
    assert done.returncode == 78
    assert 'exporters.it.type: "it" is of its 1.0, ' in done.stderr
    assert why.removeprefix("is of its 1.0, ") in done.stderr
    assert check(tmp_path, site, type="secret").returncode == 0


def test_type_that_two_distributions_bring_is_refused_with_both(tmp_path: Path) -> None:
    site = tmp_path / "site"
    site.mkdir()
    for name in ("one", "two"):
        install(site, name, {"it": f"{name}:IT"}, "")
    done = check(tmp_path, site, type="it")
    assert done.returncode == 78
    assert '"it" is brought by one 1.0 and two 1.0: install one that does' in done.stderr


NO_BUILDER = """
from dataclasses import dataclass
from typing import ClassVar
from telemetryd.api import ExporterConfig
@dataclass(frozen=True, slots=True, kw_only=True)
class Its(ExporterConfig):
    type: ClassVar[str] = "it"
class _It:
    config = Its
    def build(self, config, context):
        {body}
IT = _It()
"""


@pytest.mark.parametrize(
    ("body", "why"),
    [
        ("raise RuntimeError('on purpose')", "exporter a: its 1.0: RuntimeError: on purpose"),
        (
            "return object()",
            "exporter a: its 1.0: build() made no exporter: object has no export()",
        ),
    ],
)
def test_build_that_fails_is_an_error_of_the_configuration(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, body: str, why: str
) -> None:
    name = f"its{abs(hash(body))}"
    install(tmp_path, name, {"it": f"{name}:IT"}, NO_BUILDER.replace("{body}", body))
    monkeypatch.syspath_prepend(str(tmp_path))
    config = parse_config('[[exporters]]\nname = "a"\ntype = "it"\n', "t.toml", {})
    factory = ExporterFactory(None, now=time.time)  # type: ignore[arg-type]
    with pytest.raises(ConfigError) as raised:
        factory.build(config.exporters[0])
    assert why.replace("its 1.0", f"{name} 1.0") in str(raised.value)


def test_type_of_our_own_is_never_another_distributions(tmp_path: Path) -> None:
    site = tmp_path / "site"
    site.mkdir()
    install(site, "its", {"file": "its:IT"}, BROKEN)
    assert check(tmp_path, site, type="file", directory="/x").returncode == 0


def test_schema_of_a_class_without_a_docstring_says_nothing_made_up(tmp_path: Path) -> None:
    install(tmp_path, "its", {"it": "its:IT"}, NO_BUILDER.replace("{body}", "pass"))
    done = telemetryd_with((tmp_path,), "schema", "--config")
    assert done.returncode == 0, done.stderr
    definition = json.loads(done.stdout)["$defs"]["it"]
    assert definition["description"] == ""
    assert definition["properties"]["interval"]["description"].startswith("From one run to the")
