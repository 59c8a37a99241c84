"""docs/security.md: each example is taken by what it is for, and its numbers are true."""

import json
import os
import re
import shutil
import signal
from pathlib import Path
from typing import Any

import aiohttp
import anyio
import pytest
import yaml

from telemetryd.config import parse_config
from telemetryd.serve.http.connection import LONGEST_LINE_BYTES, MOST_HEADERS, ConnectionLimits
from telemetryd.serve.http.reviews import ALLOWED_S, DENIED_S, MOST_REVIEWS, REVIEW_S, Reviews
from telemetryd.serve.http.security import LOOK_S, OPEN_PATHS
from telemetryd.serve.http.server import MOST_ANSWERS, MOST_WAITING, TAKING_S
from tests.deploy.kustomize import DEPLOY, build
from tests.serve.guarded import guarded, tls
from tests.serve.http.test_reviews import ApiServer
from tests.support.certificates import Authority
from tests.support.daemon import free_port

TEXT = (DEPLOY.parent / "docs" / "security.md").read_text()
TOKEN_FILE = "/var/run/secrets/kubernetes.io/serviceaccount/token"


def examples(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", TEXT, flags=re.DOTALL)


SCRAPES = [text for text in examples("yaml") if text.startswith("scrape_configs:")]


def documents() -> list[Any]:
    load: Any = yaml.safe_load_all
    return [each for text in examples("yaml") if text not in SCRAPES for each in load(text)]


@pytest.mark.parametrize("text", examples("toml"))
def test_configuration_is_valid(text: str) -> None:
    assert parse_config(text, "docs/security.md", {}).server.tls_cert_file


def test_configuration_of_the_overlay_is_the_documented_one() -> None:
    (configured,) = [obj for obj in build("overlays/kubernetes-auth") if obj["kind"] == "ConfigMap"]
    assert examples("toml")[1] in configured["data"]["config.toml"]


def local(text: str, folder: Path, port: int) -> dict[str, Any]:
    """A scrape configuration with its files in the folder, and a server on loopback to scrape."""
    for place in ("/etc/prometheus/telemetryd", TOKEN_FILE.removesuffix("/token")):
        text = text.replace(place, str(folder))
    load: Any = yaml.safe_load
    (job,) = load(text)["scrape_configs"]
    job.pop("kubernetes_sd_configs", None)  # which Debian's Prometheus is built without
    job["static_configs"] = [{"targets": [f"127.0.0.1:{port}"]}]
    if "server_name" in job["tls_config"]:
        job["tls_config"]["server_name"] = "127.0.0.1"
    return {"global": {"scrape_interval": "1s"}, "scrape_configs": [job]}


def program(name: str) -> str:
    path = shutil.which(name)
    if path is None:
        missing = f"{name} isn't installed (Debian package prometheus)"
        assert os.environ.get("CI") != "true", missing
        pytest.skip(missing)
    return path


async def health(api: str) -> tuple[str, str]:
    """How the only target fares, and its last error."""
    try:
        async with aiohttp.ClientSession() as session, session.get(f"{api}/targets") as response:
            targets = (await response.json())["data"]["activeTargets"]
    except aiohttp.ClientError:
        return "", ""
    return (targets[0]["health"], targets[0]["lastError"]) if targets else ("", "")


@pytest.mark.anyio
@pytest.mark.parametrize("text", SCRAPES)
async def test_prometheus_scrapes_with_each_example_and_not_without_its_credential(
    text: str, tmp_path: Path
) -> None:
    authority = Authority(tmp_path)
    pair = authority.issue("server")
    authority.issue("client")
    (tmp_path / "token").write_text("the-token")
    tokens = "authorization" in text
    cluster = ApiServer(tokens={"the-token": {"username": "prometheus"}})
    config = tls(pair, client_ca=None if tokens else authority.ca, tokens=tokens)
    file = tmp_path / "prometheus.yml"
    port = free_port()
    command = [
        program("prometheus"),
        f"--config.file={file}",
        f"--storage.tsdb.path={tmp_path}/data",
        f"--web.listen-address=127.0.0.1:{port}",
    ]
    async with guarded(authority, config, reviews=Reviews(cluster)) as served:
        document = local(text, tmp_path, served.port)
        file.write_text(json.dumps(document))
        checked = await anyio.run_process([program("promtool"), "check", "config", str(file)])
        assert b"SUCCESS" in checked.stdout
        (job,) = document["scrape_configs"]
        job.pop("relabel_configs", None)  # of what is discovered
        file.write_text(json.dumps(document))
        with (tmp_path / "log").open("wb") as log:
            async with await anyio.open_process(command, stdout=log, stderr=log) as process:
                try:
                    await until_fares(port, "up", "")
                    job.pop("authorization", None)
                    job["tls_config"].pop("cert_file", None)
                    job["tls_config"].pop("key_file", None)
                    file.write_text(json.dumps(document))
                    process.send_signal(signal.SIGHUP)
                    await until_fares(port, "down", "401 Unauthorized")
                finally:
                    process.terminate()
                    await process.wait()


async def until_fares(port: int, how: str, error: str) -> None:
    seen = ("", "")
    with anyio.move_on_after(30):
        while True:
            seen = await health(f"http://127.0.0.1:{port}/api/v1")
            if seen[0] == how and error in seen[1]:
                return
            await anyio.sleep(0.1)
    raise AssertionError(seen)


def test_role_that_is_bound_is_that_of_the_overlay() -> None:
    (binding,) = [each for each in documents() if each["kind"] == "ClusterRoleBinding"]
    (role,) = [
        obj
        for obj in build("overlays/kubernetes-auth")
        if (obj["kind"], obj["metadata"]["name"]) == ("ClusterRole", binding["roleRef"]["name"])
    ]
    assert role["rules"] == [{"nonResourceURLs": ["/metrics"], "verbs": ["get"]}]


def test_certificate_goes_where_the_pod_looks_for_it() -> None:
    (certificate,) = [each for each in documents() if each["kind"] == "Certificate"]
    (deployment,) = [
        obj for obj in build("overlays/kubernetes-auth") if obj["kind"] == "Deployment"
    ]
    (volume,) = [
        each for each in deployment["spec"]["template"]["spec"]["volumes"] if each["name"] == "tls"
    ]
    assert certificate["spec"]["secretName"] == volume["secret"]["secretName"]
    assert certificate["metadata"]["namespace"] == deployment["metadata"]["namespace"]
    (name,) = certificate["spec"]["dnsNames"]
    assert f"server_name: {name}" in TEXT


def test_numbers_are_those_of_the_code() -> None:
    limits = ConnectionLimits()
    told = " ".join(TEXT.split())
    for number in (
        f"for the handshake | {limits.request_timeout_s:g} s |",
        f"until it is let in or refused | {limits.request_timeout_s:g} s |",
        f"for its answer to be made | {limits.making_timeout_s:g} s |",
        f"to take an answer | {limits.answer_timeout_s:g} s |",
        f"an idle connection | {limits.keep_alive_s:g} s |",
        f"handshakes included | {limits.connections} |",
        f"there are {limits.connections} connections",
        f"{limits.head_bytes // 1024} KiB together, at most {MOST_HEADERS} headers",
        f"headers of {LONGEST_LINE_BYTES} bytes each",
        f"hold at most {limits.connections * limits.head_bytes >> 20} MiB",
        f"in its first {limits.grace_s:g} s",
        f"others have waited for | {TAKING_S:g} s |",
        f"are sent | {MOST_ANSWERS}; {MOST_WAITING} more requests wait",
        f"kept for {ALLOWED_S:g} s where it lets in, for {DENIED_S:g} s where it doesn't",
        f"at most {MOST_REVIEWS} are under way",
        f"doesn't answer within {REVIEW_S:g} s",
        f"looks at them every {LOOK_S:g} s",
    ):
        assert number in told, number
    for path in OPEN_PATHS:
        assert f"`{path}`" in TEXT
