"""Every mistake in a kubeconfig is named with file, key and mend, and nothing secret in it."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from telemetryd.config.settings import KubernetesConfig
from telemetryd.errors import ConfigError, Problem
from telemetryd.kube.client import KubeClient
from telemetryd.kube.kubeconfig import choose
from telemetryd.stats import KubeStats
from tests.kube.certificates import Authority

pytestmark = pytest.mark.anyio

SECRET = "SENTINEL-secret"


def document(**changes: Any) -> dict[str, Any]:
    body: dict[str, Any] = {
        "current-context": "it",
        "contexts": [{"name": "it", "context": {"cluster": "c", "user": "u"}}],
        "clusters": [{"name": "c", "cluster": {"server": "https://127.0.0.1:1"}}],
        "users": [{"name": "u", "user": {"token": SECRET}}],
    }
    return body | changes


def cluster(**body: Any) -> dict[str, Any]:
    return document(clusters=[{"name": "c", "cluster": {"server": "https://127.0.0.1:1"} | body}])


def user(**body: Any) -> dict[str, Any]:
    return document(users=[{"name": "u", "user": body}])


CA = "clusters[name=c].cluster."
USER = "users[name=u].user."


@pytest.mark.parametrize(
    ("content", "key", "says"),
    [
        (b"", "", "empty"),
        (b"# nothing\n", "", "empty"),
        (b"token: [SENTINEL-secret", "", "not YAML (line 1)"),
        (b"\xff\xfe\xfa", "", "not YAML"),
        (b"&a [*a, *b]", "", "not YAML"),
        (b"just text", "", "not a mapping"),
        (b"[]", "", "not a mapping"),
        (b"{}", "current-context", "name a context"),
        (document(**{"current-context": ""}), "current-context", "name a context"),
        (document(**{"current-context": "other"}), "contexts", "'other'; there are: it"),
        (document(contexts={}), "contexts", "list"),
        (document(contexts=[7]), "contexts[0].name", "name"),
        (document(clusters=[{"name": "c", "cluster": 7}]), "clusters[name=c].cluster", "mapping"),
        (document(clusters=[]), "contexts[name=it].context.cluster", "no cluster 'c'"),
        (document(users=None), "contexts[name=it].context.user", "no user 'u'"),
        (cluster(server=""), CA + "server", "URL"),
        (cluster(server=7), CA + "server", "URL"),
        (cluster(server="127.0.0.1:6443"), CA + "server", "https://"),
        (cluster(server="https://[::1"), CA + "server", "https://"),
        (cluster(server=f"https://me:{SECRET}@host"), CA + "server", "without user"),
        (cluster(**{"certificate-authority": "no.crt"}), CA + "certificate-authority", "no.crt"),
        (cluster(**{"certificate-authority": "empty"}), CA + "certificate-authority", "empty"),
        (cluster(**{"certificate-authority": "junk"}), CA + "certificate-authority", "PEM"),
        (cluster(**{"certificate-authority": 7}), CA + "certificate-authority", "path"),
        (
            cluster(**{"certificate-authority-data": "%%"}),
            CA + "certificate-authority-data",
            "base64",
        ),
        (cluster(**{"certificate-authority-data": "AAAA"}), CA + "certificate-authority", "PEM"),
        (user(token=f"{SECRET} x"), USER + "token", "not a token"),
        (user(tokenFile="no.token"), USER + "tokenFile", "can't be read"),
        (user(tokenFile="empty"), USER + "tokenFile", "empty"),
        (user(tokenFile="words"), USER + "tokenFile", "no token"),
        (user(tokenFile="."), USER + "tokenFile", "can't be read"),
        (user(**{"client-certificate": "good.crt"}), USER + "client-key", "both"),
        (user(**{"client-key": "good.key"}), USER + "client-certificate", "both"),
        (
            user(**{"client-certificate": "good.crt", "client-key": "no.key"}),
            USER + "client-key",
            "can't be read",
        ),
        (
            user(**{"client-certificate": "good.crt", "client-key": "other.key"}),
            USER + "client-certificate",
            "key values mismatch",
        ),
        (
            user(**{"client-certificate": "good.crt", "client-key": "locked.key"}),
            USER + "client-certificate",
            "not encrypted",
        ),
        (
            user(**{"client-certificate-data": "AAAA", "client-key-data": "AAAA"}),
            USER + "client-certificate",
            "PEM",
        ),
        (user(exec=7), USER + "exec", "mapping"),
        (user(exec={"command": "x"}), USER + "exec.apiVersion", "given"),
        (user(exec={"apiVersion": "x"}), USER + "exec.command", "given"),
        (user(exec={"apiVersion": "x", "command": "./no"}), USER + "exec", "can't be run"),
        (
            user(exec={"apiVersion": "x", "command": "false"}),
            USER + "exec",
            "status 1",
        ),
        (user(exec={"apiVersion": "x", "command": "echo", "args": [SECRET]}), USER + "exec", "no"),
        (user(exec={"apiVersion": "x", "command": "true", "env": [7]}), USER + "exec", "can't"),
        (user(**{"auth-provider": {"name": "oidc"}}), USER + "auth-provider", "can't use"),
    ],
)
async def test_mistake_is_a_config_error_with_file_key_and_mend(
    tmp_path: Path, content: bytes | dict[str, Any], key: str, says: str
) -> None:
    authority = Authority(tmp_path)
    authority.issue("good")
    authority.issue("other")
    (tmp_path / "empty").write_text(" \n")
    (tmp_path / "words").write_text("two words")
    (tmp_path / "junk").write_text("junk")
    (tmp_path / "locked.key").write_text(
        "-----BEGIN ENCRYPTED PRIVATE KEY-----\n"
        "MIHsMFcGCSqGSIb3DQEFDTBKMCkGCSqGSIb3DQEFDDAcBAgk\n"
        "-----END ENCRYPTED PRIVATE KEY-----\n"
    )
    path = tmp_path / "config"
    path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    with pytest.raises(ConfigError) as caught:
        async with KubeClient.connect(KubernetesConfig(kubeconfig=str(path)), KubeStats()):
            pass
    (problem,) = caught.value.problems
    assert (problem.where, problem.key) == (str(path), key)
    assert says in problem.message
    assert SECRET not in str(caught.value)


async def test_missing_file_is_a_config_error(tmp_path: Path) -> None:
    config = KubernetesConfig(kubeconfig=str(tmp_path / "no"))
    with pytest.raises(ConfigError, match="No such file"):
        async with KubeClient.connect(config, KubeStats()):
            pass


async def test_nothing_configured_at_all_is_a_config_error(tmp_path: Path) -> None:
    for environ in ({}, {"KUBECONFIG": str(tmp_path / "no")}):
        with pytest.raises(ConfigError, match="no kubeconfig found"):
            async with KubeClient.connect(
                KubernetesConfig(), KubeStats(), environ={"HOME": str(tmp_path), **environ}
            ):
                pass


@pytest.mark.parametrize(
    ("token", "ca", "where", "says"),
    [
        (None, "", "token", "can't be read"),
        ("", "", "token", "no token"),
        ("two words", "", "token", "no token"),
        ("t", None, "ca.crt", "can't be loaded"),
        ("t", "", "ca.crt", "can't be loaded"),
        ("t", "junk", "ca.crt", "can't be loaded"),
    ],
)
async def test_broken_service_account_is_a_config_error(
    tmp_path: Path, token: str | None, ca: str | None, where: str, says: str
) -> None:
    for name, content in (("token", token), ("ca.crt", ca)):
        if content is not None:
            (tmp_path / name).write_text(content)
    environ = {
        "HOME": str(tmp_path),
        "KUBERNETES_SERVICE_HOST": "10.0.0.1",
        "KUBERNETES_SERVICE_PORT": "443",
    }
    with pytest.raises(ConfigError) as caught:
        async with KubeClient.connect(
            KubernetesConfig(), KubeStats(), environ=environ, service_account=str(tmp_path)
        ):
            pass
    (problem,) = caught.value.problems
    assert problem.where == str(tmp_path / where)
    assert says in problem.message


async def test_pod_talks_to_the_service_of_its_environment(tmp_path: Path) -> None:
    ca = Authority(tmp_path).ca
    ca.rename(tmp_path / "ca.crt")
    (tmp_path / "token").write_text("t\n")
    environ = {"KUBERNETES_SERVICE_HOST": "fd00::1", "KUBERNETES_SERVICE_PORT": "443"}
    async with KubeClient.connect(
        KubernetesConfig(), KubeStats(), environ=environ, service_account=str(tmp_path)
    ) as client:
        assert client.server == "https://[fd00::1]:443"


async def test_two_problems_are_both_told(tmp_path: Path) -> None:
    path = tmp_path / "config"
    body = cluster(server="") | {"users": [{"name": "u", "user": {"tokenFile": "no"}}]}
    path.write_text(json.dumps(body))
    with pytest.raises(ConfigError) as caught:
        choose([str(path)], None)
    assert [problem.key for problem in caught.value.problems] == [CA + "server", USER + "tokenFile"]


async def test_first_of_several_files_has_its_way_and_paths_are_relative_to_theirs(
    tmp_path: Path,
) -> None:
    first, second = tmp_path / "a" / "config", tmp_path / "b" / "config"
    for path in (first, second):
        path.parent.mkdir()
        (path.parent / "token").write_text(path.parent.name)
    first.write_text(
        json.dumps(
            {
                "current-context": "it",
                "users": [{"name": "u", "user": {"tokenFile": "token", "token": ""}}],
            }
        )
    )
    second.write_text(json.dumps(document(**{"current-context": "other"})))
    chosen = choose([str(first), str(second)], None)
    assert chosen.context == "it"
    assert chosen.user.body == {"tokenFile": str(tmp_path / "a" / "token")}
    assert chosen.cluster.file == str(second)


async def test_named_context_goes_before_the_current_one(tmp_path: Path) -> None:
    path = tmp_path / "config"
    body = document()
    body["contexts"].append({"name": "anonymous", "context": {"cluster": "c"}})
    path.write_text(json.dumps(body))
    assert choose([str(path)], "anonymous").user.body == {}
    with pytest.raises(ConfigError) as caught:
        choose([str(path)], "none")
    expected = Problem(str(path), "contexts", "no context 'none'; there are: anonymous, it")
    assert caught.value.problems == (expected,)


async def test_kubeconfig_variable_may_name_missing_files_beside_one_that_is_there(
    tmp_path: Path,
) -> None:
    path = tmp_path / "config"
    path.write_text(json.dumps(cluster(server="http://127.0.0.1:1/k8s/clusters/c-1/")))
    environ = {"KUBECONFIG": f"{tmp_path / 'no'}{os.pathsep}{path}", "HOME": str(tmp_path)}
    async with KubeClient.connect(KubernetesConfig(), KubeStats(), environ=environ) as client:
        assert client.server == "http://127.0.0.1:1/k8s/clusters/c-1"
        assert SECRET not in repr(client)
