"""The Secret sink against an API server: what it writes, when it doesn't, and what it says then."""

from base64 import b64decode, b64encode
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from telemetryd.errors import (
    BadResponse,
    ExportError,
    Invalid,
    KubeError,
    NotFound,
    PermanentError,
    Reason,
    RetryableError,
    Throttled,
    Unauthorized,
    Unavailable,
)
from telemetryd.export.exporter import ExportContext, Outcome
from telemetryd.export.sinks.secretobject import parse_secret
from tests.apiserver.admin import Admin, AdminError, Object
from tests.apiserver.denials import policy, quota, webhook
from tests.apiserver.process import ApiServer
from tests.contract.servers import Server
from tests.export.bench import DAY_S, NAME, SENTINEL, Bench, Interloper, refused
from tests.export.conftest import Connect, real_only

pytestmark = pytest.mark.anyio


async def test_missing_secret_is_created_as_the_contract_says(bench: Bench) -> None:
    bench.epoch = 3
    payload = bench.payload()
    assert await bench.send(bench.exporter()) is Outcome.WRITTEN
    secret = bench.read()
    assert secret["type"] == "Opaque"
    assert list(secret["data"]) == ["payload"]
    assert b64decode(secret["data"]["payload"]) == payload.body
    assert secret["metadata"]["annotations"] == {
        "scc.cattle.io/part-of": "telemetry",
        "scc.cattle.io/last-changed": "2026-09-21T14:13:20Z",
        "telemetryd/digest": payload.digest,
        "telemetryd/epoch": "3",
    }
    assert "labels" not in secret["metadata"]
    (managed,) = secret["metadata"]["managedFields"]
    assert (managed["manager"], managed["operation"]) == ("telemetryd", "Apply")


async def test_unchanged_content_writes_nothing_whatever_the_timestamp_and_epoch(
    bench: Bench,
) -> None:
    exporter = bench.exporter()
    await bench.send(exporter)
    before = bench.read()
    bench.elapsed_s, bench.epoch = 3600.0, 9
    assert await bench.send(exporter) is Outcome.UNCHANGED
    assert await bench.send(bench.exporter()) is Outcome.UNCHANGED
    assert bench.read() == before


async def test_changed_content_is_written_and_all_that_is_foreign_stays(bench: Bench) -> None:
    exporter = bench.exporter()
    await bench.send(exporter)
    bench.oracle.patch(
        bench.path,
        {
            "metadata": {
                "labels": {"team": "a"},
                "annotations": {"note": "b"},
                "finalizers": ["wrangler.cattle.io/prime-registration-secrets-remove"],
            },
            "data": {"other": b64encode(b"c").decode()},
        },
    )
    bench.elapsed_s, bench.epoch = 60.0, 1
    assert await bench.send(exporter, revision=2) is Outcome.WRITTEN
    secret = bench.read()
    metadata = secret["metadata"]
    assert metadata["labels"] == {"team": "a"}
    assert metadata["annotations"]["note"] == "b"
    assert metadata["finalizers"] == ["wrangler.cattle.io/prime-registration-secrets-remove"]
    assert secret["data"]["other"] == b64encode(b"c").decode()
    assert metadata["annotations"]["scc.cattle.io/last-changed"] == "2026-09-21T14:14:20Z"
    assert metadata["annotations"]["telemetryd/epoch"] == "1"
    assert bench.document()["managedSystems"][0]["count"] == 2


async def test_secret_of_others_without_payload_is_joined(bench: Bench) -> None:
    bench.oracle.create(
        bench.collection, {"metadata": {"name": NAME}, "stringData": {"other": "x"}}
    )
    assert await bench.send(bench.exporter()) is Outcome.WRITTEN
    assert sorted(bench.read()["data"]) == ["other", "payload"]


async def test_deleted_secret_is_healed(bench: Bench) -> None:
    exporter = bench.exporter()
    await bench.send(exporter)
    bench.oracle.delete(bench.path)
    assert await bench.send(exporter) is Outcome.WRITTEN
    assert bench.document()["version"] == "2.15.0"


