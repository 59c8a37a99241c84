"""A user who may only write SecretRequests tries to reach Secrets of others through telemetryd.

telemetryd has an administrator's kubeconfig and the settings that allow most: ``takeover`` and
``cleanup = "delete"``. Of each Secret of others nothing may change, not even its resourceVersion,
and no status may say what it is.
"""

import json
import time
from base64 import b64encode
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeAlias

import pytest

from tests.apiserver.admin import Admin, AdminError, Object
from tests.apiserver.fixtures import project
from tests.apiserver.process import ApiServer
from tests.system.requests import RequestDaemon, run_requests_daemon, shown, wait_served
from tests.system.scc import (
    EXPORTER,
    NAMESPACE,
    REQUEST,
    REQUESTS,
    SECRET,
    SERVED,
    SYSTEM_PROJECT,
    Scc,
    scc_request,
)

RBAC = "/apis/rbac.authorization.k8s.io/v1"
AUTHOR = "request-author"
TEAM = "team-a"
FORGED = "forged"
SENTINEL = "hunter2"
OWN = "telemetryds-own"
SETTINGS = 'takeover = true\ncleanup = "delete"'
EXPORTERS = f"""
[[exporters]]
name = "mine"
type = "secret"
interval = "1s"
namespace = "{NAMESPACE}"
secret = "{OWN}"
"""
COPIED = {
    "scc.cattle.io/part-of": "telemetry",
    "telemetryd/digest": "0" * 64,
    "telemetryd/epoch": "2147483647",
}
TELEMETRY = {
    "version": "2.14.0",
    "subscription": {
        **dict.fromkeys(("installuuid", "clusteruuid"), "5c6b1b7e-94c5-4f6e-8a0e-2f9d2e1c7a11"),
        **dict.fromkeys(("product", "version", "arch", "git", "server_url"), SENTINEL),
    },
    "managedSystems": [],
    "managedClusters": [],
    "timestamp": "2026-09-21T14:13:20Z",
}


def b64(text: str) -> str:
    return b64encode(text.encode()).decode()


THEIRS = {"data": {"password": b64(SENTINEL)}}
TEXT = {"data": {"payload": b64(SENTINEL)}}
PAYLOAD = b64(json.dumps(TELEMETRY))
OWNER = {"apiVersion": "v1", "kind": "ConfigMap", "name": "theirs", "uid": "1"}
VICTIMS: Mapping[tuple[str, str], Object] = {
    (NAMESPACE, "password"): THEIRS,
    (NAMESPACE, "empty"): {},
    (NAMESPACE, "text"): TEXT,
    (NAMESPACE, "document"): {"data": {"payload": b64(f'{{"password": "{SENTINEL}"}}')}},
    (NAMESPACE, "annotated"): {"metadata": {"annotations": COPIED}, **TEXT},
    (NAMESPACE, "annotated-others"): {"metadata": {"annotations": COPIED}, **THEIRS},
    (NAMESPACE, "more"): {"data": {"payload": PAYLOAD, "password": b64(SENTINEL)}},
    (NAMESPACE, "owned"): {"metadata": {"ownerReferences": [OWNER]}, "data": {"payload": PAYLOAD}},
    (NAMESPACE, "finalized"): {"metadata": {"finalizers": ["theirs.example/f"]}, **TEXT},
    (NAMESPACE, "immutable"): {"immutable": True, **TEXT},
    (NAMESPACE, "certificate"): {
        "type": "kubernetes.io/tls",
        "data": {"tls.crt": b64(SENTINEL), "tls.key": b64(SENTINEL)},
    },
    (NAMESPACE, "account"): {
        "type": "kubernetes.io/service-account-token",
        "metadata": {"annotations": {"kubernetes.io/service-account.name": "default"}},
        "data": {"token": b64(SENTINEL)},
    },
    (NAMESPACE, "registry"): {
        "type": "kubernetes.io/dockerconfigjson",
        "data": {".dockerconfigjson": b64("{}")},
    },
    (NAMESPACE, "sh.helm.release.v1.x.v1"): {"type": "helm.sh/release.v1", **THEIRS},
    ("kube-system", "bootstrap-token-abcdef"): {
        "type": "bootstrap.kubernetes.io/token",
        "data": {"token-id": b64("abcdef"), "token-secret": b64("0123456789abcdef")},
    },
    ("kube-system", "db"): THEIRS,
    (TEAM, "telemetry"): {"data": {"payload": PAYLOAD}},
    (FORGED, "telemetry"): {"data": {"payload": PAYLOAD}},
}


