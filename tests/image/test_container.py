"""The image as the Deployment of `deploy/` runs it, on a real API server with RBAC on.

Only `make image-test` runs this: it needs a container engine.
"""

import http.client
import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.apiserver.admin import Admin
from tests.apiserver.process import ApiServer
from tests.deploy.installed import Installed
from tests.deploy.kustomize import NAMESPACE
from tests.image.engine import REVISION, Engine
from tests.support.daemon import free_port
from tests.support.waiting import until
from tests.system.rancher import Rancher, facts, recount

pytestmark = [pytest.mark.image, pytest.mark.timeout(1800)]

VARIANT = ("air-gapped",)  # what the base does, and a folder that is written to
NAME = "telemetryd-under-test"
ACCOUNT = "/var/run/secrets/kubernetes.io/serviceaccount"
USER = 65532
DRAIN_S = 20.0


class Container:
    """A running one, with what Kubernetes would mount into its pod."""

    def __init__(self, engine: Engine, image: str, folder: Path, installed: Installed) -> None:
        self.engine = engine
        self.port = free_port()
        self.state = folder / "state"
        (deployment,) = [obj for obj in installed.objects if obj["kind"] == "Deployment"]
        (container,) = deployment["spec"]["template"]["spec"]["containers"]
        account, etc = folder / "account", folder / "etc"
        for made in (account, etc, self.state):
            made.mkdir()
            os.chown(made, USER, USER)
        (account / "token").write_text(installed.token)
        (account / "ca.crt").write_bytes(installed.ca_file.read_bytes())
        (account / "namespace").write_text(NAMESPACE)
        (etc / "config.toml").write_text(installed.config())
        address = urlsplit(installed.url)
        environ = {entry["name"]: entry["value"] for entry in container["env"]}
        environ |= {
            "KUBERNETES_SERVICE_HOST": str(address.hostname),
            "KUBERNETES_SERVICE_PORT": str(address.port),
            "TELEMETRYD_LISTEN": f"127.0.0.1:{self.port}",
        }
        options = [f"--env={name}={value}" for name, value in environ.items()]
        options += [
            f"--volume={account}:{ACCOUNT}:ro",
            f"--volume={etc}:/etc/telemetryd:ro",
            f"--volume={self.state}:/var/lib/telemetryd",
            # As memory, like the Deployment's volumes.
            "--tmpfs=/run/telemetryd:mode=0777",
            "--tmpfs=/tmp:mode=1777",
        ]
        engine.run(
            "run",
            "--detach",
            f"--name={NAME}",
            "--network=host",
            "--read-only",
            "--cap-drop=all",
            "--security-opt=no-new-privileges",
            *options,
            image,
            *container["args"],
        )

    def exec(self, *command: str) -> str:
        return self.engine.run("exec", NAME, *command)

    def get(self, path: str) -> tuple[int, str]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            connection.request("GET", path)
            response = connection.getresponse()
            return response.status, response.read().decode()
        except OSError:
            return 0, ""
        finally:
            connection.close()

    def processes(self) -> list[dict[str, str]]:
        """What the kernel says of each process in it."""
        first = self.engine.inspect("container", NAME)["State"]["Pid"]
        namespace = Path(f"/proc/{first}/ns/pid").readlink()
        found = []
        for process in Path("/proc").glob("[0-9]*"):
            try:
                if (process / "ns" / "pid").readlink() == namespace:
                    lines = (process / "status").read_text().splitlines()
                    found.append(
                        {
                            key: value.strip()
                            for key, value in (line.split(":", 1) for line in lines)
                        }
                    )
            except OSError:  # it ended meanwhile, or is nobody's to look at
                continue
        return found


@pytest.fixture(scope="module")
def rancher(admin: Admin) -> Iterator[Rancher]:
    with Rancher.built(admin, clusters=3, nodes=2) as fleet:
        yield fleet


@pytest.fixture(scope="module")
def container(
    engine: Engine,
    image: str,
    rancher: Rancher,
    admin: Admin,
    apiserver: ApiServer,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Container]:
    folder = tmp_path_factory.mktemp("container")
    installed = Installed(admin, apiserver, folder, VARIANT)
    engine.attempt("rm", "--force", NAME)
    try:
        yield Container(engine, image, folder, installed)
    finally:
        engine.attempt("rm", "--force", NAME)
        installed.remove()


def test_container_does_the_whole_job_and_leaves_no_trace(
    container: Container,
    rancher: Rancher,
    engine: Engine,
    image: str,
    say: Callable[[str], None],
) -> None:
    def written() -> bool:
        payload = rancher.payload()
        return payload is not None and facts(payload) == recount(rancher.admin)

    until(lambda: container.get("/readyz")[0] == 200, "it is ready")
    until(written, "the Secret is true")
    until((container.state / "archive" / "latest").exists, "a snapshot is kept")
    assert (
        'telemetryd_exporter_runs_total{exporter="scc",result="success"}'
        in container.get("/metrics")[1]
    )
    assert container.exec(*engine.healthcheck(image)).splitlines()[-1:] != ["failed"]
    assert f'revision="{REVISION}"' in container.get("/metrics")[1]
    assert "source rancher" in container.exec("telemetryd", "ctl", "status")
    doctor = container.exec("telemetryd", "doctor", "--config", "/etc/telemetryd/config.toml")
    assert "0 FAIL" in doctor

    processes = container.processes()
    assert processes
    for process in processes:
        assert process["Uid"].split() == [str(USER)] * 4
        assert process["Gid"].split() == [str(USER)] * 4
        assert int(process["CapEff"], 16) == int(process["CapBnd"], 16) == 0
        assert process["NoNewPrivs"] == "1"
    memory_mib = int(processes[0]["VmRSS"].split()[0]) / 1024

    refused = engine.attempt("exec", NAME, "python", "-c", "open('/opt/telemetryd/x', 'w')")
    assert "Read-only file system" in refused.stdout
    changed = [line for line in engine.run("diff", NAME).splitlines() if line[:1] in "ACD"]
    mounted = ("/etc", "/var", "/run", "/tmp", "/dev", "/proc", "/sys")
    strange = [line for line in changed if not line.split(" ", 1)[1].startswith(mounted)]
    assert not strange, changed
    kept = sorted(str(file.relative_to(container.state)) for file in container.state.rglob("*"))
    assert {file.lstat().st_uid for file in container.state.rglob("*")} == {USER}
    assert "archive/latest" in kept
    # As the component says that snapshots are fetched.
    snapshot = json.loads(container.exec("cat", "/var/lib/telemetryd/archive/latest"))
    assert facts(snapshot) == recount(rancher.admin)
    listed = container.exec("sh", "-c", "tar -C /var/lib/telemetryd -c archive | tar -t")
    assert "archive/latest" in listed.splitlines()

    begun = time.monotonic()
    engine.run("stop", "--time=30", NAME)
    took_s = time.monotonic() - begun
    state = engine.inspect("container", NAME)["State"]
    assert state["ExitCode"] == 0
    say(f"\nresident {memory_mib:.0f} MiB; {len(processes)} process(es), none as root")
    say(f"written: {changed} of the root, {kept} of the state folder")
    say(f"stopped in {took_s:.1f} s")
