"""The scenarios in which the API server or etcd stop, freeze, forget, or take rights away.

And that in which the daemon's own machine has nothing left to give.
"""

import resource
import shutil
import time

from tests.apiserver.crds import NODES, collection
from tests.faults.bench import Bench
from tests.faults.matrix import scenario
from tests.system.account import NAMESPACE

BINDING = f"/apis/rbac.authorization.k8s.io/v1/clusterrolebindings/{NAMESPACE}"


@scenario(1, asks_at_most=80)
def apiserver_killed_and_restarted_is_survived(bench: Bench) -> None:
    bench.apiserver.kill_apiserver()
    try:
        bench.until("it shows", bench.error)
    finally:
        bench.apiserver.start_apiserver()


@scenario(2, asks_at_most=80)
def frozen_apiserver_is_noticed_by_its_silence(bench: Bench) -> None:
    bench.apiserver.pause()
    try:
        bench.until("watches are opened again", bench.watches_asked, 100)
        assert bench.daemon.get("/livez")[0] == 200
        time.sleep(5)
    finally:
        bench.apiserver.resume()


@scenario(3, asks_at_most=60)
def stopped_etcd_is_survived(bench: Bench) -> None:
    bench.apiserver.kill_etcd()
    try:
        time.sleep(8)
        assert bench.daemon.get("/livez")[0] == 200
        assert bench.daemon.ready()
    finally:
        bench.apiserver.start_etcd()
    bench.until("etcd answers", lambda: bench.admin.list(collection(NODES)))


@scenario(5, asks_at_most=80)
def etcd_restored_from_a_backup_is_believed(bench: Bench) -> None:
    server = bench.apiserver
    data = server.ca_file.parent.parent / "etcd"
    backup = data.with_name("etcd-backup")
    server.kill_apiserver()
    server.kill_etcd()
    shutil.copytree(data, backup)
    server.start_etcd()
    server.start_apiserver()
    for number in range(8000, 8004):
        bench.rancher.add_node("local", number)
    many = len(bench.admin.list(collection(NODES)))
    bench.until("they are held", lambda: bench.informer()["objects"] == many, 60)
    server.kill_apiserver()
    server.kill_etcd()
    shutil.rmtree(data)
    backup.rename(data)
    server.start_etcd()
    server.start_apiserver()


@scenario(19, asks_at_most=60)
def rights_taken_and_given_back_are_shown_and_recovered_from(bench: Bench) -> None:
    binding = bench.admin.get(BINDING)
    held = bench.informer()["objects"]
    bench.admin.delete(BINDING)
    try:
        bench.proxy.hang_up()
        bench.until("it shows", lambda: "403" in bench.error())
        assert bench.informer()["objects"] == held
    finally:
        del binding["metadata"]["resourceVersion"], binding["metadata"]["uid"]
        bench.admin.create(BINDING.rpartition("/")[0], binding)


@scenario(54, asks_at_most=60, lists=0)
def file_descriptors_that_run_out_are_named_and_survived(bench: Bench) -> None:
    pid = bench.daemon.process.pid
    soft, hard = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    logged = len(bench.daemon.log())
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (4, hard))
    try:
        bench.proxy.cut()
        bench.until(
            "it shows", lambda: "too many open files" in bench.daemon.log()[logged:].lower()
        )
        time.sleep(3)
    finally:
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (soft, hard))
    bench.until("status is served again", lambda: bench.daemon.get("/livez")[0] == 200)
