"""Each Rancher, fresh and upgraded, on a real API server: what the payload says it is.

The objects are those that each tag makes or leaves; what it lists and calls itself is upstream's
own answer, or follows from upstream's rule for objects (``tests.gather.upstream``).
"""

import json
import os
import uuid
from base64 import b64decode
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from telemetryd.serve.control.client import ask
from telemetryd.serve.control.protocol import Request
from tests.apiserver import fixtures
from tests.apiserver.admin import Admin, Object
from tests.apiserver.crds import FEATURES, SETTINGS, collection
from tests.apiserver.process import ApiServer
from tests.gather.consumer import Product, accepted, product_version
from tests.gather.readers import feature
from tests.gather.upstream import (
    EVER,
    LISTED,
    TAGS,
    Features,
    compiled_in,
    installations,
    list_enabled,
    product,
    written_version,
)
from tests.support import starter
from tests.support.daemon import Daemon
from tests.system.conftest import CONFIG
from tests.system.rancher import Rancher

pytestmark = pytest.mark.long

FEATURE_INFORMER = "features.management.cattle.io"
HEAD = "v2.16-59bd052e-head"
QUICK = ("v2.12.7", "v2.12.8", "v2.13.8", "v2.14.0", "v2.15.0", "main")
"""Tags that ``make test-long`` tries, with all of their builds and upgrades; the others by
``make faults``."""


class Stage:
    """One Rancher and one daemon, which is shown one installation after the other."""

    def __init__(self, admin: Admin, daemon: Daemon, socket: Path) -> None:
        self.daemon = daemon
        self._admin = admin
        self._rancher = Rancher(admin)
        self._socket = str(socket)
        self._pool = ThreadPoolExecutor(8)
        self._shown: Features = {}

    def payload(self, name: str, version: str, build: str, objects: Features) -> str:
        """What is written of this installation once all of its objects have been seen."""
        seen = self._put_features(objects)
        self.daemon.wait_for(f"features of {name}", lambda: self._version() >= seen, 60)
        mark = str(uuid.uuid5(uuid.NAMESPACE_URL, f"{name} {version} {build}"))
        # The informer sees them in this order: once it has the last one, it has all.
        for setting, value in (
            ("server-version", version),
            ("server-version-type", build),
            ("install-uuid", mark),
        ):
            self._admin.patch(f"{collection(SETTINGS)}/{setting}", {"value": value})
        return self.daemon.wait_for(f"payload of {name}", lambda: self._written(mark), 60)

    def _put_features(self, objects: Features) -> int:
        """Have these and no others; returns the resource version of the last that was written."""
        list(self._pool.map(self._delete, self._shown.keys() - objects.keys()))
        changed = [name for name in objects if self._shown.get(name) != objects[name]]
        new = [name for name in changed if name not in self._shown]
        created = list(self._pool.map(lambda name: self._create(name, objects[name]), new))
        patched = list(
            self._pool.map(
                lambda name: self._patch(name, objects[name]),
                [*(name for name in changed if name in self._shown), next(iter(objects))],
            )
        )
        self._shown = dict(objects)
        return max(int(each["metadata"]["resourceVersion"]) for each in created + patched)

    def _create(self, name: str, record: Any) -> Object:
        return self._admin.create(collection(FEATURES), manifest(name, record))

    def _patch(self, name: str, record: Any) -> Object:
        # The annotation makes it a change in any case.
        body = manifest(name, record)
        body["metadata"]["annotations"] = {"test": str(uuid.uuid4())}
        return self._admin.patch(f"{collection(FEATURES)}/{name}", body)

    def _delete(self, name: str) -> None:
        self._admin.delete(f"{collection(FEATURES)}/{name}")

    def _version(self) -> int:
        answer = ask([self._socket], Request("cache", name=FEATURE_INFORMER))
        assert isinstance(answer.result, dict)
        return int(answer.result["resource_version"] or 0)

    def _written(self, mark: str) -> str:
        ask([self._socket], Request("trigger", name="scc"))
        secret = self._rancher.secret()
        body = b64decode(secret["data"]["payload"]).decode() if secret is not None else ""
        return body if mark in body else ""


def manifest(name: str, record: Any) -> Object:
    return fixtures.feature(
        name,
        value=record.value,
        default=record.default,
        locked=record.locked,
        prime=record.prime,
    )


@pytest.fixture(scope="module")
def stage(
    admin: Admin, apiserver: ApiServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Stage]:
    rancher = Rancher(admin)
    rancher.build(clusters=2, nodes=2)
    admin.delete(collection(FEATURES))
    folder = tmp_path_factory.mktemp("versions")
    daemon = Daemon(folder, apiserver.kubeconfig(folder / "kubeconfig"), CONFIG)
    try:
        daemon.wait_for("ready", daemon.ready, 60)
        yield Stage(admin, daemon, folder / "control.sock")
    finally:
        assert daemon.stop() == 0
        rancher.clear()


