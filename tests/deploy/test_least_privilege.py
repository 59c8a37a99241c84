"""The rights of `deploy/` are enough, and none could go: each is taken from the daemon once."""

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from telemetryd.doctor.access import REGISTRATIONS, Access
from tests.apiserver import crds
from tests.apiserver.admin import Admin
from tests.apiserver.process import DEPLOYED_USER, ApiServer
from tests.deploy.installed import Installed
from tests.deploy.kustomize import build
from tests.deploy.life import LEASE, check_use, forget, living, misses, tells
from tests.deploy.rights import granted
from tests.system.rancher import Rancher
from tests.system.scc import NAMESPACE, SECRET, Scc

VARIANT = ("scc-operator", "ha")
DELETE = Access("", "secrets", "", "delete", NAMESPACE, SECRET)
"""With `cleanup = "delete"` as `docs/install.md` says, beside what the overlay grants."""
RIGHTS = granted(build(*VARIANT)) | {DELETE}
FOR_THE_STATUS = frozenset({REGISTRATIONS})
"""Without it nothing else is missing: `test_registrations.py`."""
AT_START = frozenset(each for each in RIGHTS if each.verb in {"list", "watch"}) - FOR_THE_STATUS
ACTS = {
    ("secrets", "cattle-telemetry-system"): "exports",
    ("secrets", NAMESPACE): "serves requests",
    ("leases", "cattle-telemetry-system"): "leads",
    ("secretrequests", ""): "serves requests",
    ("namespaces", ""): "serves requests",
}
"""Which act needs a right on that resource there."""


@pytest.fixture(scope="module")
def cluster(admin: Admin, installed: Installed) -> Iterator[Scc]:
    """A small fleet, scc-operator's namespace, and the rule for `cleanup = "delete"`."""
    fleet, scc = Rancher(admin), Scc(admin)
    fleet.build(clusters=2, nodes=1)
    scc.build()
    crds.create_crd(admin, crds.REGISTRATIONS)
    role = installed.granting(replace(DELETE, verb="get"))
    role["rules"][0]["verbs"].append("delete")
    installed.set_rules(role, role["rules"])
    try:
        yield scc
    finally:
        crds.delete_crd(admin, crds.REGISTRATIONS)
        scc.clear()
        fleet.clear()
        forget(admin, LEASE)


def test_every_right_is_used_and_nothing_is_denied(
    installed: Installed, cluster: Scc, admin: Admin, apiserver: ApiServer, tmp_path: Path
) -> None:
    forget(admin, LEASE)
    installed.wait_granted(RIGHTS)
    begin = len(apiserver.audit(DEPLOYED_USER))
    with living(installed, tmp_path, admin) as life:
        life.wait("in sync", life.synced)
        for name, act in life.acts().items():
            act.prepare()
            act.begin()
            life.wait(name, act.done)
        check_use(RIGHTS, lambda: apiserver.audit(DEPLOYED_USER)[begin:])


@pytest.mark.long
@pytest.mark.timeout(300)
def test_without_any_one_right_its_act_fails_and_says_so_until_it_is_granted(
    installed: Installed, cluster: Scc, admin: Admin, tmp_path: Path
) -> None:
    forget(admin, LEASE)
    with living(installed, tmp_path, admin) as life:
        life.wait("in sync", life.synced)
        for right in sorted(RIGHTS - AT_START - FOR_THE_STATUS):
            name = "withdraws" if right == DELETE else ACTS[right.resource, right.namespace]
            act = life.acts()[name]
            act.prepare()
            since = len(life.daemon.log())
            with installed.without([right]):
                act.begin()
                life.wait(f"{right} is missed", partial(tells, life.daemon, right, since))
                assert not act.done(), right
            life.wait(f"with {right} it {name} again", act.done)


@pytest.mark.long
@pytest.mark.parametrize("verb", ["list", "watch"])
@pytest.mark.parametrize("settings", [False, True], ids=["all others", "settings"])
def test_without_one_right_to_follow_objects_their_informer_fails_and_says_so(
    installed: Installed, cluster: Scc, admin: Admin, tmp_path: Path, verb: str, settings: bool
) -> None:
    """Apart from settings, without which the others aren't begun."""
    rights = {
        each for each in AT_START if each.verb == verb and (each.resource == "settings") is settings
    }
    with installed.without(rights), living(installed, tmp_path, admin) as life:
        for right in sorted(rights):
            life.wait(f"{right} is missed", partial(misses, life.daemon, right))
    assert rights
