"""The whole examination against API servers that are gone, hang, lie or are too old."""

import json
import socket
import time
from base64 import b64encode
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from email.utils import formatdate
from pathlib import Path
from typing import Any

import anyio
import pytest
from aiohttp import web

from telemetryd.config import Config
from telemetryd.config.paths import ControlSocket
from telemetryd.doctor.access import RANCHER_RESOURCES, Plan, SecretTarget, plan_of
from telemetryd.doctor.checking import CheckResult, Grade
from telemetryd.doctor.examine import Examination, examine, render_report
from telemetryd.kube import credentials
from tests.informer.scripted import Responder, Scripted, answer, hang, kubeconfig, refuse, serve
from tests.support.daemon import free_port

pytestmark = pytest.mark.anyio

NAMESPACE = "/api/v1/namespaces/cattle-telemetry-system"
SECRET = f"{NAMESPACE}/secrets/rancher-scc-telemetry"
SETTINGS = "/apis/management.cattle.io/v3/settings"
REVIEWS = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"
VERBS = ["get", "list", "watch"]


def discovery(*names: str, namespaced: tuple[str, ...] = ("nodes", "projects")) -> Any:
    resources = [{"name": name, "namespaced": name in namespaced, "verbs": VERBS} for name in names]
    return answer({"kind": "APIResourceList", "resources": resources})


def by_method(**responders: Responder) -> Responder:
    async def respond(request: web.BaseRequest) -> web.StreamResponse:
        return await responders[request.method](request)

    return respond


def well() -> Scripted:
    """Answers of a cluster where all is well."""
    applied = {"kind": "Secret", "metadata": {"uid": "u", "resourceVersion": "1"}}
    return Scripted(
        others={
            "/version": answer({"gitVersion": "v1.34.1+rke2r1"}),
            "/apis/management.cattle.io/v3": discovery(*RANCHER_RESOURCES),
            "/apis/scc.cattle.io/v1": refuse(404, "NotFound"),
            SETTINGS: answer(
                {"items": [{"metadata": {"name": "server-version-type"}, "value": "prime"}]}
            ),
            "/apis/telemetry.cattle.io/v1": discovery("secretrequests", "secretrequests/status"),
            REVIEWS: answer({"status": {"allowed": True}}, 201),
            NAMESPACE: answer({"kind": "Namespace", "metadata": {"name": "x"}}),
            SECRET: by_method(GET=refuse(404, "NotFound"), PATCH=answer(applied, 201)),
        }
    )


def config_for(folder: Path, url: str) -> Config:
    config = Config(state_dir=str(folder), kubernetes=kubeconfig(folder / "kubeconfig", url))
    server = replace(
        config.server,
        listen=replace(config.server.listen, port=free_port()),
        control_socket=ControlSocket("/tmp/td-doctor-none", explicit=False),
    )
    return replace(config, server=server)


Ask = Callable[..., Awaitable[Examination]]


@asynccontextmanager
async def asking(folder: Path, server: Scripted) -> AsyncIterator[Ask]:
    async with serve(server):

        async def ask(
            change: Callable[[Plan], Plan] = lambda plan: plan,
            *,
            now: Callable[[], float] = time.time,
            deadline_s: float = 30.0,
        ) -> Examination:
            config = config_for(folder, server.url)
            plan = replace(plan_of(config), source="rancher", secret_requests=False)
            return await examine(config, change(plan), now=now, deadline_s=deadline_s)

        yield ask


def of(report: Examination, what: str) -> CheckResult:
    (found,) = [finding for finding in report.findings if finding.what == what]
    return found


def failures(report: Examination) -> list[str]:
    return [found.what for found in report.findings if found.grade is Grade.FAIL]


async def test_all_well_is_all_pass(tmp_path: Path) -> None:
    async with asking(tmp_path, well()) as ask:
        report = await ask()
    assert {found.grade for found in report.findings} == {Grade.PASS}
    assert of(report, "API server version").detail == "v1.34.1+rke2r1"


async def test_nothing_is_written_but_reviews_and_a_dry_run(tmp_path: Path) -> None:
    server = well()
    async with asking(tmp_path, server) as ask:
        await ask(lambda plan: replace(plan, secret_requests=True, delete_secrets=True))
    asked = [seen for seen in server.requests if seen.method != "GET"]
    assert {(seen.method, seen.path) for seen in asked} == {("POST", REVIEWS), ("PATCH", SECRET)}
    (dry_run,) = [seen.query for seen in asked if seen.method == "PATCH"]
    assert dry_run == {"fieldManager": "telemetryd", "force": "true", "dryRun": "All"}


