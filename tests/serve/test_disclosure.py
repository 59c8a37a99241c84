"""What the page says is collected, held against what is."""

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest

from telemetryd.cli import run_command
from telemetryd.config import ExporterConfig
from telemetryd.config.schema import keys_of
from telemetryd.daemon.earlysignals import EarlySignals
from telemetryd.serve.disclosure import HELD_BACK, NEVER_READ, SENT

FORMATS = next(key.kind.words for key in keys_of(ExporterConfig) if key.name == "format")  # type: ignore[union-attr]


def leaves(schema: dict[str, Any], path: str = "") -> Iterator[str]:
    """Every key that a document may hold and that holds a value: ``a.b``, ``list[].c``."""
    if properties := schema.get("properties"):
        for name, inner in properties.items():
            yield from leaves(inner, f"{path}.{name}" if path else name)
    elif "items" in schema:
        yield from leaves(schema["items"], f"{path}[]")
    else:
        yield path


@pytest.mark.parametrize("name", FORMATS)
def test_every_key_that_is_sent_is_named_and_no_other(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command(["schema", "--format", name], EarlySignals()) == 0
    told = [key for sent in SENT[name] for key in sent.keys]
    assert sorted(told) == sorted(leaves(json.loads(capsys.readouterr().out)))
    assert HELD_BACK[name]


@pytest.mark.parametrize("name", SENT)
def test_no_line_ends_in_a_full_stop_or_says_a_thing_twice(name: str) -> None:
    lines = [*NEVER_READ, *HELD_BACK[name], *(sent.what for sent in SENT[name])]
    assert len(set(lines)) == len(lines)
    assert not [line for line in lines if re.search(r"[.!]$", line)]
