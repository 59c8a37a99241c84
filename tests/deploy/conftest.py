"""`deploy/` on the real API server, one variant a module."""

from collections.abc import Iterator

import pytest

from tests.apiserver.admin import Admin
from tests.apiserver.process import ApiServer
from tests.deploy.installed import Installed
from tests.deploy.kustomize import Variant


@pytest.fixture(scope="module")
def installed(
    request: pytest.FixtureRequest,
    admin: Admin,
    apiserver: ApiServer,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Installed]:
    """The variant that the module names as `VARIANT`; it goes when the module's tests are done."""
    variant: Variant = request.module.VARIANT
    made = Installed(admin, apiserver, tmp_path_factory.mktemp("installed"), variant)
    try:
        yield made
    finally:
        made.remove()
