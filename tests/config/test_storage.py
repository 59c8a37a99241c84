"""Sizes and paths: what they take, what they make of it, and what they say of the rest."""

from typing import Any

import pytest

from telemetryd.config import FileExporterConfig, parse_config
from telemetryd.config.storage import AbsolutePath, Size
from telemetryd.config.values import InvalidValue, Kind
from telemetryd.errors import ConfigError


@pytest.mark.parametrize(
    ("kind", "value", "parsed"),
    [
        (Size(), "1B", 1),
        (Size(), "512KiB", 524_288),
        (Size(), "10MiB", 10_485_760),
        (Size(), "1024TiB", 1 << 50),
        (AbsolutePath(), "/", "/"),
        (AbsolutePath(), "/srv/a b", "/srv/a b"),
        (AbsolutePath(), "//srv//./a/", "/srv/a"),
    ],
)
def test_valid_value_is_parsed(kind: Kind[Any], value: object, parsed: object) -> None:
    assert kind.parse(value) == parsed


@pytest.mark.parametrize(
    ("kind", "value", "message"),
    [
        (Size(), 10, "must be a size in quotes"),
        (Size(), True, "must be a size in quotes"),
        (Size(), "", "isn't a size"),
        (Size(), "10", "with one of the units B, KiB, MiB, GiB, TiB"),
        (Size(), "10MB", "isn't a size"),
        (Size(), "10 MiB", "isn't a size"),
        (Size(), "1.5MiB", "isn't a size"),
        (Size(), "-1MiB", "isn't a size"),
        (Size(), "٣MiB", "isn't a size"),
        (Size(), "0B", "out of range: must be 1B to 1024TiB"),
        (Size(), "1025TiB", "out of range"),
        pytest.param(Size(), "9" * 5000 + "B", "isn't a size", id="very long"),
        (AbsolutePath(), 1, "must be an absolute path in quotes"),
        (AbsolutePath(), "", "is empty"),
        (AbsolutePath(), "out", "must be an absolute path such as"),
        (AbsolutePath(), "~/out", "must be an absolute path such as"),
        (AbsolutePath(), "/srv/../out", 'without ".."'),
        (AbsolutePath(), "/srv\0", "control characters"),
        (AbsolutePath(), "/" + "a" * 4095, "too long"),
    ],
)
def test_invalid_value_says_what_would_be_right(
    kind: Kind[Any], value: object, message: str
) -> None:
    with pytest.raises(InvalidValue) as raised:
        kind.parse(value)
    assert message in str(raised.value)


def test_file_exporter_has_its_defaults_and_takes_its_keys() -> None:
    text = """
    [[exporters]]
    name = "a"
    type = "file"
    directory = "/srv/a"
    [[exporters]]
    name = "b"
    type = "file"
    directory = "/srv/b/"
    keep = 1
    max_bytes = "1MiB"
    compress = true
    """
    assert parse_config(text, "t.toml", {}).exporters == (
        FileExporterConfig(name="a", directory="/srv/a", keep=48, max_bytes=None, compress=False),
        FileExporterConfig(name="b", directory="/srv/b", keep=1, max_bytes=1 << 20, compress=True),
    )


def test_every_mistake_of_a_file_exporter_is_named() -> None:
    text = """
    [[exporters]]
    name = "a"
    type = "file"
    keep = 0
    max_bytes = "lots"
    namespace = "x"
    """
    with pytest.raises(ConfigError) as raised:
        parse_config(text, "t.toml", {})
    assert [problem.key for problem in raised.value.problems] == [
        "exporters.a.keep",
        "exporters.a.max_bytes",
        "exporters.a.namespace",
        "exporters.a.directory",
    ]


def test_two_exporters_on_one_directory_are_refused_however_it_is_written() -> None:
    text = """
    [[exporters]]
    name = "a"
    type = "file"
    directory = "/srv/a"
    [[exporters]]
    name = "b"
    type = "file"
    directory = "//srv/./a/"
    """
    with pytest.raises(ConfigError) as raised:
        parse_config(text, "t.toml", {})
    assert str(raised.value) == (
        't.toml:9: exporters.b.directory: "/srv/a" is the directory of exporters.a too: each needs '
        "its own"
    )
