"""Denials of a real API server that aren't RBAC's: what the exporter says of them."""

from pathlib import Path

import pytest

from telemetryd.errors import PermanentError, Reason, RetryableError
from tests.apiserver.denials import policy, quota, webhook
from tests.apiserver.process import ApiServer
from tests.export.bench import NAME, Bench, refused
from tests.export.conftest import real_only

pytestmark = [pytest.mark.anyio, real_only("the embedded server has no admission")]


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
