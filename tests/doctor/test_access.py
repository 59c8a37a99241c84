"""What is needed, by configuration and by what the cluster serves."""

from dataclasses import replace
from typing import Literal

import pytest

from telemetryd.config import Config, FileExporterConfig, SecretExporterConfig
from telemetryd.doctor.access import (
    Access,
    Needs,
    Plan,
    SecretTarget,
    needed_access,
    needs_of,
    plan_of,
)

OWN = SecretTarget("ns", "own", "exporter scc", own=True)
ASKED = SecretTarget("other", "asked", "SecretRequest x", own=False)
PLAN = Plan(source="auto", secret_requests="auto", delete_secrets=False, secrets=(OWN,))
NO_SECRETS = replace(PLAN, secrets=())


def rights_named(needs: Needs, *requested: SecretTarget) -> set[str]:
    return {str(access) for access in needed_access(needs, requested)}


def test_defaults_plan_the_one_secret_of_rancher() -> None:
    plan = plan_of(Config())
    assert plan.secrets == (
        SecretTarget("cattle-telemetry-system", "rancher-scc-telemetry", "exporter scc", own=True),
    )


def test_only_secrets_of_exporters_that_run_are_planned() -> None:
    exporters = (
        SecretExporterConfig(name="a", secret="one", takeover=True, quiet_period_s=3),
        SecretExporterConfig(name="b", secret="two", enabled=False),
        FileExporterConfig(name="c", directory="/x"),
    )
    plan = plan_of(replace(Config(), exporters=exporters))
    (target,) = plan.secrets
    assert (target.name, target.takeover, target.quiet_period_s) == ("one", True, 3)
    assert [each.name for each in plan.marked] == ["two"]


def test_secret_of_an_exporter_that_is_off_is_read_and_its_mark_ended_but_never_created() -> None:
    needs = Needs(plan=replace(NO_SECRETS, marked=(OWN,)), rancher=True, secret_requests=False)
    of_secret = {right for right in rights_named(needs) if "secrets" in right}
    assert of_secret == {"get secrets own in ns", "patch secrets own in ns"}


@pytest.mark.parametrize(
    ("source", "served", "rancher"),
    [
        ("auto", True, True),
        ("auto", False, False),
        ("rancher", False, True),
        ("kubernetes", True, False),
    ],
)
def test_source_decides_what_is_read(
    source: Literal["auto", "rancher", "kubernetes"], served: bool, rancher: bool
) -> None:
    plan = replace(PLAN, source=source)
    assert needs_of(plan, rancher_served=served, requests_served=served).rancher is rancher


@pytest.mark.parametrize(
    ("wanted", "rancher", "served", "needed"),
    [
        ("auto", True, True, True),
        ("auto", True, False, False),
        ("auto", False, True, False),
        (True, False, False, True),
        (False, True, True, False),
    ],
)
def test_secret_requests_are_needed_as_configured(
    wanted: Literal["auto"] | bool, rancher: bool, served: bool, needed: bool
) -> None:
    plan = replace(PLAN, secret_requests=wanted)
    needs = needs_of(plan, rancher_served=rancher, requests_served=served)
    assert needs.secret_requests is needed


def test_rancher_needs_exactly_these() -> None:
    needs = Needs(plan=PLAN, rancher=True, secret_requests=True)
    read = {
        f"{verb} {plural}.management.cattle.io"
        for verb in ("list", "watch")
        for plural in ("clusters", "nodes", "settings", "features", "projects")
    }
    assert rights_named(needs) == read | {
        "get namespaces",
        "list namespaces kube-system",
        "watch namespaces kube-system",
        "get secretrequests.telemetry.cattle.io",
        "list secretrequests.telemetry.cattle.io",
        "watch secretrequests.telemetry.cattle.io",
        "patch secretrequests.telemetry.cattle.io/status",
        "get secrets own in ns",
        "create secrets own in ns",
        "patch secrets own in ns",
    }


def test_registrations_are_listed_where_they_are_served() -> None:
    needs = Needs(plan=NO_SECRETS, rancher=True, secret_requests=False)
    served = replace(needs, registrations=True)
    assert rights_named(served) - rights_named(needs) == {"list registrations.scc.cattle.io"}


def test_plain_kubernetes_needs_core_nodes_and_nothing_of_rancher() -> None:
    needs = Needs(plan=NO_SECRETS, rancher=False, secret_requests=False)
    assert rights_named(needs) == {
        "list nodes",
        "watch nodes",
        "list namespaces kube-system",
        "watch namespaces kube-system",
    }


def test_delete_is_needed_only_for_requested_secrets_that_are_cleaned_up() -> None:
    needs = Needs(plan=replace(PLAN, delete_secrets=True), rancher=True, secret_requests=True)
    deletes = {access for access in needed_access(needs, [ASKED]) if access.verb == "delete"}
    assert deletes == {Access("", "secrets", "", "delete", "other", "asked")}
    kept = replace(needs, plan=PLAN)
    assert not {access for access in needed_access(kept, [ASKED]) if access.verb == "delete"}


def test_secret_of_an_exporter_and_a_request_is_needed_once() -> None:
    same = replace(OWN, of="SecretRequest x", own=False)
    needs = Needs(plan=PLAN, rancher=True, secret_requests=True)
    rights = needed_access(needs, [same])
    assert len(rights) == len(set(rights))
