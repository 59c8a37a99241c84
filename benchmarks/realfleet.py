"""A fleet as the field has it: no two nodes are alike.

It is the uniform fleet with other machines. Each cluster has one distribution of Kubernetes and a
few pools of machines. Memory differs by some KiB from node to node, kernels and images are of many
patch levels, kubelets and runtimes of several, and labels and annotations are few or many: a node
has 7 to 20 KB. Everything follows from a seed, the number of the cluster and the place in it.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from random import Random
from typing import Any, Final

import orjson

from benchmarks.fleet import NODES_EACH, BenchFleet, Stored
from benchmarks.results import CORE, REAL, UNIFORM

_SEED: Final = 11
_KIB_PER_GIB: Final = 1 << 20
_MEMORY_STEP, _MEMORY_SPAN = 4_099, 1 << 15
"""Two nodes of one fleet differ by less than 32 MiB where their machines are of one type. The step
is odd, so that 32,768 nodes in a row have different values."""
_POOLS: Final = (2, 5)
_BEHIND: Final = 0.3
"""Part of the nodes of a pool whose kernel and runtime have a patch level of their own."""
_DISCOVERED: Final = 0.12
"""Part of the clusters that label each feature of a processor (node-feature-discovery)."""
_APPLIED: Final = 0.1
"""Part of the nodes that carry a copy of what was last applied."""
_RANGE: Final = re.compile(r"\[(\d+)\.\.(\d+)\]")


@dataclass(frozen=True, slots=True)
class _System:
    """An operating system; ``[1..9]`` stands for one of these numbers."""

    image: str
    kernel: str


@dataclass(frozen=True, slots=True)
class _Distribution:
    """A distribution of Kubernetes, with ranges as in ``_System``."""

    provider: str
    kubernetes: str
    runtime: str
    systems: tuple[_System, ...]


@dataclass(frozen=True, slots=True)
class _Machine:
    """A type of machine."""

    name: str
    cores: int
    memory_gib: int
    architecture: str = "amd64"
    gpus: int = 0


@dataclass(frozen=True, slots=True)
class _Pool:
    """Machines of one type that were installed together."""

    name: str
    machine: _Machine
    system: _System
    image: str
    kernel: str
    runtime: str


@dataclass(frozen=True, slots=True)
class _Traits:
    """What the nodes of a cluster have in common."""

    kubernetes: str
    labels: dict[str, str]


_OWN_SYSTEMS: Final = (
    _System("SUSE Linux Enterprise Server 15 SP[5..7]", "6.4.0-150600.23.[7..95]-default"),
    _System("SUSE Linux Micro 6.[0..2]", "6.4.0-[17..41]-default"),
    _System("Ubuntu 24.04.[1..3] LTS", "6.8.0-[31..90]-generic"),
    _System("Ubuntu 22.04.[1..5] LTS", "5.15.0-[91..160]-generic"),
    _System("Red Hat Enterprise Linux 9.[4..6] (Plow)", "5.14.0-503.[11..40].1.el9_5.x86_64"),
    _System("Flatcar Container Linux by Kinvolk 4152.2.[0..3] (Oklo)", "6.6.[65..95]-flatcar"),
)
_DISTRIBUTIONS: Final = (
    _Distribution(
        "rke2",
        "v1.[31..34].[0..9]+rke2r[1..2]",
        "containerd://2.[0..1].[1..5]-k3s[1..2]",
        _OWN_SYSTEMS,
    ),
    _Distribution(
        "k3s", "v1.[31..34].[0..9]+k3s1", "containerd://2.[0..1].[1..5]-k3s[1..2]", _OWN_SYSTEMS
    ),
    _Distribution(
        "eks",
        "v1.[31..34].[0..9]-eks-[1000000..9999999]",
        "containerd://1.7.[20..29]",
        (
            _System(
                "Amazon Linux 2023.[5..9].2025[1001..1231]",
                "6.1.[112..158]-[120..180].[190..230].amzn2023.x86_64",
            ),
        ),
    ),
    _Distribution(
        "gke",
        "v1.[31..34].[0..9]-gke.[1000000..1999999]",
        "containerd://2.0.[2..6]",
        (_System("Container-Optimized OS from Google", "6.6.[56..111]+"),),
    ),
    _Distribution(
        "aks",
        "v1.[31..34].[0..9]",
        "containerd://1.7.[20..29]-[1..2]",
        (_System("Ubuntu 22.04.[4..5] LTS", "5.15.0-1[066..099]-azure"),),
    ),
)
_MACHINES: Final = (
    _Machine("small", 2, 4),
    _Machine("medium", 2, 8),
    _Machine("large", 4, 16),
    _Machine("compute-2x", 8, 16),
    _Machine("general-2x", 8, 32),
    _Machine("arm-2x", 8, 32, architecture="arm64"),
    _Machine("general-4x", 16, 64),
    _Machine("memory-4x", 16, 128),
    _Machine("general-8x", 32, 128),
    _Machine("arm-16x", 64, 256, architecture="arm64"),
    _Machine("general-16x", 64, 256),
    _Machine("gpu-24x", 96, 768, gpus=8),
    _Machine("metal", 128, 1024),
)
_SERVERS: Final = _MACHINES[2:5]
"""Types of machines that run a control plane."""
_REGIONS: Final = ("eu-central-1", "eu-west-1", "us-east-1", "us-west-2", "ap-southeast-1")
_CPU_FEATURES: Final = """
AESNI AMXBF16 AMXINT8 AMXTILE AVX AVX2 AVX512BITALG AVX512BW AVX512CD AVX512DQ AVX512F AVX512FP16
AVX512IFMA AVX512VBMI AVX512VBMI2 AVX512VL AVX512VNNI AVXVNNI CETIBT CLDEMOTE CMPXCHG8 ENQCMD FMA3
FSRM FXSR GFNI HLE HYPERVISOR IBPB IBRS LAHF MOVBE MOVDIR64B MOVDIRI MPX OSXSAVE RTM SERIALIZE SHA
SPECCTRLSSBD STIBP SYSCALL SYSEE VAES VMX VPCLMULQDQ WAITPKG WBNOINVD X87 XGETBV1 XSAVE XSAVEC
"""


class RealFleet(BenchFleet):
    """The fleet of so many nodes; arguments and attributes are those of ``BenchFleet``."""

    name = REAL

    def _cluster(self, number: int) -> Iterator[Stored]:
        rng = Random(_SEED * 1_000_003 + number)
        cluster, *nodes = self._repeated(number)
        distribution = rng.choice(_DISTRIBUTIONS)
        kubernetes = _drawn(distribution.kubernetes, rng)
        pools = _pools(distribution, rng)
        traits = _Traits(kubernetes, _cluster_labels(distribution, rng))
        varied = []
        for index, stored in enumerate(nodes):
            node = orjson.loads(stored.body)
            pool = pools[0] if node["spec"]["controlPlane"] else rng.choice(pools[1:])
            _vary(node, number * NODES_EACH + index, pool, traits, rng)
            varied.append(node)
        yield _with_body(cluster, _fitting(cluster.body, distribution, kubernetes, varied))
        for stored, node in zip(nodes, varied, strict=True):
            yield _with_body(stored, node)


class CoreFleet(RealFleet):
    """The nodes alone, as core nodes of one cluster of plain Kubernetes."""

    name = CORE
    nodes_path = beside_path = "/api/v1/nodes"

    def __init__(self, nodes: int) -> None:
        """As of ``BenchFleet``."""
        super().__init__(nodes)
        self.nodes = nodes
        self._cordoned: set[str] = set()

    def objects(self) -> Iterator[Stored]:
        """All nodes; those of the local cluster are left out."""
        for number in range(self.clusters):
            yield from self._cluster(number)

    def heartbeats(self, count: int) -> Iterator[Stored]:
        """As of ``BenchFleet``; a scrape shows the last one, which is cordoned or no longer."""
        for number, node in enumerate(super().heartbeats(count), 1):
            if number == count:
                self._cordoned ^= {node.name}
            yield _cordon(node) if node.name in self._cordoned else node

    def _cluster(self, number: int) -> Iterator[Stored]:
        yield from (
            _core(stored) for stored in super()._cluster(number) if stored.plural == "nodes"
        )


def make_fleet(name: str, nodes: int) -> BenchFleet:
    """The fleet of this name.

    Raises:
        KeyError: There is none.
        ValueError: As of ``BenchFleet``.
    """
    return {UNIFORM: BenchFleet, REAL: RealFleet, CORE: CoreFleet}[name](nodes)


def _core(stored: Stored) -> Stored:
    """What Rancher's node is a copy of."""
    node = orjson.loads(stored.body)
    name, metadata = node["status"]["nodeName"], node["metadata"]
    body = {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {
            "name": name,
            "uid": metadata["uid"],
            "creationTimestamp": metadata["creationTimestamp"],
            "labels": node["status"]["nodeLabels"],
            "annotations": node["status"]["nodeAnnotations"],
            "managedFields": [_owned_by_kubelet(entry) for entry in metadata["managedFields"]],
        },
        "spec": node["spec"]["internalNodeSpec"],
        "status": node["status"]["internalNodeStatus"],
    }
    return Stored("nodes", "", name, orjson.dumps(body), "")


