"""Objects with a sentinel in every text, and copies with one in each key that is read.

Which keys are read comes from the types, so that a new one is covered without being added here.
"""

import copy
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from telemetryd.gather.reads import KEYS_READ
from tests.apiserver import fixtures

SENTINEL = "sentinel"
"""In every text that may arrive nowhere, in any case."""

ASKED = "asked"
"""In the names and the specs of SecretRequests, which the page, the log and the metrics show."""

ESCAPE = "\x1b"
_FIXED = {"apiVersion", "kind", "metadata.name", "metadata.namespace", "metadata.resourceVersion"}
_DOTTED = (
    "metadata.labels.",
    "metadata.annotations.",
    "status.capacity.",
    "status.internalNodeStatus.capacity.",
)
"""Before names that hold dots themselves."""

BUILDERS: Mapping[str, Callable[[], dict[str, Any]]] = {
    "clusters.management.cattle.io": lambda: fixtures.rancher_cluster("c"),
    "nodes.management.cattle.io": lambda: fixtures.rancher_node("local", "n"),
    "features.management.cattle.io": lambda: fixtures.feature("f", value=True),
    "projects.management.cattle.io": lambda: fixtures.project("p"),
    "settings.management.cattle.io": lambda: fixtures.setting("s", SENTINEL, default=SENTINEL),
    "secretrequests.telemetry.cattle.io": lambda: {
        "apiVersion": "telemetry.cattle.io/v1",
        "kind": "SecretRequest",
        "metadata": {"name": "r"},
        "spec": {"secretType": "scc", "targetSecretRef": {"name": "a", "namespace": "a"}},
    },
    "nodes": lambda: fixtures.core_node("n"),
}
"""By resource, a good object of it; the namespace kube-system is there already."""


def spoiled(resource: str) -> Iterator[dict[str, Any]]:
    """Objects of a resource: a good one, and copies each with a key that holds a sentinel.

    Of each key that is read there is a copy with a text, a text that is right but for its end, one
    with control characters, a map and a list.
    """
    keys = [key for key in KEYS_READ[resource] if key not in _FIXED]
    good = fill(BUILDERS[resource](), frozenset(keys))
    word = _word(resource)
    changes = [
        (key, value)
        for key in keys
        for value in _wrong(good, key, word if key.startswith("spec.") else SENTINEL)
    ]
    for number, (key, value) in enumerate([("", None), *changes]):
        each = copy.deepcopy(good)
        each["metadata"]["name"] = f"{word}-{number}"
        if key:
            _put(each, _steps(key), value)
        yield each


def fill(obj: Any, kept: frozenset[str], path: str = "") -> Any:
    """A copy with a sentinel in each text but those kept, and a key that is one in each map."""
    if isinstance(obj, dict):
        filled = {
            key: fill(inner, kept, f"{path}.{key}" if path else key) for key, inner in obj.items()
        }
        return {**filled, f"{SENTINEL}-key": f"{SENTINEL}-of-{path}{ESCAPE}"}
    if isinstance(obj, list):
        return [fill(inner, kept, f"{path}[]") for inner in obj]
    if isinstance(obj, str) and path not in kept | _FIXED:
        return f"{SENTINEL}-{path}{ESCAPE}"
    return obj


def _word(resource: str) -> str:
    """What names of objects and their specs hold: SecretRequests are shown to operators."""
    return ASKED if resource.startswith("secretrequests") else SENTINEL


def _wrong(good: dict[str, Any], key: str, word: str) -> Iterator[Any]:
    found: Any = good
    for step in _steps(key):
        found = found.get(step) if isinstance(found, dict) else None
    right = found if isinstance(found, str) else ""
    yield from (f"{word}-text", f"{right}-{word}", f"{right}{ESCAPE}\x00{word}")
    if key != "metadata.uid":
        yield from ({f"{word}-key": word}, [word])


def _steps(key: str) -> list[str]:
    """The steps to a key; a name that is one of its own kind may hold dots, and ``*`` any text."""
    for start in _DOTTED:
        if key.startswith(start):
            name = key.removeprefix(start).replace("*", f"{SENTINEL}.example")
            return [*start.split(".")[:-1], name]
    return key.split(".")


def _put(obj: dict[str, Any], steps: list[str], value: Any) -> None:
    for step in steps[:-1]:
        if step.endswith("[]"):
            inner: dict[str, Any] = {}
            obj.setdefault(step.removesuffix("[]"), []).insert(0, inner)
            obj = inner
        else:
            obj = obj.setdefault(step, {})
    obj[steps[-1]] = value
