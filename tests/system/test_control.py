"""`telemetryd ctl cache --verify` against a daemon that watches the real API server."""

import hashlib
import json
import tempfile
from pathlib import Path

from tests.apiserver.admin import Admin
from tests.apiserver.crds import NODES, collection
from tests.apiserver.fixtures import namespace, rancher_node
from tests.apiserver.process import ApiServer
from tests.support.control import ctl
from tests.support.daemon import TOP_LEVEL, Daemon

RESOURCE = "nodes.management.cattle.io"
CLUSTER = "control-c"


def test_cache_equals_a_fresh_list_of_the_real_api_server(
    apiserver: ApiServer, admin: Admin, tmp_path: Path
) -> None:
    nodes = collection(NODES, CLUSTER)
    admin.create("/api/v1/namespaces", namespace(CLUSTER))
    for number in range(7):
        admin.create(nodes, rancher_node(CLUSTER, f"m-{number}"))
    with tempfile.TemporaryDirectory(prefix="td-", dir="/tmp") as short:
        daemon = Daemon(
            tmp_path,
            apiserver.kubeconfig(tmp_path / "kubeconfig"),
            f'control_socket = "{short}/control.sock"\n',
            f"{TOP_LEVEL}exporters = []\n",
        )
        try:
            daemon.wait_for("ready", daemon.ready, 90)
            admin.delete(f"{nodes}/m-3")
            result = ctl("cache", RESOURCE, "--verify", config=daemon.config_file)
            assert (result.returncode, result.stderr) == (0, "")
            document = json.loads(result.stdout)
            keys = sorted(
                f"{item['metadata']['namespace']}/{item['metadata']['name']}"
                for item in admin.list(collection(NODES))
            )
            assert document["objects"] == document["verification"]["listed"] == len(keys) >= 6
            assert document["keys_sha256"] == hashlib.sha256("\n".join(keys).encode()).hexdigest()
            assert int(document["resource_version"]) > 0
        finally:
            status = daemon.stop()
            for number in (0, 1, 2, 4, 5, 6):
                admin.delete(f"{nodes}/m-{number}")
    assert status == 0