def _owned_by_kubelet(entry: dict[str, Any]) -> dict[str, Any]:
    fields = {"f:metadata": entry["fieldsV1"]["f:metadata"]}
    return entry | {"manager": "kubelet", "apiVersion": "v1", "fieldsV1": fields}


def _cordon(node: Stored) -> Stored:
    body = orjson.loads(node.body)
    body["spec"]["unschedulable"] = True
    return _with_body(node, body)


def _with_body(stored: Stored, body: dict[str, Any]) -> Stored:
    return replace(stored, body=orjson.dumps(body))


def _drawn(text: str, rng: Random) -> str:
    """The text with a number for each of its ranges, as wide as the range is written."""

    def draw(found: re.Match[str]) -> str:
        return str(rng.randint(int(found[1]), int(found[2]))).zfill(len(found[1]))

    return _RANGE.sub(draw, text)


def _pools(distribution: _Distribution, rng: Random) -> list[_Pool]:
    """The pool of the control plane, and those of workers."""
    machines = [rng.choice(_SERVERS), *rng.sample(_MACHINES, rng.randint(*_POOLS))]
    pools = []
    for number, machine in enumerate(machines):
        system = rng.choice(distribution.systems)
        pools.append(
            _Pool(
                name=f"pool{number}",
                machine=machine,
                system=system,
                image=_drawn(system.image, rng),
                kernel=_drawn(system.kernel, rng),
                runtime=_drawn(distribution.runtime, rng),
            )
        )
    return pools


