"""A real API server takes everything in `deploy/` by a server-side dry run."""

from copy import deepcopy

import pytest

from tests.apiserver.admin import Admin, AdminError, Object
from tests.apiserver.process import ApiServer
from tests.deploy.installed import as_served, ensure_namespace, path_of
from tests.deploy.kustomize import VARIANTS, build


def dry_run(admin: Admin, obj: Object) -> Object:
    return admin.request(
        "PATCH",
        path_of(obj),
        body=obj,
        query={"fieldManager": "kubectl", "force": "true", "dryRun": "All"},
        content_type="application/apply-patch+yaml",
    )


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_object_is_accepted_as_it_is(
    admin: Admin, apiserver: ApiServer, variant: str
) -> None:
    for built in build(variant):
        obj = as_served(built, apiserver.version)
        namespace = obj["metadata"].get("namespace")
        if namespace:
            ensure_namespace(admin, namespace)
        answer = dry_run(admin, obj)
        assert answer["kind"] == obj["kind"]
        for key in set(obj) - {"metadata", "data"}:
            assert key in answer


def test_dry_run_refuses_what_is_wrong_and_stores_nothing(admin: Admin) -> None:
    (deployment,) = [obj for obj in build("base") if obj["kind"] == "Deployment"]
    ensure_namespace(admin, deployment["metadata"]["namespace"])
    other = deepcopy(deployment)
    other["metadata"]["name"] = "never-stored"
    dry_run(admin, other)
    with pytest.raises(AdminError) as caught:
        admin.get(path_of(other))
    assert caught.value.status == 404
    other["spec"]["replica"] = 2
    with pytest.raises(AdminError):
        dry_run(admin, other)
