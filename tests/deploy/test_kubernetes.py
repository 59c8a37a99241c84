"""The rights of `deploy/components/kubernetes` are enough, and none could go."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

import pytest

from tests.apiserver.admin import Admin, AdminError
from tests.apiserver.fixtures import core_node
from tests.apiserver.process import DEPLOYED_USER, ApiServer
from tests.deploy.installed import Installed, ensure_namespace
from tests.deploy.kustomize import build
from tests.deploy.life import IN_PAGES, WITHIN_S, check_use, forget, misses, tells
from tests.deploy.rights import granted
from tests.support import starter
from tests.support.daemon import Daemon
from tests.system.rancher import SECRET

VARIANT = ("kubernetes",)
RIGHTS = granted(build(*VARIANT))
AT_START = frozenset(each for each in RIGHTS if each.verb in {"list", "watch"})
NODE = "/api/v1/nodes/n-of-tests"
CONFIG = """
[[exporters]]
name = "scc"
type = "secret"
interval = "1s"
retry_base = "100ms"
"""


@pytest.fixture(scope="module", autouse=True)
def cluster(admin: Admin) -> Iterator[None]:
    """A node of Kubernetes, and no Secret of an earlier test."""
    ensure_namespace(admin, "kube-system")
    forget(admin, SECRET)
    admin.create("/api/v1/nodes", core_node("n-of-tests"))
    try:
        yield
    finally:
        admin.delete(NODE)
        forget(admin, SECRET)


@contextmanager
def running(installed: Installed, folder: Path) -> Iterator[Daemon]:
    """The daemon with that account's token, until the block is left."""
    kubernetes = f'source = "kubernetes"\n{IN_PAGES}'
    daemon = Daemon(folder, installed.kubeconfig, CONFIG, kubernetes=kubernetes)
    try:
        daemon.wait_for("it answers", lambda: daemon.get("/livez")[0], WITHIN_S)
        yield daemon
    finally:
        status = daemon.stop()
    assert status == 0, daemon.log()[-4000:]


def exists(admin: Admin) -> bool:
    with suppress(AdminError):
        return bool(admin.get(SECRET)["data"]["payload"])
    return False


def test_every_right_is_used_nothing_is_denied_and_doctor_finds_all_well(
    installed: Installed, admin: Admin, apiserver: ApiServer, tmp_path: Path
) -> None:
    installed.wait_granted(RIGHTS)
    forget(admin, SECRET)
    begin = len(apiserver.audit(DEPLOYED_USER))
    with running(installed, tmp_path) as daemon:
        daemon.wait_for("the Secret", partial(exists, admin), WITHIN_S)
        daemon.wait_for("ready", daemon.ready, WITHIN_S)
        check_use(RIGHTS, lambda: apiserver.audit(DEPLOYED_USER)[begin:])
        said = starter.run(
            *("doctor", "--config", str(daemon.config_file)),
            env={
                **os.environ,
                "STATE_DIRECTORY": str(tmp_path),
                "RUNTIME_DIRECTORY": str(tmp_path),
            },
        )
    assert said.returncode == 0, said.stdout
    assert all(line.startswith("PASS  ") for line in said.stdout.splitlines()[:-1]), said.stdout
    assert "namespace cattle-telemetry-system" not in said.stdout, "it may not read that"


@pytest.mark.long
def test_without_any_one_right_it_fails_and_says_so_until_it_is_granted(
    installed: Installed, admin: Admin, tmp_path: Path
) -> None:
    with running(installed, tmp_path) as daemon:
        for right in sorted(RIGHTS - AT_START):
            daemon.wait_for(f"exports before {right} goes", partial(exists, admin), WITHIN_S)
            since = len(daemon.log())
            with installed.without([right]):
                forget(admin, SECRET)
                daemon.wait_for(
                    f"{right} is missed", partial(tells, daemon, right, since), WITHIN_S
                )
                assert not exists(admin), right
    for verb in ("list", "watch"):
        rights = [each for each in sorted(AT_START) if each.verb == verb]
        folder = tmp_path / verb
        folder.mkdir()
        with installed.without(rights), running(installed, folder) as daemon:
            for right in rights:
                daemon.wait_for(f"{right} is missed", partial(misses, daemon, right), WITHIN_S)
    assert len(RIGHTS - AT_START) == 3
    assert len(AT_START) == 4
