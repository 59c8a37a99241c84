"""The daemon as the ServiceAccount of `deploy/`, on a real API server with RBAC on."""

import json
import os
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from telemetryd.doctor.access import Access
from tests.apiserver.admin import Admin, AdminError, Object, Objects
from tests.apiserver.process import ApiServer
from tests.deploy.installed import Installed
from tests.deploy.kustomize import Variant
from tests.support import starter
from tests.support.daemon import Daemon
from tests.system.rancher import SECRET, Rancher, facts, recount

VARIANT: Variant = ()
CONFIG = """
[[exporters]]
name = "scc"
type = "secret"
interval = "1s"
retry_base = "100ms"
"""
SECRETS = "/api/v1/namespaces/cattle-telemetry-system/secrets"
MANAGEMENT = "management.cattle.io"


@pytest.fixture(scope="module")
def rancher(admin: Admin) -> Iterator[Rancher]:
    """A small fleet."""
    with Rancher.built(admin, clusters=3, nodes=2) as fleet:
        yield fleet


@contextmanager
def running(installed: Installed, folder: Path, *, kubernetes: str = "") -> Iterator[Daemon]:
    """The daemon with that account's token, until the block is left.

    Args:
        installed: Whose account it is.
        folder: For its files.
        kubernetes: Further keys of that table.
    """
    daemon = Daemon(folder, installed.kubeconfig, CONFIG, kubernetes=kubernetes)
    try:
        daemon.wait_for("it answers", lambda: daemon.get("/livez")[0], 20)
        yield daemon
    finally:
        status = daemon.stop()
    assert status == 0, daemon.log()[-4000:]


@contextmanager
def without(installed: Installed, kind: str, verb: str, *resources: str) -> Iterator[None]:
    """The role without this verb on the resources of Rancher, until the block is left."""
    role = installed.role(kind)
    rules = role["rules"]
    for resource in resources:
        rules = [*_pruned(rules, resource, {verb})]
    installed.set_rules(role, rules)
    try:
        if kind == "ClusterRole":
            # A watch that is open before the server knows stays open.
            rights = [Access(MANAGEMENT, each, "", verb) for each in resources]
            installed.wait_granted(rights, granted=False)
        yield
    finally:
        installed.set_rules(role, role["rules"])


def _pruned(rules: Objects, resource: str, verbs: set[str]) -> Iterator[Object]:
    for rule in rules:
        others = [name for name in rule["resources"] if name != resource]
        if others:
            yield {**rule, "resources": others}
        left = [verb for verb in rule["verbs"] if verb not in verbs]
        if left and len(others) < len(rule["resources"]):
            yield {**rule, "resources": [resource], "verbs": left}


def written(rancher: Rancher) -> dict[str, Any] | None:
    """The payload where it is the truth."""
    payload = rancher.payload()
    true = payload is not None and facts(payload) == recount(rancher.admin)
    return payload if true else None


def informers(daemon: Daemon) -> dict[str, dict[str, Any]]:
    code, body = daemon.get("/status.json")
    return {each["resource"]: each for each in json.loads(body)["informers"]} if code else {}


def all_synced_but(found: dict[str, dict[str, Any]], *troubled: str) -> bool:
    """Whether every informer is synced and well, but for these, which say what is in their way."""
    return bool(found) and all(
        bool(each["last_error"]) if name in troubled else each["synced"] and not each["last_error"]
        for name, each in found.items()
    )


def delete_secret(rancher: Rancher) -> None:
    if rancher.secret() is not None:
        rancher.admin.delete(SECRET)


@pytest.mark.long
def test_rights_of_deploy_are_enough_for_the_whole_job(
    installed: Installed, rancher: Rancher, tmp_path: Path
) -> None:
    delete_secret(rancher)
    with running(installed, tmp_path) as daemon:
        daemon.wait_for("the Secret is created", lambda: written(rancher), 20)
        daemon.wait_for("every informer is synced", lambda: all_synced_but(informers(daemon)), 20)
        assert daemon.ready()
        rancher.add_node("local", 7100)
        try:
            daemon.wait_for("a change is patched", lambda: written(rancher), 20)
        finally:
            rancher.delete_node("local", 7100)
        folder = str(tmp_path)
        asked = starter.run(
            *("doctor", "--config", str(daemon.config_file)),
            env={**os.environ, "STATE_DIRECTORY": folder, "RUNTIME_DIRECTORY": folder},
        )
        assert asked.returncode == 0, asked.stdout + asked.stderr
        assert not asked.stderr
        lines = asked.stdout.splitlines()
        assert all(line.startswith("PASS  ") for line in lines[:-1]), asked.stdout
        assert "PASS  Secret cattle-telemetry-system/rancher-scc-telemetry  ours alone" in lines
        assert (
            f"PASS  listen address  127.0.0.1:{daemon.port} is held by a running telemetryd"
            in lines
        )
        assert any(line.endswith("control.sock: a daemon listens there") for line in lines)
        assert installed.token not in asked.stdout


