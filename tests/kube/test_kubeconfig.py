"""Every mistake in a kubeconfig is named with file, key and mend, and nothing secret in it."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import anyio
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
PROVIDER = USER + "auth-provider."
SKIP = "insecure-skip-tls-verify"


def plugin(command: str, **more: Any) -> dict[str, Any]:
    return {
        "apiVersion": "client.authentication.k8s.io/v1",
        "command": command,
        "interactiveMode": "Never",
    } | more


def oidc(**config: Any) -> dict[str, Any]:
    return user(**{"auth-provider": {"name": "oidc", "config": config}})


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
        (cluster(server=f"https://me:{SECRET}@host"), CA + "server", "has credentials"),
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
        (user(exec={"apiVersion": "x", "command": "y"}), USER + "exec.apiVersion", "one of"),
        (user(exec=plugin("./no")), USER + "exec.command", "can't be run (No such file"),
        (user(exec=plugin("./good.crt")), USER + "exec.command", "can't be run (Permission"),
        (user(exec=plugin("./script")), USER + "exec.command", "can't be run (Exec format"),
        (user(exec=plugin("a\0b")), USER + "exec.command", "can have such a name"),
        (user(exec=plugin("true", args=7)), USER + "exec.args", "list of text"),
        (user(exec=plugin("true", args=[7])), USER + "exec.args", "list of text"),
        (user(exec=plugin("true", env=[7])), USER + "exec.env", "a name and a value"),
        (user(exec=plugin("true", env=[{"name": "X", "value": 7}])), USER + "exec.env", "value"),
        (user(**{"auth-provider": 5}), USER + "auth-provider", "mapping"),
        (user(**{"auth-provider": {"name": "azure"}}), PROVIDER + "name", "oidc or gcp"),
        (user(**{"auth-provider": {"name": "oidc"}}), PROVIDER + "config", "mapping"),
        (oidc(), PROVIDER + "config.id-token", "must be given"),
        (oidc(**{"id-token": SECRET}), PROVIDER + "config.id-token", "JSON Web Token"),
        (
            oidc(**{"refresh-token": SECRET, "client-id": "x", "client-secret": SECRET}),
            PROVIDER + "config.idp-issuer-url",
            "must be given",
        ),
        (cluster(**{"insecure-skip-tls-verify": "false"}), CA + SKIP, "true or false, without"),
        (cluster(**{"insecure-skip-tls-verify": "yes"}), CA + SKIP, "true or false, without"),
        (cluster(**{"insecure-skip-tls-verify": 1}), CA + SKIP, "true or false, without"),
        (cluster(**{"tls-server-name": 5}), CA + "tls-server-name", "host name"),
        (cluster(**{"tls-server-name": "a..b"}), CA + "tls-server-name", "host name"),
        (cluster(**{"tls-server-name": ".b"}), CA + "tls-server-name", "host name"),
        (cluster(**{"proxy-url": 8080}), CA + "proxy-url", "http or https proxy"),
        (cluster(**{"proxy-url": "garbage"}), CA + "proxy-url", "http or https proxy"),
        (cluster(**{"proxy-url": f"socks5://{SECRET}@h"}), CA + "proxy-url", "http or https proxy"),
        (cluster(server=f"https://host/?x={SECRET}"), CA + "server", "a query"),
        (cluster(server="https://host/#x"), CA + "server", "a fragment"),
        (cluster(server="https://ho st"), CA + "server", "spaces"),
        (cluster(server="https://host "), CA + "server", "spaces"),
        (user(token=["a"]), USER + "token", "must be text"),
        (user(token=5), USER + "token", "must be text"),
        (user(token="\r\n"), USER + "token", "not a token"),
        (user(username="me"), USER + "password", "both"),
        (user(password=SECRET), USER + "username", "both"),
        (user(username="me", password=5), USER + "password", "must be text"),
        (user(tokenFile="x\0y"), USER + "tokenFile", "can't be read"),
        (user(tokenFile="x" * 5000), USER + "tokenFile", "can't be read (File name too long"),
        (user(tokenFile="pipe"), USER + "tokenFile", "not a regular file"),
        (user(tokenFile="/dev/zero"), USER + "tokenFile", "not a regular file"),
        (cluster(**{"certificate-authority": "pipe"}), CA + "certificate-authority", "regular"),
        (user(**{"as": "admin", "token": SECRET}), USER + "as", "impersonation isn't supported"),
        (user(**{"as-groups": ["x"]}), USER + "as-groups", "impersonation isn't supported"),
        (user(**{"as-uid": "x"}), USER + "as-uid", "impersonation isn't supported"),
        (user(**{"as-user-extra": {"x": ["y"]}}), USER + "as-user-extra", "isn't supported"),
        (b"# " + b"x" * 1024 * 1024, "", "larger than 1 MiB"),
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
    (tmp_path / "script").write_text("no interpreter")
    (tmp_path / "script").chmod(0o755)
    os.mkfifo(tmp_path / "pipe")
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


@contextmanager
def not_root() -> Iterator[None]:
    """As a user who may not read everything."""
    user_id = os.geteuid()
    if user_id == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(user_id)


@pytest.mark.parametrize("variable", ["HOME", "KUBECONFIG"])
async def test_closed_folder_is_named_rather_than_taken_for_empty(
    tmp_path: Path, variable: str
) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o000)
    environ = {"HOME": str(closed), "KUBECONFIG": str(closed / "x")}
    with not_root(), pytest.raises(ConfigError) as caught:
        async with KubeClient.connect(
            KubernetesConfig(), KubeStats(), environ={variable: environ[variable]}
        ):
            pass
    (problem,) = caught.value.problems
    assert problem.where.startswith(str(closed))
    assert "Permission denied" in problem.message


@pytest.mark.parametrize("path", ["~nosuchuser/x", "x" * 300, "x/" * 4000, "/dev/zero"])
async def test_path_that_can_not_be_a_kubeconfig_is_a_config_error(path: str) -> None:
    cases: tuple[tuple[KubernetesConfig, dict[str, str]], ...] = (
        (KubernetesConfig(kubeconfig=path), {}),
        (KubernetesConfig(), {"KUBECONFIG": path}),
    )
    for config, environ in cases:
        with pytest.raises(ConfigError):
            async with KubeClient.connect(config, KubeStats(), environ=environ):
                pass


async def test_home_that_is_a_user_nobody_knows_is_no_kubeconfig() -> None:
    with pytest.raises(ConfigError, match="no kubeconfig found"):
        async with KubeClient.connect(
            KubernetesConfig(), KubeStats(), environ={"HOME": "~nosuchuser"}
        ):
            pass


async def test_pipe_as_kubeconfig_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "config")
    with anyio.fail_after(5), pytest.raises(ConfigError, match="not a regular file"):
        async with KubeClient.connect(
            KubernetesConfig(kubeconfig=str(tmp_path / "config")), KubeStats()
        ):
            pass


async def test_port_of_the_pods_environment_that_is_none_is_a_config_error(tmp_path: Path) -> None:
    Authority(tmp_path).ca.rename(tmp_path / "ca.crt")
    (tmp_path / "token").write_text("t\n")
    environ = {"KUBERNETES_SERVICE_HOST": "10.0.0.1", "KUBERNETES_SERVICE_PORT": "tcp"}
    with pytest.raises(ConfigError, match="KUBERNETES_SERVICE_PORT"):
        async with KubeClient.connect(
            KubernetesConfig(), KubeStats(), environ=environ, service_account=str(tmp_path)
        ):
            pass


async def test_scheme_is_in_small_letters_and_a_token_stripped(tmp_path: Path) -> None:
    path = tmp_path / "config"
    body = cluster(server="HTTPS://Host:6443") | {
        "users": [{"name": "u", "user": {"token": f"{SECRET}\r\n"}}]
    }
    path.write_text(json.dumps(body))
    chosen = choose([str(path)], None)
    assert chosen.cluster.body["server"] == "https://Host:6443"
    assert chosen.user.body["token"] == SECRET
