"""What arrives at real receivers, compared field by field with what the page and the status list.

Every text of every object carries a sentinel, which must arrive nowhere.
"""

import json
import os
import re
import subprocess
import sys
from base64 import b64decode
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from anyio.from_thread import start_blocking_portal

from tests.apiserver.fixtures import SENTINEL, core_node, setting
from tests.daemon.embedded import NAMESPACE, SECRETS, FleetServer, serve_fleet
from tests.export.receiver import Receiver, Request, receiving
from tests.system.daemon import Daemon

USER = "sentinel-user"
SECRET_WORDS = (SENTINEL, USER, "sentinel-pass", "sentinel-query", "sentinel-node", "customer-name")
OMIT = '[privacy]\nserver_url = "omit"\ncluster_ids = "omit"\n'
PRIVACY = {
    "all": "",
    "no-url": '[privacy]\nserver_url = "omit"\n',
    "no-ids": '[privacy]\ncluster_ids = "omit"\n',
    "neither": OMIT,
}
ODD_TEXTS = ("architecture", "operating_system", "container_runtime", "kernel_version")
TRANSPORT = {"host", "accept", "accept-encoding", "connection"}


@pytest.fixture(scope="module")
def receiver() -> Iterator[Receiver]:
    with (
        start_blocking_portal() as portal,
        portal.wrap_async_context_manager(receiving()) as receiver,
    ):
        yield receiver


@pytest.fixture(scope="module", params=["rancher", "kubernetes"])
def server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[str, FleetServer]]:
    """A fleet with sentinels; one node can't be read, and another's cluster is gone."""
    with serve_fleet(tmp_path_factory.mktemp("embedded")) as fleet:
        spoil(fleet, request.param)
        yield request.param, fleet


def spoil(fleet: FleetServer, source: str) -> None:
    """Put sentinels into every text that a person may have written."""
    odd = {
        "architecture": "sentinel-node",
        "operatingSystem": "sentinel-node\x1b",
        "containerRuntimeVersion": "containerd://1.7.1-sentinel-node",
        "kernelVersion": "5.14.0-customer-name\x00",
    }
    node = core_node("sentinel-node", roles=("worker",))
    node["status"]["nodeInfo"] |= odd
    fleet.put(node)
    fleet.put(core_node("sentinel-node-fine", roles=("controlplane", "etcd")))
    fleet.put({**core_node("sentinel-node-broken"), "status": "unreadable"})
    if source == "rancher":
        url = fleet.url.replace("://", f"://{USER}:sentinel-pass@")
        fleet.put(setting("server-url", f"{url}/?sentinel-query#sentinel-query"))
        rancher = {
            "apiVersion": "management.cattle.io/v3",
            "kind": "Node",
            "metadata": {"name": "sentinel-node", "namespace": "local", "labels": {"a": SENTINEL}},
            "spec": {"worker": True, "requestedHostname": SENTINEL},
            "status": {"internalNodeStatus": {**node["status"], "nodeInfo": odd}},
        }
        fleet.put(rancher)
        metadata = {"name": "sentinel-node-broken", "namespace": "local"}
        fleet.put({**rancher, "metadata": metadata, "status": "unreadable"})


def tables(receiver: Receiver, folder: Path) -> str:
    """One exporter of each type and format; all of them run once a second."""
    url = f"http://127.0.0.1:{receiver.port}"
    kinds = [
        {"name": f"{kind}-{form}", "type": kind, "format": form, **own}
        for form in ("scc", "fleet")
        for kind, own in (
            ("secret", {"secret": f"s-{form}"}),
            ("file", {"directory": str(folder / form)}),
            ("http", {"url": f"{url}/{form}", "splay_max": "0s"}),
        )
    ]
    kinds.append({"name": "otlp", "type": "otlp", "endpoint": f"{url}/otlp", "splay_max": "0s"})
    return "".join(
        '[[exporters]]\ninterval = "1s"\n'
        + "".join(f"{key} = {json.dumps(value)}\n" for key, value in kind.items())
        for kind in kinds
    )


def paths(value: Any, path: str = "") -> Iterator[tuple[str, bool]]:
    """Each field of a document, and whether it has a value."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from paths(inner, f"{path}.{key}" if path else key)
    elif isinstance(value, list):
        if not value:
            yield f"{path}[]", False
        for inner in value:
            yield from paths(inner, f"{path}[]")
    else:
        yield path, value not in {"", None}


def otlp_paths(document: dict[str, Any]) -> Iterator[tuple[str, bool]]:
    """Each field of an OTLP document, by the names of metrics and attributes."""
    for whole in document["resourceMetrics"]:
        for each in whole["resource"]["attributes"]:
            yield f"resource{{{each['key']}}}", bool(each["value"]["stringValue"])
        for scoped in whole["scopeMetrics"]:
            yield from paths(scoped["scope"], "scope")
            for metric in scoped["metrics"]:
                yield metric["name"], True
                for point in metric["gauge"]["dataPoints"]:
                    yield "timeUnixNano", bool(point["timeUnixNano"])
                    for each in point.get("attributes", ()):
                        yield f"{metric['name']}{{{each['key']}}}", True


def header_paths(request: Request) -> Iterator[tuple[str, bool]]:
    for name, value in request.headers.items():
        if name not in TRANSPORT and not name.startswith("content-"):
            yield f"header {name}", bool(value)


class Fields(HTMLParser):
    """The fields that the page lists, by the heading they stand under: key and state."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.by_heading: dict[str, set[tuple[str, str]]] = {}
        self._heading = self._tag = self._state = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._tag = tag
        if tag == "li":
            self._state = dict(attrs).get("class") or ""

    def handle_data(self, data: str) -> None:
        if self._tag == "h3":
            self._heading = data
        elif self._tag == "code" and self._state in {"sent", "empty", "left-out"}:
            self.by_heading.setdefault(self._heading, set()).add((data, self._state))
        self._tag = ""


