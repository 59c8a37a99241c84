"""What arrives at real receivers, compared field by field with what the page and the status list.

Every text of every object that is read carries a sentinel, which must arrive nowhere.
"""

import json
import re
from base64 import b64decode
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from anyio.from_thread import start_blocking_portal
from jsonschema import Draft202012Validator

from telemetryd.export.payloads.formats import PAYLOAD_FORMATS
from tests.apiserver.fixtures import setting
from tests.config.test_plugins import install, telemetryd_with
from tests.daemon import thirdparty
from tests.daemon.sentinels import ASKED, BUILDERS, ESCAPE, SENTINEL, fill, spoiled
from tests.gather.test_build_info import make_certificate
from tests.support.daemon import Daemon
from tests.support.embedded import NAMESPACE, SECRETS, FleetServer, serve_fleet
from tests.support.receiver import Receiver, Request, receiving

SECRET_WORDS = (SENTINEL, "acme-internal", ESCAPE, "\\u001b", "\\x1b", "\x00", "\\u0000", "\\x00")
PRIVACY = {
    "all": "",
    "no-url": '[privacy]\nserver_url = "omit"\n',
    "no-ids": '[privacy]\ncluster_ids = "omit"\n',
    "neither": '[privacy]\nserver_url = "omit"\ncluster_ids = "omit"\n',
}
TEXTS = {"architecture", "operating_system", "container_runtime", "kernel_version", "version"}
WITHHELD = {
    "rancher": TEXTS | {"kubernetes_version", "git_hash", "provider", "driver"},
    "kubernetes": TEXTS | {"kubernetes_version"},
}
TRANSPORT = {"host", "accept", "accept-encoding", "connection"}
TARGET = ("rancher-scc-metrics", "cattle-scc-system")
REQUEST = f"secretrequest/{ASKED}"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which another distribution's exporter is installed."""
    folder = tmp_path_factory.mktemp("site")
    code = Path(thirdparty.__file__).read_text()
    install(folder, "some_exporter", {"third": "some_exporter:THIRD"}, code)
    return folder


@pytest.fixture(scope="module")
def receiver() -> Iterator[Receiver]:
    with (
        start_blocking_portal() as portal,
        portal.wrap_async_context_manager(receiving()) as receiver,
    ):
        yield receiver


@pytest.fixture(scope="module")
def server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[str, FleetServer]]:
    """A fleet with sentinels: objects that can be read, and some that can't."""
    said: dict[str, Any] = {
        "git_version": f"v1.34.1-{SENTINEL}",
        "rancher_commit": f"{SENTINEL}-commit",
    }
    with serve_fleet(tmp_path_factory.mktemp("embedded"), **said) as fleet:
        spoil(fleet, request.param)
        yield request.param, fleet


def spoil(fleet: FleetServer, source: str) -> None:
    """Put sentinels into every text of every object that is read from this source."""
    fleet.put(fill(fleet.get("namespaces", "kube-system"), frozenset({"metadata.uid"})))
    if source == "kubernetes":
        for obj in spoiled("nodes"):
            fleet.put(obj)
        return
    for resource in BUILDERS:
        for obj in spoiled(resource) if resource != "nodes" else ():
            fleet.put(obj)
    url = fleet.url.replace("://", f"://{SENTINEL}-user:{SENTINEL}-pass@")
    certificate = make_certificate().certificate_pem
    for name, value in {
        "server-url": f"{url}/?{SENTINEL}-query#{SENTINEL}-fragment",
        "server-version": f"v2.15.0-{SENTINEL}",
        "server-version-type": SENTINEL,
        "telemetry-opt": "in",
        "cacerts": f"{SENTINEL}-ca\n{certificate}",
    }.items():
        fleet.put(fill(setting(name, value, default=SENTINEL), frozenset({"value"})))
    name, namespace = TARGET
    request = BUILDERS["secretrequests.telemetry.cattle.io"]()
    request["metadata"]["name"] = ASKED
    request["spec"]["targetSecretRef"] = {"name": name, "namespace": namespace}
    kept = {"spec.secretType", "spec.targetSecretRef.name", "spec.targetSecretRef.namespace"}
    fleet.put(fill(request, frozenset(kept)))


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
            ("third", {"path": str(folder / f"third-{form}")}),
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
        if tag in {"li", "section"}:
            self._state = dict(attrs).get("class") or ""

    def handle_data(self, data: str) -> None:
        if self._tag == "h3":
            self._heading = data
        elif self._tag == "code" and self._state in {"sent", "empty", "left-out", "given"}:
            self.by_heading.setdefault(self._heading, set()).add((data, self._state))
        self._tag = ""