class Author:
    """The attacker: may create, read, change and delete SecretRequests, and nothing else."""

    def __init__(self, api: Admin, scc: Scc, daemon: RequestDaemon) -> None:
        self.api = api
        self.scc = scc
        self.daemon = daemon
        self.names: list[str] = []

    def ask(self, name: str, namespace: Any, secret: Any, **more: Any) -> None:
        """Create a request; the API server may refuse it."""
        request = scc_request(name, namespace=namespace, name=secret)
        request["metadata"].pop("finalizers")
        request["metadata"].update(more.pop("metadata", {}))
        request["spec"].update(more.pop("spec", {}))
        with suppress(AdminError):
            made = self.api.create(REQUESTS, {**request, **more})
            self.names.append(made["metadata"]["name"])

    def aim(self, name: str, namespace: str, secret: str) -> None:
        """Name another Secret in a request."""
        target = {"namespace": namespace, "name": secret}
        self.api.patch(f"{REQUESTS}/{name}", {"spec": {"targetSecretRef": target}})

    def drop(self, name: str) -> None:
        """Delete a request."""
        self.api.delete(f"{REQUESTS}/{name}")

    def serve(self, name: str, secret: str) -> None:
        """Have a request served with a Secret that doesn't exist yet."""
        self.ask(name, NAMESPACE, secret)
        wait_served(self.daemon, self.scc, name, secret)

    def settle(self) -> None:
        """Until telemetryd has judged each request and its exporter has run twice since."""
        for name in self.names:
            if self.scc.request(name) is not None:
                self.daemon.wait_for(name, lambda name=name: self._judged(name), 60)  # type: ignore[misc]
        before = self._runs("secretrequest/")
        for exporter in before:
            self.daemon.wait_for(
                exporter,
                lambda exporter=exporter: (  # type: ignore[misc]
                    self._runs(exporter).get(exporter, 9e9) >= before[exporter] + 2
                ),
                60,
            )

    def _judged(self, name: str) -> bool:
        state = shown(self.daemon, name).get("state")
        return state in {"served", "failing", "rejected", "waiting"} and bool(
            self.scc.conditions(name)
        )

    def _runs(self, prefix: str) -> dict[str, float]:
        found: dict[str, float] = {}
        for line in self.daemon.get("/metrics")[1].splitlines():
            if line.startswith(f'telemetryd_exporter_runs_total{{exporter="{prefix}'):
                name = line.split('"')[1]
                found[name] = found.get(name, 0) + float(line.rpartition(" ")[2])
        return found


Attack: TypeAlias = Callable[[Author], None]
NAMES = (
    "../../kube-system/secrets/db", "kube-system/db", "..", ".", "password/", "password?force=true",
    "password#x", "%70assword", "..%2f..%2fkube-system%2fsecrets%2fdb", "PASSWORD", " password",
    "password\n", "password\x00", "p\u0430ssword", "password.", "a" * 254, "", "password/status",
)  # fmt: skip
NAMESPACES = (
    "../kube-system", "kube-system/secrets/db?x=", "KUBE-SYSTEM", "", "kube-system%2f", "*", "a.b",
    f"{NAMESPACE}/../kube-system", "kube-system\n", "default/secrets",
)  # fmt: skip


def odd_names(author: Author) -> None:
    for number, name in enumerate(NAMES):
        author.ask(f"n-{number}", NAMESPACE, name)


def odd_namespaces(author: Author) -> None:
    for number, namespace in enumerate(NAMESPACES):
        author.ask(f"n-{number}", namespace, "db")


def texts_of_other_types(author: Author) -> None:
    for number, odd in enumerate((5, None, ["password"], {"a": "b"}, True)):
        author.ask(f"n-{number}", odd, "password")
        author.ask(f"m-{number}", NAMESPACE, odd)