class Arrived:
    """What the receivers have of each exporter, once all have something."""

    def __init__(self, fleet: FleetServer, receiver: Receiver, folder: Path) -> None:
        self._fleet, self._receiver, self._folder = fleet, receiver, folder
        self.texts: dict[str, str] = {}
        self.bodies: dict[str, bytes] = {}
        self.fields: dict[str, list[tuple[str, bool]]] = {}

    def look(self) -> bool:
        """Whether all is there."""
        for form in ("scc", "fleet"):
            if secret := self._fleet.get(SECRETS, f"s-{form}", NAMESPACE):
                notes = secret["metadata"]["annotations"]
                found = [(f"annotation {key}", bool(value)) for key, value in notes.items()]
                self._take(f"secret-{form}", b64decode(secret["data"]["payload"]), found, notes)
            latest = self._folder / form / "latest"
            if latest.exists():
                self._take(f"file-{form}", latest.read_bytes())
        for request in tuple(self._receiver.requests):
            name = request.target.removeprefix("/").split("/")[0]
            name = name if name == "otlp" else f"http-{name}"
            self._take(name, request.body, list(header_paths(request)), request.headers)
        return len(self.texts) == 7

    def _take(
        self, name: str, body: bytes, beside: list[tuple[str, bool]] | None = None, more: Any = ""
    ) -> None:
        document = json.loads(body)
        found = otlp_paths(document) if name == "otlp" else paths(document)
        self.bodies[name] = body
        self.texts[name] = body.decode() + str(more)
        self.fields[name] = [*found, *(beside or [])]

    def keys(self, name: str, *, valued: bool) -> set[str]:
        """Keys that are there, or those with a value; headers have no case."""
        return {
            key.lower() if key.startswith("header ") else key
            for key, has_value in self.fields[name]
            if has_value or not valued
        }


def preview(daemon: Daemon, fleet: FleetServer, name: str) -> bytes:
    """What `telemetryd payload --exporter` prints with the configuration of the daemon."""
    command = ["payload", "--config", str(daemon.config_file), "--exporter", name]
    done = subprocess.run(
        [sys.executable, "-m", "telemetryd", *command],
        env={**os.environ, "KUBECONFIG": str(fleet.kubeconfig)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1, done.stderr  # for one node can't be read
    assert b"incomplete: nodes" in done.stderr
    return done.stdout.removesuffix(b"\n")


def without_delivery(body: bytes) -> bytes:
    """The bytes, without the times, the sequence and the term."""
    for key in (b"timestamp", b"timeUnixNano", b"sequence", b"epoch"):
        body = re.sub(b'"%b":("[^"]*"|[0-9]+)' % key, b'"%b":0' % key, body)
    return body


@pytest.mark.parametrize("privacy", PRIVACY)
def test_what_arrives_is_what_the_page_and_the_status_list(
    server: tuple[str, FleetServer], receiver: Receiver, tmp_path: Path, privacy: str
) -> None:
    source, fleet = server
    receiver.requests.clear()
    for form in ("scc", "fleet"):
        fleet.remove(SECRETS, f"s-{form}", NAMESPACE) if fleet.payload(f"s-{form}") else None
    config = PRIVACY[privacy] + tables(receiver, tmp_path)
    daemon = Daemon(tmp_path, fleet.kubeconfig, config, kubernetes=f'source = "{source}"')
    arrived = Arrived(fleet, receiver, tmp_path)
    try:
        daemon.wait_for("something of each", arrived.look, 60)
        status = json.loads(daemon.get("/status.json")[1])
        previews = {name: preview(daemon, fleet, name) for name in ("secret-fleet", "otlp")}
        page = daemon.get("/")[1]
    finally:
        assert daemon.stop() == 0
    for name, printed in previews.items():
        assert without_delivery(printed) == without_delivery(arrived.bodies[name])
    listed = Fields(page).by_heading
    for exporter in status["exporters"]:
        name = exporter["name"]
        by_state: dict[str, set[str]] = {"sent": set(), "empty": set(), "left_out": set()}
        for field in exporter["fields"]:
            key = field["key"]
            by_state[field["state"]].add(key.lower() if key.startswith("header ") else key)
        assert arrived.keys(name, valued=True) == by_state["sent"], name
        assert arrived.keys(name, valued=False) == by_state["sent"] | by_state["empty"], name
        assert ("format" in exporter) is (name != "otlp")
        heading = next(each for each in listed if name in each.split("(")[0].split(" by ")[-1])
        shown = {(field["key"], field["state"].replace("_", "-")) for field in exporter["fields"]}
        assert listed[heading] == shown, heading
    withheld = status["snapshot"]["fleet"]["withheld_texts"]
    assert dict.fromkeys(withheld, 1) == dict.fromkeys(ODD_TEXTS, 1)
    for name, text in arrived.texts.items():
        assert not [word for word in SECRET_WORDS if word in text], name
        assert "\\u0000" not in text, name
        assert "\\u001b" not in text, name
    if source == "kubernetes":
        assert not [word for word in ("cacerts", "telemetry-opt", "rancherversion") if word in page]
