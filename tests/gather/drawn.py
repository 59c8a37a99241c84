"""Fleets drawn by lot: everything that Rancher, or someone with its rights, can store."""

import copy
import json
import os
import uuid
from collections.abc import Callable
from random import Random
from typing import Any

from tests.gather.consumer import Product, accepted
from tests.gather.recount import ARCHITECTURES, LARGEST, Object, recount, rows_of
from tests.gather.upstream import TAGS, list_enabled, product

SEED = int(os.environ.get("FLEETS_SEED", "16"))
"""Another one draws other fleets."""

_API = "management.cattle.io/v3"
_SPACES = ("", " ", "\t", "\n", "\r\n", "\xa0", "\u2003", "\x85", "\u3000", "\u2029", " \u1680")
_NO_SPACES = ("\x1c", "\u200b", "\ufeff", "\u180e")
_SUFFIXES = ("", *"numkMGTPE", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei")
_NO_QUANTITIES = (
    *("", " ", "four", "4 Gi", "1 000", "4gi", "4K", "4ki", "0x10", "1e", "1e+", "1E+", "1_000"),
    *("NaN", "Inf", "-Inf", "1,5", "4GiB", "--4", "+-4", ".", "+", "-", "m", "Gi", "e3", "1e3Ki"),
    *("1.2.3", "1e1.5", "\u0664", "\uff14", "4\x00", "\u22124", "1e9223372036854775808", "1mm"),
)
_WRONG: tuple[tuple[tuple[str, ...], tuple[Any, ...]], ...] = (
    (("spec",), ("worker", [], 5, True)),
    (("spec", "etcd"), ("true", "", 1, 0, [], {})),
    (("spec", "controlPlane"), ("false", 1.5, [True])),
    (("spec", "worker"), ("yes", {"worker": True}, 0)),
    (("status",), ("Ready", [], 0, False)),
    (("status", "internalNodeStatus"), ("", [{}], 7, True)),
    (("status", "internalNodeStatus", "capacity"), ("4", ["4"], 4, False)),
    (("status", "internalNodeStatus", "capacity", "cpu"), (True, False, {}, ["4"])),
    (("status", "internalNodeStatus", "capacity", "memory"), (True, {"Gi": 4}, [])),
    (("status", "internalNodeStatus", "nodeInfo"), ("amd64", [], 64)),
    (("status", "internalNodeStatus", "nodeInfo", "architecture"), (64, ["amd64"], {}, False)),
    (("status", "internalNodeStatus", "nodeInfo", "operatingSystem"), (1, [], True)),
    (("status", "internalNodeStatus", "nodeInfo", "containerRuntimeVersion"), (2.0, {})),
    (("status", "internalNodeStatus", "nodeInfo", "kernelVersion"), (6.4, ["6.4.0"])),
)
_MISSING: tuple[tuple[str, ...], ...] = tuple(path for path, _ in _WRONG)
_GOING = "2026-07-01T08:30:00Z"


def draw_fleet(rng: Random) -> Object:
    """Clusters, nodes, and the settings that say what Rancher it is."""
    names = _draw_names(rng)
    clusters = [_draw_cluster(rng, name) for name in names]
    nodes: list[Object] = []
    # Those of the last have lost their cluster.
    for namespace in [*names, *(f"c-gone-{number}" for number in range(rng.randrange(3)))]:
        size = rng.choice((0, 0, 1, 1, 2, 3, 5, rng.randrange(20)))
        # Each cluster has the same names.
        nodes += [_draw_node(rng, namespace, f"machine-{number}") for number in range(size)]
    rng.shuffle(clusters)
    rng.shuffle(nodes)
    return {
        "clusters": clusters,
        "nodes": nodes,
        "settings": {
            "server-version": rng.choice(TAGS[:-1]),
            "server-version-type": rng.choice(("prime", "prime", "community", "dev")),
            "server-url": f"https://127.0.0.1:{rng.randrange(1, 9)}",
            # It is written last: a payload that has it has the others too.
            "install-uuid": str(uuid.UUID(int=rng.getrandbits(128), version=4)),
        },
    }


def draw_quantity(rng: Random) -> Any:
    """A quantity in any form that JSON can hold, or what is none."""
    forms: tuple[Callable[[Random], Any], ...] = (
        lambda rng: str(rng.choice((1, 2, 4, 8, 16, 32, 64, 96, 128))),
        lambda rng: f"{rng.randrange(1, 2**28)}Ki",
        lambda rng: f"{rng.randrange(1, 512)}{rng.choice(('Mi', 'Gi', 'Ti', 'G', 'M'))}",
        _draw_decimal,
        _draw_decimal,
        _draw_exponent,
        lambda rng: rng.choice(_SPACES) + _draw_decimal(rng) + rng.choice(_SPACES),
        lambda rng: rng.choice(_NO_SPACES) + "4",
        _draw_number,
        lambda rng: rng.choice(_NO_QUANTITIES),
    )
    return rng.choice(forms)(rng)


def _draw_decimal(rng: Random) -> str:
    whole = rng.choice(("", "0", "00", "1", "3", "007", str(rng.randrange(10**6)), "9" * 19))
    places = rng.choice((0, 0, 1, 3, 9, 10, 20))
    fraction = "".join(rng.choice("0059") for _ in range(places))
    point = "." if fraction or rng.random() < 0.1 else ""
    return f"{rng.choice(('', '', '', '+', '-'))}{whole}{point}{fraction}{rng.choice(_SUFFIXES)}"


def _draw_exponent(rng: Random) -> str:
    power = rng.choice((0, 1, 3, -3, -9, -10, 18, 19, 30, 400, -400, LARGEST, -LARGEST))
    number = rng.choice(("1", "0", "1.5", ".25", "-2", "12345"))
    sign = rng.choice(("", "+")) if power >= 0 else ""
    return f"{number}{rng.choice('eE')}{sign}{power}"


def _draw_number(rng: Random) -> float:
    return rng.choice(
        (0, 1, 4, 64, -2, LARGEST, 2**63, 2**70, 0.5, 2.0, 3.92, 4.0000001, -0.0, -1.5, 1e3, 1e22)
    )


def _draw_names(rng: Random) -> list[str]:
    pool = [f"c-m-{number:05x}" for number in rng.sample(range(2**20), 6)]
    pool += ["c-local", "local-2", "locals", "p-local", "c-abcde", "kube-system"]
    names = rng.sample(pool, rng.choice((0, 1, 2, 3, 5, 8)))
    return names + (["local"] if rng.random() < 0.8 else [])


def _draw_metadata(rng: Random, name: str, namespace: str = "") -> Object:
    metadata: Object = {"name": name}
    if namespace:
        metadata["namespace"] = namespace
    if rng.random() < 0.1:
        # One that is being deleted stays until its finalizers are gone.
        metadata |= {"deletionTimestamp": _GOING, "finalizers": ["controller.cattle.io/test"]}
    return metadata


def _draw_cluster(rng: Random, name: str) -> Object:
    provider = rng.choice(("", "k3s", "rke2", "eks", "gke", "aks", "harvester", "imported", "rke"))
    metadata = _draw_metadata(rng, name)
    if rng.random() < 0.5:
        # Whatever else says local, only the name makes it the one that hosts Rancher.
        metadata["labels"] = {"provider.cattle.io": provider, "management.cattle.io/local": "true"}
    cluster: Object = {
        "apiVersion": _API,
        "kind": "Cluster",
        "metadata": metadata,
        "spec": {"displayName": rng.choice(("local", "prod")), "internal": rng.random() < 0.2},
        "status": {
            "provider": provider,
            "driver": rng.choice(("imported", "EKS", "GKE", "AKS", "K3s", "rke2", "")),
            "nodeCount": rng.randrange(9),
            "version": {"gitVersion": rng.choice(("v1.33.4+rke2r1", "v1.31.2-eks-7f9249a", ""))},
            "conditions": [
                {"type": "Ready", "status": rng.choice(("True", "False", "Unknown"))},
                {"type": "Connected", "status": rng.choice(("True", "False"))},
            ],
        },
    }
    fate = rng.random()
    if fate < 0.1:
        del cluster["status"]
    elif fate < 0.15:
        cluster["status"] = rng.choice(("Active", [], 5))
    elif fate < 0.2:
        cluster["status"]["version"] = rng.choice(("v1.33.4", ["v1"], 1))
    return cluster


def _draw_node(rng: Random, namespace: str, name: str) -> Object:
    capacity: Object = {"pods": "110", "cpu": "4", "memory": "16384256Ki"}
    if rng.random() < 0.8:
        capacity |= {"cpu": draw_quantity(rng), "memory": draw_quantity(rng)}
    architectures = (*sorted(ARCHITECTURES), "amd64", "amd64", "AMD64", "pdp11", "")
    node: Object = {
        "apiVersion": _API,
        "kind": "Node",
        "metadata": _draw_metadata(rng, name, namespace),
        "spec": {role: rng.random() < 0.5 for role in ("etcd", "controlPlane", "worker")},
        "status": {
            "nodeName": name,
            "internalNodeStatus": {
                "capacity": capacity,
                "nodeInfo": {
                    "architecture": rng.choice(architectures),
                    "operatingSystem": "linux",
                    "containerRuntimeVersion": "containerd://2.0.5",
                    "kernelVersion": "6.4.0-150600.23-default",
                },
            },
        },
    }
    fate = rng.random()
    if fate < 0.15:
        path, values = rng.choice(_WRONG)
        _set(node, path, copy.deepcopy(rng.choice(values)))
    elif fate < 0.3:
        _set(node, rng.choice(_MISSING), None)
    elif fate < 0.35:
        _remove(node, rng.choice(_MISSING))
    return node


def _set(node: Object, path: tuple[str, ...], value: Any) -> None:
    place = node
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = value


def _remove(node: Object, path: tuple[str, ...]) -> None:
    place = node
    for step in path[:-1]:
        place = place[step]
    del place[path[-1]]


def assert_counted(fleet: Object, body: bytes | str, where: str) -> None:
    """The payload holds the recount of the fleet, and its readers take it."""
    payload = json.loads(body)
    settings = fleet["settings"]
    tag, build = settings["server-version"], settings["server-version-type"]
    assert rows_of(payload) == recount(fleet), where
    name = product(tag) if build == "prime" else "rancher"
    subscription = payload["subscription"]
    assert subscription["installuuid"] == settings["install-uuid"], where
    assert subscription["server_url"] == settings["server-url"], where
    assert subscription["version"] == tag, where
    assert accepted(body) == Product(name, tag.removeprefix("v"), "unknown"), where
    built_by = "prime" if build == "prime" else "community"
    assert tuple(payload["feature_flags"]) == list_enabled(tag, built_by, {}), where
