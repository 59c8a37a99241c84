"""Tokens reviewed by a real API server, as the ServiceAccount of `deploy/` with its rights."""

import http.client
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from telemetryd.doctor.access import REVIEWS, Access
from telemetryd.serve.http.reviews import DENIED_S
from tests.apiserver.admin import Admin, Object
from tests.deploy.installed import Installed, ensure_namespace, path_of
from tests.serve.guarded import client_side
from tests.support import starter
from tests.support.certificates import Authority
from tests.support.daemon import Daemon

VARIANT = ("tls",)
NAMESPACE = "monitoring-of-tests"
READERS = "telemetryd.cattle-telemetry-system-metrics"
ACCOUNTS = f"/api/v1/namespaces/{NAMESPACE}/serviceaccounts"
BINDINGS = "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings"
BINDING: Object = {
    "apiVersion": "rbac.authorization.k8s.io/v1",
    "kind": "ClusterRoleBinding",
    "metadata": {"name": "prometheus-reads-telemetryd"},
    "roleRef": {
        "apiGroup": "rbac.authorization.k8s.io",
        "kind": "ClusterRole",
        "name": READERS,
    },
    "subjects": [{"kind": "ServiceAccount", "namespace": NAMESPACE, "name": "prometheus"}],
}


class Scraper:
    """A ServiceAccount that looks at telemetryd."""

    def __init__(self, admin: Admin) -> None:
        self._admin = admin
        ensure_namespace(admin, NAMESPACE)
        admin.create(ACCOUNTS, {"metadata": {"name": "prometheus"}})

    def token(self, *audiences: str) -> str:
        spec: Object = {"expirationSeconds": 600}
        if audiences:
            spec["audiences"] = list(audiences)
        request = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": spec}
        token: str = self._admin.create(f"{ACCOUNTS}/prometheus/token", request)["status"]["token"]
        return token

    @contextmanager
    def bound(self) -> Iterator[None]:
        """With the role of `deploy/` for those who scrape."""
        self._admin.create(BINDINGS, BINDING)
        try:
            yield
        finally:
            self._admin.delete(f"{BINDINGS}/{BINDING['metadata']['name']}")


class Guarded:
    """The daemon over TLS, with tokens reviewed."""

    def __init__(self, folder: Path, installed: Installed) -> None:
        authority = Authority(folder)
        pair = authority.issue("server")
        self._context = client_side(authority.ca)
        config = (
            f'tls_cert_file = "{pair.cert}"\ntls_key_file = "{pair.key}"\nkubernetes_auth = true\n'
        )
        self.daemon = Daemon(folder, installed.kubeconfig, config)

    def get(self, path: str, token: str | None = None) -> tuple[int, str]:
        """Status and body; 0 where there is no answer."""
        connection = http.client.HTTPSConnection(
            "127.0.0.1", self.daemon.port, timeout=30, context=self._context
        )
        headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        try:
            connection.request("GET", path, headers=headers)
            answer = connection.getresponse()
            return answer.status, answer.read().decode()
        except OSError:
            return 0, ""
        finally:
            connection.close()

    def doctor(self) -> str:
        folder = str(self.daemon.config_file.parent)
        report: str = starter.run(
            *("doctor", "--config", str(self.daemon.config_file)),
            env={**os.environ, "STATE_DIRECTORY": folder, "RUNTIME_DIRECTORY": folder},
        ).stdout
        return report


@pytest.fixture
def scraper(admin: Admin) -> Iterator[Scraper]:
    made = Scraper(admin)
    try:
        yield made
    finally:
        admin.delete(f"{ACCOUNTS}/prometheus")


@pytest.fixture
def guarded(installed: Installed, tmp_path: Path) -> Iterator[Guarded]:
    made = Guarded(tmp_path, installed)
    try:
        made.daemon.wait_for("it answers", lambda: made.get("/livez")[0] == 200, 20)
        yield made
    finally:
        status = made.daemon.stop()
    assert status == 0, made.daemon.log()[-4000:]


def test_account_with_the_role_of_deploy_may_scrape_and_nothing_else(
    guarded: Guarded, scraper: Scraper, installed: Installed
) -> None:
    token = scraper.token()
    assert guarded.get("/metrics")[0] == 401
    assert guarded.get("/metrics", "eyJhbGciOiJub25lIn0.e30.")[0] == 401
    assert guarded.get("/metrics", scraper.token("someone-else"))[0] == 401
    status, body = guarded.get("/metrics", token)
    assert status == 403
    assert f"'system:serviceaccount:{NAMESPACE}:prometheus' isn't allowed to get" in body
    assert guarded.get("/metrics", installed.token)[0] == 403, "not even its own"
    with scraper.bound():
        guarded.daemon.wait_for(
            "it is let in",
            lambda: guarded.get("/metrics", token)[0] == 200,
            DENIED_S + 20,
        )
        assert "telemetryd_build_info" in guarded.get("/metrics", token)[1]
        for path in ("/", "/status.json", "/payload/scc"):
            assert guarded.get(path, token)[0] == 403, path
        assert guarded.get("/livez")[0] == 200
    assert token not in guarded.daemon.log()
    assert installed.token not in guarded.daemon.log()


@pytest.mark.long
@pytest.mark.parametrize(("group", "resource"), REVIEWS)
def test_without_the_right_to_review_everyone_is_refused_and_doctor_names_it(
    guarded: Guarded, scraper: Scraper, installed: Installed, group: str, resource: str
) -> None:
    right = Access(group, resource, "", "create")
    what = f"may {right}"
    assert f"PASS  {what}  allowed" in guarded.doctor()
    with scraper.bound():
        with installed.without([right]):
            guarded.daemon.wait_for(
                "nobody can be reviewed",
                lambda: guarded.get("/metrics", scraper.token())[0] == 503,
                20,
            )
            examined = guarded.doctor()
        assert f"FAIL  {what}  denied" in examined
        assert f"- apiGroups: [{group}]" in examined
        guarded.daemon.wait_for(
            "granted, it goes on", lambda: guarded.get("/metrics", scraper.token())[0] == 200, 20
        )
    warned = [
        json.loads(line)
        for line in guarded.daemon.whole_log().splitlines()
        if "token review failed" in line
    ]
    assert warned
    assert "403" in str(warned[0])
    assert "cannot create resource" in str(warned[0])


def test_role_for_those_who_scrape_holds_only_metrics(installed: Installed, admin: Admin) -> None:
    (role,) = [each for each in installed.roles() if each["metadata"]["name"] == READERS]
    stored = admin.get(path_of(role))
    assert stored["rules"] == [{"nonResourceURLs": ["/metrics"], "verbs": ["get"]}]
