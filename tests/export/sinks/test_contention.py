"""Other writers of the Secret: seen, named, left alone, and overruled only when that is due."""

import json
from base64 import b64encode

import pytest

from telemetryd.errors import (
    ConflictError,
    PermanentError,
    Reason,
    RetryableError,
)
from telemetryd.export.exporter import Outcome
from telemetryd.export.sinks.secretobject import parse_secret
from tests.apiserver.admin import AdminError
from tests.export.bench import NAME, Bench, Interloper, refused

pytestmark = pytest.mark.anyio


async def test_timestamp_alone_that_another_made_differ_is_no_change(bench: Bench) -> None:
    exporter = bench.exporter()
    await bench.send(exporter)
    bench.elapsed_s = 30.0
    bench.write_foreign(bench.payload().body)
    before = bench.read()
    assert await bench.send(exporter) is Outcome.UNCHANGED
    assert bench.read() == before


async def test_another_writer_of_equal_content_is_seen_and_makes_no_war(bench: Bench) -> None:
    """Rancher's way: a plain Update that takes the payload over and wipes what it doesn't know."""
    exporter = bench.exporter()
    await bench.send(exporter)
    document = bench.document()
    wiped = dict.fromkeys(bench.read()["metadata"]["annotations"])
    body = json.dumps({**dict(reversed(document.items())), "timestamp": "2026-09-21T14:20:00Z"})
    bench.write_foreign(body.encode(), annotations={**wiped, "scc.cattle.io/part-of": "telemetry"})
    found = parse_secret(json.dumps(bench.read()).encode())
    assert not found.ours
    before = bench.read()
    for bench.elapsed_s in (60.0, 600.0, 3600.0):
        assert await bench.send(exporter) is Outcome.UNCHANGED
    assert bench.read() == before


async def test_another_writer_is_left_alone_until_quiet_and_then_overruled_once(
    bench: Bench,
) -> None:
    exporter = bench.exporter()
    await bench.send(exporter)
    bench.write_foreign(b'{"from":"rancher","n":1}')
    before = bench.read()
    for bench.elapsed_s in (0.0, 200.0):
        await refused(
            ConflictError,
            Reason.FIELD_CONFLICT,
            bench.send(exporter),
            f"Secret {bench.namespace}/{NAME} is also written by rancher",
            "has not changed for 300 s",
        )
        assert bench.read() == before
    bench.write_foreign(b'{"from":"rancher","n":2}')
    for bench.elapsed_s in (290.0, 310.0, 589.0):
        await refused(ConflictError, Reason.FIELD_CONFLICT, bench.send(exporter))
    bench.elapsed_s = 590.0
    assert await bench.send(exporter) is Outcome.WRITTEN
    assert bench.document()["version"] == "2.15.0"
    assert await bench.send(exporter, revision=2) is Outcome.WRITTEN
    bench.write_foreign(b'{"from":"rancher","n":3}')
    await refused(ConflictError, Reason.FIELD_CONFLICT, bench.send(exporter, revision=2))


async def test_other_writer_that_gives_the_payload_up_is_no_conflict_any_more(
    bench: Bench,
) -> None:
    exporter = bench.exporter()
    await bench.send(exporter)
    bench.write_foreign(b"{}")
    await refused(ConflictError, Reason.FIELD_CONFLICT, bench.send(exporter))
    bench.oracle.patch(bench.path, {"data": {"payload": None}})
    assert await bench.send(exporter) is Outcome.WRITTEN


async def test_another_server_side_applier_is_named(bench: Bench) -> None:
    bench.oracle.apply(
        bench.path,
        {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": NAME},
            "data": {"payload": b64encode(bench.payload(2).body).decode()},
        },
        manager="flux",
    )
    await refused(
        ConflictError, Reason.FIELD_CONFLICT, bench.send(bench.exporter()), "written by flux:"
    )


async def test_takeover_overrules_three_times_in_ten_minutes_and_then_conflicts(
    bench: Bench,
) -> None:
    exporter = bench.exporter(takeover=True)
    await bench.send(exporter)
    for number in range(3):
        bench.elapsed_s = 60.0 * number
        bench.write_foreign(b'{"n":%d}' % number)
        assert await bench.send(exporter) is Outcome.WRITTEN
    bench.write_foreign(b'{"n":3}')
    for bench.elapsed_s in (180.0, 599.0):
        await refused(
            ConflictError,
            Reason.FIELD_CONFLICT,
            bench.send(exporter),
            "after 3 takeovers within 600 s",
        )
    bench.elapsed_s = 600.0
    assert await bench.send(exporter) is Outcome.WRITTEN


