"""The controller on virtual time, over the embedded API server's rules without its sockets.

Everything but the transport is the real thing: the rules of writing, which the contract tests hold
to the real API server, the manager, the Secret exporter, the stores.
"""

from base64 import b64encode
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime
from random import Random
from typing import Any

import anyio
import msgspec
import orjson

from telemetryd.config import SecretRequestsConfig
from telemetryd.control.secretrequest.controller import SecretRequestController
from telemetryd.control.secretrequest.decision import SecretRef
from telemetryd.errors import NotFound
from telemetryd.export.engine.manager import ExporterManager
from telemetryd.export.exporter import Exporter, ExporterSpec
from telemetryd.export.payloads.scc import scc_renderer
from telemetryd.export.sinks.secret import SecretExporter
from telemetryd.gather.project import PROJECTS, ProjectObject
from telemetryd.gather.requests import SECRET_REQUESTS, RequestObject
from telemetryd.informer.store import Store
from telemetryd.kube.requests import Fence
from telemetryd.kube.responses import error_for, parse_status
from telemetryd.model import ProjectRecord, RequestStatus, SecretRequestRecord
from telemetryd.stats import InformerStats
from tests.apiserver.double.objects import ObjectStore, StoredObject
from tests.apiserver.double.resources import RESOURCES, JsonObject, resource_of
from tests.apiserver.double.resources import RequestTarget as Place
from tests.apiserver.double.routes import Routes
from tests.apiserver.double.status import ApiError
from tests.apiserver.double.writes import Writer
from tests.export.doubles import EPOCH_S, Source, manager_of, running
from tests.system.scc import NAMESPACE, REQUEST, SECRET, SYSTEM_PROJECT, scc_request

EXPORTER = f"secretrequest/{REQUEST}"
SETTINGS = SecretRequestsConfig(interval_s=60.0)
Fault = Callable[[str, str], Exception | None]


class Api:
    """The client of an API server in the same process.

    Attributes:
        calls: Method and path of each request.
        forced_at_s: When something was applied by force.
        fault: Given both; what it returns is raised instead of an answer.
        interlude: Called before each PATCH, for somebody else's write in between.
    """

    def __init__(self) -> None:
        self.store = ObjectStore(RESOURCES, history_events=10)
        self.writer = Writer(self.store, now=self._now, rng=Random(1))
        self.calls: list[tuple[str, str]] = []
        self.forced_at_s: list[float] = []
        self.fault: Fault = lambda _method, _path: None
        self.interlude: Callable[[], None] = lambda: None
        self._routes = Routes(self.store.serves)

    async def request(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, str] | None = None,
        body: bytes | None = None,
        content_type: str | None = None,
        timeout_s: float,
        max_bytes: int = 0,
        fence: Fence | None = None,
    ) -> bytes:
        self.calls.append((method, path))
        await anyio.sleep(0.001)
        if error := self.fault(method, path):
            raise error
        place = self._routes.resolve(path)
        assert isinstance(place, Place)
        if method == "PATCH":
            self.interlude()
        if method != "GET" and fence is not None:
            fence()
        try:
            return self._answer(method, place, orjson.loads(body or b"null"), params or {})
        except ApiError as refused:
            answer = error_for(refused.code, path, parse_status(orjson.dumps(refused.status)))
            raise answer from refused

    def _answer(self, method: str, place: Place, body: Any, params: Mapping[str, str]) -> bytes:
        match method:
            case "GET":
                found = self.store.table(place.resource).objects.get(place.key)
                if found is None:
                    raise NotFound(place.key, status=404)
                return found.body
            case "PATCH" if place.subresource:
                return self.writer.merge_patch(place, body, params["fieldManager"]).stored.body
            case "PATCH":
                force = params.get("force") == "true"
                if force:
                    self.forced_at_s.append(anyio.current_time())
                manager = params["fieldManager"]
                return self.writer.apply(place, body, manager, force=force).stored.body
            case _:
                return self.writer.delete(place, body["preconditions"]).stored.body

    def timestamp(self) -> str:
        """The time as objects have it."""
        return self._now().strftime("%Y-%m-%dT%H:%M:%SZ")

    def _now(self) -> datetime:
        return datetime.fromtimestamp(EPOCH_S + anyio.current_time(), UTC)

    def count(self, method: str, part: str) -> int:
        """Requests so far of that method whose path contains the part."""
        return sum(each == method and part in path for each, path in self.calls)