def distinct(tag: str, build: str) -> dict[str, Features]:
    """The installations that differ in their objects, by the tag that was installed first."""
    found: dict[str, Features] = {}
    for first, objects in reversed(installations(tag, build).items()):
        if objects not in found.values():
            found[first] = objects
    return found


CASES = [
    pytest.param(tag, build, id=f"{tag} {build}", marks=() if tag in QUICK else pytest.mark.faults)
    for tag in TAGS
    for build in ("prime", "community", "dev")
    if build != "dev" or tag == "v2.15.0"
]


@pytest.mark.timeout(600)
@pytest.mark.parametrize(("tag", "build"), CASES)
def test_fresh_and_upgraded_installations_write_what_their_rancher_writes(
    stage: Stage, tag: str, build: str
) -> None:
    version = HEAD if tag == "main" else tag
    # A dev build has compiled in what the community's has.
    made_by = "prime" if build == "prime" else "community"
    for first, objects in distinct(tag, made_by).items():
        expected = list_enabled(tag, made_by, objects)
        if first == tag:
            assert expected == LISTED[tag, made_by]
        body = stage.payload(f"{first} to {tag}", version, build, objects)
        payload = json.loads(body)
        assert tuple(payload["feature_flags"]) == expected, first
        name = product(tag) if build == "prime" else "rancher"
        assert payload["subscription"]["product"] == name
        assert payload["subscription"]["version"] == version
        # Up to v2.12.7 and v2.13.3 Rancher leaves the `v`, which no schema of its own allows and
        # its consumer takes off.
        assert payload["version"] == written_version("v2.15.0", version)
        assert accepted(body) == Product(
            name, product_version(written_version(tag, version)), "unknown"
        )


UNKNOWN = [
    ("v2.16.0", "main"),
    ("v2.17.3", "main"),
    (HEAD, "main"),
    ("dev", "main"),
    ("v2.15.7", "v2.15.0"),
    ("v2.15-0123abc-head", "v2.15.0"),
    ("v2.14.9", "v2.14.4"),
]
ADDED: Features = {
    "a-new-one": feature(default=True),
    "a-new-one-off": feature(default=False),
    "a-new-one-chosen": feature(value=True),
    "a-new-one-locked": feature(value=True, default=True, locked=False),
    "a-new-one-for-prime": feature(default=True, prime=True),
}


@pytest.mark.timeout(600)
@pytest.mark.parametrize("build", ["prime", "community"])
@pytest.mark.parametrize(("version", "like"), UNKNOWN)
def test_unknown_version_writes_the_nearest_it_knows_and_what_may_be_new(
    stage: Stage, version: str, like: str, build: str
) -> None:
    objects = installations(like, build)["v2.4.18"]
    for name in EVER - compiled_in(like, build).keys() - COMPILED_LATER.get(like, set()):
        objects[name] = feature(value=True, default=True)
    added = {"a-new-one", "a-new-one-chosen"}
    if build == "prime":
        added.add("a-new-one-for-prime")
    body = stage.payload(f"unknown {version}", version, build, objects | ADDED)
    payload = json.loads(body)
    assert payload["feature_flags"] == sorted({*list_enabled(like, build, objects), *added})
    name = "rancher-prime" if build == "prime" else "rancher"
    numbers = written_version("v2.15.0", version)
    assert (payload["version"], payload["subscription"]["version"]) == (numbers, version)
    assert accepted(body) == Product(name, product_version(numbers), "unknown")


COMPILED_LATER = {
    tag: {
        name
        for later in TAGS[TAGS.index(tag) + 1 :]
        for name in compiled_in(later, "prime").keys() - compiled_in(tag, "prime").keys()
    }
    for tag in ("v2.14.4", "v2.15.0")
}
"""A patch may have what a later minor version has: such an object is no leftover."""


@pytest.mark.parametrize(("tag", "build"), [("v2.12.1", "prime"), ("v2.15.0", "community")])
def test_payload_command_prints_what_the_daemon_writes(
    stage: Stage, apiserver: ApiServer, tmp_path: Path, tag: str, build: str
) -> None:
    objects = installations(tag, build)["v2.11.16"]
    written = json.loads(stage.payload("the command", tag, build, objects))
    kubeconfig = apiserver.kubeconfig(tmp_path / "kubeconfig")
    result = starter.run(
        "payload",
        check=True,
        text=False,
        env={**os.environ, "KUBECONFIG": str(kubeconfig), "STATE_DIRECTORY": str(tmp_path)},
    )
    printed = json.loads(result.stdout)
    assert {**printed, "timestamp": ""} == {**written, "timestamp": ""}
    assert tuple(printed["feature_flags"]) == LISTED[tag, build]
    accepted(result.stdout)