async def test_immutable_secret_of_another_is_immutable_not_a_conflict(bench: Bench) -> None:
    bench.oracle.create(
        bench.collection,
        {
            "metadata": {"name": NAME},
            "immutable": True,
            "data": {"payload": b64encode(b"{}").decode()},
        },
    )
    await refused(PermanentError, Reason.IMMUTABLE, bench.send(bench.exporter()))


async def test_secret_changed_between_read_and_write_is_read_again(bench: Bench) -> None:
    exporter = bench.exporter()
    await bench.send(exporter)
    plain = bench.client
    bench.client = Interloper(
        plain, lambda: bench.oracle.patch(bench.path, {"metadata": {"labels": {"a": "b"}}})
    )
    await refused(
        RetryableError, Reason.CONFLICT, bench.send(bench.exporter(), revision=2), "changed between"
    )
    assert bench.document()["managedSystems"][0]["count"] == 1
    assert await bench.send(exporter, revision=2) is Outcome.WRITTEN


async def test_secret_deleted_between_read_and_write_is_not_made_again_by_a_stale_write(
    bench: Bench,
) -> None:
    exporter = bench.exporter()
    await bench.send(exporter)
    plain = bench.client
    bench.client = Interloper(plain, lambda: bench.oracle.delete(bench.path))
    await refused(RetryableError, Reason.CONFLICT, bench.send(bench.exporter(), revision=2))
    with pytest.raises(AdminError):
        bench.read()
    assert await bench.send(exporter, revision=2) is Outcome.WRITTEN


async def test_secret_created_between_read_and_write_is_a_conflict_not_overwritten(
    bench: Bench,
) -> None:
    plain = bench.client
    foreign = {
        "metadata": {"name": NAME},
        "data": {"payload": b64encode(b'{"other":1}').decode()},
    }
    bench.client = Interloper(plain, lambda: bench.oracle.create(bench.collection, foreign))
    await refused(ConflictError, Reason.FIELD_CONFLICT, bench.send(bench.exporter()))
    assert bench.document() == {"other": 1}


async def test_secret_changed_before_the_forced_write_is_read_again(bench: Bench) -> None:
    await bench.send(bench.exporter())
    bench.write_foreign(b"{}")
    forced = [False]

    def interfere() -> None:
        if forced[0]:
            bench.oracle.patch(bench.path, {"data": {"other": "eA=="}})
        forced[0] = True

    bench.client = Interloper(bench.client, interfere)
    exporter = bench.exporter(takeover=True)
    await refused(RetryableError, Reason.CONFLICT, bench.send(exporter))
    assert bench.document() == {}


async def test_quiet_time_of_another_writer_counts_while_its_content_is_equal(
    bench: Bench,
) -> None:
    exporter = bench.exporter()
    await bench.send(exporter)
    bench.write_foreign(bench.payload().body + b" ")
    for bench.elapsed_s in (10.0, 200.0, 320.0):
        assert await bench.send(exporter) is Outcome.UNCHANGED
    bench.write_foreign(bench.payload().body + b"  ")  # alive, though its content is the same
    assert await bench.send(exporter) is Outcome.UNCHANGED
    await refused(ConflictError, Reason.FIELD_CONFLICT, bench.send(exporter, revision=2))
    bench.elapsed_s = 621.0
    assert await bench.send(exporter) is Outcome.UNCHANGED
    assert await bench.send(exporter, revision=2) is Outcome.WRITTEN


async def test_secret_that_another_writer_lost_is_left_to_it_for_the_quiet_period(
    bench: Bench,
) -> None:
    exporter = bench.exporter()
    await bench.send(exporter)
    bench.write_foreign(b'{"n":1}')
    await refused(ConflictError, Reason.FIELD_CONFLICT, bench.send(exporter))
    bench.oracle.delete(bench.path)
    for bench.elapsed_s in (0.0, 299.0):
        await refused(
            ConflictError, Reason.FIELD_CONFLICT, bench.send(exporter), "is gone, which rancher"
        )
    with pytest.raises(AdminError):
        bench.read()
    bench.elapsed_s = 300.0
    assert await bench.send(exporter) is Outcome.WRITTEN
    bench.oracle.delete(bench.path)
    assert await bench.send(exporter) is Outcome.WRITTEN, "ours is healed at once"


async def test_equal_content_of_another_writer_is_a_conflict_for_a_request_until_takeover(
    bench: Bench,
) -> None:
    await bench.send(bench.exporter())
    bench.write_foreign(bench.payload().body + b" ")
    before = bench.read()
    await refused(
        ConflictError,
        Reason.FIELD_CONFLICT,
        bench.send(bench.exporter(requested=True)),
        "also written by rancher",
        "takeover isn't set in [secret_requests]",
    )
    exporter = bench.exporter(requested=True, takeover=True)
    assert await bench.send(exporter) is Outcome.UNCHANGED
    assert bench.read() == before
