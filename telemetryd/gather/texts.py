"""The forms in which texts of objects and answers may leave; any other text becomes ``other``.

A closed list where the values are known. Versions are numbers, and words that distributions use in
theirs: what a customer adds to a kernel's version is not among them. Sources: the kernels of RHEL,
SLES, Ubuntu, Debian, Flatcar, Bottlerocket, Amazon Linux, Talos, Container-Optimized OS, Azure
Linux, Photon, Oracle Linux and Windows nodes, and the ``gitVersion`` of the usual distributions of
Kubernetes.
"""

import re
from typing import Final

OTHER: Final = "other"
"""Takes the place of a text that may not leave."""

MAX_TEXT_CHARS: Final = 128

ARCHITECTURES: Final = frozenset(
    [
        "386",
        "aarch64",
        "amd64",
        "arm",
        "arm64",
        "armv6l",
        "armv7l",
        "armv8l",
        "i386",
        "i686",
        "loong64",
        "loongarch64",
        "mips",
        "mips64",
        "mips64le",
        "mips64el",
        "mipsel",
        "mipsle",
        "ppc64",
        "ppc64le",
        "riscv64",
        "s390x",
        "sparc64",
        "wasm",
        "x86_64",
    ]
)
"""GOARCH and ``uname -m`` of what Kubernetes runs on; in any case, as nodes write it."""

OPERATING_SYSTEMS: Final = frozenset({"linux", "windows", "darwin", "freebsd"})
"""GOOS of what Kubernetes runs on."""

PROVIDERS: Final = frozenset(
    [
        "aks",
        "alibaba",
        "docker",
        "eks",
        "gke",
        "harvester",
        "imported",
        "k3s",
        "minikube",
        "rke",
        "rke2",
    ]
)
"""Distributions that Rancher tells apart (rancher/kubernetes-provider-detector); ``imported`` is an
imported cluster whose distribution it doesn't know."""

_PROVIDER_NAMES: Final = {"ali": "alibaba", "rke.windows": "rke", "rke2.windows": "rke2"}

DRIVERS: Final = frozenset(
    [
        "aks",
        "alibaba",
        "eks",
        "gke",
        "imported",
        "k3os",
        "k3s",
        "local",
        "rancherd",
        "rke",
        "rke2",
    ]
)
"""Rancher's drivers (``ClusterDriver…`` of its API types), in lower case."""

_DRIVER_NAMES: Final = {
    "amazonelasticcontainerservice": "eks",
    "azurekubernetesservice": "aks",
    "googlekubernetesengine": "gke",
    "rancherkubernetesengine": "rke",
}

_DRIVER_PROVIDERS: Final = {"k3os": "k3s", "rancherd": "rke2"}

_VERSION_PROVIDERS: Final = {"+rke2": "rke2", "+k3s": "k3s", "-eks-": "eks", "-gke.": "gke"}

_MINOR: Final = re.compile(r"v?(1\.[0-9]{1,2})(?![0-9])", re.ASCII)

_RUNTIMES: Final = "containerd|docker|cri-o|cri-dockerd|rkt|frakti|remote|nvidia|isulad|pouch"

_WORDS: Final = (
    # of any version
    "alpha|beta|rc|dev|ce|ee|dirty|unknown|debug|rt|lts|default|standard|minimal|server|"
    # architectures
    "x|x86|amd|amd64|arm|arm64|aarch|aarch64|s390x|ppc64le|riscv64|i686|v|"
    # distributions
    "el|el8uek|fc|rhaos|uek|elrepo|centos|rocky|almalinux|rhel|azl|cm|amzn|ph|esx|photon|mariner|"
    "deb|bpo|ubuntu|generic|lowlatency|cloud|hwe|kvm|kvmsmall|virt|pve|bsd|arch|zen|hardened|"
    "flatcar|coreos|talos|bottlerocket|cos|gardenlinux|linuxkit|nixos|gentoo|longterm|"
    "oe|ky|an|al|tl|tlinux|lifsea|vz|wrs|ocs|uelc|eulerosv|h|git|"
    # clouds and machines
    "aws|azure|gcp|gke|gkeop|oracle|ibm|eks|aks|iks|oke|tke|aliyun|ack|doks|linode|"
    "nvidia|tegra|bluefield|raspi|rpi|rpt|v7l|v8|intel|iotg|xilinx|zynqmp|fips|realtime|fde|64k|"
    "microsoft|wsl|wsl2|"
    # distributions of Kubernetes
    "rke2r|k3s|k3s1|k0s|vmware|tkg|mirantis|minikube|kind|harvester|microk8s|"
    "r|rke|rancher|suse|sle|openshift"
)
_TOKEN: Final = rf"(?:[0-9]{{1,10}}[a-z]?|[0-9]{{0,4}}(?:{_WORDS})[0-9]{{0,8}})"
_NUMBERS: Final = r"[0-9]{1,10}(?:\.[0-9]{1,10}){1,4}"
_VERSION: Final = rf"v?{_NUMBERS}(?:[-.+~_:]{_TOKEN}){{0,16}}"
_HASH: Final = r"(?=[a-f]*[0-9])[0-9a-f]{6,40}"
_HASHED: Final = rf"{_VERSION}(?:[-.+~](?:git|g)?{_HASH})?(?:[-.+~_]{_TOKEN}){{0,4}}"