class Bench:
    """A controller with all around it, and a hand that changes objects.

    Attributes:
        built: Names of the exporters that were built, in order.
    """

    def __init__(self, settings: SecretRequestsConfig = SETTINGS) -> None:
        self.api = Api()
        self.source = Source()
        self.manager: ExporterManager = manager_of(self.source, drain_timeout_s=5.0)
        self.built: list[str] = []
        self._render = scc_renderer()
        self.wrap: Callable[[Exporter], Exporter] = lambda sink: sink
        self.controller = SecretRequestController(
            self.api,
            self.manager,
            self._build,
            settings=settings,
            configured={},
            now=self.now,
            rng=Random(5),
        )
        self._told_revision = 0
        self.forget()

    def now(self) -> float:
        return EPOCH_S + anyio.current_time()

    def _build(
        self, name: str, target: SecretRef, settings: SecretRequestsConfig
    ) -> tuple[ExporterSpec, Exporter]:
        self.built.append(name)
        spec = ExporterSpec(
            name, "secret", self._render, settings.interval_s, verifies_destination=True
        )
        sink = SecretExporter(
            self.api,
            namespace=target.namespace,
            secret=target.secret,
            max_silence_s=86_400.0,
            timeout_s=10.0,
            quiet_period_s=settings.quiet_period_s,
            takeover=settings.takeover,
            requested=True,
            now=self.now,
            clock=anyio.current_time,
        )
        return spec, self.wrap(sink)

    # -- objects

    def populate(self) -> None:
        """The System project, and the operator's namespace in it."""
        self.put_project()
        self.put_namespace()

    def put_project(
        self, name: str = SYSTEM_PROJECT, namespace: str = "local", **labels: str
    ) -> None:
        given = labels or {"authz.management.cattle.io/system-project": "true"}
        self.put(
            {
                "apiVersion": "management.cattle.io/v3",
                "kind": "Project",
                "metadata": {"name": name, "namespace": namespace, "labels": given},
                "spec": {"displayName": "System"},
            }
        )

    def put_namespace(self, name: str = NAMESPACE, project: str = SYSTEM_PROJECT) -> None:
        labels = {"field.cattle.io/projectId": project} if project else {}
        metadata = {"name": name, "labels": labels}
        self.put({"apiVersion": "v1", "kind": "Namespace", "metadata": metadata})

    def ask(self, name: str = REQUEST, /, **target: str) -> None:
        """A SecretRequest as scc-operator makes it."""
        self.put(scc_request(name, **target))

    def put(self, obj: JsonObject) -> None:
        """Create or replace an object past every rule; the informers tell of it at once."""
        metadata = obj["metadata"]
        place = Place(resource_of(obj), metadata.get("namespace", ""), metadata["name"])
        self.api.writer.seed(place, obj)
        self.tell()

    def request(self, name: str = REQUEST) -> JsonObject:
        """A request as it is."""
        return self._find(f"{SECRET_REQUESTS.path}/{name}")

    def edit(self, change: Callable[[JsonObject], None], name: str = REQUEST) -> None:
        """Change a request in place."""
        obj = self.request(name)
        change(obj)
        self.put(obj)

    def retarget(self, name: str = REQUEST, /, **target: str) -> None:
        """Aim a request at another Secret."""
        self.edit(lambda obj: obj["spec"]["targetSecretRef"].update(target), name)

    def remove(self, name: str = REQUEST) -> None:
        """A request goes for good."""
        self.api.store.remove(resource_of(self.request(name)), name)
        self.tell()

    def delete(self, name: str = REQUEST) -> None:
        """Somebody asks for its deletion; finalizers hold it."""
        resource = resource_of(self.request(name))
        self.api.writer.delete(Place(resource, "", name), {})
        self.tell()

    def status(self, name: str = REQUEST) -> JsonObject:
        found: JsonObject = self.request(name).get("status") or {}
        return found

    def conditions(self, name: str = REQUEST) -> dict[str, str]:
        return {each["type"]: each["status"] for each in self.status(name).get("conditions", [])}

    def failure(self, name: str = REQUEST) -> JsonObject:
        listed = self.status(name).get("conditions", [])
        return next((each for each in listed if each["type"] == "Failure"), {})

    def secret(self, name: str = SECRET, namespace: str = NAMESPACE) -> JsonObject | None:
        try:
            return self._find(f"/api/v1/namespaces/{namespace}/secrets/{name}")
        except KeyError:
            return None

    def shown(self, name: str = REQUEST) -> RequestStatus:
        return next(each for each in self.controller.statuses() if each.name == name)

    def exporters(self) -> list[str]:
        return [each.name for each in self.manager.statuses()]

    def _find(self, path: str) -> JsonObject:
        place = Routes(self.api.store.serves).resolve(path)
        assert isinstance(place, Place)
        return self.api.store.table(place.resource).objects[place.key].decode()

    def write_as_rancher(self, number: int) -> None:
        """A plain write without a resourceVersion, as Rancher's own manager makes it."""
        secret = {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": SECRET, "namespace": NAMESPACE},
            "data": {"payload": b64encode(f'{{"n":{number}}}'.encode()).decode()},
        }
        resource = resource_of(secret)
        if self.secret() is None:
            self.api.writer.create(Place(resource, NAMESPACE), secret, "rancher")
        else:
            self.api.writer.merge_patch(Place(resource, NAMESPACE, SECRET), secret, "rancher")

    # -- informers

    def forget(self) -> None:
        """New informers: they hold nothing and haven't synced."""
        self.requests: Store[SecretRequestRecord] = Store(InformerStats(SECRET_REQUESTS.id))
        self.projects: Store[ProjectRecord] = Store(InformerStats(PROJECTS.id))
        self._told: dict[str, StoredObject] = {}

    def sync(self) -> None:
        """Their first list is in."""
        self.tell()
        self.requests.finish_list("1", 0)
        self.projects.finish_list("1", 0)

    def tell(self) -> None:
        """They learn of all that has changed."""
        self._told_revision = self.api.store.revision
        for informer, resource, kind in (
            (self.requests, SECRET_REQUESTS, RequestObject),
            (self.projects, PROJECTS, ProjectObject),
        ):
            store: Store[Any] = informer
            table = self.api.store.table(next(each for each in RESOURCES if each.id == resource.id))
            for key in set(store.keys()) - table.objects.keys():
                store.remove(key)
            for key, stored in table.objects.items():
                if self._told.get(f"{resource.id} {key}") is stored:
                    continue
                self._told[f"{resource.id} {key}"] = stored
                decoded: Any = msgspec.json.decode(stored.body, type=kind)
                project: Any = resource.project
                store.upsert(key, project(key, decoded))
            store.flush()

    @asynccontextmanager
    async def serving(self) -> AsyncIterator["Bench"]:
        """Manager and controller run around the block."""
        async with running(self.manager), self.controlling():
            yield self

    @asynccontextmanager
    async def controlling(self) -> AsyncIterator[None]:
        """The controller runs around the block; informers tell of writes within 0.2 s."""
        async with anyio.create_task_group() as group:
            group.start_soon(self.controller.run, self.requests, self.projects)
            for resource in (SECRET_REQUESTS, PROJECTS):
                group.start_soon(self._follow, resource.id)
            yield
            group.cancel_scope.cancel()

    async def _follow(self, resource_id: str) -> None:
        resource = next(each for each in RESOURCES if each.id == resource_id)
        while True:
            await self.api.store.table(resource).wait_changed(self._told_revision)
            await anyio.sleep(0.2)
            if self.requests.synced:
                self.tell()


def with_settings(**changes: Any) -> SecretRequestsConfig:
    """The settings of most tests, but for these."""
    return replace(SETTINGS, **changes)
