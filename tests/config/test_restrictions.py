"""What restricts and what ends it: properties of the pure decision, and of the file's cuts."""

import tomllib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from telemetryd.config import ConfigSource, parse_config, read_switches
from telemetryd.config.load import ConfigFile
from telemetryd.config.restrictions import (
    Statement,
    decide,
    environment_statements,
    file_statements,
    require_choices,
    restrict,
)
from telemetryd.errors import ConfigError
from telemetryd.model import Restriction
from tests.support.counting import calls_of

SOURCES = st.sampled_from(["file", "environment", "setting", "--set"])
KEYS = st.sampled_from(
    ["enabled", "privacy.server_url", "exporters.a.enabled", "exporters.scc", "telemetry-opt"]
)
STATEMENTS = st.lists(st.builds(Statement, SOURCES, KEYS, st.booleans(), st.just("w")))
REMEMBERED = st.lists(
    st.builds(Restriction, SOURCES, KEYS, st.just("w"), st.floats(0, 1e9), st.just(False)),
    unique_by=lambda each: (each.source, each.key),
)

FULL = """
enabled = false

[privacy]
server_url = "omit"
cluster_ids = "omit"

[[exporters]]
name = "receiver"
type = "http"
url = "http://127.0.0.1:9/x"
enabled = false
"""


def places(restrictions: tuple[Restriction, ...]) -> set[tuple[str, str]]:
    return {(each.source, each.key) for each in restrictions}


@given(STATEMENTS, REMEMBERED)
def test_only_the_written_opposite_of_the_same_source_ends_what_is_remembered(
    statements: list[Statement], remembered: list[Restriction]
) -> None:
    effective = places(decide(statements, remembered, at=1.0).effective)
    permitted = {(each.source, each.key) for each in statements if not each.restricts}
    for each in remembered:
        assert (each.source, each.key) in effective | permitted


@given(STATEMENTS, REMEMBERED)
def test_what_is_written_always_restricts(
    statements: list[Statement], remembered: list[Restriction]
) -> None:
    effective = places(decide(statements, remembered, at=1.0).effective)
    assert {(each.source, each.key) for each in statements if each.restricts} <= effective


@given(STATEMENTS, REMEMBERED)
def test_silence_afterwards_changes_nothing_but_the_environments(
    statements: list[Statement], remembered: list[Restriction]
) -> None:
    first = decide(statements, remembered, at=1.0)
    later = decide((), first.remembered, at=2.0)
    assert later.remembered == later.effective
    written = {(e.source, e.key) for e in first.effective if e.written}
    gone = places(first.effective) - places(later.effective)
    assert gone <= {place for place in written if place[0] == "environment"}
    since = {(each.source, each.key): each.since for each in first.effective}
    assert all(each.since == since[each.source, each.key] for each in later.effective)


@settings(deadline=None)
@given(st.integers(0, len(FULL)))
def test_file_cut_anywhere_permits_nothing_that_the_whole_forbade(cut: int) -> None:
    whole = decide(file_statements(tomllib.loads(FULL), "f"), (), at=1.0)
    source = ConfigSource(None, {})
    file = ConfigFile("f", FULL[:cut])
    try:
        config = source.parse_as_written(file)
    except ConfigError:
        return
    decision = decide(source.statements(file), whole.remembered, at=2.0)
    config = restrict(config, decision.effective)
    assert not config.enabled
    assert (config.privacy.server_url, config.privacy.cluster_ids) == ("omit", "omit")
    assert not any(each.enabled for each in config.exporters)
    assert "scc" not in {each.name for each in config.exporters}


def test_each_opposite_that_is_written_ends_its_restriction() -> None:
    whole = decide(file_statements(tomllib.loads(FULL), "f"), (), at=1.0)
    opposite = (
        FULL.replace("false", "true")
        .replace('server_url = "omit"', 'server_url = "send"')
        .replace('cluster_ids = "omit"', 'cluster_ids = "anonymous"')
        + '[[exporters]]\nname = "scc"\ntype = "secret"\n'
    )
    found = decide(file_statements(tomllib.loads(opposite), "f"), whole.remembered, at=2.0)
    assert found.effective == found.remembered == ()


def test_exporter_that_comes_back_without_the_key_is_still_off() -> None:
    whole = decide(file_statements(tomllib.loads(FULL), "f"), (), at=1.0)
    text = FULL.replace("enabled = false\n", "")
    found = decide(file_statements(tomllib.loads(text), "f"), whole.remembered, at=2.0)
    config = restrict(parse_config(text, "f", {}), found.effective)
    assert [each.enabled for each in config.exporters] == [False]


def test_environment_restricts_while_it_is_set_and_permits_nothing() -> None:
    environ = {"TELEMETRYD_ENABLED": "false", "DO_NOT_TRACK": "1"}
    found = decide(environment_statements(environ, since=1.0), (), at=5.0)
    assert {each.key for each in found.effective} == {"$TELEMETRYD_ENABLED", "$DO_NOT_TRACK"}
    assert found.remembered == ()
    assert environment_statements({"TELEMETRYD_ENABLED": "true"}, since=1.0) == ()


CHOSEN = """
[[exporters]]
name = "scc"
type = "secret"
secret = "elsewhere"
namespace = "apart"
format = "fleet"

[[exporters]]
name = "web"
type = "http"
url = "http://127.0.0.1:9/x"
format = "fleet"
"""


