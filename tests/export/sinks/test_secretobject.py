"""Secrets that others made for something else: never overruled, and no request adds to them."""

import itertools
import json
from base64 import b64encode
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import orjson
import pytest

from telemetryd.errors import ConflictError, Reason, RetryableError
from telemetryd.export.exporter import Outcome
from telemetryd.export.payloads.fleet import fleet_renderer
from telemetryd.model import Delivery, FleetDetail, RoleCounts, Totals
from tests.apiserver.admin import Object
from tests.export.bench import NAME, Bench, Interloper, refused
from tests.export.doubles import EPOCH_S, snapshot

pytestmark = pytest.mark.anyio

COPIED = {
    "scc.cattle.io/part-of": "telemetry",
    "scc.cattle.io/last-changed": "2026-09-21T14:13:20Z",
    "telemetryd/digest": "0" * 64,
    "telemetryd/epoch": "2147483647",
}
OWNER = {"apiVersion": "apps/v1", "kind": "Deployment", "name": "theirs", "uid": "1"}


def b64(text: str | bytes) -> str:
    return b64encode(text.encode() if isinstance(text, str) else text).decode()


def others(payload: bytes) -> Mapping[str, Object]:
    """Secrets of others; the payload is one of telemetry."""
    certificate = {"tls.crt": b64("certificate"), "tls.key": b64("key")}
    made: dict[str, Object] = {
        "empty": {},
        "password": {"data": {"password": b64("hunter2")}},
        "text": {"data": {"payload": b64("hunter2")}},
        "nothing": {"data": {"payload": ""}},
        "json": {"data": {"payload": b64('{"password": "hunter2"}')}},
        "nested": {"data": {"payload": b64("[" * 20_000)}},
        "half a payload": {"data": {"payload": b64('{"version": "2.15.0", "timestamp": ""}')}},
        "copied annotations": {
            "metadata": {"annotations": COPIED},
            "data": {"payload": b64("hunter2"), "password": b64("hunter2")},
        },
        "annotations alone": {
            "metadata": {"annotations": COPIED},
            "data": {"password": b64("hunter2")},
        },
        "telemetry and more": {"data": {"payload": b64(payload), "password": b64("hunter2")}},
        "owned telemetry": {
            "metadata": {"ownerReferences": [OWNER]},
            "data": {"payload": b64(payload)},
        },
        "immutable": {"immutable": True, "data": {"payload": b64("hunter2")}},
        "immutable and empty": {"immutable": True},
        "certificate": {"type": "kubernetes.io/tls", "data": certificate},
        "registry": {
            "type": "kubernetes.io/dockerconfigjson",
            "data": {".dockerconfigjson": b64("{}")},
        },
        "bootstrap token": {
            "type": "bootstrap.kubernetes.io/token",
            "data": {"token-id": b64("abcdef"), "token-secret": b64("0123456789abcdef")},
        },
        "helm release": {"type": "helm.sh/release.v1", "data": {"release": b64("H4sI")}},
        "kind of its own": {"type": "theirs", "data": {"payload": b64(payload)}},
    }
    return made


SECRETS = sorted(others(b""))
TOUCHED_BY_CONFIGURATION = {"text", "json", "nested", "half a payload", "copied annotations"}


def create(bench: Bench, secret: Object) -> Object:
    metadata = {"name": NAME, "labels": {"app": "theirs"}, **secret.get("metadata", {})}
    return bench.oracle.create(bench.collection, {**secret, "metadata": metadata})


@pytest.mark.parametrize("takeover", [False, True])
@pytest.mark.parametrize("kind", SECRETS)
async def test_secret_of_others_that_a_request_names_is_not_touched_and_not_described(
    bench: Bench, kind: str, takeover: bool
) -> None:
    before = create(bench, others(bench.payload(2).body)[kind])
    epochs: list[int] = []
    exporter = bench.exporter(
        requested=True, takeover=takeover, quiet_period_s=0.0, saw_epoch=epochs.append
    )
    messages = set()
    for bench.elapsed_s in (0.0, 3600.0, 90_000.0):
        messages.add(str(await refused(ConflictError, Reason.NOT_TELEMETRY, bench.send(exporter))))
    said = (
        f"Secret {bench.namespace}/{NAME} exists and isn't telemetry: nothing was written; name"
        " another Secret, or delete this one if it isn't needed"
    )
    assert messages == {said}
    assert bench.read() == before
    assert epochs == []


@pytest.mark.parametrize("takeover", [False, True])
@pytest.mark.parametrize("kind", sorted(TOUCHED_BY_CONFIGURATION))
async def test_payload_of_others_that_is_no_telemetry_is_never_overruled(
    bench: Bench, kind: str, takeover: bool
) -> None:
    before = create(bench, others(b"")[kind])
    exporter = bench.exporter(takeover=takeover, quiet_period_s=0.0)
    for bench.elapsed_s in (0.0, 3600.0, 90_000.0):
        await refused(ConflictError, Reason.NOT_TELEMETRY, bench.send(exporter), "isn't telemetry")
    assert bench.read() == before