def _cluster_labels(distribution: _Distribution, rng: Random) -> dict[str, str]:
    """Labels that all nodes of a cluster have."""
    labels = {
        "topology.kubernetes.io/region": rng.choice(_REGIONS),
        "node.kubernetes.io/distribution": distribution.provider,
    }
    labels |= {f"acme-internal.example/{n:02d}": f"team-{n}" for n in range(rng.randint(0, 8))}
    if rng.random() < _DISCOVERED:
        features = rng.sample(_CPU_FEATURES.split(), rng.randint(20, 50))
        prefix = "feature.node.kubernetes.io/cpu-cpuid."
        labels |= {prefix + feature: "true" for feature in sorted(features)}
    return labels


def _vary(node: dict[str, Any], number: int, pool: _Pool, traits: _Traits, rng: Random) -> None:
    """Make a machine of the pool of a node."""
    machine, status = pool.machine, node["status"]["internalNodeStatus"]
    behind = rng.random() < _BEHIND
    info = status["nodeInfo"] | {
        "architecture": machine.architecture,
        "operatingSystem": "linux",
        "osImage": pool.image,
        "kernelVersion": _drawn(pool.system.kernel, rng) if behind else pool.kernel,
        "containerRuntimeVersion": pool.runtime,
        "kubeletVersion": traits.kubernetes,
        "kubeProxyVersion": traits.kubernetes,
    }
    capacity = status["capacity"] | {
        "cpu": str(machine.cores),
        "memory": f"{_memory_kib(machine, number)}Ki",
        "ephemeral-storage": f"{rng.randint(50_000_000, 500_000_000)}Ki",
    }
    if machine.gpus:
        capacity["nvidia.com/gpu"] = str(machine.gpus)
    status |= {"nodeInfo": info, "capacity": capacity, "allocatable": capacity}
    hostname = node["status"]["nodeName"]
    labels = node["status"]["nodeLabels"] | traits.labels
    labels |= {
        "beta.kubernetes.io/arch": machine.architecture,
        "kubernetes.io/arch": machine.architecture,
        "node.kubernetes.io/instance-type": machine.name,
        "topology.kubernetes.io/zone": traits.labels["topology.kubernetes.io/region"]
        + "abc"[number % 3],
        "node.kubernetes.io/pool": pool.name,
    }
    node["status"]["nodeLabels"] = labels
    node["status"]["nodeAnnotations"] |= _annotations(hostname, number, rng)
    metadata = node["metadata"]
    metadata["labels"] |= {key: value for key, value in labels.items() if "kubernetes.io" in key}
    metadata["managedFields"][0]["fieldsV1"]["f:metadata"]["f:labels"] = {
        f"f:{key}": {} for key in metadata["labels"]
    }


