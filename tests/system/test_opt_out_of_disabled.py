"""An opt-out that only the Secret of an exporter that is off remembers, on a real API server.

The daemon's account has exactly the rights that ``needed_access`` names for its configuration.
"""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from telemetryd.config import load_config
from telemetryd.doctor.access import needed_access, needs_of, plan_of
from telemetryd.doctor.rights import rules_of
from tests.apiserver.admin import Admin
from tests.apiserver.process import ApiServer
from tests.cli.test_commands import telemetryd
from tests.support.control import Commanded, running
from tests.system.account import make_account
from tests.system.rancher import SECRET, TARGET_NAMESPACE, Rancher

MARKED = "2026-01-01T00:00:00Z"
NAME = "rancher-scc-telemetry"


@pytest.fixture(scope="module")
def rancher(admin: Admin) -> Iterator[Rancher]:
    with Rancher.built(admin, clusters=1, nodes=1) as fleet:
        yield fleet


def config_with(folder: Path) -> str:
    return (
        "[secret_requests]\nenabled = false\n"
        '[[exporters]]\nname = "scc"\ntype = "secret"\nenabled = false\n'
        f'[[exporters]]\nname = "f"\ntype = "file"\ndirectory = "{folder}"\ninterval = "1s"\n'
    )


@pytest.fixture
def account(
    apiserver: ApiServer, admin: Admin, rancher: Rancher, tmp_path: Path
) -> Callable[..., Path]:
    """Makes a kubeconfig with those rights, without that one verb on the Secret."""

    def make(without: str = "") -> Path:
        file = tmp_path / "plan.toml"
        file.write_text(config_with(tmp_path / "sent"))
        plan = plan_of(load_config(file, {}))
        needed = needed_access(needs_of(plan, rancher_served=True, requests_served=True))
        of_secret = {each.verb for each in needed if each.resource == "secrets"}
        assert of_secret == {"get", "patch"}, "it is never created"
        kept = [each for each in needed if (each.resource, each.verb) != ("secrets", without)]
        return make_account(apiserver, admin, tmp_path, rules_of(kept))

    return make


@pytest.fixture
def marked(admin: Admin, rancher: Rancher) -> Iterator[None]:
    """The Secret as it was left when telemetry was opted out of."""
    body = {"metadata": {"name": NAME, "annotations": {"telemetryd/opted-out": MARKED}}}
    admin.create(SECRET.rpartition("/")[0], body)
    yield
    admin.delete(SECRET)


def ask_doctor(started: Commanded) -> list[str]:
    folder = str(started.daemon.config_file.parent)
    asked = telemetryd(
        *("doctor", "--config", str(started.daemon.config_file)),
        STATE_DIRECTORY=folder,
        RUNTIME_DIRECTORY=folder,
    )
    assert not asked.stderr
    return asked.stdout.splitlines()


@pytest.mark.usefixtures("marked")
def test_mark_on_the_secret_of_an_exporter_that_is_off_holds_until_an_opt_in(
    account: Callable[..., Path], rancher: Rancher, tmp_path: Path
) -> None:
    sent = tmp_path / "sent"
    with running(tmp_path, account(), config_with(sent)) as started:
        daemon = started.daemon
        daemon.wait_for("off", lambda: daemon.status()["collection"]["off_by"] == ["memory"], 60)
        daemon.wait_for("ready", daemon.ready, 60)
        lines = ask_doctor(started)
        place = f"Secret {TARGET_NAMESPACE}/{NAME}, annotation telemetryd/opted-out"
        said = [line for line in lines if line.startswith("WARN  collection")]
        assert lines[: len(said)] == said, "it is said first"
        assert any(f"telemetry-opt is out: remembered from {place}" in line for line in said), lines
        assert not [line for line in lines if line.startswith("FAIL")], lines
        for verb in ("get", "patch"):
            assert f"PASS  may {verb} secrets {NAME} in {TARGET_NAMESPACE}  allowed" in lines
        assert not sent.exists(), "nothing was sent"

        done = started.ctl("opt-in")
        assert "telemetry-opt" in done.stdout + done.stderr
        daemon.wait_for("a payload", lambda: sent.exists() and any(sent.iterdir()), 60)
        daemon.wait_for(
            "no mark",
            lambda: (
                "telemetryd/opted-out"
                not in (rancher.secret() or {})["metadata"].get("annotations", {})
            ),
            60,
        )
        assert "data" not in (rancher.secret() or {}), "nothing else of it was written"
        assert "opt-out mark failed" not in daemon.log()


@pytest.mark.usefixtures("marked")
def test_mark_that_may_not_be_read_is_said_and_holds_up_nothing(
    account: Callable[..., Path], tmp_path: Path
) -> None:
    sent = tmp_path / "sent"
    with running(tmp_path, account("get"), config_with(sent)) as started:
        daemon = started.daemon
        daemon.wait_for("a payload", lambda: sent.exists() and any(sent.iterdir()), 60)
        assert daemon.whole_log().count("opt-out mark failed") == 1
        lines = ask_doctor(started)
    unknown = "annotation telemetryd/opted-out can't be read, so an opt-out there isn't known"
    assert any(line.startswith("WARN  collection") and unknown in line for line in lines), lines
    failed = [line for line in lines if line.startswith("FAIL")]
    assert [line.split("  ")[1] for line in failed] == [
        f"may get secrets {NAME} in {TARGET_NAMESPACE}"
    ]
