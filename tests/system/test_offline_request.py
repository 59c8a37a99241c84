"""An offline request and the Secret that scc-operator asked for, of one fleet on a real server."""

from pathlib import Path

from tests.apiserver.crds import SETTINGS, collection
from tests.apiserver.fixtures import setting
from tests.apiserver.process import ApiServer
from tests.system.offlinerequest import read_offline_request, without_time
from tests.system.requests import RequestDaemon, wait_served
from tests.system.scc import Scc, demand_what_the_operator_needs
from tests.test_cli import telemetryd


def test_request_holds_what_the_operator_s_secret_holds(
    scc: Scc, serving: RequestDaemon, apiserver: ApiServer, tmp_path: Path
) -> None:
    scc.put(collection(SETTINGS), setting("server-version-type", "prime"))
    scc.ask()
    wait_served(serving, scc)
    kubeconfig = apiserver.kubeconfig(tmp_path / "kubeconfig")
    result = telemetryd("offline-request", KUBECONFIG=str(kubeconfig))
    assert (result.returncode, result.stderr) == (0, "")
    request = read_offline_request(result.stdout)
    demand_what_the_operator_needs(request["system_information"])

    def same() -> bool:
        return without_time(scc.payload() or {}) == without_time(request["system_information"])

    serving.wait_for("the Secret of the same fleet", same, 60)
    subscription = request["system_information"]["subscription"]
    assert request["product"] == {
        "identifier": subscription["product"],
        "version": "2.15.0",
        "arch": subscription["arch"],
    }
    assert subscription["product"] == "rancher-prime"