@pytest.mark.parametrize(
    "change",
    [
        {"data": {"payload": None}},
        {"metadata": {"annotations": {"scc.cattle.io/part-of": None}}},
        {"metadata": {"annotations": {"telemetryd/digest": None}}},
        {"metadata": {"annotations": {"scc.cattle.io/last-changed": None}}},
    ],
    ids=["payload", "part-of", "digest", "last-changed"],
)
async def test_what_was_removed_is_healed(bench: Bench, change: Object) -> None:
    exporter = bench.exporter()
    await bench.send(exporter)
    before = bench.read()
    bench.oracle.patch(bench.path, change)
    assert await bench.send(exporter) is Outcome.WRITTEN
    after = bench.read()
    assert after["metadata"]["annotations"] == before["metadata"]["annotations"]
    assert after["data"] == before["data"]
    assert await bench.send(exporter) is Outcome.UNCHANGED


async def test_annotation_that_claims_our_digest_doesnt_hide_an_altered_payload(
    bench: Bench,
) -> None:
    exporter = bench.exporter(quiet_period_s=0.0)
    await bench.send(exporter)
    bench.write_foreign(b'{"altered":true}')
    assert bench.read()["metadata"]["annotations"]["telemetryd/digest"] == bench.payload().digest
    assert await bench.send(exporter) is Outcome.WRITTEN
    assert bench.document()["version"] == "2.15.0"


async def test_heartbeat_rewrites_once_after_max_silence_and_last_changed_stays(
    bench: Bench,
) -> None:
    exporter = bench.exporter()
    await bench.send(exporter)
    bench.elapsed_s = DAY_S - 1
    assert await bench.send(exporter) is Outcome.UNCHANGED
    bench.elapsed_s = DAY_S
    assert await bench.send(exporter) is Outcome.WRITTEN
    assert bench.document()["timestamp"] == "2026-09-22T14:13:20Z"
    annotations = bench.read()["metadata"]["annotations"]
    assert annotations["scc.cattle.io/last-changed"] == "2026-09-21T14:13:20Z"
    bench.elapsed_s = DAY_S + 60
    assert await bench.send(bench.exporter()) is Outcome.UNCHANGED


async def test_foreign_type_is_refused_before_anything_is_applied(bench: Bench) -> None:
    bench.oracle.create(
        bench.collection,
        {
            "metadata": {"name": NAME},
            "type": "example.com/other",
            "data": {"payload": b64encode(b"{}").decode()},
        },
    )
    before = bench.read()
    await refused(
        PermanentError,
        Reason.WRONG_TYPE,
        bench.send(bench.exporter(takeover=True)),
        "'example.com/other'",
        "delete it",
    )
    assert bench.read() == before


async def test_immutable_secret_is_refused_where_it_would_have_to_change(bench: Bench) -> None:
    exporter = bench.exporter(takeover=True)
    await bench.send(exporter)
    bench.oracle.patch(bench.path, {"immutable": True})
    assert await bench.send(exporter) is Outcome.UNCHANGED
    await refused(
        PermanentError, Reason.IMMUTABLE, bench.send(exporter, revision=2), "immutable", "delete it"
    )


async def test_missing_namespace_is_named_with_its_fix(bench: Bench) -> None:
    bench.namespace = "no-such-namespace"
    await refused(
        PermanentError,
        Reason.MISSING_NAMESPACE,
        bench.send(bench.exporter()),
        "kubectl create namespace no-such-namespace",
    )


async def test_terminating_namespace_is_reported_from_a_denial(bench: Bench) -> None:
    bench.oracle.delete(f"/api/v1/namespaces/{bench.namespace}")
    await refused(
        PermanentError,
        Reason.NAMESPACE_TERMINATING,
        bench.send(bench.exporter()),
        f"namespace {bench.namespace} is being deleted",
    )


async def test_payload_over_one_mebibyte_is_refused_without_a_request(bench: Bench) -> None:
    payload = replace(bench.payload(), body=b" " * ((1 << 20) + 1))
    await refused(
        PermanentError,
        Reason.OVERSIZE,
        bench.exporter().export(payload, ExportContext("scc", 1, 0)),
        "1048577 bytes",
    )
    with pytest.raises(AdminError):
        bench.read()


async def test_payload_of_just_one_mebibyte_fits(bench: Bench) -> None:
    payload = replace(bench.payload(), body=b" " * (1 << 20))
    await bench.exporter().export(payload, ExportContext("scc", 1, 0))
    assert len(b64decode(bench.read()["data"]["payload"])) == 1 << 20


