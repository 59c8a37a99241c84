"""What the whole daemon sends of features, settings and clusters, while they change under it."""

import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from telemetryd.demo.catalogue import PRIVATE_MARK
from telemetryd.export.payloads.fleet_document import fleet_schema
from tests.daemon.test_reload_process import Reloading, exporter, running
from tests.support import starter
from tests.support.embedded import FleetServer, serve_fleet

FEATURES = "features.management.cattle.io"
SETTINGS = "settings.management.cattle.io"
CLUSTERS = "clusters.management.cattle.io"
SCC = exporter("scc")
BOTH = SCC + exporter("fleet", format="fleet")
OTHER_UUID = "1b2f6b4e-90ab-4f8e-b1c7-2f1e2a3b4c5d"
VALIDATOR = Draft202012Validator(fleet_schema(), format_checker=Draft202012Validator.FORMAT_CHECKER)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FleetServer]:
    """A fleet at rest."""
    with serve_fleet(tmp_path_factory.mktemp("embedded")) as fleet:
        yield fleet


@pytest.fixture(scope="module")
def reloading(tmp_path_factory: pytest.TempPathFactory, server: FleetServer) -> Iterator[Reloading]:
    """A daemon that sends both payloads; each test puts back what it changes."""
    with running(tmp_path_factory.mktemp("daemon"), server, BOTH) as reloading:
        for name in ("scc", "fleet"):
            reloading.daemon.wait_for(name, lambda name=name: sent(server, name), 30)  # type: ignore[misc]
        yield reloading


def sent(server: FleetServer, name: str) -> dict[str, Any]:
    """The document that an exporter has written; empty before the first."""
    document = server.payload(f"s-{name}") or {}
    if name == "fleet" and document:
        VALIDATOR.validate(document)
    return document


def flags(server: FleetServer) -> tuple[set[str], set[str]]:
    """The features that each payload tells of."""
    scc, fleet = (sent(server, name).get("feature_flags", []) for name in ("scc", "fleet"))
    assert scc == sorted(scc)
    assert fleet == sorted(fleet)
    return set(scc), set(fleet)


def expect_flag(reloading: Reloading, server: FleetServer, name: str, on: bool) -> None:
    def shown() -> bool:
        return all((name in sent) is on for sent in flags(server))

    reloading.daemon.wait_for(f"{name} {'on' if on else 'off'}", shown, 30)


def feature(server: FleetServer, name: str, **changes: Any) -> dict[str, Any]:
    """A feature as it is held, with other values of `spec.value` or of its status."""
    held = server.get(FEATURES, name)
    assert held is not None
    spec = {"value": changes.pop("value", held["spec"]["value"])}
    return {**held, "spec": spec, "status": {**held["status"], **changes}}


def test_feature_flags_follow_their_objects_by_ranchers_rules(
    reloading: Reloading, server: FleetServer
) -> None:
    before = {name: feature(server, name) for name in ("legacy", "harvester", "rke2")}
    edition = server.get(SETTINGS, "server-version-type")
    assert edition is not None
    expect_flag(reloading, server, "legacy", on=False)
    for name in ("harvester", "rke2", "turtles", "provisioningv2", "cluster-autoscaling"):
        expect_flag(reloading, server, name, on=True)
    try:
        # In one go: a value, a locked value against it, and an object that goes: the default holds.
        server.put(feature(server, "legacy", value=True))
        server.put(feature(server, "harvester", value=True, lockedValue=False))
        server.remove(FEATURES, "rke2")
        # A build that isn't Prime's; and an object of a feature that is listed without.
        server.put({**edition, "value": "community"})
        server.put(
            {
                **before["legacy"],
                "metadata": {"name": "turtles"},
                "status": {**before["legacy"]["status"], "default": True},
                "spec": {"value": False},
            }
        )
        for name in ("legacy", "rke2"):
            expect_flag(reloading, server, name, on=True)
        for name in ("harvester", "cluster-autoscaling", "turtles"):
            expect_flag(reloading, server, name, on=False)
    finally:
        for held in (*before.values(), edition):
            server.put(held)
        server.remove(FEATURES, "turtles")
    expect_flag(reloading, server, "legacy", on=False)
    for name in ("harvester", "rke2", "turtles", "cluster-autoscaling"):
        expect_flag(reloading, server, name, on=True)


def test_settings_are_read_by_value_and_else_by_default(
    reloading: Reloading, server: FleetServer
) -> None:
    version = server.get(SETTINGS, "server-version")
    url = server.get(SETTINGS, "server-url")
    assert version is not None
    assert url is not None

    def expect(raw: str, normalised: str, server_url: str, *, turtles: bool) -> None:
        def shown() -> bool:
            scc, fleet = sent(server, "scc"), sent(server, "fleet")
            return (
                (scc["version"], scc["subscription"]["version"]) == (normalised, raw)
                and scc["subscription"]["server_url"] == server_url
                and fleet["installation"]["version"] == raw
                and fleet["installation"]["server_url"] == server_url
                and all(("turtles" in listed) is turtles for listed in flags(server))
            )

        reloading.daemon.wait_for(raw, shown, 30)

    try:
        server.put({**version, "value": "v2.9.4-rc.1", "default": "dev"})
        server.put({**url, "value": "", "default": "https://default.example.com"})
        expect("v2.9.4-rc.1", "2.9.4", "https://default.example.com", turtles=False)
        server.put({**version, "value": "", "default": "v2.13.1"})
        server.put({**url, "value": "https://value.example.com"})
        expect("v2.13.1", "2.13.1", "https://value.example.com", turtles=True)
    finally:
        server.put(version)
        server.put(url)
    expect(version["value"], version["value"].removeprefix("v"), url["value"], turtles=True)


