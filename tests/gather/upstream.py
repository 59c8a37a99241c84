"""What Rancher has compiled in and lists, tag by tag: read from upstream, and its own answers.

``rancher-compiled.json`` holds ``pkg/features/feature.go`` of each tag: by feature, from which tag
on, and there the default (``prime``: on in Prime builds), whether the installation makes an object
of it, whether it is for Prime alone, and whether it is locked on installation; nothing but the tag
where it was removed. ``rancher-features.txt`` holds what ``features.ListEnabled`` of each tag
answered for a fresh installation, by build.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple, TypeAlias

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

Features: TypeAlias = dict[str, FeatureRecord]


class Compiled(NamedTuple):
    default: bool
    has_object: bool
    prime_only: bool
    locked: bool


def compiled_in(tag: str, build: str) -> dict[str, Compiled]:
    """The features of that tag."""
    found = {}
    for name, spans in json.loads((_HERE / "rancher-compiled.json").read_text()).items():
        _, *facts = max(
            (span for span in spans if TAGS.index(span[0]) <= TAGS.index(tag)),
            key=lambda span: TAGS.index(span[0]),
            default=[tag],
        )
        if facts:
            default, *others = facts
            found[name] = Compiled(default in {True, build}, *others)
    return found


def initialize(tag: str, build: str, objects: Features) -> Features:
    """The objects once that Rancher has started: rule of ``InitializeFeatures``."""
    removed = {"external-rules"} | ({"auth", "ui-sql-cache"} if tag == "main" else set())
    after = {name: each for name, each in objects.items() if name not in removed}
    unlocks = TAGS.index(tag) >= TAGS.index("v2.14.0")
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
