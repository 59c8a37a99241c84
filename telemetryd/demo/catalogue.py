"""What the demo fleet is made of: hardware, versions, settings and features, as plain tables.

No randomness and no objects: ``fleet`` draws from here and ``rendering`` gives it form. Features
and their defaults are those of Rancher ``59bd052e``.
"""

from dataclasses import dataclass

PRIVATE_MARK = "acme-internal"
"""Stands in every value of the fleet that must never leave the cluster."""

RANCHER_VERSION = "v2.15.0"
SERVER_URL = "https://rancher.demo.example"


@dataclass(frozen=True, slots=True)
class Shape:
    """A kind of machine; capacities are Kubernetes quantities as kubelets report them."""

    architecture: str
    cpu: str
    memory: str
    os_image: str
    kernel: str
    runtime: str
    operating_system: str = "linux"


SHAPES = (
    Shape("amd64", "2", "4025860Ki", "SUSE Linux Micro 6.1", "6.4.0-30", "containerd://2.0.5-k3s2"),
    Shape(
        "amd64", "4", "16384256Ki", "SUSE Linux Enterprise 15 SP7", "6.4.0", "containerd://2.0.5"
    ),
    Shape(
        "amd64", "8", "32768512Ki", "SUSE Linux Enterprise 15 SP7", "6.4.0", "containerd://2.0.5"
    ),
    Shape(
        "amd64", "16", "65537024Ki", "Ubuntu 24.04.2 LTS", "6.8.0-63-generic", "containerd://1.7.27"
    ),
    Shape(
        "amd64",
        "32",
        "131885568Ki",
        "Ubuntu 24.04.2 LTS",
        "6.8.0-63-generic",
        "containerd://1.7.27",
    ),
    Shape(
        "amd64", "64", "527895552Ki", "openSUSE Leap 15.6", "6.4.0-150600.23", "containerd://2.0.5"
    ),
    Shape("amd64", "7910m", "30Gi", "Container-Optimized OS", "6.6.72+", "containerd://1.7.24"),
    Shape("arm64", "4", "7935880Ki", "SUSE Linux Micro 6.1", "6.4.0-30", "containerd://2.0.5-k3s2"),
    Shape("arm64", "96", "196608000Ki", "Amazon Linux 2023.7", "6.1.134", "containerd://1.7.27"),
    Shape(
        "amd64",
        "4",
        "17179262976",
        "Windows Server 2022",
        "10.0.20348",
        "containerd://1.7.27",
        "windows",
    ),
)

KUBERNETES_VERSIONS = ("v1.31.9+rke2r1", "v1.32.5+rke2r1", "v1.33.1+k3s1", "v1.33.2+rke2r1")

IMAGES = (
    "rancher/rancher-agent:v2.15.0",
    "rancher/hardened-calico:v3.30.1-build20250611",
    "rancher/hardened-coredns:v1.12.2-build20250611",
    "rancher/hardened-etcd:v3.5.21-k3s1-build20250612",
    "rancher/hardened-flannel:v0.27.0-build20250611",
    "rancher/hardened-kubernetes:v1.33.2-rke2r1-build20250620",
    "rancher/hardened-k8s-metrics-server:v0.8.0-build20250704",
    "rancher/mirrored-pause:3.10",
    "rancher/nginx-ingress-controller:v1.12.4-hardened2",
    "rancher/rke2-cloud-provider:v1.33.1-0.20250516163953",
    "rancher/fleet-agent:v0.13.0",
    "rancher/kubectl:v1.33.1",
    "rancher/system-upgrade-controller:v0.16.0",
    "rancher/shell:v0.5.0",
    "longhornio/longhorn-manager:v1.9.0",
    "longhornio/longhorn-instance-manager:v1.9.0",
)

SETTINGS = {
    "agent-image": "rancher/rancher-agent:v2.15.0",
    "auth-user-session-ttl-minutes": "960",
    "bootstrap-password": f"{PRIVATE_MARK}-bootstrap",
    "cluster-defaults": "",
    "engine-install-url": "https://releases.rancher.com/install-docker/27.3.sh",
    "eula-agreed": "2026-01-12T09:21:44.000Z",
    "first-login": "false",
    "ingress-ip-domain": "sslip.io",
    "internal-server-url": f"https://rancher.{PRIVATE_MARK}.example",
    "k3s-default-version": "v1.33.1+k3s1",
    "password-min-length": "12",
    "rke2-default-version": "v1.33.2+rke2r1",
    "server-url": SERVER_URL,
    "server-version": RANCHER_VERSION,
    "server-version-type": "prime",
    "shell-image": "rancher/shell:v0.5.0",
    "system-default-registry": f"registry.{PRIVATE_MARK}.example",
    "ui-banners": f'{{"loginError":{{"message":"{PRIVATE_MARK} staff only"}}}}',
    "ui-pl": f"{PRIVATE_MARK} Kubernetes",
    "user-retention-cron": "",
}
"""Settings and their values; ``install-uuid`` is drawn."""


@dataclass(frozen=True, slots=True)
class FeatureRow:
    """A feature that Rancher v2.15.0 creates an object for."""

    name: str
    default: bool
    dynamic: bool = False
    prime: bool = False


FEATURES = (
    FeatureRow("aggregated-roletemplates", default=False, dynamic=True),
    FeatureRow("clean-stale-secrets", default=True),
    FeatureRow("cluster-agent-scheduling-customization", default=False, dynamic=True),
    FeatureRow("cluster-autoscaling", default=True, prime=True),
    FeatureRow("cluster-shell", default=True),
    FeatureRow("consistent-hashing-cluster-ownership", default=False),
    FeatureRow("continuous-delivery", default=True),
    FeatureRow("crt-token-ttl-rotation", default=True, dynamic=True),
    FeatureRow("fleet", default=True),
    FeatureRow("harvester", default=True, dynamic=True),
    FeatureRow("harvester-baremetal-container-workload", default=False, dynamic=True),
    FeatureRow("hide-local-auth-provider", default=False, dynamic=True),
    FeatureRow("imported-day-2-ops", default=True),
    FeatureRow("istio-virtual-service-ui", default=True, dynamic=True),
    FeatureRow("legacy", default=False, dynamic=True),
    FeatureRow("multi-cluster-management", default=True),
    FeatureRow("node-shell", default=True),
    FeatureRow("oidc-provider", default=True),
    FeatureRow("pod-shell", default=True),
    FeatureRow("provisioningprebootstrap", default=False),
    FeatureRow("provisioningv2-fleet-workspace-back-population", default=True),
    FeatureRow("rancher-scc-registration-extension", default=True, prime=True),
    FeatureRow("rke2", default=True),
    FeatureRow("scim", default=False),
    FeatureRow("token-hashing", default=False, dynamic=True),
    FeatureRow("ui-sql-cache", default=True),
    FeatureRow("uiextension", default=True),
    FeatureRow("unsupported-storage-drivers", default=False, dynamic=True),
    FeatureRow("v2prov-etcd-snapshot-backpopulate", default=True),
    FeatureRow("v3-public", default=True),
)