async def test_unreachable_server_fails_in_one_line_and_the_rest_is_checked(tmp_path: Path) -> None:
    config = config_for(tmp_path, f"https://127.0.0.1:{free_port()}")
    report = await examine(config, plan_of(config), now=time.time)
    assert failures(report) == ["connection"]
    assert "connection refused" in of(report, "connection").detail
    assert of(report, "cluster").grade is Grade.WARN
    assert of(report, "state directory").grade is Grade.PASS


async def test_server_that_takes_no_connection_is_not_waited_for(tmp_path: Path) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen(1)
        config = config_for(tmp_path, f"https://127.0.0.1:{silent.getsockname()[1]}")
        report = await examine(config, plan_of(config), now=time.time, deadline_s=0.2)
    assert failures(report) == ["connection"]
    assert "not known within 0.2 s" in of(report, "connection").detail


async def test_server_that_never_answers_costs_each_check_its_deadline(tmp_path: Path) -> None:
    server = well()
    for path in (SECRET, NAMESPACE):
        server.others[path] = hang
    async with asking(tmp_path, server) as ask:
        with anyio.fail_after(30):
            report = await ask(deadline_s=2)
    assert failures(report) == [
        "collection",
        "namespace cattle-telemetry-system",
        "Secret cattle-telemetry-system/rancher-scc-telemetry",
    ]
    assert of(report, "may list namespaces kube-system").grade is Grade.PASS


async def test_refused_credential_fails_and_says_so(tmp_path: Path) -> None:
    server = well()
    server.others["/version"] = refuse(401, "Unauthorized")
    async with asking(tmp_path, server) as ask:
        report = await ask()
    assert failures(report) == ["connection"]
    assert "doesn't accept the credential" in of(report, "connection").detail
    assert "renew" in of(report, "connection").fix


@pytest.mark.parametrize(
    "page",
    [
        answer(b"<html>", content_type="text/html"),
        answer(b"no", 404, "text/plain"),
        answer(b"{"),
        answer(b"[1]"),
    ],
)
async def test_other_web_server_is_no_api_server(tmp_path: Path, page: Any) -> None:
    server = well()
    server.others["/version"] = page
    async with asking(tmp_path, server) as ask:
        report = await ask()
    assert failures(report) == ["connection"]
    assert "isn't a Kubernetes API server" in of(report, "connection").detail


async def test_kubeconfig_that_is_not_there_fails_with_its_fix(tmp_path: Path) -> None:
    config = config_for(tmp_path, "https://127.0.0.1:1")
    (tmp_path / "kubeconfig").unlink()
    report = await examine(config, plan_of(config), now=time.time)
    assert failures(report) == ["connection"]
    assert "kubernetes.kubeconfig" in of(report, "connection").detail
    assert of(report, "connection").fix


async def test_plugin_that_hangs_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(credentials, "REFRESH_TIMEOUT_S", 1.0)
    plugin = {
        "apiVersion": "client.authentication.k8s.io/v1",
        "command": "sleep",
        "args": ["60"],
        "interactiveMode": "Never",
    }
    config = config_for(tmp_path, "https://127.0.0.1:1")
    hanging = kubeconfig(tmp_path / "kubeconfig", "https://127.0.0.1:1", user={"exec": plugin})
    config = replace(config, kubernetes=hanging)
    with anyio.fail_after(90):
        report = await examine(config, plan_of(config), now=time.time, deadline_s=60)
    assert failures(report) == ["connection"]
    assert "no credential from the exec plugin sleep" in of(report, "connection").detail
    assert "log in again" in of(report, "connection").fix


