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
