"""``config.example.toml`` is accepted, equals the defaults, and shows every key."""

import re
from pathlib import Path
from typing import Any

from telemetryd.config import Config, parse_config
from telemetryd.config.schema import Table, Variants, keys_of

EXAMPLE = Path(__file__).parents[2] / "config.example.toml"


def accepted_keys(declaration: type[Any], table: str = "") -> set[str]:
    """``table.key`` of everything the declaration accepts, tables themselves left out."""
    found: set[str] = set()
    for key in keys_of(declaration):
        match key.kind:
            case Table(inner):
                found |= accepted_keys(inner, key.name)
            case Variants(variants=variants):
                for variant in variants:
                    found |= accepted_keys(variant, key.name) | {f"{key.name}.type"}
            case _:
                found.add(f"{table}.{key.name}")
    return found


def shown_keys(text: str) -> set[str]:
    found, table = set(), ""
    for line in text.splitlines():
        if heading := re.match(r"\[+([a-z_]+)\]+", line):
            table = heading[1]
        elif key := re.match(r"(?:# )?([a-z_]+) = ", line):
            found.add(f"{table}.{key[1]}")
    return found


def test_example_equals_the_defaults() -> None:
    assert parse_config(EXAMPLE.read_text(), "config.example.toml", {}) == parse_config("", "", {})


def test_example_shows_exactly_the_accepted_keys() -> None:
    assert shown_keys(EXAMPLE.read_text()) == accepted_keys(Config)


def test_every_shown_key_has_a_comment() -> None:
    for line in EXAMPLE.read_text().splitlines():
        if re.match(r"(?:# )?[a-z_]+ = ", line):
            assert re.search(r" = (\"[^\"]*\"|\S+) +# .", line), line


def test_example_with_its_comments_removed_is_accepted() -> None:
    text = re.sub(r"^# (\[|[a-z_]+ = )", r"\1", EXAMPLE.read_text(), flags=re.MULTILINE)
    config = parse_config(text, "config.example.toml", {})
    assert config.kubernetes.context == "production"
    assert config.identity.server_url == "https://rancher.example.com"
    assert [exporter.type for exporter in config.exporters] == ["secret", "file", "http", "otlp"]