async def test_kubernetes_below_the_oldest_tested_and_a_hidden_version_warn(tmp_path: Path) -> None:
    server = well()
    async with asking(tmp_path, server) as ask:
        server.others["/version"] = answer({"gitVersion": "v1.30.14"})
        report = await ask()
        assert failures(report) == []
        found = of(report, "API server version")
        assert found.grade is Grade.WARN
        assert "v1.30.14 is older than 1.31" in found.detail
        server.others["/version"] = answer({"gitVersion": "v1.31.0"})
        assert of(await ask(), "API server version").grade is Grade.PASS
        server.others["/version"] = answer({"gitVersion": "SENTINEL"})
        assert of(await ask(), "API server version").grade is Grade.WARN
        server.others["/version"] = refuse(403, "Forbidden")
        report = await ask()
        assert of(report, "connection").grade is Grade.PASS
        assert of(report, "API server version").grade is Grade.WARN


@pytest.mark.parametrize(("shift_s", "said"), [(60, "behind"), (-3600, "ahead of")])
async def test_clock_that_differs_warns_and_says_which_way(
    tmp_path: Path, shift_s: float, said: str
) -> None:
    server = well()

    async def shifted(request: web.BaseRequest) -> web.StreamResponse:
        date = formatdate(time.time() + shift_s, usegmt=True)
        return await answer({"gitVersion": "v1.34.1"}, Date=date)(request)

    server.others["/version"] = shifted
    async with asking(tmp_path, server) as ask:
        found = of(await ask(), "clock")
    assert found.grade is Grade.WARN
    assert said in found.detail
    seconds = int(found.detail.split()[0])
    assert abs(seconds - abs(shift_s)) <= 20
    assert "NTP" in found.fix


async def test_rancher_that_is_not_installed_fails_where_it_is_the_source(tmp_path: Path) -> None:
    server = well()
    server.others["/apis/management.cattle.io/v3"] = refuse(404, "NotFound")
    async with asking(tmp_path, server) as ask:
        assert failures(await ask()) == ["management.cattle.io/v3"]
        report = await ask(lambda plan: replace(plan, source="auto"))
        assert not report.failed
        assert of(report, "may list nodes").grade is Grade.PASS


async def test_crds_that_are_missing_or_odd_are_named(tmp_path: Path) -> None:
    server = well()
    odd = discovery("clusters", "nodes", "settings", namespaced=("clusters", "nodes"))
    server.others["/apis/management.cattle.io/v3"] = odd
    async with asking(tmp_path, server) as ask:
        report = await ask()
    assert failures(report) == ["clusters.management.cattle.io", "features.management.cattle.io"]
    assert of(report, "projects.management.cattle.io").grade is Grade.WARN


async def test_secret_requests_need_their_crd_with_status(tmp_path: Path) -> None:
    server = well()
    async with asking(tmp_path, server) as ask:
        server.others["/apis/telemetry.cattle.io/v1"] = discovery("secretrequests")
        wanted = await ask(lambda plan: replace(plan, secret_requests=True))
        assert "telemetry.cattle.io/v1" in failures(wanted)
        server.others["/apis/telemetry.cattle.io/v1"] = refuse(404, "NotFound")
        absent = await ask(lambda plan: replace(plan, secret_requests=True))
        assert of(absent, "telemetry.cattle.io/v1").grade is Grade.WARN
        off = await ask()
        assert of(off, "telemetry.cattle.io/v1").grade is Grade.PASS


async def test_server_without_access_reviews_warns(tmp_path: Path) -> None:
    server = well()
    server.others[REVIEWS] = refuse(403, "Forbidden")
    async with asking(tmp_path, server) as ask:
        report = await ask()
    assert not report.failed
    assert of(report, "may list namespaces kube-system").grade is Grade.WARN


TELEMETRY = {
    "subscription": dict.fromkeys(("installuuid", "clusteruuid", "product"), ""),
    "managedSystems": [],
    "managedClusters": [],
    "timestamp": "",
}
PAYLOAD = b64encode(json.dumps(TELEMETRY).encode()).decode()


def foreign(manager: str, at: str, **fields: Any) -> Any:
    owned: dict[str, Any] = {"f:data": {"f:payload": {}}}
    entry = {"manager": manager, "operation": "Update", "time": at, "fieldsV1": owned}
    metadata = {"uid": "u", "resourceVersion": "1", "managedFields": [entry]}
    return answer({"metadata": metadata, "type": "Opaque", "data": {"payload": PAYLOAD}, **fields})