@pytest.mark.parametrize("kind", ["scc", "fleet", "rancher"])
async def test_telemetry_of_others_is_overruled_for_a_request_only_with_takeover(
    bench: Bench, kind: str
) -> None:
    facts = replace(
        snapshot(),
        detail=FleetDetail((), ()),
        totals=Totals(roles=RoleCounts(0, 0, 0, 0)._asdict()),
    )
    body = {
        "scc": bench.payload(2).body,
        "fleet": fleet_renderer()(facts, Delivery(EPOCH_S, 1, 0)).body,
        "rancher": orjson.dumps({**json.loads(bench.payload().body), "managedClusters": None}),
    }[kind]
    before = create(bench, {"data": {"payload": b64(body)}})
    exporter = bench.exporter(requested=True, quiet_period_s=0.0)
    for bench.elapsed_s in (0.0, 3600.0, 90_000.0):
        await refused(
            ConflictError,
            Reason.FIELD_CONFLICT,
            bench.send(exporter),
            "nothing was written, as takeover isn't set in [secret_requests]",
        )
    assert bench.read() == before
    assert await bench.send(bench.exporter(requested=True, takeover=True)) is Outcome.WRITTEN
    assert bench.document()["version"] == "2.15.0"
    assert bench.read()["metadata"]["labels"] == {"app": "theirs"}


async def test_payload_without_an_owner_is_not_taken_for_a_request(bench: Bench) -> None:
    """Ownership can be wiped; what a field holds is then what is left to judge by."""
    create(bench, {"data": {"payload": b64(bench.payload(2).body)}})
    bench.oracle.patch(bench.path, {"metadata": {"managedFields": [{}]}})
    before = bench.read()
    await refused(ConflictError, Reason.FIELD_CONFLICT, bench.send(bench.exporter(requested=True)))
    assert bench.read() == before


async def test_secret_of_a_request_that_we_made_is_healed_whatever_was_taken_out(
    bench: Bench,
) -> None:
    exporter = bench.exporter(requested=True)
    await bench.send(exporter)
    bench.oracle.patch(
        bench.path,
        {
            "metadata": {"finalizers": ["theirs.example/f"], "annotations": {"theirs": "yes"}},
            "data": {"payload": None, "theirs": b64("theirs")},
        },
    )
    assert await bench.send(exporter) is Outcome.WRITTEN
    assert sorted(bench.read()["data"]) == ["payload", "theirs"]
    assert bench.read()["metadata"]["finalizers"] == ["theirs.example/f"]


async def test_secret_of_a_request_whose_payload_others_replaced_is_left_to_them(
    bench: Bench,
) -> None:
    exporter = bench.exporter(requested=True, quiet_period_s=0.0)
    await bench.send(exporter)
    bench.write_foreign(b"hunter2")
    before = bench.read()
    for bench.elapsed_s in (0.0, 3600.0):
        await refused(ConflictError, Reason.FIELD_CONFLICT, bench.send(exporter))
    assert bench.read() == before


@pytest.mark.parametrize("takeover", [False, True])
@pytest.mark.parametrize("kind", ["empty", "password", "text", "telemetry and more"])
async def test_secret_that_others_create_meanwhile_stays_as_they_made_it(
    bench: Bench, kind: str, takeover: bool
) -> None:
    """No apply can demand that there be no Secret: what it added is taken out again."""
    theirs = others(bench.payload(2).body)[kind]
    plain, first = bench.client, itertools.count()
    made: list[Object] = []

    def meddle() -> None:
        if next(first) == 0:
            made.append(create(bench, theirs))

    bench.client = Interloper(plain, meddle)
    exporter = bench.exporter(requested=True, takeover=takeover)
    with pytest.raises(ConflictError):
        await bench.send(exporter)
    assert _without_bookkeeping(bench.read()) == _without_bookkeeping(made[0])
    bench.client = plain
    await refused(
        ConflictError,
        Reason.NOT_TELEMETRY,
        bench.send(bench.exporter(requested=True, takeover=takeover)),
    )


@pytest.mark.parametrize("requested", [False, True])
async def test_secret_that_turns_into_another_before_the_forced_write_is_not_overruled(
    bench: Bench, requested: bool
) -> None:
    create(bench, {"data": {"payload": b64(bench.payload(2).body)}})
    calls = itertools.count()

    def meddle() -> None:
        if next(calls) == 1:
            bench.oracle.delete(bench.path)
            create(bench, {"data": {"payload": b64("hunter2")}})

    plain, bench.client = bench.client, Interloper(bench.client, meddle)
    exporter = bench.exporter(requested=requested, takeover=True)
    await refused(RetryableError, Reason.CONFLICT, bench.send(exporter))
    assert bench.read()["data"] == {"payload": b64("hunter2")}
    bench.client = plain
    again = bench.exporter(requested=requested, takeover=True)
    await refused(ConflictError, Reason.NOT_TELEMETRY, bench.send(again))


def _without_bookkeeping(secret: Object) -> Any:
    """All of a Secret but who has written when."""
    metadata = {
        key: value
        for key, value in secret["metadata"].items()
        if key not in {"managedFields", "resourceVersion"}
    }
    return json.loads(json.dumps({**secret, "metadata": metadata}))