def other_secret_types(author: Author) -> None:
    for number, kind in enumerate(("SCC", "scc ", "Opaque", "kubernetes.io/tls", "", "scc\n")):
        author.ask(f"n-{number}", NAMESPACE, "text", spec={"secretType": kind})


def project_of_others(author: Author) -> None:
    author.ask("one", TEAM, "telemetry")
    author.ask("two", TEAM, "fresh")


def newer_project_with_the_mark(author: Author) -> None:
    author.ask("one", FORGED, "telemetry")
    author.ask("two", FORGED, "fresh")


def absent_namespace(author: Author) -> None:
    author.ask("one", "nowhere", "password")


def retarget_after_acceptance(author: Author) -> None:
    author.serve("one", "fresh")
    author.aim("one", NAMESPACE, "password")
    author.daemon.wait_for("cleanup", lambda: author.scc.secret("fresh") is None, 40)


def retarget_to_and_fro(author: Author) -> None:
    author.serve("one", "fresh")
    for _ in range(20):
        for namespace, name in ((NAMESPACE, "text"), (TEAM, "telemetry"), (NAMESPACE, "fresh")):
            author.aim("one", namespace, name)


def recreate_with_the_same_name(author: Author) -> None:
    author.serve("one", "fresh")
    author.drop("one")
    author.ask("one", NAMESPACE, "text")


def delete_what_was_refused(author: Author) -> None:
    for number, (namespace, name) in enumerate(VICTIMS):
        author.ask(f"n-{number}", namespace, name)
    author.settle()
    for name in author.names:
        author.drop(name)


def delete_before_it_is_seen(author: Author) -> None:
    for number, (namespace, name) in enumerate([*VICTIMS, (NAMESPACE, OWN)]):
        author.ask(f"n-{number}", namespace, name, metadata={"finalizers": ["a.example/f"]})
        author.drop(f"n-{number}")
    for name in author.names:
        author.api.patch(f"{REQUESTS}/{name}", {"metadata": {"finalizers": None}})


def two_requests_for_one(author: Author) -> None:
    author.ask("one", NAMESPACE, "text")
    author.ask("two", NAMESPACE, "text")
    author.settle()
    author.drop("one")


def secret_of_a_configured_exporter(author: Author) -> None:
    author.ask("one", NAMESPACE, OWN)
    author.settle()
    author.drop("one")


def secret_of_the_operator(author: Author) -> None:
    author.ask("0", NAMESPACE, REQUEST)
    author.settle()
    author.drop("0")


def name_of_the_operator(author: Author) -> None:
    """Its author had the name before the operator; then it counts for nothing."""
    author.scc.delete()
    author.scc.finalize()
    author.daemon.wait_for("gone", lambda: not shown(author.daemon), 40)
    author.ask(REQUEST, NAMESPACE, "text")
    author.settle()
    author.drop(REQUEST)


def forged_status(author: Author) -> None:
    done = {
        "conditions": [{"type": "Done", "status": "True"}],
        "lastSyncTS": "2026-01-01T00:00:00Z",
    }
    author.ask("one", NAMESPACE, "text", status=done)
    with pytest.raises(AdminError) as refused:
        author.api.patch(f"{REQUESTS}/one/status", {"status": done})
    assert refused.value.status == 403
    author.api.patch(f"{REQUESTS}/one", {"status": done})


def forged_metadata(author: Author) -> None:
    fields: Object = {"f:data": {"f:payload": {}}}
    author.ask(
        "one",
        NAMESPACE,
        "text",
        metadata={
            "annotations": COPIED,
            "labels": {
                "app.kubernetes.io/managed-by": "telemetryd",
                "objectset.rio.cattle.io": "x",
            },
            "ownerReferences": [{**OWNER, "blockOwnerDeletion": True, "controller": True}],
            "managedFields": [
                {
                    "manager": "telemetryd",
                    "operation": "Apply",
                    "apiVersion": "telemetry.cattle.io/v1",
                    "fieldsType": "FieldsV1",
                    "fieldsV1": fields,
                }
            ],
        },
    )


def unknown_fields(author: Author) -> None:
    more = {"force": True, "takeover": True, "cleanup": "delete", "type": "Opaque"}
    author.ask("one", NAMESPACE, "text", spec=more, takeover=True)


