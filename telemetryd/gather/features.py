"""The features of each version of Rancher, and its product name.

Rancher reports the features that are compiled in and on. Most have an object with the user's
choice, but the objects of removed features stay after an upgrade. So the table below says which
features exist, and the objects say which are on.
"""

import math
import re
from collections.abc import Mapping
from typing import Final, NamedTuple, TypeAlias

from telemetryd.gather import texts
from telemetryd.model import FeatureRecord, Unreadable

PRIME: Final = "prime"
"""Value of the setting ``server-version-type`` on a Rancher Prime build."""

Version: TypeAlias = tuple[float, float, float]
"""Major, minor and patch; infinite where a version has none."""

NEWEST_KNOWN: Final[Mapping[tuple[float, float], int]] = {
    (2, 12): 12,
    (2, 13): 8,
    (2, 14): 4,
    (2, 15): 0,
}
"""The newest patch of each minor version whose features are known exactly."""

OLDEST_KNOWN: Final[Version] = (2, 12, 1)
"""The first Rancher that writes a payload; an older one counts as this one."""

_EVER: Final[Version] = (math.inf, math.inf, math.inf)

ON: Final = "on"
OFF: Final = "off"
PRIME_ON: Final = "on if prime"
PRIME_ONLY: Final = "on, prime only"


class _Compiled(NamedTuple):
    """A feature between two versions.

    Attributes:
        since: First version with it.
        until: First version without it, or with another default.
        default: Without an object or a choice: on, off, on in a build of Rancher Prime, or on
            there and always off in other builds.
    """

    name: str
    since: Version
    until: Version
    default: str


_2_12: Final = OLDEST_KNOWN
_2_13: Final = (2, 13, 0)
_2_14: Final = (2, 14, 0)
_2_15: Final = (2, 15, 0)
_2_16: Final = (2, 16, 0)

COMPILED: Final = (
    _Compiled("aggregated-roletemplates", _2_12, _2_16, OFF),
    _Compiled("aggregated-roletemplates", _2_16, _EVER, ON),
    _Compiled("auth", _2_12, _2_16, ON),
    _Compiled("clean-stale-secrets", _2_12, _EVER, ON),
    _Compiled("cluster-agent-scheduling-customization", _2_12, _EVER, OFF),
    _Compiled("cluster-autoscaling", _2_13, _2_14, PRIME_ON),
    _Compiled("cluster-autoscaling", _2_14, _EVER, PRIME_ONLY),
    _Compiled("cluster-shell", _2_15, _EVER, ON),
    _Compiled("consistent-hashing-cluster-ownership", _2_14, _EVER, OFF),
    _Compiled("continuous-delivery", _2_12, _EVER, ON),
    _Compiled("crt-token-ttl-rotation", (2, 13, 8), _2_14, OFF),
    _Compiled("crt-token-ttl-rotation", (2, 14, 4), _2_15, OFF),
    _Compiled("crt-token-ttl-rotation", _2_15, _EVER, ON),
    _Compiled("embedded-cluster-api", _2_12, _2_13, ON),
    _Compiled("embedded-cluster-api", _2_13, _2_14, OFF),
    _Compiled("ext-kubeconfigs", _2_12, _2_13, ON),
    _Compiled("ext-tokens", _2_12, _2_13, ON),
    _Compiled("fleet", _2_12, _EVER, ON),
    _Compiled("harvester", _2_12, _EVER, ON),
    _Compiled("harvester-baremetal-container-workload", _2_12, _EVER, OFF),
    _Compiled("hide-local-auth-provider", _2_15, _EVER, OFF),
    _Compiled("imported-day-2-ops", _2_15, _EVER, ON),
    _Compiled("istio-virtual-service-ui", _2_12, _EVER, ON),
    _Compiled("legacy", _2_12, _EVER, OFF),
    _Compiled("managed-system-upgrade-controller", _2_12, _EVER, ON),
    _Compiled("multi-cluster-management", _2_12, _EVER, ON),
    _Compiled("multi-cluster-management-agent", _2_12, _EVER, OFF),
    _Compiled("node-shell", _2_15, _EVER, ON),
    _Compiled("oidc-provider", _2_12, _EVER, PRIME_ON),
    _Compiled("pod-shell", _2_15, _EVER, ON),
    _Compiled("provisioningprebootstrap", _2_12, _EVER, OFF),
    _Compiled("provisioningv2", _2_12, _EVER, ON),
    _Compiled("provisioningv2-fleet-workspace-back-population", _2_12, _2_15, OFF),
    _Compiled("provisioningv2-fleet-workspace-back-population", _2_15, _EVER, ON),
    _Compiled("rancher-scc-registration-extension", _2_12, _2_14, PRIME_ON),
    _Compiled("rancher-scc-registration-extension", _2_14, _EVER, PRIME_ONLY),
    _Compiled("rke1-custom-node-cleanup", _2_12, _2_15, ON),
    _Compiled("rke1-ui", _2_12, _2_15, ON),
    _Compiled("rke2", _2_12, _EVER, ON),
    _Compiled("scim", _2_14, _EVER, OFF),
    _Compiled("token-hashing", _2_12, _EVER, OFF),
    _Compiled("turtles", _2_13, _EVER, ON),
    _Compiled("ui-sql-cache", _2_12, _2_16, ON),
    _Compiled("uiextension", _2_12, _EVER, ON),
    _Compiled("unsupported-storage-drivers", _2_12, _EVER, OFF),
    _Compiled("v2prov-etcd-snapshot-backpopulate", _2_12, _EVER, ON),
    _Compiled("v3-public", _2_14, _EVER, ON),
)
"""Source: ``pkg/features/feature.go`` of Rancher at each tag from v2.12.1 to v2.15.0, and of its
main branch in August 2026, which became 2.16."""

