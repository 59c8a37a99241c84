"""Exec plugins are run and read as client-go does, and leave nothing behind."""

import json
import os
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import anyio
import pytest

from telemetryd.errors import ConfigError, KubeError, Unavailable
from telemetryd.kube.client import KubeClient
from telemetryd.kube.execplugin import read_credential
from tests.informer.samples import Json
from tests.informer.scripted import answer, kubeconfig, serve
from tests.kube.test_connection import (
    VERSION,
    connected,
    failure,
    get,
    granting,
    logged,
    only,
    plugin,
)
from tests.kube.test_pem import granted, inline_ca
from tests.support.certificates import Authority, server_side
from tests.support.processes import is_gone
from tests.support.waiting import until_async

pytestmark = pytest.mark.anyio

OK = answer({"kind": "Thing"})
UNREACHABLE = "http://127.0.0.1:1"


def exec_user(folder: Path, script: str, **changes: Any) -> Json:
    user = plugin(folder / "plugin", script)
    user["exec"] |= changes
    return user


async def refusal(folder: Path, user: Json, cluster: Json | None = None) -> str:
    """What stands in the one line that ends the start."""
    config = kubeconfig(folder / "config", UNREACHABLE, user=user, cluster=cluster)
    with pytest.raises(ConfigError) as caught:
        async with connected(config):
            pass
    (line,) = str(caught.value).splitlines()
    assert "SENTINEL" not in line
    return line


BAD_ANSWERS = {
    "nothing": ("true", "printed no ExecCredential"),
    "neither JSON nor YAML": ("echo '{SENTINEL: [}'", "neither in JSON nor in YAML"),
    "a list": ("echo '[SENTINEL]'", "printed no ExecCredential"),
    "another kind": (granting(token="x").replace("ExecCredential", "Secret"), "printed a Secret"),
    "another version": (
        granting(token="SENTINEL").replace("/v1", "/v1beta1"),
        f"of {VERSION}, but of client.authentication.k8s.io/v1beta1",
    ),
    "no version": ('echo \'{"status": {"token": "SENTINEL"}}\'', f"of {VERSION}"),
    "no status": (granting(token="x").replace("status", "SENTINEL"), "without a status"),
    "nothing granted": (granting(), "neither a token nor a certificate"),
    "a token that is none": (granting(token="SENTINEL x"), "isn't a token"),
    "a number": (granting(token="x").replace('"x"', "17"), "status.token isn't text"),
    "no key": (granting(clientCertificateData="SENTINEL"), "without its key"),
    "no certificate": (granting(clientKeyData="SENTINEL"), "without its certificate"),
    "no such pair": (
        granting(clientCertificateData="SENTINEL", clientKeyData="SENTINEL"),
        "can't be used",
    ),
    "no date": (granting(token="x", expirationTimestamp="SENTINEL"), "isn't an RFC 3339 time"),
    "too much": ("head -c 2000000 /dev/zero | tr '\\0' x", "more than 1 MiB"),
}


@pytest.mark.parametrize("case", BAD_ANSWERS)
async def test_answer_that_is_wrong_ends_the_start_with_its_reason(
    tmp_path: Path, case: str
) -> None:
    script, says = BAD_ANSWERS[case]
    line = await refusal(tmp_path, plugin(tmp_path / "plugin", script))
    assert line.startswith(f"{tmp_path}/config: users[name=it].user.exec: the plugin {tmp_path}")
    assert says in line


