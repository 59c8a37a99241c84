"""The API server's name gets another address while the daemon runs."""

import json
import os
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.apiserver.admin import Admin
from tests.apiserver.process import ApiServer
from tests.support.daemon import Daemon
from tests.system.partition import Partition
from tests.system.rancher import Rancher

pytestmark = pytest.mark.long

NAME = "apiserver.test"
OWN_MOUNTS = ("unshare", "--mount", "--map-root-user", "sh", "-ec")
MOUNTED = 'mount --bind "$0" /etc/hosts; exec "$@"'
NO_MOUNTS = "no mount namespace can be had here"


@pytest.fixture
def rancher(admin: Admin) -> Iterator[Rancher]:
    with Rancher.built(admin, clusters=2, nodes=2) as fleet:
        yield fleet


@pytest.fixture
def hosts(tmp_path: Path) -> Path:
    """A file that takes the place of /etc/hosts for those who are started under it."""
    file = tmp_path / "hosts"
    file.write_text("")
    tried = subprocess.run([*OWN_MOUNTS, MOUNTED, file, "true"], check=False)
    if tried.returncode:
        assert os.environ.get("CI") != "true", NO_MOUNTS
        pytest.skip(NO_MOUNTS)
    return file


def test_name_whose_address_changes_is_resolved_again(
    apiserver: ApiServer, rancher: Rancher, hosts: Path, tmp_path: Path
) -> None:
    """Two ways to the API server, on one port of two addresses, and hosts only the daemon sees."""
    target = int(apiserver.url.rpartition(":")[2])
    first = Partition(target)
    second = Partition(target, socket.create_server(("127.0.0.2", first.port)))
    kubeconfig = apiserver.kubeconfig(tmp_path / "kubeconfig")
    document = json.loads(kubeconfig.read_text())
    document["clusters"][0]["cluster"] |= {
        "server": f"https://{NAME}:{first.port}",
        "tls-server-name": "127.0.0.1",
    }
    kubeconfig.write_text(json.dumps(document))
    hosts.write_text(f"127.0.0.1 {NAME}\n")
    config = f'[[exporters]]\nname = "folder"\ntype = "file"\ndirectory = "{tmp_path}/out"\n'
    under = [*OWN_MOUNTS, MOUNTED, str(hosts)]
    daemon = Daemon(tmp_path, kubeconfig, config, under=under)
    try:
        daemon.wait_for("readiness", daemon.ready, 90)
        assert first.accepted > 0
        assert second.accepted == 0
        hosts.write_text(f"127.0.0.2 {NAME}\n")
        first.cut()
        rancher.add_node("local", 9500)
        daemon.wait_for(
            "the new node, by the other address",
            lambda: daemon.informer("nodes.management.cattle.io")["objects"] == 2 * 2 + 1,
            60,
        )
        assert second.accepted > 0
    finally:
        status = daemon.stop()
        first.close()
        second.close()
    assert status == 0, daemon.log()[-3000:]