def generated_names(author: Author) -> None:
    for _ in range(30):
        author.ask("", NAMESPACE, "text", metadata={"name": None, "generateName": "g-"})


def names_like_exporters(author: Author) -> None:
    for name in ("mine", "secretrequest", "secretrequest.mine", "scc", "a" * 253):
        author.ask(name, NAMESPACE, "text")


def hundred_requests_for_one(author: Author) -> None:
    for number in range(100):
        author.ask(f"n-{number}", NAMESPACE, "text")


def owner_replaces_the_secret(author: Author) -> None:
    """A Secret that telemetryd made becomes one of others, by an update and by a new one."""
    for number, body in enumerate((THEIRS, TEXT, {})):
        name = f"fresh-{number}"
        author.serve(f"n-{number}", name)
        path = author.scc.secret_path(name)
        collection = path.rpartition("/")[0]
        made = author.scc.admin.get(path)
        author.scc.admin.delete(path)
        with suppress(AdminError):  # telemetryd was faster: it is overwritten, as its owner may
            author.scc.admin.create(collection, {"metadata": {"name": name}, **body})
            author.settle()
            found = author.scc.admin.get(path)
            assert found["metadata"]["uid"] != made["metadata"]["uid"]
            assert found.get("data") == body.get("data")
            assert not found["metadata"].get("annotations")


ATTACKS: Sequence[Attack] = (
    odd_names,
    odd_namespaces,
    texts_of_other_types,
    other_secret_types,
    project_of_others,
    newer_project_with_the_mark,
    absent_namespace,
    retarget_after_acceptance,
    retarget_to_and_fro,
    recreate_with_the_same_name,
    delete_what_was_refused,
    delete_before_it_is_seen,
    two_requests_for_one,
    secret_of_a_configured_exporter,
    secret_of_the_operator,
    name_of_the_operator,
    forged_status,
    forged_metadata,
    unknown_fields,
    generated_names,
    names_like_exporters,
    hundred_requests_for_one,
    owner_replaces_the_secret,
)


ALWAYS = {newer_project_with_the_mark, retarget_after_acceptance, delete_what_was_refused}
"""Attacks that `make test` tries."""


@pytest.fixture(scope="module")
def scc(admin: Admin) -> Iterator[Scc]:
    """A Rancher that all attacks share."""
    made = Scc(admin)
    made.build()
    try:
        yield made
    finally:
        made.clear()


@pytest.fixture(scope="module")
def attacked(
    apiserver: ApiServer, scc: Scc, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RequestDaemon]:
    folder: Path = tmp_path_factory.mktemp("deputy")
    run = contextmanager(run_requests_daemon)
    with run(folder, apiserver.kubeconfig(folder / "kubeconfig")) as daemon:
        daemon.reload(SETTINGS, EXPORTERS)
        yield daemon


@pytest.fixture(scope="module")
def author_api(apiserver: ApiServer, admin: Admin) -> Iterator[Admin]:
    """A client that may write SecretRequests alone."""
    accounts = "/api/v1/namespaces/default/serviceaccounts"
    rule = {
        "apiGroups": ["telemetry.cattle.io"],
        "resources": ["secretrequests"],
        "verbs": ["create", "get", "list", "watch", "update", "patch", "delete"],
    }
    role = {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": AUTHOR}
    subject = {"kind": "ServiceAccount", "name": AUTHOR, "namespace": "default"}
    metadata = {"name": AUTHOR}
    for path, body in (
        ("/api/v1/namespaces", {"metadata": {"name": "default"}}),
        (accounts, {"metadata": metadata}),
        (f"{RBAC}/clusterroles", {"metadata": metadata, "rules": [rule]}),
        (
            f"{RBAC}/clusterrolebindings",
            {"metadata": metadata, "roleRef": role, "subjects": [subject]},
        ),
    ):
        with suppress(AdminError):
            admin.create(path, body)
    review = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}}
    token = admin.create(f"{accounts}/{AUTHOR}/token", review)["status"]["token"]
    api = Admin(apiserver.url, token, apiserver.ca_file)
    with pytest.raises(AdminError):
        api.get("/api/v1/namespaces/kube-system/secrets")
    yield api
    api.close()


