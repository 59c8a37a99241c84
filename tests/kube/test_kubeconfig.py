"""Every mistake in a kubeconfig is named with file, key and fix, and nothing secret in it."""

import base64
import json
import logging
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
from tests.support.certificates import Authority

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
ISSUER = {"idp-issuer-url": "https://127.0.0.1:1", "client-id": "x"}
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
        (b"", "current-context", "name a context"),
        (b"# nothing\n", "current-context", "name a context"),
        (b"token: [SENTINEL-secret", "", "not YAML (line 2)"),
        (b"\xff\xfe\xfa", "", "not YAML"),
        (b"&a [*a, *b]", "", "not YAML"),
        (b"just text", "", "not a mapping"),
        (b"[]", "", "not a mapping"),
        (b"{}", "current-context", "name a context"),
        (document(**{"current-context": ""}), "current-context", "name a context"),
        (document(**{"current-context": "other"}), "contexts", "'other'; there are: it"),
        (document(contexts={}), "contexts", "must be a list"),
        (document(contexts=[7]), "contexts[0]", "mapping"),
        (document(clusters=[{"name": "c", "cluster": 7}]), "clusters[name=c].cluster", "mapping"),
        (document(clusters=[]), "contexts[name=it].context.cluster", "no cluster 'c'"),
        (document(users=None), "contexts[name=it].context.user", "no user 'u'"),
        (cluster(server=""), CA + "server", "URL"),
        (cluster(server=7), CA + "server", "must be text"),
        (cluster(server="https://[::1"), CA + "server", "https://"),
        (cluster(server=f"https://me:{SECRET}@host"), CA + "server", "has credentials"),
        (cluster(**{"certificate-authority": "no.crt"}), CA + "certificate-authority", "No such"),
        (cluster(**{"certificate-authority": "empty"}), CA + "certificate-authority", "empty"),
        (cluster(**{"certificate-authority": "junk"}), CA + "certificate-authority", "PEM"),
        (cluster(**{"certificate-authority": 7}), CA + "certificate-authority", "must be text"),
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
        (user(**{"client-certificate": "good.crt"}), USER + "client-key", "needs its key"),
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
        (user(exec=plugin("x", apiVersion="")), USER + "exec.apiVersion", "given"),
        (user(exec=plugin("")), USER + "exec.command", "given"),
        (user(exec=plugin("y", apiVersion="x")), USER + "exec.apiVersion", "one of"),
        (user(exec=plugin("./no")), USER + "exec.command", "can't be run (No such file"),
        (user(exec=plugin("./good.crt")), USER + "exec.command", "can't be run (Permission"),
        (user(exec=plugin("./script")), USER + "exec.command", "can't be run (Exec format"),
        (user(exec=plugin("a\0b")), USER + "exec.command", "can have such a name"),
        (user(exec=plugin("true", args=7)), USER + "exec.args", "must be a list"),
        (user(exec=plugin("true", args=[7])), USER + "exec.args[0]", "must be text"),
        (user(exec=plugin("true", args=["a\0b"])), USER + "exec.args", "NUL"),
        (user(exec=plugin("true", env=[7])), USER + "exec.env[0]", "mapping"),
        (user(exec=plugin("true", env=[{"value": "x"}])), USER + "exec.env", "a name and a value"),
        (
            user(exec=plugin("true", env=[{"name": "X", "value": 7}])),
            USER + "exec.env[name=X].value",
            "must be text",
        ),
        (user(**{"auth-provider": 5}), USER + "auth-provider", "mapping"),
        (user(**{"auth-provider": {"name": "azure"}}), PROVIDER + "name", "must be oidc"),
        (user(**{"auth-provider": {"name": "gcp"}}), PROVIDER + "name", "gke-gcloud-auth-plugin"),
        (user(**{"auth-provider": {}}), PROVIDER + "name", "must be oidc"),
        (oidc(**ISSUER), PROVIDER + "config.id-token", "must be given"),
        (oidc(**ISSUER, **{"id-token": SECRET}), PROVIDER + "config.id-token", "JSON Web Token"),
        (oidc(**ISSUER, **{"id-token": 7}), PROVIDER + "config.id-token", "must be text"),
        (
            oidc(**{"refresh-token": SECRET, "client-id": "x", "client-secret": SECRET}),
            PROVIDER + "config.idp-issuer-url",
            "must be given",
        ),
        (cluster(**{"insecure-skip-tls-verify": "false"}), CA + SKIP, "true or false, without"),
        (cluster(**{"insecure-skip-tls-verify": "yes"}), CA + SKIP, "true or false, without"),
        (cluster(**{"insecure-skip-tls-verify": 1}), CA + SKIP, "true or false, without"),
        (cluster(**{"tls-server-name": 5}), CA + "tls-server-name", "must be text"),
        (cluster(**{"tls-server-name": "a..b"}), CA + "tls-server-name", "host name"),
        (cluster(**{"tls-server-name": ".b"}), CA + "tls-server-name", "host name"),
        (cluster(**{"proxy-url": 8080}), CA + "proxy-url", "must be text"),
        (cluster(**{"proxy-url": "garbage"}), CA + "proxy-url", "http or https proxy"),
        (cluster(**{"proxy-url": f"socks5://{SECRET}@h"}), CA + "proxy-url", "SOCKS"),
        (cluster(**{"proxy-url": f"http://me:{SECRET}\N{EURO SIGN}@h"}), CA + "proxy-url", "%XX"),
        (cluster(server="https://ho st"), CA + "server", "spaces"),
        (cluster(server="https://host "), CA + "server", "spaces"),
        (user(token=["a"]), USER + "token", "must be text"),
        (user(token=5), USER + "token", "must be text"),
        (user(token="\r\n"), USER + "token", "not a token"),
        (user(username="me", password=5), USER + "password", "must be text"),
        (user(username="me", password=SECRET, token=SECRET), USER + "token", "two ways"),
        (user(password=SECRET, token=SECRET), USER + "token", "two ways"),
        (user(username="me", tokenFile="one"), USER + "tokenFile", "two ways"),
        (user(tokenFile="x\0y"), USER + "tokenFile", "can't be read"),
        (user(tokenFile="x" * 5000), USER + "tokenFile", "can't be read (File name too long"),
        (user(tokenFile="pipe"), USER + "tokenFile", "not a regular file"),
        (user(tokenFile="/dev/zero"), USER + "tokenFile", "not a regular file"),
        (cluster(**{"certificate-authority": "pipe"}), CA + "certificate-authority", "regular"),
        (user(**{"as": "a\nb"}), USER + "as", "control character"),
        (user(**{"as-groups": ["x"]}), USER + "as", "as-groups can't be used without it"),
        (user(**{"as-uid": "x"}), USER + "as", "as-uid can't be used without it"),
        (user(**{"as-user-extra": {"x": ["y"]}}), USER + "as", "without it"),
        (user(**{"as": "x", "as-groups": "y"}), USER + "as-groups", "must be a list"),
        (document(kind="List"), "kind", '"Config"'),
        (document(kind="config"), "kind", '"Config"'),
        (document(apiVersion="v2"), "apiVersion", '"v1"'),
        (document(apiVersion=1), "apiVersion", "must be text"),
        (b"#" + b"x" * 16 * 1024 * 1024, "", "larger than 16 MiB"),
    ],
)
async def test_mistake_is_a_config_error_with_file_key_and_fix(
    tmp_path: Path, content: bytes | dict[str, Any], key: str, says: str
) -> None:
    authority = Authority(tmp_path)
    authority.issue("good")
    authority.issue("other")
    (tmp_path / "empty").write_text(" \n")
    (tmp_path / "words").write_text("two words")
    (tmp_path / "one").write_text("one")
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