def cluster_ids(server: FleetServer) -> set[str]:
    return {row.get("id", "") for row in sent(server, "fleet")["clusters"]}


def test_clusters_keep_their_ids_and_one_made_again_has_another(
    reloading: Reloading, server: FleetServer
) -> None:
    ids = cluster_ids(server)
    assert len(ids) == 6
    body = json.dumps(sent(server, "fleet"))
    assert PRIVATE_MARK not in body
    local = server.get(CLUSTERS, "local")
    assert local is not None
    again = {**local, "metadata": {"name": "local", "uid": OTHER_UUID}}
    (upstream_id,) = (row["id"] for row in sent(server, "fleet")["clusters"] if row["upstream"])
    try:
        server.put(again)
        reloading.daemon.wait_for("another id", lambda: cluster_ids(server) != ids, 30)
        assert ids - cluster_ids(server) == {upstream_id}
    finally:
        server.put(local)
    reloading.daemon.wait_for("the former id", lambda: cluster_ids(server) == ids, 30)


def test_privacy_and_identity_change_what_is_sent_by_a_reload(
    reloading: Reloading, server: FleetServer
) -> None:
    daemon = reloading.daemon
    ids, scc = cluster_ids(server), sent(server, "scc")
    url = scc["subscription"]["server_url"]
    assert url.startswith("http://127.0.0.1:")

    def urls() -> tuple[str, str]:
        return (
            sent(server, "scc")["subscription"]["server_url"],
            sent(server, "fleet")["installation"]["server_url"],
        )

    daemon.configure('[privacy]\nserver_url = "omit"\ncluster_ids = "omit"\n' + BOTH)
    reloading.expect("success")
    (line,) = reloading.lines("privacy.server_url changed")
    assert "exporter" not in line["changes"], "no exporter starts again"
    daemon.wait_for(
        "neither URL nor ids", lambda: (urls(), cluster_ids(server)) == (("", ""), {""}), 30
    )
    assert url not in json.dumps([sent(server, name) for name in ("scc", "fleet")])
    sent_again = '[privacy]\nserver_url = "send"\ncluster_ids = "anonymous"\n'
    daemon.configure(f'{sent_again}[identity]\ninstall_uuid = "{OTHER_UUID}"\n' + BOTH)
    reloading.expect("success")
    daemon.wait_for(
        "other ids",
        lambda: (
            sent(server, "fleet")["installation"]["install_uuid"] == OTHER_UUID
            and cluster_ids(server).isdisjoint(ids | {""})
        ),
        30,
    )
    assert len(cluster_ids(server)) == len(ids)
    daemon.configure(BOTH)
    reloading.expect("success")
    daemon.wait_for("as before", lambda: (urls(), cluster_ids(server)) == ((url, url), ids), 30)


def test_fleet_exporter_can_come_later_and_go_again(
    tmp_path: Path, server: FleetServer, reloading: Reloading
) -> None:
    files = exporter("late", directory=str(tmp_path / "late"), format="fleet")
    latest = tmp_path / "late" / "latest"
    with running(tmp_path, server, SCC.replace("s-scc", "s-early")) as early:
        early.daemon.wait_for("SCC alone", lambda: server.payload("s-early"), 30)
        early.daemon.configure(SCC.replace("s-scc", "s-early") + files)
        early.expect("success")
        early.daemon.wait_for("the fleet too", latest.exists, 30)
        document = json.loads(latest.read_bytes())
        VALIDATOR.validate(document)
        assert early.daemon.metric('telemetryd_payload_schema_valid{exporter="late"}') == 1
        assert facts(document) == facts(sent(server, "fleet"))
        printed = payload_command(server, tmp_path)
        assert facts(printed) == facts(document)
        assert printed["delivery"]["sequence"] > document["delivery"]["sequence"]
        early.daemon.configure(SCC.replace("s-scc", "s-early"))
        early.expect("success")
        assert not early.lines("exporter failing")


def facts(document: dict[str, Any]) -> dict[str, Any]:
    """A document without its delivery, whose digest stays."""
    return {**document, "delivery": document["delivery"]["digest"]}


def payload_command(server: FleetServer, home: Path) -> dict[str, Any]:
    """What `telemetryd payload` prints."""
    result = starter.run(
        *("payload", "--format", "fleet"),
        env={**os.environ, "HOME": str(home), "KUBECONFIG": str(server.kubeconfig)},
    )
    assert result.returncode == 0, result.stderr
    document: dict[str, Any] = json.loads(result.stdout)
    return document


def test_an_unchanged_fleet_is_not_written_again_whatever_the_sequence(
    reloading: Reloading, server: FleetServer
) -> None:
    def version() -> str:
        found = server.get("secrets", "s-fleet", "cattle-telemetry-system")
        assert found is not None
        return str(found["metadata"]["resourceVersion"])

    unchanged = 'telemetryd_exporter_runs_total{exporter="fleet",result="unchanged"}'
    value: Callable[[], float] = lambda: reloading.daemon.metric(unchanged) or 0  # noqa: E731
    begun, before = value(), version()
    reloading.daemon.wait_for("three more runs", lambda: value() >= begun + 3, 30)
    assert version() == before
    delivery = sent(server, "fleet")["delivery"]
    assert 0 < delivery["sequence"] <= time.time() * 1000
    assert delivery["epoch"] == 0