def taken_up(text: str, remembered: tuple[Restriction, ...]) -> set[tuple[str, ...]]:
    """What each exporter that runs sends and where to, after an earlier file.

    Raises:
        ConfigError: The file isn't taken up.
    """
    source = ConfigSource(None, {})
    file = ConfigFile("f", text)
    config = source.parse_as_written(file)
    decision = decide(source.statements(file), remembered, at=2.0)
    config = restrict(config, decision.effective)
    require_choices(config, decision.missing, "f")
    names = ("name", "type", "format", "namespace", "secret", "url")
    return {
        tuple(str(getattr(exporter, name, "")) for name in names)
        for exporter in config.exporters
        if exporter.enabled
    }


@pytest.mark.parametrize("text", [CHOSEN, "enabled = true\n" + CHOSEN.replace("scc", "other")])
def test_file_cut_anywhere_sends_nothing_else_and_to_no_other_place(text: str) -> None:
    whole = decide(file_statements(tomllib.loads(text), "f"), (), at=1.0)
    allowed = taken_up(text, ())
    accepted = 0
    for cut in range(len(text)):
        try:
            assert taken_up(text[:cut], whole.remembered) <= allowed, text[:cut]
            accepted += 1
        except ConfigError:
            continue
    assert accepted


def test_choice_that_is_missing_is_named_until_its_default_is_written() -> None:
    whole = decide(file_statements(tomllib.loads(CHOSEN), "f"), (), at=1.0)
    assert whole.effective == ()
    text = CHOSEN.replace('namespace = "apart"\n', "").replace('format = "fleet"\n', "")
    with pytest.raises(ConfigError) as caught:
        taken_up(text, whole.remembered)
    assert [problem.key for problem in caught.value.problems] == [
        "exporters.scc.namespace",
        "exporters.scc.format",
        "exporters.web.format",
    ]
    default = CHOSEN.replace("apart", "cattle-telemetry-system").replace("fleet", "scc")
    found = decide(file_statements(tomllib.loads(default), "f"), whole.remembered, at=2.0)
    left = [each.key for each in found.remembered]
    assert left == ["exporters.scc.secret"]


def test_choice_means_nothing_for_another_type_or_an_exporter_that_is_off() -> None:
    whole = decide(file_statements(tomllib.loads(CHOSEN), "f"), (), at=1.0)
    other = '[[exporters]]\nname = "scc"\ntype = "file"\ndirectory = "/x"\nformat = "fleet"\n'
    assert [each[:2] for each in taken_up(other, whole.remembered)] == [("scc", "file")]
    off = '[[exporters]]\nname = "scc"\ntype = "secret"\nenabled = false\n'
    assert taken_up(off, whole.remembered) == set()


def test_exporter_scc_of_another_type_leaves_the_implied_one_out() -> None:
    other = '[[exporters]]\nname = "scc"\ntype = "http"\nurl = "http://127.0.0.1:9/x"\n'
    found = decide(file_statements(tomllib.loads(other), "f"), (), at=1.0)
    assert [each.key for each in found.effective] == ["exporters.scc"]
    assert len(taken_up(other, found.remembered)) == 1
    assert taken_up('log_level = "info"\n', found.remembered) == set()


@pytest.mark.parametrize("value", ["", " ", "true", "TRUE", "1", "yes", "on"])
def test_enabled_by_variable_leaves_it_on(value: str) -> None:
    assert read_switches({"TELEMETRYD_ENABLED": value}).enabled
    parse_config("", "f", {"TELEMETRYD_ENABLED": value})


@pytest.mark.parametrize("value", ["false", "False", "0", "no", "off", " off "])
def test_disabled_by_variable_is_off_whatever_the_file_says(value: str) -> None:
    assert not read_switches({"TELEMETRYD_ENABLED": value}).enabled
    assert parse_config("enabled = true", "f", {"TELEMETRYD_ENABLED": value}).enabled


def test_variable_that_says_neither_is_an_error_and_never_a_leave() -> None:
    environ = {"TELEMETRYD_ENABLED": "maybe"}
    assert not read_switches(environ).enabled
    with pytest.raises(ConfigError) as caught:
        parse_config("log_level = 1", "f", environ)
    first, second = map(str, caught.value.problems)
    assert first == '$TELEMETRYD_ENABLED: is "maybe": must be true or false'
    assert second.startswith("f:1: log_level")


@pytest.mark.parametrize("value", ["1", "true", "yes", "on", "please"])
def test_do_not_track_is_taken_for_a_no_to_tracking(value: str) -> None:
    assert not read_switches({"DO_NOT_TRACK": value}).tracking
    assert read_switches({"DO_NOT_TRACK": value}).enabled


@pytest.mark.parametrize("value", ["", "0", "false", "no", "off"])
def test_do_not_track_that_says_no_leaves_tracking_on(value: str) -> None:
    assert read_switches({"DO_NOT_TRACK": value}).tracking


def test_empty_environment_leaves_all_on() -> None:
    switches = read_switches({})
    assert switches.enabled
    assert switches.tracking


def calls(count: int) -> int:
    """Calls to weigh a file of so many exporters with two choices each, twice."""
    table = "".join(
        f'[[exporters]]\nname = "e{number}"\ntype = "secret"\n'
        f'secret = "s{number}"\nformat = "fleet"\n'
        for number in range(count)
    )
    statements = file_statements(tomllib.loads(table), "f")

    def weigh() -> None:
        first = decide(statements, (), at=1.0)
        again = decide(statements, first.remembered, at=2.0)
        assert len(again.remembered) == 2 * count + 1

    return calls_of(weigh)


def test_weighing_takes_as_many_steps_as_there_are_exporters() -> None:
    assert calls(500) < 11 * calls(50)
