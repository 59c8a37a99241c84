"""Which features are on, and what Rancher calls itself: as each Rancher says of itself."""

import random

import pytest

from telemetryd.errors import UnreadableReason
from telemetryd.gather.features import enabled_features, is_known, parse_version, product_name
from telemetryd.gather.texts import OTHER
from telemetryd.model import FeatureRecord, Unreadable
from tests.gather.readers import feature
from tests.gather.upstream import (
    EVER,
    LISTED,
    TAGS,
    Features,
    compiled_in,
    initialize,
    installations,
    list_enabled,
    product,
)

BUILDS = ("prime", "community")
NEWEST = "v2.15.0"


def listed(
    version: str, build: str, objects: dict[str, FeatureRecord | Unreadable] | Features
) -> tuple[str, ...]:
    return enabled_features({**objects}, version=version, version_type=build)


def running(tag: str) -> str:
    """What a build of that tag calls its version."""
    return "dev" if tag == "main" else tag


@pytest.mark.parametrize("build", BUILDS)
@pytest.mark.parametrize("tag", TAGS)
def test_fresh_installation_lists_what_its_rancher_lists(tag: str, build: str) -> None:
    objects = initialize(tag, build, {})
    assert listed(running(tag), build, objects) == LISTED[tag, build]


@pytest.mark.parametrize("build", BUILDS)
@pytest.mark.parametrize("tag", TAGS)
def test_upgraded_installation_lists_what_its_rancher_lists(tag: str, build: str) -> None:
    for first, objects in installations(tag, build).items():
        expected = list_enabled(tag, build, objects)
        assert listed(running(tag), build, objects) == expected, first
        # Rancher 2.6 switched it on where it found an older installation.
        is_old = first in {"v2.4.18", "v2.5.17"}
        assert set(expected) == {*LISTED[tag, build], *(["legacy"] if is_old else [])}, first


@pytest.mark.parametrize("build", BUILDS)
@pytest.mark.parametrize("tag", TAGS)
def test_removed_features_that_someone_switched_on_are_not_listed(tag: str, build: str) -> None:
    objects = initialize(tag, build, {})
    for name in EVER - compiled_in(tag, build).keys():
        objects[name] = feature(value=True, default=True)
    assert listed(running(tag), build, objects) == LISTED[tag, build]


@pytest.mark.parametrize("version", ["v2.16.0", "v2.16-59bd052e-head", "dev", "v3.0.0"])
def test_newer_version_lists_nothing_that_was_ever_removed(version: str) -> None:
    for objects in installations("main", "prime").values():
        expected = list_enabled("main", "prime", objects)
        for name in EVER - compiled_in("main", "prime").keys():
            objects[name] = feature(value=True, default=True)
        assert listed(version, "prime", objects) == expected


@pytest.mark.parametrize("build", BUILDS)
@pytest.mark.parametrize("tag", TAGS)
def test_what_was_chosen_locked_or_deleted_counts_as_in_its_rancher(tag: str, build: str) -> None:
    drawn = random.Random(f"{tag} {build}")
    choices = (None, True, False)
    for _ in range(50):
        objects = initialize(tag, build, {})
        for name, facts in compiled_in(tag, build).items():
            if drawn.random() < 0.2:
                objects.pop(name, None)
            elif drawn.random() < 0.5:
                # Of a feature that has none, someone may have made an object.
                objects[name] = feature(
                    value=drawn.choice(choices),
                    default=facts.default,
                    locked=drawn.choice(choices),
                    prime=facts.prime_only,
                )
        assert listed(running(tag), build, objects) == list_enabled(tag, build, objects)


@pytest.mark.parametrize("build", ["", "dev", "community", "Prime"])
def test_any_other_build_than_prime_lists_what_community_lists(build: str) -> None:
    objects = initialize(NEWEST, "community", {})
    assert listed(NEWEST, build, objects) == LISTED[NEWEST, "community"]


NAMES = (
    "zebra",
    "legacy",
    "external-rules",
    "ext-tokens",
    "a-new-one",
    "a.domain",
    "A_b",
    "x" * 64,
)


@pytest.mark.parametrize(
    ("version", "tag"),
    [
        ("v2.17.0", "main"),
        ("v2.16.0", "main"),
        ("v2.16-59bd052e-head", "main"),
        ("dev", "main"),
        ("main-head", "main"),
        ("v2.15.1", NEWEST),
        ("v2.14.5", "v2.14.4"),
        ("v2.14-0123abc-head", "v2.14.4"),
    ],
)
def test_newer_version_lists_what_may_be_new_and_no_leftovers(version: str, tag: str) -> None:
    assert not is_known(parse_version(version))
    objects = initialize(tag, "prime", {})
    added: Features = {name: feature(default=True) for name in NAMES}
    expected = {*LISTED[tag, "prime"], "zebra", "legacy", "a-new-one"}
    assert listed(version, "prime", objects | added) == tuple(sorted([*expected, *[OTHER] * 3]))


@pytest.mark.parametrize("version", ["v2.15.0", "2.15.0", "v2.15.0-rc3", "v2.15.0+up1"])
def test_known_version_lists_nothing_that_it_has_not_compiled_in(version: str) -> None:
    objects = initialize(NEWEST, "prime", {})
    added: Features = {name: feature(default=True) for name in NAMES if name != "legacy"}
    assert listed(version, "prime", objects | added) == LISTED[NEWEST, "prime"]


@pytest.mark.parametrize("version", ["v2.5.17", "v2.11.4", "v2.12.0"])
def test_version_older_than_all_payloads_counts_as_the_first_that_has_one(version: str) -> None:
    objects = initialize("v2.12.1", "prime", {})
    assert listed(version, "prime", objects) == LISTED["v2.12.1", "prime"]


def test_newer_feature_for_prime_is_off_on_any_other_build() -> None:
    objects: Features = {"a-new-one": feature(default=True, prime=True)}
    assert "a-new-one" in listed("v2.17.0", "prime", objects)
    assert "a-new-one" not in listed("v2.17.0", "community", objects)


def test_nothing_is_said_of_a_feature_that_cannot_be_read() -> None:
    unreadable = dict.fromkeys(("fleet", "turtles"), Unreadable("uid", UnreadableReason.TYPE))
    objects = initialize(NEWEST, "prime", {}) | unreadable
    expected = set(LISTED[NEWEST, "prime"]) - unreadable.keys()
    assert listed(NEWEST, "prime", objects) == tuple(sorted(expected))


@pytest.mark.parametrize("tag", TAGS)
def test_prime_build_is_called_what_its_rancher_calls_itself(tag: str) -> None:
    assert product_name(running(tag), "prime") == product(tag)


@pytest.mark.parametrize(
    ("version", "expected"),
    [
        ("v2.12.7-rc1", "rancher"),
        ("v2.12.12", "rancher-prime"),
        ("v2.13-head", "rancher-prime"),
        ("v2.11.9", "rancher"),
        ("v3.0.0", "rancher-prime"),
        ("", "rancher-prime"),
    ],
)
def test_versions_between_are_called_as_their_neighbours(version: str, expected: str) -> None:
    assert product_name(version, "prime") == expected


@pytest.mark.parametrize("build", ["", "dev", "community", "PRIME"])
def test_no_other_build_is_called_prime(build: str) -> None:
    assert product_name("v2.15.0", build) == "rancher"
