"""Missing rights as rules: minimal, and applied without harm to what there is."""

from hypothesis import given, settings
from hypothesis import strategies as st

from telemetryd.doctor.access import Access
from telemetryd.doctor.rights import Account, render_roles, rules_of
from tests.deploy.kustomize import parse_documents
from tests.deploy.rights import granted

ACCOUNT = Account("cattle-telemetry-system", "telemetryd")
LIST = Access("management.cattle.io", "nodes", "", "list")
CREATE = Access("", "secrets", "", "create", "ns", "s")

rights = st.builds(
    Access,
    st.sampled_from(["", "management.cattle.io"]),
    st.sampled_from(["nodes", "secrets", "clusters"]),
    st.sampled_from(["", "status"]),
    st.sampled_from(["get", "list", "watch", "patch"]),
    st.sampled_from(["", "ns", "other"]),
    st.sampled_from(["", "one", "two"]),
)


@settings(deadline=None)
@given(st.lists(rights, min_size=1, unique=True))
def test_roles_grant_just_what_is_missing_and_nothing_twice(missing: list[Access]) -> None:
    documents = parse_documents(render_roles(missing, ACCOUNT))
    assert granted(documents) == set(missing)
    assert len({document["metadata"]["name"] for document in documents}) * 2 <= len(documents)


@settings(deadline=None)
@given(st.lists(rights, min_size=1, unique=True))
def test_roles_without_a_known_account_have_no_binding(missing: list[Access]) -> None:
    documents = parse_documents(render_roles(missing, None))
    assert granted(documents) == set(missing)
    assert {document["kind"] for document in documents} <= {"Role", "ClusterRole"}


def test_verbs_and_resources_are_gathered_into_one_rule() -> None:
    missing = [Access("g", plural, "", verb) for plural in ("a", "b") for verb in ("get", "list")]
    assert rules_of(missing) == [
        {"apiGroups": ["g"], "resources": ["a", "b"], "verbs": ["get", "list"]}
    ]


def test_binding_is_of_the_role_beside_it_and_for_the_account() -> None:
    role, binding = parse_documents(render_roles([CREATE], ACCOUNT))
    assert role["metadata"] == binding["metadata"]
    assert role["metadata"]["namespace"] == "ns"
    assert binding["roleRef"]["name"] == role["metadata"]["name"]
    assert binding["subjects"] == [
        {"kind": "ServiceAccount", "namespace": "cattle-telemetry-system", "name": "telemetryd"}
    ]


def test_other_rules_have_another_name_and_the_same_ones_the_same() -> None:
    def name(*missing: Access) -> str:
        found: str = parse_documents(render_roles(missing, None))[0]["metadata"]["name"]
        return found

    assert name(LIST) == name(LIST)
    assert name(LIST) != name(Access("management.cattle.io", "nodes", "", "watch"))


def test_text_of_an_account_can_not_break_out_of_the_yaml() -> None:
    hostile = Account("ns", "x\n---\nkind: Evil")
    documents = parse_documents(render_roles([LIST], hostile))
    assert [document["kind"] for document in documents] == ["ClusterRole", "ClusterRoleBinding"]