@pytest.mark.parametrize(
    ("secret", "takeover", "grade", "shown"),
    [
        (foreign("rancher", "2026-01-01T00:00:00Z"), False, Grade.WARN, "rancher 600 s ago"),
        (foreign("rancher", "2026-01-01T00:09:50Z"), False, Grade.FAIL, "rancher 10 s ago"),
        (foreign("rancher", "2026-01-01T00:09:50Z"), True, Grade.WARN, "takeover"),
        (foreign("rancher", ""), False, Grade.FAIL, "written by rancher"),
        (foreign("x", "", type="kubernetes.io/tls"), False, Grade.FAIL, "not Opaque"),
        (foreign("x", "", immutable=True), False, Grade.FAIL, "immutable"),
        (foreign("x", "", data={"payload": "e30="}), False, Grade.FAIL, "else than telemetry"),
        (refuse(403, "Forbidden"), False, Grade.WARN, "may not be read"),
        (answer(b"{}"), False, Grade.FAIL, "isn't what was asked for"),
    ],
)
async def test_secret_is_judged_as_the_exporter_will_find_it(
    tmp_path: Path, secret: Any, takeover: bool, grade: Grade, shown: str
) -> None:
    server = well()
    server.others[SECRET] = secret
    ten_past = 1767225600.0 + 600
    target = SecretTarget(
        "cattle-telemetry-system",
        "rancher-scc-telemetry",
        "exporter scc",
        own=True,
        takeover=takeover,
    )
    async with asking(tmp_path, server) as ask:
        report = await ask(lambda plan: replace(plan, secrets=(target,)), now=lambda: ten_past)
    found = of(report, str(target))
    assert found.grade is grade
    assert shown in found.detail
    assert PAYLOAD[:8] not in "\n".join(render_report(report)), "its content stays where it is"


USER = 'secrets "x" is forbidden: User "u" cannot patch resource "secrets" in API group ""'
WEBHOOK = 'admission webhook "w" '


@pytest.mark.parametrize(
    ("code", "message", "grade", "shown"),
    [
        (403, USER, Grade.WARN, "not allowed, see the rights"),
        (403, 'secrets "x" is forbidden: exceeded quota: q', Grade.FAIL, "exceeded quota: q"),
        (422, f"{WEBHOOK}denied the request: no", Grade.FAIL, "denied the request: no"),
        (400, f"{WEBHOOK}does not support dry run", Grade.WARN, "not supported"),
        (500, 'failed calling webhook "w": x', Grade.FAIL, "check the webhook's service"),
        (403, "", Grade.FAIL, "proxy or gateway"),
        (422, 'Secret "x" is invalid', Grade.FAIL, "422"),
        (404, 'namespaces "x" not found', Grade.FAIL, "before the namespace exists"),
        (503, "away", Grade.FAIL, "503"),
    ],
)
async def test_dry_run_says_what_the_server_said(
    tmp_path: Path, code: int, message: str, grade: Grade, shown: str
) -> None:
    server = well()
    denied = refuse(code, "Reason", message)
    server.others[SECRET] = by_method(GET=refuse(404, "NotFound"), PATCH=denied)
    async with asking(tmp_path, server) as ask:
        report = await ask()
    lines = [str(found) for found in report.findings if "Secret " in found.what]
    assert [line[:4] for line in lines if shown in line] == [grade]
    assert report.failed is (grade is Grade.FAIL)


@pytest.mark.parametrize("requests", [True, False])
async def test_namespace_that_may_not_be_read_counts_only_where_telemetryd_reads_it(
    tmp_path: Path, requests: bool
) -> None:
    server = well()
    server.others[NAMESPACE] = refuse(403, "Forbidden")
    async with asking(tmp_path, server) as ask:
        report = await ask(lambda plan: replace(plan, secret_requests=requests))
    hidden = [found for found in report.findings if "may not be read" in found.detail]
    assert [found.what for found in hidden] == ["namespace cattle-telemetry-system"] * requests
    assert not report.failed


async def test_request_without_a_login_fails_in_one_line(tmp_path: Path) -> None:
    server = well()
    anonymous = 'forbidden: User "system:anonymous" cannot get path "/apis"'
    server.others["/apis/management.cattle.io/v3"] = refuse(403, "Forbidden", anonymous)
    async with asking(tmp_path, server) as ask:
        report = await ask()
    assert failures(report) == ["connection"]
    assert "give the user of the kubeconfig a token" in "\n".join(render_report(report))
    assert not report.missing