class Arrived:
    """What the receivers have of each exporter, once all have something."""

    def __init__(self, fleet: FleetServer, receiver: Receiver, folder: Path, wanted: int) -> None:
        self._fleet, self._receiver, self._folder = fleet, receiver, folder
        self._wanted = wanted
        self.given: dict[str, str] = {}
        self.texts: dict[str, str] = {}
        self.bodies: dict[str, bytes] = {}
        self.fields: dict[str, list[tuple[str, bool]]] = {}

    def look(self) -> bool:
        """Whether all is there."""
        self._look_at_secret(REQUEST, *TARGET)
        for form in ("scc", "fleet"):
            self._look_at_secret(f"secret-{form}", f"s-{form}", NAMESPACE)
            third = self._folder / f"third-{form}"
            if third.exists():
                body, self.given = json.loads(third.read_text())
                self._take(f"third-{form}", body.encode(), more=self.given)
            latest = self._folder / form / "latest"
            if latest.exists():
                self._take(f"file-{form}", latest.read_bytes())
        for request in tuple(self._receiver.requests):
            name = request.target.removeprefix("/").split("/")[0]
            name = name if name == "otlp" else f"http-{name}"
            self._take(name, request.body, list(header_paths(request)), request.headers)
        return len(self.texts) == self._wanted

    def _look_at_secret(self, exporter: str, name: str, namespace: str) -> None:
        if secret := self._fleet.get(SECRETS, name, namespace):
            notes = secret["metadata"]["annotations"]
            found = [(f"annotation {key}", bool(value)) for key, value in notes.items()]
            self._take(exporter, b64decode(secret["data"]["payload"]), found, notes)

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


def preview(daemon: Daemon, name: str, site: Path, **environ: str) -> tuple[bytes, str]:
    """What `telemetryd payload --exporter` prints with the configuration of the daemon."""
    words = ("payload", "--config", str(daemon.config_file), "--exporter", name)
    done = telemetryd_with([site], *words, **environ)
    assert done.returncode == 1, done.stderr  # for some nodes can't be read
    assert "incomplete: nodes" in done.stderr
    return done.stdout.removesuffix("\n").encode(), done.stderr


def without_delivery(body: bytes) -> bytes:
    """The bytes, without the times, the sequence and the term."""
    for key in (b"timestamp", b"timeUnixNano", b"sequence", b"epoch"):
        body = re.sub(b'"%b":("[^"]*"|[0-9]+)' % key, b'"%b":0' % key, body)
    return body


def clear(fleet: FleetServer) -> None:
    """Remove what an earlier daemon has written."""
    for name, namespace in (TARGET, ("s-scc", NAMESPACE), ("s-fleet", NAMESPACE)):
        if fleet.get(SECRETS, name, namespace):
            fleet.remove(SECRETS, name, namespace)


def check_fields(arrived: Arrived, status: dict[str, Any], page: str) -> None:
    """The fields that arrived are those that both list."""
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
        given = exporter.get("plugin", {}).get("given", ())
        shown |= {(each["key"], "given") for each in given}
        assert listed[heading] == shown, heading