_RENAMED: Final[Mapping[tuple[float, float], int]] = {(2, 12): 8, (2, 13): 4, (2, 14): 1}
"""The patch that first called itself ``rancher-prime``; any other minor version does."""

_REMOVED_BEFORE: Final = frozenset(
    {"dashboard", "external-rules", "imperative-api-extension", "monitoringv1", "proxy"}
)
"""Features of versions before the oldest known, whose objects may be left."""

_VERSION: Final = re.compile(r"v?([0-9]{1,6})\.([0-9]{1,6})(?![0-9])(?:\.([0-9]{1,6})(?![0-9]))?")


def parse_version(text: str) -> Version:
    """The version of a Rancher; newer than all if the text has none (``dev``)."""
    match = _VERSION.match(text)
    if match is None:
        return (math.inf, math.inf, 0)
    major, minor, patch = match.groups()
    return (int(major), int(minor), int(patch) if patch else math.inf)


def is_known(version: Version) -> bool:
    """Whether its features are known exactly: a newer version, even a patch, may have others."""
    return version <= OLDEST_KNOWN or version[2] <= NEWEST_KNOWN.get(version[:2], -1)


def enabled_features(
    features: Mapping[str, FeatureRecord | Unreadable], *, version: str, version_type: str
) -> tuple[str, ...]:
    """Names of the features that are on, sorted, like Rancher's ``ListEnabled``.

    If the version is not known exactly, objects of features that the table doesn't call removed
    count too: under their name if it has the form of one, otherwise as ``other``. A feature that
    can't be read is left out.
    """
    running = max(parse_version(version), OLDEST_KNOWN)
    is_prime = version_type == PRIME
    compiled = {each.name: each for each in COMPILED if each.since <= running < each.until}
    names = [
        name
        for name, feature in compiled.items()
        if _is_on(feature.default, features.get(name), is_prime=is_prime)
    ]
    if not is_known(running):
        gone = {each.name for each in COMPILED if each.until <= running} | _REMOVED_BEFORE
        names += [
            texts.feature_name(name)
            for name in features.keys() - compiled.keys() - gone
            if _is_on(None, features[name], is_prime=is_prime)
        ]
    return tuple(sorted(names))


def product_name(version: str, version_type: str) -> str:
    """The product name in Rancher's own payload; ``rancher`` if it is no Prime build.

    Source: ``pkg/telemetry/scc.go`` at each tag. Other builds than Prime write no payload.
    """
    running = parse_version(version)
    was_renamed = running >= _2_12 and running[2] >= _RENAMED.get(running[:2], 0)
    return "rancher-prime" if version_type == PRIME and was_renamed else "rancher"


def _is_on(
    default: str | None, feature: FeatureRecord | Unreadable | None, *, is_prime: bool
) -> bool:
    """Whether it is on; without a default here, by its object alone."""
    if isinstance(feature, Unreadable) or (default == PRIME_ONLY and not is_prime):
        return False
    if feature is None:
        return default != OFF and (is_prime or default == ON)
    if default is None and feature.prime and not is_prime:
        return False
    if feature.locked is not None:
        return feature.locked
    return feature.default if feature.value is None else feature.value