async def test_two_problems_are_both_reported(tmp_path: Path) -> None:
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


@pytest.mark.parametrize(
    "other", [b"", b"# nothing\n", b"null\n", b"---\n---\n", b"{}", b'{"contexts": [null]}', None]
)
async def test_file_that_says_nothing_is_overlooked_among_others(
    tmp_path: Path, other: bytes | None
) -> None:
    good, empty = tmp_path / "good", tmp_path / "other"
    good.write_text(json.dumps(document()))
    if other is not None:
        empty.write_bytes(other)
    for paths in ([good, empty, good], [empty, good], [good, "/dev/null", ""]):
        environ = {"KUBECONFIG": os.pathsep.join(map(str, paths)), "HOME": "/"}
        async with KubeClient.connect(KubernetesConfig(), KubeStats(), environ=environ) as client:
            assert client.server == "https://127.0.0.1:1"


@pytest.mark.parametrize(
    "changes",
    [
        {"users": [{"name": "u", "user": {}}, {"user": {"token": "x"}}]},
        {"contexts": [None, *document()["contexts"]]},
        {"contexts": [*document()["contexts"], {"name": "x", "context": {"cluster": "no"}}]},
        {"clusters": [*document()["clusters"], {"name": "x", "cluster": {"proxy-url": "no"}}]},
        {"clusters": [*document()["clusters"], {"name": "x"}]},
        {"users": [*document()["users"], {"name": "x", "user": {"exec": {}}}]},
        {"kind": "Config", "apiVersion": "v1", "preferences": {"colors": True}},
        {"kind": None, "apiVersion": "/v1", "preferences": None},
        {"other": [1], "extensions": [{"name": "x", "extension": {"y": [1]}}]},
    ],
)
async def test_what_is_odd_elsewhere_in_the_file_does_not_matter(
    tmp_path: Path, changes: dict[str, Any]
) -> None:
    path = tmp_path / "config"
    path.write_text(json.dumps(document(**changes)))
    assert choose([str(path)], None).cluster.body["server"] == "https://127.0.0.1:1"


