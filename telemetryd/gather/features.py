"""Which Rancher features are on: the ``feature_flags`` of the SCC payload.

The Feature objects are the truth, for telemetryd runs beside many versions of Rancher. Three flags
are compiled into Rancher and listed by it without ever having an object of their own; they are
added for the versions that have them. Names are of a closed list, for anyone who may create a
Feature chooses its name.
"""

import re
from collections.abc import Mapping
from typing import Final

from telemetryd.gather import texts
from telemetryd.model import FeatureRecord, Unreadable

PRIME: Final = "prime"
"""Value of the setting ``server-version-type`` on a Rancher Prime build."""

WITHOUT_OBJECT: Final[Mapping[str, tuple[int, int]]] = {
    "managed-system-upgrade-controller": (2, 10),
    "provisioningv2": (2, 6),
    "turtles": (2, 13),
}
"""Features that default to on without an object, and the Rancher minor version that brought them.

Sources: rancher-docs issue 1504 (available as of 2.10.0), Rancher's provisioning v2 of 2.6, and
rancher issue 52533 (turtles new in 2.13).
"""

KNOWN: Final = frozenset(
    [
        *WITHOUT_OBJECT,
        "aggregated-roletemplates",
        "auth",
        "clean-stale-secrets",
        "cluster-agent-scheduling-customization",
        "cluster-autoscaling",
        "cluster-shell",
        "consistent-hashing-cluster-ownership",
        "continuous-delivery",
        "crt-token-ttl-rotation",
        "embedded-cluster-api",
        "ext-kubeconfigs",
        "ext-tokens",
        "external-rules",
        "fleet",
        "harvester",
        "harvester-baremetal-container-workload",
        "hide-local-auth-provider",
        "imperative-api-extension",
        "imported-day-2-ops",
        "istio-virtual-service-ui",
        "legacy",
        "multi-cluster-management",
        "multi-cluster-management-agent",
        "node-shell",
        "oidc-provider",
        "pod-shell",
        "provisioningprebootstrap",
        "provisioningv2-fleet-workspace-back-population",
        "rancher-scc-registration-extension",
        "rke1-custom-node-cleanup",
        "rke1-ui",
        "rke2",
        "scim",
        "token-hashing",
        "ui-sql-cache",
        "uiextension",
        "unsupported-storage-drivers",
        "v2prov-etcd-snapshot-backpopulate",
        "v3-public",
    ]
)
"""Every feature of Rancher up to ``KNOWN_UP_TO``; source: ``pkg/features/feature.go``."""

KNOWN_UP_TO: Final = (2, 16)
"""Names of a newer Rancher leave too where they have the form of a feature name."""

_MINOR: Final = re.compile(r"v?([0-9]{1,6})\.([0-9]{1,6})(?![0-9])")


def enabled_features(
    features: Mapping[str, FeatureRecord | Unreadable], *, version: str, version_type: str
) -> tuple[str, ...]:
    """Names of the features that are on, sorted, with ``other`` for each that may not leave.

    A feature that can't be read is left out: nothing is known of it, not even its default.

    Args:
        features: Every Feature object there is, by name.
        version: The raw Rancher version. One without a leading ``x.y`` (``dev``, a build of the
            main branch) counts as newer than all of them.
        version_type: The setting ``server-version-type``.
    """
    prime_build = version_type == PRIME
    minor = _minor(version)
    names = [
        _public_name(name, minor)
        for name, feature in features.items()
        if isinstance(feature, FeatureRecord) and _is_on(feature, prime_build=prime_build)
    ]
    for name, since in WITHOUT_OBJECT.items():
        if name not in features and (minor is None or minor >= since):
            names.append(name)
    return tuple(sorted(names))


def _public_name(name: str, minor: tuple[int, int] | None) -> str:
    if name in KNOWN:
        return name
    return texts.feature_name(name) if minor is None or minor > KNOWN_UP_TO else texts.OTHER


def _is_on(feature: FeatureRecord, *, prime_build: bool) -> bool:
    if feature.prime and not prime_build:
        return False
    if feature.locked is not None:
        return feature.locked
    if feature.value is not None:
        return feature.value
    return feature.default


def _minor(version: str) -> tuple[int, int] | None:
    match = _MINOR.match(version)
    return (int(match[1]), int(match[2])) if match is not None else None
