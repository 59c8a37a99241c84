"""A release is built from a base by digest and a committed tree, or not at all."""

from pathlib import Path

import pytest

from supply.notes import changes_of
from supply.release import ReleaseError, find_engine, find_helm
from telemetryd import __version__
from tests.charts.conftest import find_or_skip
from tests.supply.conftest import git, run_release

DIGEST = "sha256:" + "0123456789abcdef" * 4
BASE = f"registry.example.com:5000/python:3.13-slim@{DIGEST}"
ENGINE = f"""#!/bin/sh
printf '%s\\n' "$*" >>"$0.log"
case "$1 $2" in
--version*) echo "${{KIND:-Docker}} version 1" ;;
save*) echo "$*" >"$3" ;;
image*) echo {DIGEST} ;;
"build --no-cache") [ "$4" != "${{UNABLE:-}}" ] || {{ echo "exec format error" >&2; exit 1; }} ;;
esac
"""


@pytest.fixture
def engine(tmp_path: Path) -> Path:
    """An engine that writes down what it is asked."""
    program = tmp_path / "engine"
    program.write_text(ENGINE)
    program.chmod(0o755)
    return program


def asked(engine: Path) -> list[list[str]]:
    return [line.split(" ") for line in Path(f"{engine}.log").read_text().splitlines()]


@pytest.mark.parametrize(
    "base",
    [
        None,
        "",
        "python:3.13-slim",
        "python@sha256:",
        f"python:3.13-slim@{DIGEST[:-1]}",
        f"python:3.13-slim@{DIGEST}0",
        f"python:3.13-slim@{DIGEST.upper()}",
        f"@{DIGEST}",
        f"python @{DIGEST}",
        f"python@{DIGEST} --build-arg=X",
        f"python:3.13-slim\npython@{DIGEST}",
        f"python:3.13-slim@{DIGEST}\n",
        f"python@sha512:{'0' * 128}",
    ],
)
def test_base_without_a_digest_is_refused(base: str | None, engine: Path) -> None:
    environ = {"CONTAINER_ENGINE": str(engine)} | ({} if base is None else {"PYTHON_IMAGE": base})
    with pytest.raises(ReleaseError, match=r"^PYTHON_IMAGE must name the image's base by digest"):
        find_engine(environ)


def test_refused_release_says_so_and_changes_nothing(tree: Path) -> None:
    (tree / "dist").mkdir(exist_ok=True)
    (tree / "dist" / "of-before").touch()
    done = run_release(tree)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("supply.release: PYTHON_IMAGE must name")
    assert "IMAGE=no leaves the image out" in done.stderr
    assert (tree / "dist" / "of-before").exists()
    assert git(tree, "status", "--porcelain") == ""


def test_changes_that_are_not_committed_are_refused(tree: Path) -> None:
    (tree / "stray.py").touch()
    done = run_release(tree, IMAGE="no")
    (tree / "stray.py").unlink()
    assert (done.returncode, done.stdout) == (1, "")
    assert "changes that are not committed" in done.stderr


def test_without_an_engine_that_runs_it_says_what_to_do(tmp_path: Path) -> None:
    for engine in (str(tmp_path / "missing"), "false"):
        with pytest.raises(ReleaseError, match=r"does not run here: .*or leave .* with IMAGE=no"):
            find_engine({"PYTHON_IMAGE": BASE, "CONTAINER_ENGINE": engine})


def test_what_is_left_out_is_left_out_by_a_plain_no() -> None:
    assert find_engine({"IMAGE": "no", "PYTHON_IMAGE": "python"}) is None
    with pytest.raises(ReleaseError, match="IMAGE=false: it is yes or no"):
        find_engine({"IMAGE": "false"})


def test_helm_is_the_one_that_is_named() -> None:
    assert find_helm({"HELM": "/opt/helm"}) == "/opt/helm"


@pytest.mark.parametrize("kind", ["Docker", "podman"])
def test_image_of_each_platform_is_built_by_digest_and_saved(
    tree: Path, engine: Path, kind: str
) -> None:
    done = run_release(
        tree,
        CONTAINER_ENGINE=str(engine),
        PYTHON_IMAGE=BASE,
        KIND=kind,
        DEB="no",
        HELM=str(find_or_skip(4)),
    )
    assert done.returncode == 0, done.stderr
    builds = [words for words in asked(engine) if words[0] == "build"]
    assert [words[words.index("--platform") + 1] for words in builds] == [
        "linux/amd64",
        "linux/arm64",
    ]
    for words in builds:
        values = [words[at + 1] for at, word in enumerate(words) if word == "--build-arg"]
        time = git(tree, "log", "-1", "--format=%ct")
        assert values == [
            f"PYTHON_IMAGE={BASE}",
            f"VERSION={__version__}",
            f"REVISION={git(tree, 'rev-parse', 'HEAD')}",
            f"SOURCE_DATE_EPOCH={time}",
        ]
        assert words[words.index("--tag") + 1] == f"telemetryd:{__version__}"
        # Podman's default format has no check of health.
        options = " ".join(words)
        assert (f"--format docker --timestamp {time}" in options) == (kind == "podman")
    dist = tree / "dist"
    archives = sorted(path.name for path in dist.glob("*.tar"))
    assert archives == [f"telemetryd-{__version__}-image-{arch}.tar" for arch in ("amd64", "arm64")]
    notes = (dist / "RELEASE-NOTES.md").read_text()
    assert f"The images are built on {BASE}." in notes
    assert all(f"| {name} | {DIGEST} |" in notes for name in archives)
    assert "There is no Debian package among these files" in notes
    assert "There is no image" not in notes
    assert done.stdout.endswith(
        "https://telemetryd.example is a reserved address:"
        " set [project.urls] in pyproject.toml to publish\n"
    )


def test_platform_that_cannot_be_built_for_is_named_with_its_cure(tree: Path, engine: Path) -> None:
    done = run_release(
        tree,
        CONTAINER_ENGINE=str(engine),
        PYTHON_IMAGE=BASE,
        UNABLE="linux/arm64",
        DEB="no",
        HELM=str(find_or_skip(4)),
    )
    assert done.returncode == 1
    assert "exec format error\nthere is no image for linux/arm64" in done.stderr
    assert "PLATFORMS=linux/amd64" in done.stderr


def test_notes_have_the_section_of_the_version() -> None:
    changelog = (
        "# C\n\n## [Unreleased]\n\n- new\n\n## [1.0.0] - 2026-01-01\n\n- old\n\n## [0.9.0]\n"
    )
    assert changes_of("1.0.0", changelog) == "- old"
    assert changes_of("0.9.0", changelog) == ""
    said = changes_of("2.0.0", changelog)
    assert said.startswith("CHANGELOG.md has no section for 2.0.0 yet.")
    assert said.endswith("\n\n- new")