@pytest.mark.parametrize(
    ("changes", "key", "says"),
    [
        ({"contexts": document()["contexts"] * 2}, "contexts[name=it]", "two of this name"),
        ({"clusters": document()["clusters"] * 2}, "clusters[name=c]", "two of this name"),
        ({"users": [*document()["users"], None, None]}, "users[2]", "two of this name"),
        (
            {"clusters": [*document()["clusters"], {"name": "x", "cluster": {"server": 5}}]},
            "clusters[name=x].cluster.server",
            "must be text",
        ),
        ({"users": [*document()["users"], {"name": True}]}, "users[1].name", "must be text"),
        ({"preferences": []}, "preferences", "must be a mapping"),
        (
            {"extensions": [{"name": "x", "extension": 1}, {"name": "x"}]},
            "extensions",
            "two extensions of one name",
        ),
    ],
)
async def test_what_client_go_can_not_decode_elsewhere_in_the_file_is_an_error(
    tmp_path: Path, changes: dict[str, Any], key: str, says: str
) -> None:
    path = tmp_path / "config"
    path.write_text(json.dumps(document(**changes)))
    with pytest.raises(ConfigError) as caught:
        choose([str(path)], None)
    (problem,) = caught.value.problems
    assert (problem.where, problem.key) == (str(path), key)
    assert says in problem.message


async def test_names_that_are_dates_are_text_and_numbers_are_not(tmp_path: Path) -> None:
    path = tmp_path / "config"
    text = (
        "current-context: 2024-01-01\n"
        "contexts: [{name: 2024-01-01, context: {cluster: 1:30, user: u}}]\n"
        "clusters: [{name: 1:30, cluster: {server: 'https://h', insecure-skip-tls-verify: yes}}]\n"
        "users: [{name: u, user: {token: t}}, {name: NAME}]\n---\nanother: [\n"
    )
    path.write_text(text.replace("NAME", "2024-02-30x"))
    chosen = choose([str(path)], None)
    assert chosen.context == "2024-01-01"
    assert chosen.cluster.body["insecure-skip-tls-verify"] is True
    path.write_text(text.replace("NAME", "2024"))
    with pytest.raises(ConfigError, match=r"users\[1\].name: must be text"):
        choose([str(path)], None)


async def test_kubeconfig_of_15_mib_is_read(tmp_path: Path) -> None:
    path = tmp_path / "config"
    ca = "QUJD" * 15_000
    others = [{"name": f"c{i}", "cluster": {"certificate-authority-data": ca}} for i in range(275)]
    path.write_text(json.dumps(document(clusters=[*others, *document()["clusters"]])))
    assert 15 < path.stat().st_size / 1024 / 1024 < 16
    assert choose([str(path)], None).context == "it"


@pytest.mark.parametrize(
    ("body", "left"),
    [
        ({"token": "t", "exec": plugin("x")}, {"token"}),
        ({"tokenFile": "token", "exec": plugin("x")}, {"tokenFile"}),
        ({"username": "me", "exec": plugin("x")}, {"username", "password"}),
        ({"username": "me"}, {"username", "password"}),
        ({"password": "secret"}, set()),
        ({"password": "secret", "tokenFile": "token"}, {"tokenFile"}),
        ({"client-key": "no.key"}, set()),
        ({"token": "t", "tokenFile": "no"}, {"token", "tokenFile"}),
    ],
)
async def test_login_in_the_kubeconfig_goes_before_a_plugin_and_halves_do_not_count(
    tmp_path: Path, body: dict[str, Any], left: set[str]
) -> None:
    (tmp_path / "token").write_text("t")
    path = tmp_path / "config"
    path.write_text(json.dumps(user(**body)))
    assert choose([str(path)], None).user.body.keys() == left


