"""The reports of the health endpoints."""

from telemetryd.serve.http.health import HealthReport, liveness, readiness
from tests.serve.facts import NODES, informer_status


def test_readiness_waits_for_configuration_and_every_informer() -> None:
    synced, unsynced = informer_status(), informer_status(synced=False, resource="x.y")
    assert readiness(config_applied=True, required=[synced]).ok
    assert readiness(config_applied=True, required=[]).ok
    assert not readiness(config_applied=False, required=[synced]).ok
    assert not readiness(config_applied=True, required=[synced, unsynced]).ok


def test_report_reads_as_kubernetes_does() -> None:
    report = readiness(
        config_applied=True,
        required=[
            informer_status(),
            informer_status(resource="x.y", synced=False),
            informer_status(resource="z", synced=False, last_error="forbidden:\nno list"),
        ],
    )
    assert report.render("readyz") == (
        "[+]config ok\n"
        f"[+]informer/{NODES} ok\n"
        "[-]informer/x.y not synced: first list\n"
        "[-]informer/z not synced: forbidden: no list\n"
        "readyz check failed\n"
    )
    assert HealthReport({"a": ""}).render("livez") == "[+]a ok\nlivez check passed\n"


def test_liveness_names_what_stalled() -> None:
    assert liveness(loop_alive=True, scheduler_alive=True).ok
    assert not liveness(loop_alive=False, scheduler_alive=True).ok
    report = liveness(loop_alive=True, scheduler_alive=False)
    assert report.render("livez").splitlines()[1] == "[-]scheduler stalled"


def test_readiness_waits_for_the_source_to_be_known() -> None:
    report = readiness(config_applied=True, required=[], unsettled="source (discovery)")
    assert report.render("readyz") == (
        "[+]config ok\n[-]source waiting for source (discovery)\nreadyz check failed\n"
    )