@real_only("the embedded server has no limit of sizes")
async def test_payload_too_large_beside_foreign_data_is_oversize(bench: Bench) -> None:
    bench.oracle.create(
        bench.collection,
        {
            "metadata": {"name": NAME},
            "data": {"other": b64encode(b"x" * ((1 << 20) - 100)).decode()},
        },
    )
    await refused(PermanentError, Reason.OVERSIZE, bench.send(bench.exporter()), "what else")


def grant(oracle: Admin, namespace: str, *verbs: str) -> str:
    """A ServiceAccount with these verbs on the one Secret; returns its token."""
    core, rbac = f"/api/v1/namespaces/{namespace}", "/apis/rbac.authorization.k8s.io/v1"
    roles = f"{rbac}/namespaces/{namespace}"
    oracle.create(f"{core}/serviceaccounts", {"metadata": {"name": "telemetryd"}})
    rule = {
        "apiGroups": [""],
        "resources": ["secrets"],
        "verbs": list(verbs),
        "resourceNames": [NAME],
    }
    oracle.create(f"{roles}/roles", {"metadata": {"name": "telemetryd"}, "rules": [rule]})
    oracle.create(
        f"{roles}/rolebindings",
        {
            "metadata": {"name": "telemetryd"},
            "roleRef": {
                "apiGroup": "rbac.authorization.k8s.io",
                "kind": "Role",
                "name": "telemetryd",
            },
            "subjects": [{"kind": "ServiceAccount", "name": "telemetryd", "namespace": namespace}],
        },
    )
    request = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}}
    answer = oracle.create(f"{core}/serviceaccounts/telemetryd/token", request)
    return str(answer["status"]["token"])


@real_only("the embedded server knows one token and no RBAC")
async def test_named_get_create_and_patch_are_all_it_needs(bench: Bench, connect: Connect) -> None:
    token = grant(bench.oracle, bench.namespace, "get", "create", "patch")
    async with connect(token) as bench.client:
        exporter = bench.exporter()
        assert await bench.send(exporter) is Outcome.WRITTEN
        assert await bench.send(exporter) is Outcome.UNCHANGED
        assert await bench.send(exporter, revision=2) is Outcome.WRITTEN


@real_only("the embedded server knows one token and no RBAC")
@pytest.mark.parametrize(
    ("verbs", "text"),
    [
        (("create", "patch"), "not allowed to get"),
        (("get", "patch"), "not allowed to create or patch"),
        (("get", "create"), "not allowed to create or patch"),
    ],
    ids=["no-get", "no-create", "no-patch"],
)
async def test_denied_verb_is_forbidden_with_the_grant_that_fixes_it(
    bench: Bench, connect: Connect, verbs: tuple[str, ...], text: str
) -> None:
    token = grant(bench.oracle, bench.namespace, *verbs)
    async with connect(token) as bench.client:
        await refused(
            PermanentError,
            Reason.FORBIDDEN,
            bench.send(bench.exporter()),
            text,
            f"resourceNames [{NAME}] by a Role in {bench.namespace}",
        )


async def test_credential_that_isnt_accepted_is_auth(bench: Bench, connect: Connect) -> None:
    async with connect("wrong") as bench.client:
        await refused(PermanentError, Reason.AUTH, bench.send(bench.exporter()), "credential")


async def test_server_that_is_gone_is_retried(
    bench: Bench, connect: Connect, server: Server
) -> None:
    async with connect(server.admin_token) as client:
        bench.client = client
        exporter = bench.exporter(timeout_s=1e-6)
        with pytest.raises(RetryableError):
            await bench.send(exporter)


async def test_nothing_foreign_is_kept_of_what_was_read(bench: Bench) -> None:
    bench.oracle.create(
        bench.collection,
        {
            "metadata": {
                "name": NAME,
                "labels": {"a": SENTINEL},
                "annotations": {"b": SENTINEL},
            },
            "data": {"other": b64encode(SENTINEL.encode()).decode()},
        },
    )
    body = await bench.client.request("GET", bench.path, timeout_s=5.0)
    assert SENTINEL.encode() in body
    found = repr(parse_secret(body))
    assert SENTINEL not in found
    assert b64encode(SENTINEL.encode()).decode() not in found


