"""What the roles of `deploy/` grant, verb by verb, and the same roles without one of them."""

from collections.abc import Iterator
from copy import deepcopy
from itertools import product

from telemetryd.doctor.access import Access
from tests.apiserver.admin import Object, Objects

ROLES = ("ClusterRole", "Role")


def granted(objects: Objects) -> set[Access]:
    """Every right that roles among the objects grant."""
    rights = [right for obj in objects if obj["kind"] in ROLES for right, _ in without_each(obj)]
    assert len(rights) == len(set(rights)), "granted twice"
    return set(rights)


def without_each(role: Object) -> Iterator[tuple[Access, Object]]:
    """Each right of a role, and the role's rules but for it."""
    namespace = role["metadata"].get("namespace", "")
    for number, rule in enumerate(role["rules"]):
        if "nonResourceURLs" in rule:
            continue  # for those who look at telemetryd, not for it
        (group,) = rule["apiGroups"]
        for resources, name in product(rule["resources"], rule.get("resourceNames", [""])):
            resource, _, subresource = resources.partition("/")
            for verb in rule["verbs"]:
                access = Access(group, resource, subresource, verb, namespace, name)
                yield access, _without(role, number, resources, verb)


def without(role: Object, access: Access) -> Object:
    """The role but for this right of its own."""
    return next(less for each, less in without_each(role) if each == access)


def _without(role: Object, number: int, resource: str, verb: str) -> Object:
    """The role with the rule split in two: other resources as before, this one without the verb."""
    changed = deepcopy(role)
    rule = changed["rules"].pop(number)
    others = [each for each in rule["resources"] if each != resource]
    verbs = [each for each in rule["verbs"] if each != verb]
    if others:
        changed["rules"].append({**rule, "resources": others})
    if verbs:
        changed["rules"].append({**rule, "resources": [resource], "verbs": verbs})
    return changed
