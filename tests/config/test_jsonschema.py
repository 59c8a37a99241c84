"""The JSON Schema of the configuration file takes what telemetryd takes, and refuses the rest."""

import json
import re
import tomllib
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import given, settings

from telemetryd.config import parse_config
from telemetryd.config.jsonschema import config_schema
from telemetryd.errors import ConfigError
from tests.fuzz.toml_texts import TEXTS

ROOT = Path(__file__).parents[2]
EXAMPLE = (ROOT / "config.example.toml").read_text()
SCHEMA = config_schema()
VALIDATOR = jsonschema.Draft202012Validator(SCHEMA)


def complaints(text: str) -> list[str]:
    return [error.message for error in VALIDATOR.iter_errors(tomllib.loads(text))]


def test_schema_is_valid_and_that_of_the_repository() -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    assert json.loads((ROOT / "config.schema.json").read_text()) == SCHEMA, "run `make docs`"


def test_example_names_the_schema_and_fits_it() -> None:
    assert EXAMPLE.startswith("#:schema ./config.schema.json\n")
    assert complaints(EXAMPLE) == []
    everything = re.sub(r"^# (\[|[a-z_]+ = )", r"\1", EXAMPLE, flags=re.MULTILINE)
    assert complaints(everything) == []


def test_every_key_says_what_it_means() -> None:
    def check(schema: dict[str, Any]) -> None:
        for name, key in schema["properties"].items():
            assert key.get("description"), name
            if key.get("type") == "object":
                check(key)

    check(SCHEMA)
    for definition in SCHEMA["$defs"].values():
        check(definition)


SECRET = '[[exporters]]\nname = "a"\ntype = "secret"\n'


@pytest.mark.parametrize(
    "text",
    [
        "log_levl = 'info'",
        "log_level = 'loud'",
        "enabled = 'yes'",
        "drain_timeout = 5",
        "drain_timeout = '5'",
        "drain_timeout = '5x'",
        "state_dir = 'relative'",
        "[kubernetes]\npage_size = 0",
        "[kubernetes]\npage_size = '5'",
        "kubernetes = 1",
        "[server]\nlisten = 10464",
        "[server]\nlisten = 'nowhere'",
        "[secret_requests]\nenabled = 'yes'",
        "[identity]\ninstall_uuid = 'x'",
        "[identity]\nserver_url = 'https://a?b'",
        "exporters = {}",
        "[[exporters]]\nname = 'a'",
        "[[exporters]]\ntype = 'secret'",
        "[[exporters]]\nname = 'A'\ntype = 'secret'",
        "[[exporters]]\nname = 'a'\ntype = 'sekret'",
        "[[exporters]]\nname = 'a'\ntype = 'http'",
        f"{SECRET}url = 'https://a'",
        f"{SECRET}jitter = 0.6",
        f"{SECRET}secret = 'A'",
        f"{SECRET}interval = '0s'",
        f"{SECRET}interval = '999ms'",
        f"{SECRET}timeout = '0s'",
        f"[server]\ncontrol_socket = '/{'a' * 107}'",
        "[[exporters]]\nname = 'a'\ntype = 'file'\ndirectory = '/a'\nmax_bytes = '10'",
        "[[exporters]]\nname = 'a'\ntype = 'file'\ndirectory = '/a'\nmax_bytes = '0B'",
    ],
)
def test_wrong_file_is_refused_by_both(text: str) -> None:
    assert complaints(text)
    with pytest.raises(ConfigError):
        parse_config(text, "c.toml", {})


@settings(deadline=None)
@given(TEXTS)
def test_what_telemetryd_accepts_fits_the_schema(text: str) -> None:
    try:
        parse_config(text, "c.toml", {})
    except ConfigError:
        return
    assert complaints(text) == []