@pytest.mark.parametrize(
    ("error", "kind", "reason", "retry_after_s"),
    [
        (Throttled("429", retry_after_s=7.0), RetryableError, Reason.THROTTLED, 7.0),
        (
            Unavailable("503", kind=Reason.SERVER, retry_after_s=3.0),
            RetryableError,
            Reason.SERVER,
            3.0,
        ),
        (Unavailable("reset", kind=Reason.CONNECT), RetryableError, Reason.CONNECT, None),
        (Unavailable("slow", kind=Reason.TIMEOUT), RetryableError, Reason.TIMEOUT, None),
        (BadResponse("HTML"), RetryableError, Reason.SERVER, None),
        (NotFound("gone meanwhile"), RetryableError, Reason.CONFLICT, None),
        (Invalid("no", status=400), PermanentError, Reason.REJECTED, None),
        (Invalid("no", status=413), PermanentError, Reason.OVERSIZE, None),
        (Unauthorized("no", status=401), PermanentError, Reason.AUTH, None),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, KubeError) else "",
)
async def test_each_answer_has_its_error(
    bench: Bench,
    error: KubeError,
    kind: type[ExportError],
    reason: Reason,
    retry_after_s: float | None,
) -> None:
    await bench.send(bench.exporter())

    def fail() -> None:
        raise error

    bench.client = Interloper(bench.client, fail)
    caught = await refused(kind, reason, bench.send(bench.exporter(), revision=2))
    assert getattr(caught, "retry_after_s", None) == retry_after_s
    assert caught.__cause__ is error


async def test_answer_that_is_no_secret_is_retried(bench: Bench) -> None:
    class Odd:
        async def request(self, *args: Any, **kwargs: Any) -> bytes:
            return b'{"metadata":{"uid":7},"data":{"payload":"SENTINEL"}}'

    bench.client = Odd()
    error = await refused(RetryableError, Reason.SERVER, bench.send(bench.exporter()))
    assert "SENTINEL" not in str(error)


async def test_closing_leaves_the_client_to_its_owner(bench: Bench) -> None:
    exporter = bench.exporter()
    await exporter.aclose()
    assert await bench.send(exporter) is Outcome.WRITTEN


has_admission = real_only("the embedded server has no admission")


@has_admission
async def test_quota_is_said_with_its_numbers_and_without_rbac(bench: Bench) -> None:
    with quota(bench.oracle, bench.namespace):
        error = await refused(
            PermanentError,
            Reason.REJECTED,
            bench.send(bench.exporter()),
            f"a quota denies to create or patch Secret {bench.namespace}/{NAME}",
            "raise the ResourceQuota",
            "exceeded quota: none, requested: secrets=1, used: secrets=0, limited: secrets=0",
        )
    assert "grant" not in str(error)
    await bench.send(bench.exporter())


@has_admission
@pytest.mark.parametrize("reason", ["Invalid", "Forbidden", "RequestEntityTooLarge"])
async def test_policy_is_said_whatever_its_status(
    bench: Bench, apiserver: ApiServer, reason: str
) -> None:
    if apiserver.version < (1, 30):
        pytest.skip("Kubernetes has policies from 1.30 on")
    with policy(bench.oracle, bench.namespace, reason=reason):
        error = await refused(
            PermanentError,
            Reason.REJECTED,
            bench.send(bench.exporter()),
            "an admission policy denies",
            f"ValidatingAdmissionPolicy 'no-secrets-{bench.namespace}'",
            "ask team A first",
        )
    assert "grant" not in str(error)


@has_admission
@pytest.mark.parametrize("code", [400, 401, 403, 404, 409, 410, 413, 422])
async def test_webhook_is_said_whatever_its_status(bench: Bench, tmp_path: Path, code: int) -> None:
    with webhook(bench.oracle, bench.namespace, tmp_path, code=code):
        error = await refused(
            PermanentError,
            Reason.REJECTED,
            bench.send(bench.exporter()),
            "an admission webhook denies",
            f'says: {code} admission webhook "secrets.example.test" denied the request: ask team B',
        )
    assert "grant" not in str(error)
    assert str(error).isprintable()


@has_admission
async def test_webhook_that_fails_is_named_and_tried_again(bench: Bench, tmp_path: Path) -> None:
    with webhook(bench.oracle, bench.namespace, tmp_path) as server:
        server.shutdown()
        server.socket.close()
        await refused(
            RetryableError,
            Reason.SERVER,
            bench.send(bench.exporter()),
            "check the webhook's service",
            'failed calling webhook "secrets.example.test"',
        )
