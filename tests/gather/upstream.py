"""What Rancher has compiled in, makes, lists and calls itself: read from upstream, tag by tag.

``rancher-compiled.json`` holds ``pkg/features/feature.go`` of each tag that writes a payload, and
of the last patch of each minor version before them: by feature, from which tag on, and there the
default (``prime``: on in Prime builds), whether the installation makes an object of it, whether it
is for Prime alone, and whether it is locked on installation; nothing but the tag where it was
removed. ``rancher-features.txt`` holds what ``features.ListEnabled`` of each tag answered for a
fresh installation, by build.
"""

import json
import math
import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeAlias

from telemetryd.model import FeatureRecord
from tests.gather.readers import feature

_HERE = Path(__file__).parent

LISTED: Mapping[tuple[str, str], tuple[str, ...]] = {
    (tag, build): tuple(names)
    for tag, build, *names in map(
        str.split, (_HERE / "rancher-features.txt").read_text().splitlines()
    )
}
"""What is listed, sorted, by tag and build."""

TAGS = tuple(dict.fromkeys(tag for tag, _ in LISTED))
"""From the oldest to the newest."""

_OLDER: Final = (
    "v2.4.18",
    "v2.5.17",
    "v2.6.14",
    "v2.7.18",
    "v2.8.15",
    "v2.9.12",
    "v2.10.12",
    "v2.11.16",
)
"""The last patch of each minor version that has features, but no payload of its own yet."""

_LAST: Final = (*_OLDER, "v2.12.12", "v2.13.8", "v2.14.4", "v2.15.0")

_COMPILED: Final[Mapping[str, list[list[Any]]]] = json.loads(
    (_HERE / "rancher-compiled.json").read_text()
)

EVER: Final = frozenset(_COMPILED)
"""Every feature that any of them has, or once had."""

Features: TypeAlias = dict[str, FeatureRecord]


class Compiled(NamedTuple):
    default: bool
    has_object: bool
    prime_only: bool
    locked: bool


@cache
def order(tag: str) -> tuple[float, ...]:
    """Sorts tags by their version, ``main`` after all."""
    return tuple(map(int, re.findall("[0-9]+", tag))) or (math.inf,)


@cache
def compiled_in(tag: str, build: str) -> Mapping[str, Compiled]:
    """The features of that tag."""
    found = {}
    for name, spans in _COMPILED.items():
        _, *facts = max(
            (span for span in spans if order(span[0]) <= order(tag)),
            key=lambda span: order(span[0]),
            default=[tag],
        )
        if facts:
            default, *others = facts
            found[name] = Compiled(default in {True, build}, *others)
    return found


def initialize(tag: str, build: str, objects: Features) -> Features:
    """The objects once that Rancher has started: ``MigrateFeatures`` and ``InitializeFeatures``."""
    after = {name: each for name, each in objects.items() if name not in _deleted_by(tag)}
    if after and "legacy" not in after and order(tag) >= order("v2.6.14"):
        after["legacy"] = feature(value=True)
    unlocks = order(tag) >= order("v2.14.0")
    for name, facts in compiled_in(tag, build).items():
        before = after.get(name)
        if before is None and not facts.has_object:
            continue
        locked = before.locked if before else facts.default if facts.locked else None
        after[name] = feature(
            value=before.value if before else None,
            default=facts.default,
            locked=locked if facts.locked or not unlocks else None,
            prime=facts.prime_only,
        )
    return after


def _deleted_by(tag: str) -> set[str]:
    """The removed features whose objects it deletes: of all others they stay."""
    deleted = {"external-rules"} if order(tag) >= order("v2.9.12") else set()
    return deleted | ({"auth", "ui-sql-cache"} if tag == "main" else set())


def installations(tag: str, build: str) -> dict[str, Features]:
    """The objects on that Rancher, by the tag that was installed first.

    One is fresh; the others were installed as the last patch of an earlier minor version, and
    upgraded to the last patch of each between.
    """
    minor = order(tag)[:2]
    earlier = [each for each in _LAST if order(each)[:2] < minor]
    made = {}
    for first in (*earlier, tag):
        objects: Features = {}
        for step in (*(each for each in earlier if order(each) >= order(first)), tag):
            objects = initialize(step, build, objects)
        made[first] = objects
    return made


def list_enabled(tag: str, build: str, objects: Features) -> tuple[str, ...]:
    """What that Rancher lists with these objects: rule of ``ListEnabled``."""
    listed = []
    for name, facts in compiled_in(tag, build).items():
        record = objects.get(name)
        chosen = (record.value if record.locked is None else record.locked) if record else None
        value = facts.default if chosen is None else chosen
        if value and not (facts.prime_only and build != "prime"):
            listed.append(name)
    return tuple(sorted(listed))


def _is_first_form(tag: str) -> bool:
    """Whether its payload is as in v2.12.1: another product, and the version as it is."""
    minor, _, patch = tag.rpartition(".")
    changed_in = {"v2.12": 8, "v2.13": 4}.get(minor)
    return changed_in is not None and int(patch) < changed_in


def product(tag: str) -> str:
    """``rancherProductIdentifier`` of that tag: what its Prime build calls itself."""
    return "rancher" if _is_first_form(tag) or tag == "v2.14.0" else "rancher-prime"


def written_version(tag: str, server_version: str) -> str:
    """``version`` in the payload of that tag where the setting says this."""
    found = re.match(r"v?(\d+\.\d+\.\d+)", server_version, re.ASCII)
    return found[1] if found and not _is_first_form(tag) else server_version
