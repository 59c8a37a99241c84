"""Which features are on: Rancher's rules, and the three it lists without an object."""

import pytest

from telemetryd.errors import UnreadableReason
from telemetryd.gather.features import WITHOUT_OBJECT, enabled_features
from telemetryd.gather.texts import OTHER
from telemetryd.model import FeatureRecord, Unreadable
from tests.gather.readers import feature

OLD = "v2.5.0"  # before all three that have no object
NEWER = "v2.17.0"  # than all that is known


def enabled(
    version: str = OLD, version_type: str = "prime", **features: FeatureRecord | Unreadable
) -> tuple[str, ...]:
    return enabled_features(features, version=version, version_type=version_type)


@pytest.mark.parametrize(
    ("record", "on"),
    [
        (feature(), False),
        (feature(default=True), True),
        (feature(value=False, default=True), False),
        (feature(value=True, default=False), True),
        (feature(locked=True, value=False, default=False), True),
        (feature(locked=False, value=True, default=True), False),
        (feature(prime=True, default=True), True),
        (feature(prime=True, value=False, default=True), False),
    ],
)
def test_locked_value_goes_before_value_and_value_before_default(
    record: FeatureRecord, on: bool
) -> None:
    assert enabled(legacy=record) == (("legacy",) if on else ())


@pytest.mark.parametrize("version_type", ["", "dev", "community", "Prime"])
def test_a_prime_feature_is_off_on_any_other_build(version_type: str) -> None:
    locked = feature(prime=True, locked=True, value=True, default=True)
    assert enabled(version_type=version_type, fleet=locked) == ()
    assert enabled(version_type=version_type, fleet=feature(default=True)) == ("fleet",)


NAMES = ("zebra", "legacy", "external-rules", "a-new-one", "a.domain", "A_b", "x" * 64)


@pytest.mark.parametrize("version", [NEWER, "dev", "main-head"])
def test_names_that_a_newer_rancher_may_have_are_listed(version: str) -> None:
    features = {name: feature(default=True) for name in NAMES}
    known = {*WITHOUT_OBJECT, "zebra", "legacy", "external-rules", "a-new-one"}
    listed = enabled_features(features, version=version, version_type="")
    assert listed == tuple(sorted((*known, *[OTHER] * 3)))


@pytest.mark.parametrize("version", [OLD, "v2.15.0", "v2.16.1"])
def test_names_that_no_known_rancher_has_are_other(version: str) -> None:
    features = {name: feature(default=True) for name in NAMES}
    listed = [
        name
        for name in enabled_features(features, version=version, version_type="")
        if name not in WITHOUT_OBJECT
    ]
    assert listed == ["external-rules", "legacy", *[OTHER] * 5]


@pytest.mark.parametrize(
    ("version", "added"),
    [
        ("v2.5.17", ()),
        ("v2.6.0", ("provisioningv2",)),
        ("2.9.12", ("provisioningv2",)),
        ("v2.10.0-alpha1", ("managed-system-upgrade-controller", "provisioningv2")),
        ("v2.12.3", ("managed-system-upgrade-controller", "provisioningv2")),
        ("v2.12-0123abc-head", ("managed-system-upgrade-controller", "provisioningv2")),
        ("v2.13.0", ("managed-system-upgrade-controller", "provisioningv2", "turtles")),
        ("v3.0.0", ("managed-system-upgrade-controller", "provisioningv2", "turtles")),
        ("dev", ("managed-system-upgrade-controller", "provisioningv2", "turtles")),
        ("", ("managed-system-upgrade-controller", "provisioningv2", "turtles")),
    ],
)
def test_features_without_object_are_added_where_the_version_has_them(
    version: str, added: tuple[str, ...]
) -> None:
    assert enabled(version) == added


@pytest.mark.parametrize("name", sorted(WITHOUT_OBJECT))
def test_an_object_of_one_of_the_three_is_the_truth(name: str) -> None:
    for record in (feature(value=False, default=True), feature(default=False)):
        features = {name: record}
        assert name not in enabled_features(features, version="v2.15.0", version_type="")


def test_nothing_is_said_of_a_feature_that_cannot_be_read() -> None:
    unreadable = Unreadable("uid", UnreadableReason.TYPE)
    features: dict[str, FeatureRecord | Unreadable] = {
        "fleet": unreadable,
        "turtles": unreadable,
        "rke2": feature(default=True),
    }
    assert enabled_features(features, version="v2.15.0", version_type="") == (
        "managed-system-upgrade-controller",
        "provisioningv2",
        "rke2",
    )


def test_a_fresh_prime_installation_of_2_15_lists_what_rancher_lists() -> None:
    on = {
        "aggregated-roletemplates", "clean-stale-secrets", "cluster-shell", "continuous-delivery",
        "crt-token-ttl-rotation", "fleet", "harvester", "imported-day-2-ops",
        "istio-virtual-service-ui", "multi-cluster-management", "node-shell", "oidc-provider",
        "pod-shell", "provisioningv2-fleet-workspace-back-population", "rke2", "uiextension",
        "v2prov-etcd-snapshot-backpopulate", "v3-public",
    }  # fmt: skip
    off = {
        "cluster-agent-scheduling-customization", "consistent-hashing-cluster-ownership",
        "harvester-baremetal-container-workload", "hide-local-auth-provider", "legacy",
        "provisioningprebootstrap", "scim", "token-hashing", "unsupported-storage-drivers",
    }  # fmt: skip
    prime = {"cluster-autoscaling", "rancher-scc-registration-extension"}
    features = {name: feature(default=True) for name in on}
    features |= {name: feature(default=False) for name in off}
    features |= {name: feature(default=True, prime=True) for name in prime}
    expected = on | set(WITHOUT_OBJECT)
    assert enabled_features(features, version="v2.15.0", version_type="dev") == tuple(
        sorted(expected)
    )
    assert enabled_features(features, version="v2.15.0", version_type="prime") == tuple(
        sorted(expected | prime)
    )
