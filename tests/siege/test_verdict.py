"""Which promises a run has broken."""

from dataclasses import replace

import pytest

from tests.siege.probes import Asked
from tests.siege.verdict import Exports, Phase, Siege, render

SERIES = ("/livez", "/metrics")


def phase(name: str, took_s: float = 0.01) -> Phase:
    asked = [Asked(float(number), took_s, 200) for number in range(10)]
    return Phase(
        name=name,
        seconds=10.0,
        asked=dict.fromkeys(SERIES, asked),
        exports={"scc": Exports(slots=9, runs=9, skipped=0), "receiver": Exports(4, 5, 0, 4)},
        requests=50,
        rss_mib=60.0,
        connections=3,
        cores=0.1,
        waited=0.01,
    )


def kept() -> Siege:
    return Siege(phase("quiet"), phase("siege", 0.045), phase("after"), peak_mib=70.0)


def test_run_that_keeps_every_promise_breaks_none() -> None:
    assert list(kept().broken()) == []
    assert "10/10" in render(kept())


LOST = [Asked(0.0, 5.0, 0, error="TimeoutError"), *phase("siege").asked["/livez"][1:]]
BROKEN = {
    "an unanswered probe": ({"asked": {"/livez": LOST}}, "9 of 10 answered (TimeoutError)"),
    "no probe at all": ({"asked": {"/livez": []}}, "0 of 0 answered"),
    "a slot left out": ({"exports": {"scc": Exports(9, 9, 1)}}, "1 skipped"),
    "a run too few": ({"exports": {"scc": Exports(9, 7, 0)}}, "9 slots, 7 runs"),
    "a post too few": ({"exports": {"receiver": Exports(9, 9, 0, 5)}}, "5 received"),
    "a failed run": ({"exports": {"scc": Exports(9, 9, 0, failures=2)}}, "2 failed"),
    "a slow answer": ({"asked": phase("siege", 0.051).asked}, "5.1 times as long"),
    "too many requests": ({"requests": 4000}, "400 requests a second"),
}


@pytest.mark.parametrize("what", BROKEN)
def test_what_goes_wrong_in_the_siege_is_named(what: str) -> None:
    change, said = BROKEN[what]
    run = kept()
    run.siege = replace(run.siege, **change)  # type: ignore[arg-type]
    broken = list(run.broken())
    assert broken
    assert all("siege" in each or "median" in each for each in broken)
    assert said in broken[0]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"peak_mib": 100.0}, "100 MiB at its peak"),
        ({"kills": 1}, "killed 1 processes"),
        ({"died": -9}, "ended with -9"),
        ({"after": ["7 connections, 1 before"]}, "not as before: 7 connections"),
        ({"history": ["the minute 60 is known for 9.0 s"]}, "history: the minute 60"),
        ({"restart": "never ready"}, "never ready"),
    ],
)
def test_what_goes_wrong_of_the_process_is_named(change: dict[str, object], said: str) -> None:
    (broken,) = replace(kept(), **change).broken()  # type: ignore[arg-type]
    assert said in broken


def test_phase_without_exports_seen_is_no_pass() -> None:
    run = kept()
    run.siege = replace(run.siege, exports={})
    assert list(run.broken()) == ["siege: no export could be looked at: fewer than two scrapes"]
