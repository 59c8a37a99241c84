"""Field sets: what is owned, what changed, and how both are written."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from telemetryd.demo.fieldsets import (
    FieldSet,
    applied_fields,
    compare,
    from_fields_v1,
    in_order,
    path_text,
    to_fields_v1,
    without,
)

_names = st.sampled_from(["a", "b", "a.b/c"])
_elements = st.one_of(_names.map("f:{}".format), st.sampled_from(['v:"x"', 'v:"y/z"']))
_sets = st.frozensets(st.lists(_elements, min_size=1, max_size=4).map(tuple), max_size=8)
_leaves = st.one_of(st.none(), st.booleans(), st.integers(0, 2), st.lists(st.integers(0, 1)))
_trees = st.recursive(
    st.dictionaries(_names, _leaves, max_size=3),
    lambda inner: st.dictionaries(_names, inner | _leaves, max_size=3),
    max_leaves=8,
)


@given(_sets)
def test_fields_v1_of_any_set_reads_back_as_the_set(fields: FieldSet) -> None:
    assert from_fields_v1(to_fields_v1(fields)) == fields


@given(_sets)
def test_order_of_any_set_holds_each_path_once(fields: FieldSet) -> None:
    ordered = list(in_order(fields))
    assert len(ordered) == len(fields)
    assert set(ordered) == fields


@given(_trees, _trees)
def test_comparison_of_any_objects_is_mirrored_when_they_change_places(
    one: dict[str, Any], other: dict[str, Any]
) -> None:
    there = compare({"spec": one}, {"spec": other}, custom=True)
    back = compare({"spec": other}, {"spec": one}, custom=True)
    assert (there.added, there.removed) == (back.removed, back.added)
    assert there.modified == back.modified


@given(_trees)
def test_removing_everything_applied_leaves_nothing(tree: dict[str, Any]) -> None:
    obj = {"spec": tree}
    assert without(obj, applied_fields(obj, custom=True)) == {}


def test_set_members_are_owned_one_by_one() -> None:
    obj = {"metadata": {"finalizers": ["x.io/a", "x.io/b"]}}
    fields = to_fields_v1(applied_fields(obj, custom=False))
    assert fields == {"f:metadata": {"f:finalizers": {'v:"x.io/a"': {}, 'v:"x.io/b"': {}}}}


def test_map_added_by_update_is_owned_itself() -> None:
    added = compare({"metadata": {}}, {"metadata": {"labels": {"a": "1"}}}, custom=False).added
    assert to_fields_v1(added) == {"f:metadata": {"f:labels": {".": {}, "f:a": {}}}}


def test_spec_of_a_built_in_kind_is_never_owned_itself() -> None:
    added = compare({}, {"spec": {"holderIdentity": "a"}}, custom=False).added
    assert to_fields_v1(added) == {"f:spec": {"f:holderIdentity": {}}}


def test_one_and_true_are_not_the_same() -> None:
    assert compare({"spec": {"a": 1}}, {"spec": {"a": True}}, custom=True).modified


def test_leaf_that_becomes_a_map_is_modified_and_its_children_are_added() -> None:
    changes = compare({"spec": {"a": 1}}, {"spec": {"a": {"b": 2}}}, custom=True)
    assert changes.modified == {("f:spec", "f:a")}
    assert changes.added == {("f:spec", "f:a", "f:b")}


def test_paths_read_as_in_conflict_messages() -> None:
    assert path_text(("f:data", "f:payload")) == ".data.payload"
    assert path_text(("f:metadata", "f:finalizers", 'v:"x"')) == '.metadata.finalizers[="x"]'


def test_leaves_come_before_what_is_deeper() -> None:
    fields = frozenset({("f:spec", "f:a", "f:b"), ("f:spec", "f:l")})
    assert [path_text(path) for path in in_order(fields)] == [".spec.l", ".spec.a.b"]
