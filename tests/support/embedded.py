"""The embedded API server with a Rancher-like fleet, in a thread, for daemons under test."""

import json
from base64 import b64decode
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from random import Random
from typing import Any

from anyio.from_thread import BlockingPortal, start_blocking_portal

from telemetryd.demo.fleet import Fleet
from tests.apiserver.double.apiserver import ApiServer, ServerOptions
from tests.apiserver.double.fleets import populate, run_churn

TOKEN = "embedded"
NAMESPACE = "cattle-telemetry-system"
SECRETS = "secrets"


class FleetServer:
    """A running server; its methods may be called from any thread.

    Attributes:
        url: Where it listens, without a trailing slash.
        kubeconfig: A file that leads to it.
    """

    def __init__(
        self, server: ApiServer, portal: BlockingPortal, url: str, kubeconfig: Path
    ) -> None:
        self.url = url
        self.kubeconfig = kubeconfig
        self._server = server
        self._portal = portal

    def put(self, obj: dict[str, Any]) -> None:
        """Creates or replaces an object, past every rule."""
        self._portal.call(self._server.put_object, obj)

    def remove(self, resource: str, name: str, namespace: str = "") -> None:
        """Deletes an object at once."""
        self._portal.call(self._server.delete_object, resource, name, namespace)

    def get(self, resource: str, name: str, namespace: str = "") -> dict[str, Any] | None:
        """An object, None where there is none."""
        try:
            return self._portal.call(self._server.get_object, resource, name, namespace)
        except KeyError:
            return None

    def stop_serving(self, resource: str) -> None:
        """Serves a resource no more."""
        self._portal.call(self._server.remove_resource, resource)

    def drop_watches(self) -> None:
        """Ends every open watch."""
        self._portal.call(self._server.drop_watches)

    def payload(self, secret: str) -> dict[str, Any] | None:
        """The document in a Secret of the telemetry namespace, None where there is none."""
        found = self.get(SECRETS, secret, NAMESPACE)
        if found is None:
            return None
        document: dict[str, Any] = json.loads(b64decode(found["data"]["payload"]))
        return document


@contextmanager
def serve_fleet(
    folder: Path,
    *,
    clusters: int = 5,
    nodes: int = 4,
    churn_per_s: float = 0,
    kind: type[ApiServer] = ApiServer,
    **options: Any,
) -> Iterator[FleetServer]:
    """Serves a fleet until the block is left; Rancher's server-url leads to it as well.

    Args:
        folder: For the kubeconfig.
        clusters: Managed clusters, beside the local one.
        nodes: Nodes of each of them.
        churn_per_s: Changes a second.
        kind: What serves.
        options: How the server presents itself, as of ``ServerOptions``.
    """

    def now() -> datetime:
        return datetime.now(UTC)

    server = kind(ServerOptions(token=TOKEN, **options), now=now, rng=Random(1))
    fleet = Fleet(clusters, nodes, 1, now=now)
    populate(server, fleet)
    # These daemons are asked for the exporters of their own configuration alone.
    server.delete_object("secretrequests.telemetry.cattle.io", "rancher-scc-metrics")
    with (
        start_blocking_portal() as portal,
        portal.wrap_async_context_manager(server.serve()) as endpoint,
    ):
        url = server.get_object("settings.management.cattle.io", "server-url")
        portal.call(server.put_object, {**url, "value": endpoint.url})
        kubeconfig = folder / "kubeconfig"
        kubeconfig.write_text(json.dumps(_kubeconfig(endpoint.url)))
        churn = (
            portal.start_task_soon(run_churn, server, fleet, churn_per_s) if churn_per_s else None
        )
        try:
            yield FleetServer(server, portal, endpoint.url, kubeconfig)
        finally:
            if churn is not None:
                churn.cancel()


def _kubeconfig(url: str) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "embedded",
        "contexts": [{"name": "embedded", "context": {"cluster": "embedded", "user": "embedded"}}],
        "clusters": [{"name": "embedded", "cluster": {"server": url}}],
        "users": [{"name": "embedded", "user": {"token": TOKEN}}],
    }