def check_plugin(arrived: Arrived, status: dict[str, Any], page: str, stderr: str) -> None:
    """All three name the plug-in's distribution, and what they say it is given is what it was."""
    given = set(arrived.given)
    for exporter in status["exporters"]:
        if exporter["type"] == "third":
            plugin = exporter["plugin"]
            assert (plugin["distribution"], plugin["version"]) == ("some_exporter", "1.0")
            assert {each["key"] for each in plugin["given"]} == given
        else:
            assert "plugin" not in exporter
    assert page.count("The plug-in some_exporter 1.0 decides what it sends") == 2
    (line,) = re.findall(
        r"the plug-in some_exporter 1\.0 decides what it sends; it is given (.*)", stderr
    )
    assert set(line.split(", ")) == given


def excerpt(text: str, word: str) -> str:
    """Where a word is, with what stands around it."""
    at = text.lower().index(word)
    return text[max(0, at - 200) : at + 200]


def check_schemas(arrived: Arrived) -> None:
    """Each payload fits its schema, but for a version that is none."""
    for form in ("scc", "fleet"):
        validator = Draft202012Validator(
            PAYLOAD_FORMATS[form].schema(),
            format_checker=Draft202012Validator.FORMAT_CHECKER,
        )
        bodies = {name: body for name, body in arrived.bodies.items() if name.endswith(form)}
        assert len(bodies) == 4
        for name, body in bodies.items():
            document = json.loads(body)
            odd = [["version"]] if form == "scc" and document["version"] == "other" else []
            assert [list(error.path) for error in validator.iter_errors(document)] == odd, name


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("server", "privacy"),
    [
        ("rancher", "all"),
        ("kubernetes", "neither"),
        pytest.param("rancher", "neither", marks=pytest.mark.long),
        pytest.param("kubernetes", "all", marks=pytest.mark.long),
        *(
            pytest.param(source, privacy, marks=pytest.mark.slow)
            for source in ("rancher", "kubernetes")
            for privacy in ("no-url", "no-ids")
        ),
    ],
    indirect=["server"],
)
def test_what_arrives_is_what_the_page_and_the_status_list(
    server: tuple[str, FleetServer], receiver: Receiver, site: Path, tmp_path: Path, privacy: str
) -> None:
    source, fleet = server
    receiver.requests.clear()
    clear(fleet)
    config = PRIVACY[privacy] + tables(receiver, tmp_path)
    environ = {"PYTHONPATH": str(site), "KUBECONFIG": str(fleet.kubeconfig)}
    daemon = Daemon(
        tmp_path, fleet.kubeconfig, config, kubernetes=f'source = "{source}"', environ=environ
    )
    arrived = Arrived(fleet, receiver, tmp_path, 10 if source == "rancher" else 9)
    try:
        daemon.wait_for("something of each", arrived.look, 120)
        status = json.loads(daemon.get("/status.json")[1])
        previews = {
            name: preview(daemon, name, site, **environ)
            for name in ("secret-fleet", "otlp", "third-scc")
        }
        page, metrics = daemon.get("/")[1], daemon.get("/metrics")[1]
    finally:
        assert daemon.stop() == 0
    for name, (printed, _) in previews.items():
        assert without_delivery(printed) == without_delivery(arrived.bodies[name])
    check_fields(arrived, status, page)
    check_plugin(arrived, status, page, previews["third-scc"][1])
    check_schemas(arrived)
    withheld = status["snapshot"]["fleet"]["withheld_texts"]
    assert set(withheld) == WITHHELD[source]
    shown = {"page": page, "status": json.dumps(status), "metrics": metrics, "log": daemon.log()}
    printed_beside = {f"stderr of {name}": text for name, (_, text) in previews.items()}
    for place, text in (arrived.texts | shown | printed_beside).items():
        found = [word for word in SECRET_WORDS if word in text.lower()]
        assert not found, f"{place}: {excerpt(text, found[0])}"
    for name, text in arrived.texts.items():
        assert ASKED not in text, name
    if source == "kubernetes":
        for word in ("management.cattle.io", "cacerts", "telemetry-opt", "rancherversion"):
            assert word not in page, word
        assert "Rancher" not in page.replace("nothing to send without a Rancher", "")