def test_account_can_read_no_secret_but_its_own(
    installed: Installed, apiserver: ApiServer, admin: Admin
) -> None:
    others = [f"{SECRETS}/another", "/api/v1/namespaces/default/secrets/rancher-scc-telemetry"]
    made = {"metadata": {"name": SECRET.rpartition("/")[2]}, "stringData": {"payload": "{}"}}
    with suppress(AdminError):  # it is there
        admin.create(SECRETS, made)
    admin.create(SECRETS, {"metadata": {"name": "another"}, "stringData": {"x": "SENTINEL"}})
    account = Admin(apiserver.url, installed.token, apiserver.ca_file)
    try:
        with closing(account):
            assert account.get(SECRET)["data"]["payload"]
            for path in (*others, SECRETS, "/api/v1/secrets"):
                with pytest.raises(AdminError) as denied:
                    account.get(path)
                assert denied.value.status == 403, path
            own = {"fieldSelector": "metadata.name=rancher-scc-telemetry"}
            for query in ({}, own):
                with pytest.raises(AdminError) as denied, account.watch(SECRETS, **query):
                    pass
                assert denied.value.status == 403, query
            with pytest.raises(AdminError) as denied:
                account.get(SECRETS, **own)
            assert denied.value.status == 403
            with pytest.raises(AdminError) as denied:
                account.create(SECRETS, {"metadata": {"name": "third"}})
            assert denied.value.status == 403
            for verb, name in (("get", "another"), ("get", ""), ("list", ""), ("watch", "")):
                assert not may(account, verb, name), (verb, name)
            assert may(account, "get", "rancher-scc-telemetry")
            for verb in ("delete", "update", "deletecollection", "list", "watch"):
                assert not may(account, verb, "rancher-scc-telemetry"), verb
    finally:
        admin.delete(f"{SECRETS}/another")
        admin.delete(SECRET)


def may(account: Admin, verb: str, name: str) -> bool:
    asked = {
        "verb": verb,
        "resource": "secrets",
        "namespace": "cattle-telemetry-system",
        "name": name,
    }
    review = {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SelfSubjectAccessReview",
        "spec": {"resourceAttributes": asked},
    }
    path = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"
    allowed: bool = account.create(path, review)["status"]["allowed"]
    return allowed


@pytest.mark.long
def test_denied_list_stops_what_needs_it_and_is_named_while_the_rest_goes_on(
    installed: Installed, rancher: Rancher, tmp_path: Path
) -> None:
    nodes = f"nodes.{MANAGEMENT}"
    delete_secret(rancher)
    # In pages on each server: a streamed list is authorised as a watch.
    with (
        without(installed, "ClusterRole", "list", "nodes"),
        running(installed, tmp_path, kubernetes='watch_list = "off"') as daemon,
    ):
        daemon.wait_for(
            "only nodes stand still", lambda: all_synced_but(informers(daemon), nodes), 20
        )
        found = informers(daemon)[nodes]
        assert not found["synced"]
        assert "403" in found["last_error"]
        assert f"{nodes} is forbidden" in found["last_error"]
        assert 'cannot list resource "nodes"' in found["last_error"]
        exporter = daemon.exporter()
        assert exporter["state"] == "waiting"
        assert nodes in exporter["detail"]
        assert daemon.get("/livez")[0] == 200
        assert not daemon.ready()
        assert nodes in daemon.get("/readyz?verbose")[1]
        assert rancher.secret() is None
        assert 'cannot list resource \\"nodes\\"' in daemon.whole_log()
        role = installed.role("ClusterRole")
        installed.set_rules(role, role["rules"])
        daemon.wait_for("granted, it goes on", lambda: written(rancher), 40)


@pytest.mark.long
def test_denied_watches_leave_lists_in_pages_and_hold_up_no_export(
    installed: Installed, rancher: Rancher, tmp_path: Path
) -> None:
    """Whether the server streams lists or not, and whether a payload needs what is denied."""
    nodes, projects = f"nodes.{MANAGEMENT}", f"projects.{MANAGEMENT}"
    delete_secret(rancher)
    denied = without(installed, "ClusterRole", "watch", "nodes", "projects")
    with denied, running(installed, tmp_path) as daemon:
        daemon.wait_for("the Secret", lambda: written(rancher), 40)

        def shown() -> dict[str, dict[str, Any]]:
            found = informers(daemon)
            # The stream is denied before the list in pages begins.
            is_listed = found and found[nodes]["synced"] and found[projects]["synced"]
            return found if is_listed and all_synced_but(found, nodes, projects) else {}

        found = daemon.wait_for("each 403 is shown, and the lists", shown, 40)
        for name, resource in ((nodes, "nodes"), (projects, "projects")):
            assert f'cannot watch resource "{resource}"' in found[name]["last_error"]
            assert found[name]["list_method"] == "pages"
        assert daemon.exporter()["state"] in {"idle", "running"}


@pytest.mark.long
def test_denied_verb_on_the_secret_fails_its_exporter_alone(
    installed: Installed, rancher: Rancher, tmp_path: Path
) -> None:
    named = {"get": "get", "create": "create or patch", "patch": "create or patch"}
    with running(installed, tmp_path) as daemon:
        for verb, verbs in named.items():
            right = Access("", "secrets", "", verb, *SECRET.split("/")[4::2])
            with without(installed, "Role", verb, "secrets"):
                installed.wait_granted([right], granted=False)
                delete_secret(rancher)
                check_denied(daemon, rancher, verbs)
            daemon.wait_for("granted, it goes on", lambda: written(rancher), 20)
            daemon.wait_for(
                "it is well", lambda: daemon.exporter()["consecutive_failures"] == 0, 20
            )


def check_denied(daemon: Daemon, rancher: Rancher, verbs: str) -> None:
    """The exporter says what it may not do, and nothing else suffers."""
    wanted = f"not allowed to {verbs} Secret cattle-telemetry-system/rancher-scc-telemetry"

    def failed() -> bool:
        exporter = daemon.exporter()
        return exporter["consecutive_failures"] > 0 and wanted in exporter["last_error"]

    daemon.wait_for("the exporter fails", failed, 20)
    daemon.wait_for("every informer is synced", lambda: all_synced_but(informers(daemon)), 20)
    assert daemon.exporter()["last_error_reason"] == "forbidden"
    assert "resourceNames [rancher-scc-telemetry]" in daemon.exporter()["last_error"]
    assert daemon.ready()
    assert rancher.secret() is None
