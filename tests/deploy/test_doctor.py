"""The doctor as the ServiceAccount of `deploy/`, on a real API server with RBAC on."""

import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import anyio
import pytest

from telemetryd.config import Config, KubernetesConfig
from telemetryd.config.paths import ControlSocket
from telemetryd.doctor.access import REGISTRATIONS, Access, Plan, SecretTarget, plan_of
from telemetryd.doctor.checking import Grade
from telemetryd.doctor.examine import Examination, examine, render_report
from tests.apiserver import crds
from tests.apiserver.admin import Admin, AdminError, Object
from tests.apiserver.crds import SECRET_REQUESTS, SETTINGS, collection
from tests.apiserver.fixtures import setting
from tests.apiserver.registrations import put, registration
from tests.deploy.installed import Installed, ensure_namespace, path_of
from tests.deploy.kustomize import build, parse_documents
from tests.deploy.rights import without_each
from tests.support.daemon import free_port

VARIANT = ("scc-operator",)
BUILD = setting("server-version-type", "prime")
REQUESTS = collection(SECRET_REQUESTS)
RIGHTS = [
    (path_of(role), access, changed["rules"])
    for role in build(*VARIANT)
    if role["kind"] in {"Role", "ClusterRole"}
    for access, changed in without_each(role)
]
ALWAYS = {path: access for path, access, _ in RIGHTS}.values()
"""One of each role, which `make test` takes away."""


@pytest.fixture(scope="module")
def config(installed: Installed, tmp_path_factory: pytest.TempPathFactory) -> Config:
    folder: Path = tmp_path_factory.mktemp("doctor")
    config = Config(
        kubernetes=KubernetesConfig(kubeconfig=str(installed.kubeconfig)), state_dir=str(folder)
    )
    server = replace(
        config.server,
        listen=replace(config.server.listen, port=free_port()),
        control_socket=ControlSocket(str(folder / "s"), explicit=True),
    )
    return replace(config, server=server)


@pytest.fixture(scope="module")
def plan(config: Config) -> Plan:
    """With SecretRequests, for which the base has rights as well."""
    return replace(plan_of(config), source="auto", secret_requests="auto")


@pytest.fixture(scope="module", autouse=True)
def secret_request(admin: Admin, installed: Installed) -> None:
    """The request of scc-operator and its Registration, beside a Prime build of Rancher."""
    request: Object = {
        "apiVersion": "telemetry.cattle.io/v1",
        "kind": "SecretRequest",
        "metadata": {"name": "rancher-scc-metrics"},
        "spec": {
            "secretType": "scc",
            "targetSecretRef": {"name": "rancher-scc-metrics", "namespace": "cattle-scc-system"},
        },
    }
    for path, obj in ((REQUESTS, request), (collection(SETTINGS), BUILD)):
        try:
            admin.create(path, obj)
        except AdminError as error:
            if error.status != 409:
                raise
            admin.patch(f"{path}/{obj['metadata']['name']}", obj)  # another module's was different
    crds.create_crd(admin, crds.REGISTRATIONS)
    put(admin, registration(synced_at=time.time()))


@pytest.fixture(scope="module", autouse=True)
def _clean(admin: Admin, secret_request: None) -> object:
    yield
    admin.delete(f"{REQUESTS}/rancher-scc-metrics")
    admin.delete(f"{collection(SETTINGS)}/server-version-type")
    crds.delete_crd(admin, crds.REGISTRATIONS)


def ask(config: Config, plan: Plan) -> Examination:
    return anyio.run(partial(examine, config, plan, now=time.time))


def ask_until(config: Config, plan: Plan, well: Callable[[Examination], bool]) -> Examination:
    """The report once it is as expected: a role counts a moment after it is stored."""
    deadline = time.monotonic() + 60
    while True:
        report = ask(config, plan)
        if well(report):
            return report
        assert time.monotonic() < deadline, "\n".join(render_report(report))
        time.sleep(0.02)


def failed_checks(report: Examination) -> list[str]:
    return [found.what for found in report.findings if found.grade is Grade.FAIL]


def differs(before: Examination, now: Examination) -> bool:
    return now.missing != before.missing


def test_all_rights_of_deploy_are_all_that_is_needed(config: Config, plan: Plan) -> None:
    report = ask_until(config, plan, lambda report: not report.failed)
    assert {finding.grade for finding in report.findings} == {Grade.PASS}
    lines = list(render_report(report))
    count = len(report.findings)
    assert lines[-1] == f"{count} checks: {count} PASS, 0 WARN, 0 FAIL"
    assert "PASS  secretrequests.telemetry.cattle.io  1: SecretRequest rancher-scc-metrics" in lines