@pytest.mark.parametrize(
    ("changes", "key", "says"),
    [
        ({"interactiveMode": None}, "interactiveMode", "must be one of Never, IfAvailable, Always"),
        ({"interactiveMode": "Sometimes"}, "interactiveMode", "must be one of"),
        ({"interactiveMode": "Always"}, "interactiveMode", "needs a terminal"),
        ({"apiVersion": "client.authentication.k8s.io/v1alpha1"}, "apiVersion", "must be one of"),
        ({"provideClusterInfo": "yes"}, "provideClusterInfo", "must be true or false"),
        (
            {"command": "no-such-plugin", "installHint": "Install it:\n  brew install it"},
            "command",
            "isn't in $PATH: Install it: brew install it",
        ),
        (
            {"command": "./gone", "installHint": "Install it"},
            "command",
            "can't be run (No such file or directory): Install it",
        ),
    ],
)
async def test_plugin_that_kubectl_refuses_is_refused_with_the_reason(
    tmp_path: Path, changes: Json, key: str, says: str
) -> None:
    user = exec_user(tmp_path, granting(token="x"), **changes)
    line = await refusal(tmp_path, user)
    assert f"users[name=it].user.exec.{key}: " in line
    assert says in line


@pytest.mark.parametrize("version", ["v1", "v1beta1"])
@pytest.mark.parametrize("mode", ["Never", "IfAvailable", None])
async def test_modes_without_a_terminal_are_taken(
    tmp_path: Path, version: str, mode: str | None
) -> None:
    if (version, mode) == ("v1", None):
        return  # refused, as tested above
    group = f"client.authentication.k8s.io/{version}"
    script = granting(token="good").replace(VERSION, group)
    async with serve() as server:
        server.others["/x"] = only(lambda: "good")
        user = exec_user(tmp_path, script, apiVersion=group, interactiveMode=mode)
        async with connected(kubeconfig(tmp_path / "config", server.url, user=user)) as client:
            await get(client)


YAML = """cat <<'END'
# a comment
apiVersion: client.authentication.k8s.io/v1
kind: ExecCredential
status:
  token: good
  expirationTimestamp: 2100-01-01T00:00:00Z
---
another: document
END"""


async def test_plugin_that_prints_yaml_is_read(tmp_path: Path) -> None:
    async with serve() as server:
        server.others["/x"] = only(lambda: "good")
        user = plugin(tmp_path / "plugin", YAML)
        async with connected(kubeconfig(tmp_path / "config", server.url, user=user)) as client:
            await get(client)


@pytest.mark.parametrize(
    ("stamp", "unix_s"),
    [
        ("2026-01-01T00:00:07Z", 1767225607.0),
        ("2026-01-01T01:00:07+01:00", 1767225607.0),
        ("2026-01-01T00:00:07.123456789Z", 1767225607.123456),
        (None, None),
    ],
)
def test_time_of_expiry_is_rfc_3339(stamp: str | None, unix_s: float | None) -> None:
    status = {"token": "x", "expirationTimestamp": stamp}
    printed = json.dumps({"apiVersion": VERSION, "status": status}, indent="\t").encode()
    assert read_credential(printed, VERSION).expires_at == unix_s