_KERNEL: Final = re.compile(rf"{_VERSION}\+?", re.ASCII | re.IGNORECASE)
_RUNTIME: Final = re.compile(
    rf"(?:{_RUNTIMES})://(?:{_HASHED}|unknown)\+?", re.ASCII | re.IGNORECASE
)
_KUBERNETES: Final = re.compile(rf"{_HASHED}\+?", re.ASCII | re.IGNORECASE)
_BUILD: Final = (
    r"(?:[0-9a-f]{1,40}|[0-9]{0,4}(?:"
    "alpha|beta|rc|dev|head|main|master|release|debug|hotfix|patch|security|prime|community|dirty|up"
    r")[0-9]{0,8})"
)
_PRODUCT_VERSION: Final = re.compile(
    rf"(?:v?[0-9]{{1,10}}(?:\.[0-9]{{1,10}}){{0,4}}|dev|head|main|master|release)"
    rf"(?:[-.+~_]v?{_BUILD}){{0,8}}[-.+~_]?",
    re.ASCII | re.IGNORECASE,
)
_COMMIT: Final = re.compile(
    r"(?:[0-9a-f]{4,128}|HEAD|unknown)(?:-dirty)?", re.ASCII | re.IGNORECASE
)
_FEATURE: Final = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?", re.ASCII)


def architecture(text: str) -> str:
    """The architecture, in the form that the node gave it."""
    return text if not text or text.lower() in ARCHITECTURES else OTHER


def operating_system(text: str) -> str:
    """The operating system."""
    return text if not text or text in OPERATING_SYSTEMS else OTHER


def container_runtime(text: str) -> str:
    """Name and version of the container runtime."""
    return _matched(_RUNTIME, text)


def kernel_version(text: str) -> str:
    """The kernel's version."""
    return _matched(_KERNEL, text)


def kubernetes_version(text: str) -> str:
    """A ``gitVersion`` of Kubernetes."""
    return _matched(_KUBERNETES, text)


def kubernetes_minor(version: str) -> str:
    """The minor version of a ``gitVersion``: ``1.33``; ``other`` where it has none."""
    found = _MINOR.match(version)
    return found[1] if found else OTHER


def provider(text: str) -> str:
    """The name of a distribution, empty where none is given."""
    name = _PROVIDER_NAMES.get(text.lower(), text.lower())
    return name if not name or name in PROVIDERS else OTHER


def driver(text: str) -> str:
    """The name of a driver, empty where none is given."""
    name = _DRIVER_NAMES.get(text.lower(), text.lower())
    return name if not name or name in DRIVERS else OTHER


def provider_of_driver(name: str) -> str:
    """The distribution that a driver stands for, empty where it stands for none."""
    name = _DRIVER_PROVIDERS.get(name, name)
    return name if name in PROVIDERS and name != "imported" else ""


def provider_of_version(version: str) -> str:
    """The distribution that writes such a ``gitVersion``, empty where it doesn't say."""
    for mark, name in _VERSION_PROVIDERS.items():
        if mark in version:
            return name
    return ""


def product_version(text: str) -> str:
    """A version of Rancher: also ``dev``, ``v2.12-0123abc-head`` and what builds are called."""
    return _matched(_PRODUCT_VERSION, text)


def build_commit(text: str) -> str:
    """The commit of a build; ``HEAD`` and ``unknown`` where it was made without one."""
    return _matched(_COMMIT, text)


def feature_name(text: str) -> str:
    """The name of a feature flag of Rancher, as far as its form says so."""
    return _matched(_FEATURE, text)


def _matched(pattern: re.Pattern[str], text: str) -> str:
    if not text:
        return ""
    return text if len(text) <= MAX_TEXT_CHARS and pattern.fullmatch(text) else OTHER