@pytest.fixture(scope="module")
def victims(scc: Scc) -> Mapping[tuple[str, str], Object]:
    """The Secrets of others, and the projects that they are in; no attack changes any."""
    scc.namespace("kube-system", SYSTEM_PROJECT)
    scc.put(
        "/apis/management.cattle.io/v3/namespaces/local/projects", project("p-team", system=False)
    )
    scc.namespace(TEAM, "p-team")
    scc.namespace(FORGED, "p-aaaaa")
    made = {}
    for (namespace, name), body in VICTIMS.items():
        metadata = {"name": name, **body.get("metadata", {})}
        path = scc.secret_path(name, namespace)
        made[namespace, name] = scc.admin.create(
            path.rpartition("/")[0], {**body, "metadata": metadata}
        )
    # The forged project's name sorts before that of the System project; API times are in seconds.
    time.sleep(1.1)
    scc.put("/apis/management.cattle.io/v3/namespaces/local/projects", project("p-aaaaa"))
    return made


@pytest.fixture
def author(author_api: Admin, scc: Scc, attacked: RequestDaemon) -> Iterator[Author]:
    """The attacker; scc-operator's request and a configured exporter are served meanwhile."""
    scc.secret_path(OWN)
    try:
        scc.ask()
        wait_served(attacked, scc)
        yield Author(author_api, scc, attacked)
    finally:
        for item in scc.admin.list(REQUESTS):
            path = f"{REQUESTS}/{item['metadata']['name']}"
            with suppress(AdminError):
                scc.admin.patch(path, {"metadata": {"finalizers": None}})
                scc.admin.delete(path)
        attacked.wait_for("all gone", lambda: not attacked.status()["secret_requests"], 60)
        # Its own too: the next request tells of a write, not of a Secret that needs none.
        for name in (SECRET, "fresh", "fresh-0", "fresh-1", "fresh-2"):
            with suppress(AdminError):
                scc.admin.delete(scc.secret_path(name))


def look_harmless(scc: Scc, author: Author) -> None:
    """No status says what a Secret of others is or holds."""
    for name in author.names:
        said = json.dumps(scc.status(name)).lower()
        for word in (SENTINEL, "tests-admin", "helm", "bootstrap", "dockerconfig", "immutable"):
            if word not in json.dumps((scc.request(name) or {}).get("spec", {})).lower():
                assert word not in said, said


@pytest.mark.parametrize(
    "attack",
    [
        pytest.param(each, id=each.__name__, marks=() if each in ALWAYS else pytest.mark.long)
        for each in ATTACKS
    ],
)
def test_author_of_requests_reaches_no_secret_of_others(
    scc: Scc,
    victims: Mapping[tuple[str, str], Object],
    author: Author,
    attacked: RequestDaemon,
    attack: Attack,
) -> None:
    attack(author)
    author.settle()
    for (namespace, name), before in victims.items():
        assert scc.secret(name, namespace) == before, name
    assert scc.secret("fresh", TEAM) is None
    assert scc.secret("fresh", FORGED) is None
    look_harmless(scc, author)
    assert attacked.exporter("mine")["consecutive_failures"] == 0
    assert scc.payload(OWN) is not None
    if attack is not name_of_the_operator:
        assert scc.conditions() == SERVED
        assert attacked.exporter(EXPORTER)["state"] in {"idle", "running"}


def test_requests_for_secrets_of_others_fail_and_do_not_say_what_they_are(
    scc: Scc, victims: Mapping[tuple[str, str], Object], author: Author
) -> None:
    for number, victim in enumerate(victims):
        author.ask(f"n-{number}", *victim)
    author.settle()
    for number, (namespace, name) in enumerate(victims):
        failure = scc.condition("Failure", f"n-{number}")
        assert failure["status"] == "True"
        if namespace in {NAMESPACE, "kube-system"}:
            assert failure["reason"] == "Secret can't be written: not_telemetry"
            assert failure["message"].startswith(
                f"Secret {namespace}/{name} exists and isn't telem"
            )
    look_harmless(scc, author)