@pytest.mark.parametrize(
    ("path", "access", "rules"),
    [
        pytest.param(*each, id=str(each[1]), marks=() if each[1] in ALWAYS else pytest.mark.long)
        for each in RIGHTS
    ],
)
def test_each_right_removed_is_named_and_nothing_else(
    installed: Installed,
    config: Config,
    plan: Plan,
    path: str,
    access: Access,
    rules: list[Object],
) -> None:
    (role,) = [role for role in installed.roles() if path_of(role) == path]
    hides_requests = access == Access("telemetry.cattle.io", "secretrequests", "", "list")
    installed.set_rules(role, rules)
    try:
        expected = [f"may {access}"] if access != REGISTRATIONS else []
        installed.wait_granted([access], granted=False)
        report = ask_until(
            config,
            plan,
            # Nor does what the test before took away fail any more.
            lambda report: report.missing == (access,) and failed_checks(report) == expected,
        )
        (added, binding) = parse_documents("\n".join(_yaml(report)))
        assert added["kind"] == role["kind"]
        assert added["metadata"].get("namespace") == role["metadata"].get("namespace")
        named = {"resourceNames": [access.name]} if access.name else {}
        assert added["rules"] == [
            {
                "apiGroups": [access.group],
                "resources": [access.resources],
                **named,
                "verbs": [access.verb],
            }
        ]
        assert binding["subjects"] == [
            {"kind": "ServiceAccount", "namespace": "cattle-telemetry-system", "name": "telemetryd"}
        ]
        assert any("SecretRequest" in str(found) for found in report.findings) or hides_requests
    finally:
        installed.set_rules(role, role["rules"])
    installed.wait_granted([access])


def _yaml(report: Examination) -> list[str]:
    lines = list(render_report(report))
    return lines[lines.index("---") : -1]


def test_what_is_printed_fixes_everything_when_it_is_applied(
    installed: Installed, config: Config, plan: Plan, admin: Admin
) -> None:
    for role in installed.roles():
        installed.set_rules(role, [])
    added: list[Object] = []
    try:
        # Without the right to list SecretRequests their Secrets come to light only afterwards.
        for _ in range(2):
            report = ask_until(config, plan, lambda report: report.failed)
            added += parse_documents("\n".join(_yaml(report)))
            for obj in added:
                admin.apply(path_of(obj), obj, manager="kubectl")
            ask_until(config, plan, partial(differs, report))
        final = ask_until(config, plan, lambda report: not report.missing)
        assert not final.failed
    finally:
        for obj in {path_of(obj): obj for obj in added}.values():
            admin.delete(path_of(obj))
        for role in installed.roles():
            installed.set_rules(role, role["rules"])
        ask_until(config, plan, lambda report: not report.missing)


def test_other_request_s_secret_is_found_and_its_role_printed(
    config: Config, plan: Plan, admin: Admin
) -> None:
    ensure_namespace(admin, "doctor-target")
    request: Object = {
        "apiVersion": "telemetry.cattle.io/v1",
        "kind": "SecretRequest",
        "metadata": {"name": "elsewhere"},
        "spec": {
            "secretType": "scc",
            "targetSecretRef": {"name": "s", "namespace": "doctor-target"},
        },
    }
    admin.create(REQUESTS, request)
    try:
        report = ask_until(config, replace(plan, delete_secrets=True), lambda report: report.failed)
    finally:
        admin.delete(f"{REQUESTS}/elsewhere")
    roles = [doc for doc in parse_documents("\n".join(_yaml(report))) if doc["kind"] == "Role"]
    assert {role["metadata"]["namespace"]: role["rules"] for role in roles} == {
        "cattle-scc-system": [
            {
                "apiGroups": [""],
                "resources": ["secrets"],
                "resourceNames": ["rancher-scc-metrics"],
                "verbs": ["delete"],
            }
        ],
        "doctor-target": [
            {
                "apiGroups": [""],
                "resources": ["secrets"],
                "resourceNames": ["s"],
                "verbs": ["get", "create", "patch", "delete"],
            }
        ],
    }


@pytest.mark.parametrize(
    "spec",
    [
        {"secretType": "scc", "targetSecretRef": {"name": "../../x", "namespace": "y?z"}},
        {"secretType": "scc", "targetSecretRef": {"name": 7}},
        {"secretType": "other", "targetSecretRef": {"name": "x", "namespace": "y"}},
        {"secretType": "scc"},
        None,
        "text",
    ],
    ids=["hostile", "odd", "other", "without", "empty", "text"],
)
def test_invalid_request_is_reported_and_never_becomes_a_path(
    config: Config, plan: Plan, admin: Admin, spec: object
) -> None:
    request: Object = {
        "apiVersion": "telemetry.cattle.io/v1",
        "kind": "SecretRequest",
        "metadata": {"name": "hostile"},
        "spec": spec,
    }
    admin.create(REQUESTS, request)
    try:
        report = ask_until(config, plan, lambda report: not report.failed)
    finally:
        admin.delete(f"{REQUESTS}/hostile")
    warned = [found for found in report.findings if found.grade is Grade.WARN]
    assert [found.what for found in warned] == ["secretrequests.telemetry.cattle.io"]


def test_missing_namespace_fails_with_the_command_that_fixes_it(config: Config, plan: Plan) -> None:
    target = SecretTarget("not-there", "s", "exporter x", own=True)
    report = ask(config, replace(plan, secrets=(target,)))
    (line,) = [str(found) for found in report.findings if found.what == "namespace not-there"]
    assert line == (
        "FAIL  namespace not-there  doesn't exist (exporter x); kubectl create namespace not-there"
    )


def test_terminating_namespace_fails(config: Config, plan: Plan, admin: Admin) -> None:
    ensure_namespace(admin, "doctor-ending")
    admin.delete("/api/v1/namespaces/doctor-ending")  # for ever, without a controller
    target = SecretTarget("doctor-ending", "s", "exporter x", own=True)
    report = ask(config, replace(plan, secrets=(target,)))
    (found,) = [found for found in report.findings if found.what == "namespace doctor-ending"]
    assert found.grade is Grade.FAIL
    assert "being deleted" in found.detail
    assert "finalizer" in found.fix
