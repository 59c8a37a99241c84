"""What the manager knows of each type of exporter."""

import time
from dataclasses import replace

import pytest

from telemetryd.config import Config, parse_config
from telemetryd.daemon.exporters import LONGEST_INITIAL_DELAY_S, ExporterFactory
from telemetryd.export.exporter import ExporterSpec

COMMON = '[[exporters]]\nname = "it"\n'
HTTP = COMMON + 'type = "http"\nurl = "http://127.0.0.1:1/"\n'
OTLP = COMMON + 'type = "otlp"\nendpoint = "http://127.0.0.1:1"\n'
FILE = COMMON + 'type = "file"\ndirectory = "/x"\n'


def spec(text: str) -> ExporterSpec:
    config: Config = parse_config(text, "t.toml", {})
    factory = ExporterFactory(None, now=time.time)  # type: ignore[arg-type]
    return factory.build(config.exporters[0])[0]


@pytest.mark.parametrize("text", [HTTP, OTLP])
def test_runs_of_what_is_remote_are_spread(text: str) -> None:
    assert (spec(text).splay_max_s, spec(text).initial_delay_max_s) == (300.0, 6.0)
    long = spec(text + 'interval = "1h"\n')
    assert long.initial_delay_max_s == LONGEST_INITIAL_DELAY_S
    assert not long.verifies_destination


def test_runs_of_what_is_on_this_machine_are_not_spread() -> None:
    assert (spec(FILE).splay_max_s, spec(FILE).initial_delay_max_s) == (0.0, 0.0)
    assert spec(FILE).destination == ""


def test_payloads_are_spooled_unless_reported_not_to_be_and_metrics_never() -> None:
    assert (spec(HTTP).spooled, spec(OTLP).spooled) == (True, False)
    assert len({spec(HTTP).destination, spec(OTLP).destination, ""}) == 3
    assert spec(HTTP).destination != spec(HTTP.replace(":1/", ":2/")).destination
    off = spec(HTTP + "spool = false\n")
    assert (off.spooled, off.destination) == (False, "")


@pytest.mark.parametrize("text", [HTTP, OTLP, FILE])
def test_spec_that_is_built_again_of_the_same_table_is_the_same(text: str) -> None:
    """By that a reload knows that only a schedule has changed."""
    factory = ExporterFactory(None, now=time.time)  # type: ignore[arg-type]
    first, other = (
        factory.build(parse_config(text + f'interval = "{interval}"\n', "t", {}).exporters[0])[0]
        for interval in ("60s", "61s")
    )
    kept = replace(
        first,
        interval_s=other.interval_s,
        timeout_s=other.timeout_s,
        initial_delay_max_s=other.initial_delay_max_s,
    )
    assert kept == other
