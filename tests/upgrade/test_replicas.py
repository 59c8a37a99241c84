"""A replica of today beside one of an earlier version, by the Lease and Secret that it recorded.

`python -m tests.upgrade.mixed COMMIT` does the same with two real processes.
"""

import json
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from tests.apiserver.admin import Admin, AdminError
from tests.apiserver.process import ApiServer
from tests.support.daemon import Daemon
from tests.support.repeating import repeating
from tests.system.rancher import SECRET, Rancher
from tests.upgrade.record import ELECTION, FOLDER, LEASE, SCC

pytestmark = pytest.mark.long

RECORDED = sorted(FOLDER.glob("state-*"))
MADE_BY_SERVER = ("creationTimestamp", "managedFields", "resourceVersion", "uid")


@pytest.fixture
def rancher(admin: Admin) -> Iterator[Rancher]:
    with Rancher.built(admin, clusters=2, nodes=2) as fleet:
        try:
            yield fleet
        finally:
            for path in (LEASE, SECRET):
                delete(admin, path)


def delete(admin: Admin, path: str) -> None:
    """Deletes an object that may not be there."""
    with suppress(AdminError):
        admin.delete(path)


def recorded_object(folder: Path, name: str) -> dict[str, Any]:
    """As the earlier version wrote it, for another API server."""
    found: dict[str, Any] = json.loads((folder / name).read_text())
    for key in MADE_BY_SERVER:
        found["metadata"].pop(key, None)
    return found


def micro_time() -> str:
    return datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


@pytest.mark.parametrize("folder", RECORDED, ids=[each.name for each in RECORDED])
def test_replica_stands_by_while_an_earlier_version_leads_and_follows_it_after(
    folder: Path, apiserver: ApiServer, admin: Admin, rancher: Rancher, tmp_path: Path
) -> None:
    lease = recorded_object(folder, "lease.json")
    holder, term = (lease["spec"][key] for key in ("holderIdentity", "leaseTransitions"))
    # It can't run out while it is renewed, however busy the machine is.
    duration_s, lease["spec"]["leaseDurationSeconds"] = lease["spec"]["leaseDurationSeconds"], 600
    admin.create(LEASE.rpartition("/")[0], lease)
    # Applied as the exporter of that version does, so that its fields have that owner.
    recorded = recorded_object(folder, "secret.json")
    recorded["metadata"]["annotations"]["telemetryd/epoch"] = str(term + 6)
    admin.apply(SECRET, recorded, manager="telemetryd")
    uid = admin.get(SECRET)["metadata"]["uid"]

    def renew() -> None:
        admin.patch(LEASE, {"spec": {"renewTime": micro_time()}})

    kubeconfig = apiserver.kubeconfig(tmp_path / "kubeconfig")
    with repeating(renew, every_s=0.5):
        daemon = Daemon(tmp_path, kubeconfig, ELECTION + SCC)
        try:
            daemon.wait_for("readiness", daemon.ready, 60)
            daemon.wait_for(
                "the other's term", lambda: daemon.status()["leader"]["holder"] == holder, 60
            )
            daemon.wait_for("standby", lambda: daemon.exporter()["state"] == "standby", 60)
            before = admin.get(SECRET)
            assert before["data"] == recorded["data"]
        except BaseException:
            daemon.stop()
            raise
    admin.patch(LEASE, {"spec": {"leaseDurationSeconds": duration_s, "renewTime": micro_time()}})

    def written() -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]] | None:
        """Secret, Lease and status of one term, in which the Secret was written."""
        status, secret, spec = (
            daemon.status()["leader"],
            admin.get(SECRET),
            admin.get(LEASE)["spec"],
        )
        epochs = {secret["metadata"]["annotations"]["telemetryd/epoch"], str(status["epoch"])}
        of_one = epochs == {str(spec["leaseTransitions"])} and status["leading"]
        return (secret, spec, status) if of_one else None

    try:
        daemon.wait_for("a term", lambda: daemon.status()["leader"]["leading"], 60)
        after, now, status = daemon.wait_for("a run in it", written, 60) or ({}, {}, {})
    finally:
        assert daemon.stop() == 0, daemon.log()[-3000:]
    assert after["metadata"]["uid"] == uid, "the same Secret, updated"
    assert after["data"] != recorded["data"], "it is another fleet's"
    assert status["epoch"] > term + 6, "above the Secret's, not only the Lease's"
    assert now["holderIdentity"] != holder
    assert "conflict" not in daemon.log()