async def test_plugin_that_asks_for_the_cluster_gets_it(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    audience = {"audience": "06e3", "since": "2024-01-01"}
    cluster = {
        "server": "https://127.0.0.1:1/k8s/clusters/c-1",
        "certificate-authority": "ca.crt",
        "tls-server-name": "kubernetes",
        "proxy-url": "http://127.0.0.1:2",
        "extensions": [
            {"name": "other", "extension": {"a": "b"}},
            {"name": "client.authentication.k8s.io/exec", "extension": audience},
        ],
    }
    script = f'printf %s "$KUBERNETES_EXEC_INFO" > {tmp_path}/seen\n{granting(token="x")}'

    async def info(cluster: Json, **changes: Any) -> Any:
        user = exec_user(tmp_path, script, **changes)
        config = kubeconfig(tmp_path / "config", UNREACHABLE, user=user, cluster=cluster)
        async with connected(config):
            return json.loads((tmp_path / "seen").read_text())

    wanted = {
        "server": cluster["server"],
        "certificate-authority-data": inline_ca(authority),
        "tls-server-name": "kubernetes",
        "proxy-url": "http://127.0.0.1:2",
        "config": audience,
    }
    spec = {"interactive": False}
    document = {"kind": "ExecCredential", "apiVersion": VERSION}
    assert await info(cluster) == document | {"spec": spec}
    assert await info(cluster, provideClusterInfo=True) == document | {
        "spec": spec | {"cluster": wanted}
    }
    cluster["certificate-authority-data"] = cluster.pop("certificate-authority")
    cluster["certificate-authority-data"] = inline_ca(authority)
    assert (await info(cluster, provideClusterInfo=True))["spec"]["cluster"] == wanted
    bare = {"server": UNREACHABLE, "insecure-skip-tls-verify": True}
    assert (await info(bare, provideClusterInfo=True))["spec"]["cluster"] == bare | {"config": None}


async def test_plugin_is_found_by_our_path_and_gets_its_own_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "bin").mkdir()
    script = f'echo "$PATH $ONE $KEPT $#" > {tmp_path}/seen\n{granting(token="x")}'
    plugin(tmp_path / "bin" / "my-plugin", script)
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:{os.environ['PATH']}")
    monkeypatch.setenv("KEPT", "kept")
    user = exec_user(
        tmp_path,
        "exit 1",
        command="my-plugin",
        args=["a b", ""],
        env=[{"name": "PATH", "value": "/usr/bin:/bin"}, {"name": "ONE", "value": "1"}],
    )
    async with connected(kubeconfig(tmp_path / "config", UNREACHABLE, user=user)):
        assert (tmp_path / "seen").read_text() == "/usr/bin:/bin 1 kept 2\n"


async def test_token_of_the_kubeconfig_goes_before_the_plugin(tmp_path: Path) -> None:
    async with serve() as server:
        server.others["/x"] = only(lambda: "mine")
        user = exec_user(tmp_path, "exit 1") | {"token": "mine"}
        async with connected(kubeconfig(tmp_path / "config", server.url, user=user)) as client:
            await get(client)


@pytest.mark.parametrize("ends", [True, False])
async def test_children_of_a_plugin_end_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, ends: bool
) -> None:
    monkeypatch.setattr("telemetryd.kube.execplugin.RUN_TIMEOUT_S", 30.0 if ends else 0.5)
    # The child holds the pipe open.
    last = granting(token="good") if ends else "exec sleep 600"
    user = plugin(tmp_path / "plugin", f"sleep 600 &\necho $! > {tmp_path}/child\n{last}")
    async with serve() as server:
        server.others["/x"] = only(lambda: "good")
        async with connected(kubeconfig(tmp_path / "config", server.url, user=user)) as client:
            if ends:
                await get(client)
            else:
                assert "no answer within 0.5 s" in str(await failure(client))
            child = int((tmp_path / "child").read_text())
            await until_async(lambda: is_gone(child))


async def test_plugin_that_runs_at_the_end_is_ended(tmp_path: Path) -> None:
    script = f"echo $$ > {tmp_path}/pid\nexec sleep 600"
    config = kubeconfig(tmp_path / "config", UNREACHABLE, user=plugin(tmp_path / "plugin", script))
    pid = tmp_path / "pid"

    async def connect() -> None:
        async with connected(config):
            raise AssertionError

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(connect)
        await until_async(lambda: pid.exists() and bool(pid.read_text()))
        tasks.cancel_scope.cancel()
    await until_async(lambda: is_gone(int(pid.read_text())))


