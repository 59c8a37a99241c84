"""The two API servers under one interface, so that a test needn't know which one it talks to."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from random import Random
from typing import Protocol

import pytest
from anyio.from_thread import BlockingPortal, start_blocking_portal

from tests.apiserver import crds
from tests.apiserver.admin import Admin, Object
from tests.apiserver.double.apiserver import ApiServer as Demo
from tests.apiserver.double.apiserver import ServerOptions
from tests.apiserver.process import ApiServer as Real
from tests.apiserver.versions import minor_of
from tests.support.certificates import Authority

REAL = pytest.mark.parametrize("server", ["real"], indirect=True)
"""What the demo's server leaves out: it applies Secrets and patches statuses, and no more."""

_TOKEN = "demo-admin"


class Server(Protocol):
    """An API server with the CRDs of ``crds``, served over TLS.

    Attributes:
        url: Where it is, without a slash at the end.
        ca_file: What to trust.
        admin_token: May do everything.
        admin: A client with that token.
        streams_lists: Whether it serves lists as streams.
        version: Major and minor; the embedded one does what the newest does.
    """

    url: str
    ca_file: Path
    admin_token: str
    admin: Admin
    streams_lists: bool
    version: tuple[int, int]

    def compact(self) -> None:
        """Make continue tokens of every resource, and watches of nodes from before now, expire."""

    def without(self, definition: Object) -> AbstractContextManager[None]:
        """Take a CRD away with all its objects; once the block is left it is back, empty."""


class DemoServer:
    """The embedded one, on an event loop of its own in another thread."""

    streams_lists = True
    version = minor_of("newest")

    def __init__(self, demo: Demo, portal: BlockingPortal, url: str, ca_file: Path) -> None:
        self.url = url
        self.ca_file = ca_file
        self.admin_token = _TOKEN
        self.admin = Admin(url, _TOKEN, ca_file)
        self._demo = demo
        self._portal = portal

    def compact(self) -> None:
        self._portal.call(self._demo.compact)

    @contextmanager
    def without(self, definition: Object) -> Iterator[None]:
        name = definition["metadata"]["name"]
        self._portal.call(self._demo.remove_resource, name)
        try:
            yield
        finally:
            self._portal.call(self._demo.restore_resource, name)


class RealServer:
    """The real one, which belongs to the whole session."""

    def __init__(self, apiserver: Real, admin: Admin) -> None:
        self.url = apiserver.url
        self.ca_file = apiserver.ca_file
        self.admin_token = apiserver.admin_token
        self.admin = admin
        self.streams_lists = apiserver.streams_lists
        self.version = apiserver.version
        self._apiserver = apiserver

    def compact(self) -> None:
        """Compact etcd and restart the API server.

        Without the second its watch caches would go on to answer watches, and from 1.34 on lists
        and continue tokens too, from what etcd has forgotten.
        """
        self._apiserver.compact()
        self._apiserver.kill_apiserver()
        self._apiserver.start_apiserver()
        for path in (crds.collection(crds.NODES), "/api/v1/secrets"):
            self.admin.get(path, resourceVersion=0, limit=1)  # once its cache is filled

    @contextmanager
    def without(self, definition: Object) -> Iterator[None]:
        crds.delete_crd(self.admin, definition)
        try:
            yield
        finally:
            crds.create_crd(self.admin, definition)


@contextmanager
def serve_demo(folder: Path) -> Iterator[DemoServer]:
    """The embedded server until the block is left."""
    authority = Authority(folder)
    certificate = authority.issue("demo")
    options = ServerOptions(token=_TOKEN, certificate=(certificate.cert, certificate.key))
    demo = Demo(options, now=lambda: datetime.now(UTC), rng=Random())
    with (
        start_blocking_portal() as portal,
        portal.wrap_async_context_manager(demo.serve()) as endpoint,
    ):
        server = DemoServer(demo, portal, endpoint.url, authority.ca)
        try:
            yield server
        finally:
            server.admin.close()