def _memory_kib(machine: _Machine, number: int) -> int:
    """The memory that the kernel manages: what firmware and kernel take differs."""
    whole = machine.memory_gib * _KIB_PER_GIB
    return whole - whole // 64 - number * _MEMORY_STEP % _MEMORY_SPAN


def _annotations(hostname: str, number: int, rng: Random) -> dict[str, str]:
    found = {
        "cluster.x-k8s.io/machine": f"{hostname}-{rng.getrandbits(40):010x}",
        "flannel.alpha.coreos.com/backend-data": f'{{"VtepMAC":"{rng.getrandbits(48):012x}"}}',
        "rke2.io/node-config-hash": f"{rng.getrandbits(256):064X}====",
        "management.cattle.io/pod-count": str(number % 110),
    }
    for index in range(rng.randint(0, 6)):
        found[f"acme-internal.example/note-{index}"] = f"{rng.getrandbits(160):040x}"
    if rng.random() < _APPLIED:
        applied = {
            "metadata": {"labels": {f"l{n}": f"{rng.getrandbits(160):x}" for n in range(60)}}
        }
        found["kubectl.kubernetes.io/last-applied-configuration"] = orjson.dumps(applied).decode()
    return found


def _fitting(
    body: bytes, distribution: _Distribution, kubernetes: str, nodes: list[dict[str, Any]]
) -> dict[str, Any]:
    """The cluster, with a status that agrees with its nodes."""
    cluster: dict[str, Any] = orjson.loads(body)
    capacities = [node["status"]["internalNodeStatus"]["capacity"] for node in nodes]
    memory_kib = sum(int(capacity["memory"].removesuffix("Ki")) for capacity in capacities)
    status = cluster["status"]
    status |= {"driver": distribution.provider, "provider": distribution.provider}
    status["version"] |= {"gitVersion": kubernetes, "minor": kubernetes.split(".")[1]}
    status["capacity"] |= {
        "cpu": str(sum(int(capacity["cpu"]) for capacity in capacities)),
        "memory": f"{memory_kib}Ki",
    }
    return cluster