async def test_slow_plugin_is_not_run_again_by_each_request_that_can_not_wait(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("telemetryd.kube.credentials._BACKOFF_BASE_S", 0.0)
    runs, go_on = tmp_path / "runs", tmp_path / "go"
    first = granting(token="one", expirationTimestamp=soon(-1))
    slow = (
        f"echo run >> {runs}\nwhile [ ! -e {go_on} ]; do sleep 0.05; done\n{granting(token='two')}"
    )
    good = ["one"]
    async with serve() as server:
        server.others["/x"] = only(lambda: good[0])
        user = plugin(tmp_path / "plugin", first)
        monkeypatch.setattr("telemetryd.kube.credentials._RETRY_S", 0.0)
        async with connected(kubeconfig(tmp_path / "config", server.url, user=user)) as client:
            plugin(tmp_path / "plugin", slow)
            for _ in range(3):
                await get(client, timeout_s=1.0)  # the last good one stays meanwhile
            assert "no answer within" in client.login_problem
            go_on.touch()
            await until_async(lambda: client.login_problem == "")
            good[0] = "two"
            await get(client)
    assert runs.read_text() == "run\n"


def soon(seconds: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + seconds))


async def test_answer_that_becomes_wrong_leaves_the_last_good_credential(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with serve() as server:
        server.others["/x"] = only(lambda: "good")
        user = plugin(tmp_path / "plugin", granting(token="good", expirationTimestamp=soon(1)))
        async with connected(kubeconfig(tmp_path / "config", server.url, user=user)) as client:
            plugin(tmp_path / "plugin", granting(token="SENTINEL x"))

            async def asked_again() -> None:
                while not client.login_problem:
                    await get(client)
                    await anyio.sleep(0.05)

            with anyio.fail_after(30):
                await asked_again()
            await get(client)
            assert "the last good credential stays" in client.login_problem
            assert "isn't a token" in client.login_problem
    assert len(logged(caplog, "isn't a token")) == 1
    assert "SENTINEL" not in caplog.text


@pytest.mark.parametrize("times", [40, pytest.param(200, marks=pytest.mark.long)])
async def test_granted_certificate_renewed_over_and_over_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, times: int
) -> None:
    monkeypatch.setattr("telemetryd.kube.credentials._RETRY_S", 0.0)
    monkeypatch.setattr("telemetryd.kube.client._IDLE_S", 1.0)
    monkeypatch.setenv("TMPDIR", str(tmp_path / "scratch"))
    (tmp_path / "scratch").mkdir()
    authority = Authority(tmp_path)
    pairs = [authority.issue(f"client-{number}") for number in range(2)]
    tls = server_side(authority.issue("server"), client_ca=authority.ca)
    seen: list[str] = []
    cluster = {"certificate-authority": "ca.crt"}

    async def by_turns(request: Any) -> Any:
        (name,) = request.transport.get_extra_info("peercert")["subject"][0]
        seen.append(name[1])
        return await (OK if name[1] == wanted else answer({}, 401))(request)

    async with serve(tls=tls) as server:
        server.others["/x"] = by_turns
        wanted = "client-0"
        user = granted(tmp_path, pairs[0])
        config = kubeconfig(tmp_path / "config", server.url, cluster=cluster, user=user)
        async with connected(config) as client:
            await get(client)
            before = descriptors()
            for number in range(1, times + 1):
                wanted = f"client-{number % 2}"
                granted(tmp_path, pairs[number % 2])
                with anyio.fail_after(60):
                    await get_in_the_end(client)
            assert seen.count("client-1") >= times
            assert list((tmp_path / "scratch").iterdir()) == []
            with anyio.fail_after(120):  # idle connections are kept for a while
                while descriptors() > before + 5:
                    await anyio.sleep(0.5)


def descriptors() -> int:
    return len([*Path("/proc/self/fd").iterdir()])


async def get_in_the_end(client: KubeClient) -> None:
    while True:
        with suppress(KubeError):
            await get(client)
            return


async def test_first_run_that_can_not_be_waited_for_is_said(tmp_path: Path) -> None:
    config = kubeconfig(
        tmp_path / "config", UNREACHABLE, user=plugin(tmp_path / "plugin", "exit 3")
    )
    async with connected(config) as client:
        error = await failure(client)
        assert isinstance(error, Unavailable)
        assert "ended with status 3" in str(error)