async def test_certificate_by_path_and_as_data_is_refused_as_by_kubectl(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    authority.issue("good")
    data = base64.b64encode((tmp_path / "good.crt").read_bytes()).decode()
    pair = {"client-certificate": "good.crt", "client-key": "good.key"}
    path = tmp_path / "config"
    for key in ("client-certificate", "client-key"):
        path.write_text(json.dumps(user(**pair, **{f"{key}-data": data})))
        with pytest.raises(ConfigError, match=f"user.{key}: is there beside {key}-data"):
            choose([str(path)], None)
    ca = {"certificate-authority-data": data}
    path.write_text(json.dumps(cluster(**ca, **{"certificate-authority": "good.crt"})))
    with pytest.raises(ConfigError, match="is there beside certificate-authority-data"):
        choose([str(path)], None)
    path.write_text(json.dumps(cluster(**ca, **{"insecure-skip-tls-verify": True})))
    with pytest.raises(ConfigError, match="insecure-skip-tls-verify: can't be used with"):
        choose([str(path)], None)


async def test_no_credential_is_sent_to_another_machine_without_tls(tmp_path: Path) -> None:
    path = tmp_path / "config"
    body = user(token=SECRET, **{"as": "other"})
    body["clusters"][0]["cluster"]["server"] = "api.example.test"
    path.write_text(json.dumps(body))
    chosen = choose([str(path)], None)
    assert chosen.cluster.body["server"] == "http://api.example.test"
    assert chosen.user.body == {"as": "other"}


@pytest.fixture
def pod(tmp_path: Path) -> dict[str, str]:
    """The environment of a pod whose service account is mounted in the folder."""
    Authority(tmp_path).ca.rename(tmp_path / "ca.crt")
    (tmp_path / "token").write_text("t\n")
    return {
        "KUBERNETES_SERVICE_HOST": "10.0.0.1",
        "KUBERNETES_SERVICE_PORT": "443",
        "HOME": str(tmp_path),
    }


@pytest.mark.parametrize(
    ("content", "server", "why"),
    [
        (json.dumps(document()), "https://127.0.0.1:1", "why=$KUBECONFIG is set"),
        ("", "https://10.0.0.1:443", "and $KUBECONFIG names no file with content"),
        (None, "https://10.0.0.1:443", "and $KUBECONFIG names no file with content"),
    ],
)
async def test_kubeconfig_that_is_named_goes_before_the_account_of_the_pod(
    tmp_path: Path,
    pod: dict[str, str],
    caplog: pytest.LogCaptureFixture,
    content: str | None,
    server: str,
    why: str,
) -> None:
    caplog.set_level(logging.INFO)
    path = tmp_path / "config"
    if content is not None:
        path.write_text(content)
    environ = pod | {"KUBECONFIG": str(path)}
    async with KubeClient.connect(
        KubernetesConfig(), KubeStats(), environ=environ, service_account=str(tmp_path)
    ) as client:
        assert client.server == server
    (line,) = (record.getMessage() for record in caplog.records if "login chosen" in record.msg)
    assert server in line
    assert why in line
    warned = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert len(warned) == (server != "https://127.0.0.1:1")


async def test_broken_kubeconfig_that_is_named_in_a_pod_is_an_error(
    tmp_path: Path, pod: dict[str, str]
) -> None:
    path = tmp_path / "config"
    path.write_text("[]")
    for environ in (pod | {"KUBECONFIG": str(path)}, pod | {"KUBECONFIG": f"{path}/x"}):
        with pytest.raises(
            ConfigError, match=rf"{path}: not a mapping|\$KUBECONFIG: can't be read"
        ):
            async with KubeClient.connect(
                KubernetesConfig(), KubeStats(), environ=environ, service_account=str(tmp_path)
            ):
                pass


async def test_default_kubeconfig_does_not_go_before_the_account_of_the_pod(
    tmp_path: Path, pod: dict[str, str]
) -> None:
    (tmp_path / ".kube").mkdir()
    (tmp_path / ".kube" / "config").write_text(json.dumps(document()))
    async with KubeClient.connect(
        KubernetesConfig(), KubeStats(), environ=pod, service_account=str(tmp_path)
    ) as client:
        assert client.server == "https://10.0.0.1:443"


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


async def test_home_that_is_a_user_no_one_knows_is_no_kubeconfig() -> None:
    with pytest.raises(ConfigError, match="no kubeconfig found"):
        async with KubeClient.connect(
            KubernetesConfig(), KubeStats(), environ={"HOME": "~nosuchuser"}
        ):
            pass


async def test_pipe_as_kubeconfig_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "config")
    with anyio.fail_after(30), pytest.raises(ConfigError, match="not a regular file"):
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
