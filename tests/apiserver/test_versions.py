"""Which servers tests run on, and where they come from."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from telemetryd.doctor.cluster import OLDEST
from tests.apiserver import versions
from tests.apiserver.versions import AGES, find_assets, folder

ROOT = Path(__file__).parents[2]
MODULES = {*AGES, "etcd"}


def fill(assets: Path) -> Path:
    """Puts two programs into a folder."""
    assets.mkdir(parents=True)
    for name in versions.PROGRAMS:
        (assets / name).symlink_to("/bin/true")
    return assets


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, and nothing chosen."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    for name in ("KUBEBUILDER_ASSETS", "APISERVER"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def run_build(*names: str, **environ: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "tests.apiserver.versions", *names],
        cwd=ROOT,
        env={**os.environ, **environ},
        capture_output=True,
        text=True,
        check=False,
    )


def test_assets_come_from_the_environment_before_the_cache(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = home / "given"
    monkeypatch.setenv("KUBEBUILDER_ASSETS", str(given))
    assert find_assets() is None
    cached = fill(folder("newest"))
    assert find_assets() == cached
    fill(given)
    assert find_assets() == given


def test_chosen_server_is_taken_from_the_folder_of_its_version(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    oldest = fill(folder("oldest"))
    assert find_assets() is None
    monkeypatch.setenv("APISERVER", "oldest")
    assert find_assets() == oldest
    assert oldest.is_relative_to(home)


def test_unknown_choice_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("APISERVER", "1.20")
    with pytest.raises(ValueError, match=r"APISERVER=1\.20: it is newest or oldest"):
        versions.chosen()


def test_each_program_is_pinned_by_two_files_and_nothing_else() -> None:
    for name in MODULES:
        files = {path.name for path in (ROOT / "tests" / "apiserver" / name).iterdir()}
        assert files == {"go.mod", "go.sum"}


@pytest.mark.parametrize("age", AGES)
def test_every_part_of_kubernetes_has_the_version_of_the_server(age: versions.Age) -> None:
    text = (ROOT / "tests" / "apiserver" / age / "go.mod").read_text()
    staged = f"v0{versions.version(age).removeprefix('1')}"
    replaced = re.findall(r"^\t(k8s\.io/\S+) => (\S+) (\S+)$", text, re.MULTILINE)
    assert len(replaced) >= 30
    assert {(name, staged) for name, _, _ in replaced} == {(n, v) for _, n, v in replaced}


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md", "docs/install.md"])
def test_pages_name_the_versions_that_are_tested(page: str) -> None:
    text = (ROOT / page).read_text()
    for age in AGES:
        assert versions.version(age) in text
    assert versions.minor_of("oldest") == OLDEST


def test_given_programs_leave_nothing_to_build(home: Path) -> None:
    given = fill(home / "given")
    done = run_build(KUBEBUILDER_ASSETS=str(given))
    assert (done.returncode, done.stderr) == (0, "")
    assert "nothing to build" in done.stdout


def test_machine_without_go_gets_one_line_that_says_what_to_install(home: Path) -> None:
    done = run_build(PATH=str(home))
    assert done.returncode == 1
    assert done.stderr == (
        "Go is needed to build etcd and was not found:"
        " install Go 1.26.0 or newer (go on PATH), then run this again\n"
    )


@pytest.mark.parametrize(("found", "mode"), [("go1.19.8", ""), ("go1.24.1", "local")])
def test_machine_with_an_old_go_gets_one_line_that_says_what_to_install(
    home: Path, found: str, mode: str
) -> None:
    go = home / "go"
    go.write_text(f"#!/bin/sh\necho {found}\necho {mode}\n")
    go.chmod(0o755)
    done = run_build(PATH=f"{home}:{os.environ['PATH']}")
    assert done.returncode == 1
    assert done.stderr == (
        f"Go {found[2:]} is too old to build etcd:"
        " install Go 1.26.0 or newer (go on PATH), then run this again\n"
    )


def test_failed_build_leaves_no_program_and_says_why(home: Path) -> None:
    go = home / "go"
    go.write_text(
        '#!/bin/sh\n[ "$1" = env ] && { echo go1.27.0; echo local; exit; }\n'
        "echo this is why; exit 2\n"
    )
    go.chmod(0o755)
    done = run_build("oldest", PATH=f"{home}:{os.environ['PATH']}")
    assert done.returncode == 1
    assert done.stderr.splitlines() == [
        "this is why",
        "cannot build etcd: go build ended with 2, see above",
    ]
    assert not [path for path in home.rglob("*") if path.name in ("etcd", "kube-apiserver")]


def test_second_build_at_the_same_time_waits_for_the_first(home: Path) -> None:
    go = home / "go"
    go.write_text(
        '#!/bin/sh\n[ "$1" = env ] && { echo go1.27.0; echo local; exit; }\n'
        'echo built >>"$XDG_CACHE_HOME/log"; sleep 1\n'
        'while [ "$1" != -o ]; do shift; done\n'
        'printf "#!/bin/sh\\n" >"$2"; chmod 755 "$2"\n'
    )
    go.chmod(0o755)
    command = [sys.executable, "-m", "tests.apiserver.versions", "oldest"]
    environ = {**os.environ, "PATH": f"{home}:{os.environ['PATH']}"}
    builds = [
        subprocess.Popen(command, cwd=ROOT, env=environ, stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    printed = [build.communicate(timeout=100)[0] for build in builds]
    assert [build.returncode for build in builds] == [0, 0]
    assert (home / "log").read_text().count("built") == 2  # etcd and the API server, once each
    assert versions.holds_programs(folder("oldest"))
    assert "waiting for another build" in "".join(printed)
