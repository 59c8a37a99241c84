"""Each rule of the state machine, as one step."""

import random
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from telemetryd.errors import (
    BadResponse,
    Cause,
    Conflict,
    Forbidden,
    Gone,
    Invalid,
    KubeError,
    NotFound,
    Reason,
    Throttled,
    TooLarge,
    Unauthorized,
    Unavailable,
)
from telemetryd.informer.backoff import DEFAULT_TIMING, Backoff, WatchTiming
from telemetryd.informer.machine import START, START_STREAMED, Machine, Move, step
from telemetryd.informer.states import (
    Checked,
    Checking,
    Crashed,
    Failed,
    Listed,
    Listing,
    ListMethod,
    ListReason,
    Outcome,
    Probing,
    Regressed,
    ResyncDue,
    State,
    StreamRefused,
    Suspect,
    WatchEnd,
    WatchEnded,
    WatchFailed,
    Watching,
    WatchUnanswered,
)

WATCHING = Watching("7")
REFUSED = Unavailable("refused", kind=Reason.CONNECT)
INTERNAL = Unavailable("PrevKv=nil", kind=Reason.SERVER, status=500)
TOO_LARGE = Unavailable(
    "504", kind=Reason.TIMEOUT, status=504, causes=(Cause("ResourceVersionTooLarge", "", ""),)
)
GATEWAY = Unavailable("504 gateway", kind=Reason.TIMEOUT, status=504)
BROKEN_LINE = BadResponse("watch: a line that isn't an event")
STARTING = Unavailable("503", kind=Reason.SERVER, status=503)


def after(
    state: State,
    *outcomes: Outcome,
    machine: Machine = START,
    now_s: float = 0.0,
    took_s: float = 0.0,
) -> Move:
    """The last of the moves that follow from these outcomes, each from this state."""
    move = Move(machine, 0.0)
    for outcome in outcomes:
        machine = replace(move.machine, state=state)
        move = step(
            machine,
            outcome,
            now_s=now_s,
            took_s=took_s,
            timing=DEFAULT_TIMING,
            rng=random.Random(1),
        )
    return move


def test_start_is_a_list_in_pages() -> None:
    assert START.state == Listing(ListReason.INITIAL, method=ListMethod.PAGES)


def test_list_is_followed_by_a_watch_from_its_version_at_once() -> None:
    move = after(START.state, Listed("5"))
    assert (move.machine.state, move.wait_s) == (Watching("5"), 0.0)


@pytest.mark.parametrize(
    "error",
    [
        REFUSED,
        INTERNAL,
        Unauthorized("401"),
        Forbidden("403"),
        BadResponse("html"),
        Invalid("400"),
        Conflict("409"),
        Throttled("429"),
    ],
)
def test_failed_list_is_made_again_after_a_backoff(error: KubeError) -> None:
    move = after(START.state, Failed(error))
    assert move.machine.state == START.state
    assert 0.8 <= move.wait_s <= 1.6


def test_expired_continue_token_leads_to_one_list_without_pages_at_once() -> None:
    move = after(START.state, Failed(Gone("410"), page=2))
    assert move.machine.state == Listing(ListReason.EXPIRED, method=ListMethod.WHOLE)
    assert move.wait_s == 0.0


def test_410_on_the_first_page_is_a_failure_like_others() -> None:
    move = after(START.state, Failed(Gone("410"), page=1))
    assert move.machine.state == START.state
    assert move.wait_s > 0.0


def test_failed_list_without_pages_goes_back_to_pages() -> None:
    move = after(Listing(ListReason.EXPIRED, method=ListMethod.WHOLE), Failed(REFUSED))
    assert move.machine.state == Listing(ListReason.EXPIRED, method=ListMethod.PAGES)


def test_list_with_broken_objects_is_made_again_and_then_taken() -> None:
    move = after(START.state, Suspect())
    assert move.machine.state == Listing(ListReason.INITIAL, tolerant=True)
    assert move.wait_s > 0.0


def test_list_older_than_what_is_held_is_made_again_and_then_believed() -> None:
    move = after(Listing(ListReason.RESYNC), Regressed())
    assert move.machine.state == Listing(ListReason.REGRESSION)


STREAM = Listing(ListReason.INITIAL, method=ListMethod.STREAM)


def test_streamed_list_is_followed_by_a_watch_from_its_version_at_once() -> None:
    move = after(STREAM, Listed("5"), machine=START_STREAMED)
    assert (move.machine.state, move.wait_s) == (Watching("5"), 0.0)


def test_refused_stream_leads_to_pages_at_once_and_for_hours() -> None:
    refused = StreamRefused(Invalid("422"))
    move = after(STREAM, refused, machine=START_STREAMED, now_s=1000.0)
    assert (move.machine.state, move.wait_s) == (Listing(ListReason.FALLBACK), 0.0)
    assert move.machine.pages_until_s == 1000.0 + DEFAULT_TIMING.stream_retry_s
    gone = WatchFailed("5", Gone("410"))
    hours_later_s = 1000.0 + DEFAULT_TIMING.stream_retry_s
    for now_s, method in ((1001.0, ListMethod.PAGES), (hours_later_s, ListMethod.STREAM)):
        machine = replace(move.machine, state=WATCHING)
        again = after(WATCHING, gone, machine=machine, now_s=now_s)
        assert again.machine.state == Listing(ListReason.EXPIRED, method=method)


@pytest.mark.parametrize("error", [Throttled("429"), INTERNAL, GATEWAY, Gone("410"), TOO_LARGE])
def test_stream_that_fails_is_tried_once_more_and_then_replaced_by_pages(error: KubeError) -> None:
    states, waits = chain(STREAM, *[Failed(error)] * 2, machine=START_STREAMED)
    assert states == [
        Listing(ListReason.INITIAL, method=ListMethod.STREAM, broken_streams=1),
        Listing(ListReason.FALLBACK, broken_streams=1),
    ]
    assert min(waits) >= 0.8


def test_stream_of_a_server_that_is_away_is_tried_until_it_is_back() -> None:
    states, _ = chain(STREAM, *[Failed(REFUSED)] * 9, machine=START_STREAMED)
    assert states == [STREAM] * 9


def test_stream_that_breaks_off_is_no_server_that_is_away() -> None:
    states, _ = chain(STREAM, *[Failed(REFUSED, begun=True)] * 2, machine=START_STREAMED)
    assert states[-1] == Listing(ListReason.FALLBACK, broken_streams=1)


@pytest.mark.parametrize(
    "outcome",
    [
        Failed(BadResponse("html")),
        Failed(Forbidden("403")),
        Failed(Unavailable("no answer within 30 s", kind=Reason.TIMEOUT)),
        Crashed(),
    ],
)
def test_stream_that_makes_no_sense_or_is_not_answered_leads_to_pages_for_this_list_alone(
    outcome: Outcome,
) -> None:
    move = after(STREAM, outcome, machine=START_STREAMED)
    assert move.machine.state == Listing(ListReason.FALLBACK)
    assert move.wait_s > 0.0
    assert move.machine.pages_until_s == START_STREAMED.pages_until_s


def test_stream_of_what_is_not_served_is_checked_by_discovery() -> None:
    missing = Failed(NotFound("404"))
    assert after(STREAM, missing, machine=START_STREAMED).machine.state == Checking()
    absent = replace(STREAM, absences=2)
    assert after(absent, missing, machine=START_STREAMED).machine.state == replace(
        STREAM, absences=3
    )


def test_stream_older_than_what_is_held_leads_to_a_quorum_list_in_pages() -> None:
    move = after(STREAM, Regressed(), machine=START_STREAMED)
    assert move.machine.state == Listing(ListReason.REGRESSION)


@pytest.mark.parametrize(
    ("outcome", "reason", "method"),
    [
        (WatchFailed("7", Gone("410")), ListReason.EXPIRED, ListMethod.STREAM),
        (WatchFailed("7", INTERNAL), ListReason.ERROR, ListMethod.STREAM),
        (ResyncDue(), ListReason.RESYNC, ListMethod.STREAM),
        (Regressed(), ListReason.REGRESSION, ListMethod.PAGES),
        (WatchFailed("7", Forbidden("403")), ListReason.FALLBACK, ListMethod.PAGES),
    ],
)
def test_later_list_is_a_stream_unless_a_quorum_or_no_watch_is_wanted(
    outcome: Outcome, reason: ListReason, method: ListMethod
) -> None:
    move = after(WATCHING, outcome, machine=START_STREAMED)
    assert move.machine.state == Listing(reason, method=method)


@pytest.mark.parametrize("how", [WatchEnd.CLOSED, WatchEnd.TIMEOUT])
def test_ended_watch_is_opened_again_where_it_stopped(how: WatchEnd) -> None:
    move = after(WATCHING, WatchEnded("9", how, lasted_s=300.0, events=0))
    assert (move.machine.state, move.wait_s) == (Watching("9"), 0.0)
    assert move.machine.retries == Backoff()


def test_idle_watch_is_opened_again_at_once_and_is_no_failure() -> None:
    move = after(WATCHING, WatchEnded("7", WatchEnd.IDLE, lasted_s=90.0, events=0))
    assert (move.machine.state, move.wait_s) == (WATCHING, 0.0)
    assert move.machine.retries == Backoff()


def test_watch_that_ends_at_once_is_backed_off_to_less_than_one_a_second() -> None:
    short = WatchEnded("7", WatchEnd.CLOSED, lasted_s=0.01, events=0)
    machine, waits = START, []
    for _ in range(20):
        move = after(WATCHING, short, machine=machine)
        machine = move.machine
        waits.append(move.wait_s)
        assert move.machine.state == Watching("7", refusals=1)
    assert min(waits) + 0.01 >= 1.0
    assert waits[-1] > 20.0


def test_watch_that_ends_at_once_with_events_waits_for_the_rest_of_its_second() -> None:
    move = after(WATCHING, WatchEnded("8", WatchEnd.CLOSED, lasted_s=0.25, events=3))
    assert (move.machine.state, move.wait_s) == (Watching("8"), 0.75)
    assert move.machine.retries == Backoff()


@pytest.mark.parametrize("error", [Throttled("429"), Unauthorized("401"), Conflict("409")])
def test_failed_watch_is_opened_again_without_a_list(error: KubeError) -> None:
    move = after(WATCHING, WatchFailed("8", error))
    assert move.machine.state == Watching("8", refusals=1)
    assert 0.8 <= move.wait_s <= 1.6


@pytest.mark.parametrize("error", [REFUSED, GATEWAY, STARTING])
def test_server_that_was_lost_is_probed_before_the_next_watch(error: KubeError) -> None:
    move = after(WATCHING, WatchFailed("8", error))
    assert move.machine.state == Probing("8", refusals=1, lost=True)
    assert 0.8 <= move.wait_s <= 1.6
    again = after(move.machine.state, Checked(served=True), machine=move.machine)
    assert (again.machine.state, again.wait_s) == (Watching("8", refusals=1), 0.0)


def test_server_set_back_while_it_was_lost_leads_to_one_list() -> None:
    states, waits = chain(
        WATCHING, WatchFailed("8", REFUSED, worked=True), Regressed(), Listed("5")
    )
    assert states == [Probing("8", lost=True), Listing(ListReason.REGRESSION), Watching("5")]
    assert waits[1:] == [0.0, 0.0]


def test_server_that_is_away_is_probed_until_it_is_back() -> None:
    states, waits = chain(
        WATCHING, WatchFailed("8", REFUSED), *[Failed(REFUSED)] * 5, Checked(served=True)
    )
    assert states[:-1] == [Probing("8", refusals=1, lost=True)] * 6
    assert states[-1] == Watching("8", refusals=1)
    assert min(waits[:-1]) >= 0.8


@pytest.mark.parametrize(
    "error", [GATEWAY, STARTING, Throttled("429"), BadResponse("html"), Forbidden("403")]
)
def test_watch_goes_on_without_proof_where_lists_fail_until_a_probe_succeeds(
    error: KubeError,
) -> None:
    end = WatchEnded("9", WatchEnd.CLOSED, lasted_s=15.0, events=1)
    states, _ = chain(
        WATCHING, WatchFailed("8", REFUSED), Failed(error), end, Checked(served=True), end
    )
    assert states == [
        Probing("8", refusals=1, lost=True),
        Watching("8", lost=True),
        Probing("9", lost=True),
        Watching("9"),
        Watching("9"),
    ]


def test_watch_that_broke_after_it_had_worked_counts_as_no_refusal() -> None:
    move = after(Watching("7", refusals=2), WatchFailed("8", REFUSED, worked=True))
    assert move.machine.state == Probing("8", lost=True)


def chain(
    state: State, *outcomes: Outcome, machine: Machine = START
) -> tuple[list[State], list[float]]:
    """The states that follow from each other, and the waits before them."""
    machine = replace(machine, state=state)
    states, waits = [], []
    for outcome in outcomes:
        move = after(machine.state, outcome, machine=machine)
        machine = move.machine
        states.append(machine.state)
        waits.append(move.wait_s)
    return states, waits


def test_watches_that_are_refused_are_replaced_by_lists_where_those_can_be_had() -> None:
    refused = WatchFailed("7", Throttled("429"))
    states, waits = chain(
        WATCHING,
        refused,
        refused,
        refused,
        Checked(served=True),
        refused,
        Listed("9"),
        refused,
        Listed("12"),
    )
    assert states == [
        Watching("7", refusals=1),
        Watching("7", refusals=2),
        Probing("7", refusals=3),
        Watching("7", refusals=3),
        Listing(ListReason.FALLBACK, refusals=4),
        Watching("9", refusals=4),
        Listing(ListReason.FALLBACK, refusals=4),
        Watching("12", refusals=4),
    ]
    assert waits[3:] == [0.0, 0.0, 0.0, 30.0, 0.0]
    assert all(wait_s >= 0.8 for wait_s in waits[:3])
    ended = WatchEnded("13", WatchEnd.TIMEOUT, lasted_s=300.0, events=0)
    assert after(states[-1], ended).machine.state == Watching("13")


def test_watches_refused_as_by_a_gateway_are_replaced_by_lists_as_soon() -> None:
    refused = WatchFailed("7", Unavailable("502", kind=Reason.SERVER, status=502))
    in_vain: list[Outcome] = [refused, Checked(served=True)] * 3
    states, _ = chain(WATCHING, *in_vain, refused, Listed("9"), refused)
    assert states == [
        Probing("7", refusals=1, lost=True),
        Watching("7", refusals=1),
        Probing("7", refusals=2, lost=True),
        Watching("7", refusals=2),
        Probing("7", refusals=3, lost=True),
        Watching("7", refusals=3),
        Listing(ListReason.FALLBACK, refusals=4),
        Watching("9", refusals=4),
        Listing(ListReason.FALLBACK, refusals=4),
    ]


@pytest.mark.parametrize("error", [REFUSED, STARTING])
def test_outage_leads_to_no_list(error: Unavailable) -> None:
    """While not even the smallest list can be had, a list is no better than a watch."""
    refused = WatchFailed("7", error)
    machine, states, waits = Machine(WATCHING, Backoff(), Backoff()), [], []
    for _ in range(20):
        outcome = refused if isinstance(machine.state, Watching) else Failed(error)
        move = after(machine.state, outcome, machine=machine)
        machine = move.machine
        states.append(machine.state)
        waits.append(move.wait_s)
    assert not any(isinstance(state, Listing) for state in states)
    assert min(waits) >= 0.8


def test_retry_after_is_honoured_before_a_probe_and_a_list_too() -> None:
    throttled = WatchFailed("7", Throttled("429", retry_after_s=9.0))
    for refusals in (2, 3):
        assert after(Watching("7", refusals=refusals), throttled).wait_s >= 9.0


def test_watch_that_is_not_answered_is_opened_again_once_the_server_has_proved_to_be_there() -> (
    None
):
    states, waits = chain(
        Watching("7", refusals=2), WatchUnanswered("7", 90.0), Checked(served=True)
    )
    assert (states, waits) == ([Probing("7"), Watching("7")], [0.0, 0.0])
    assert after(WATCHING, WatchUnanswered("7", 90.0)).machine.retries == Backoff()


def test_watch_that_has_not_been_answered_for_minutes_leads_to_a_list() -> None:
    move = after(WATCHING, WatchUnanswered("7", 360.0))
    assert (move.machine.state, move.wait_s) == (Listing(ListReason.RESYNC), 0.0)


@pytest.mark.parametrize(
    ("outcome", "following"),
    [
        (Failed(REFUSED), Probing("7")),
        (Failed(Forbidden("403")), WATCHING),
        (Failed(NotFound("404")), Checking()),
        (Regressed(), Listing(ListReason.REGRESSION)),
        (Crashed(), Listing(ListReason.ERROR)),
    ],
)
def test_probe_that_finds_no_server_is_made_again(outcome: Outcome, following: State) -> None:
    assert after(Probing("7"), outcome).machine.state == following


def test_page_that_cannot_be_made_small_enough_leads_to_a_list_without_pages() -> None:
    states, waits = chain(START.state, *[Failed(TooLarge("32 MiB"))] * 2)
    assert states == [Listing(ListReason.INITIAL, method=ListMethod.WHOLE), START.state]
    assert min(waits) >= 0.8


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (Gone("410"), ListReason.EXPIRED),
        (INTERNAL, ListReason.ERROR),
        (TOO_LARGE, ListReason.ERROR),
        (Invalid("400"), ListReason.ERROR),
    ],
)
def test_error_that_only_a_list_fixes_leads_to_one_at_once(
    error: KubeError, reason: ListReason
) -> None:
    move = after(WATCHING, WatchFailed("7", error))
    assert (move.machine.state, move.wait_s) == (Listing(reason), 0.0)


def test_relist_does_not_wait_for_an_outage_that_went_before() -> None:
    machine = after(WATCHING, *[WatchFailed("7", REFUSED)] * 10).machine
    assert after(WATCHING, WatchFailed("7", Gone("410")), machine=machine).wait_s == 0.0


def test_time_that_an_attempt_took_counts_towards_the_wait() -> None:
    machine = after(WATCHING, *[WatchFailed("7", REFUSED)] * 10).machine
    failed = WatchFailed("7", REFUSED)
    assert after(WATCHING, failed, machine=machine).wait_s >= 22.5
    assert 7.5 <= after(WATCHING, failed, machine=machine, took_s=15.0).wait_s <= 15.0
    assert 0.8 <= after(WATCHING, failed, machine=machine, took_s=30.0).wait_s <= 1.6


def test_relist_long_after_the_last_one_does_not_wait() -> None:
    machine = after(WATCHING, *[WatchFailed("7", Gone("410"))] * 8).machine
    gone = WatchFailed("7", Gone("410"))
    assert after(WATCHING, gone, machine=machine, now_s=31.0).wait_s == 0.0


def test_relists_in_a_loop_are_backed_off() -> None:
    move = after(WATCHING, *[WatchFailed("7", Gone("410"))] * 8)
    assert move.wait_s >= 22.5


def test_denied_watch_leads_to_slow_lists() -> None:
    move = after(WATCHING, WatchFailed("7", Forbidden("403")))
    assert (move.machine.state, move.wait_s) == (Listing(ListReason.FALLBACK), 30.0)


@pytest.mark.parametrize(
    ("asked_s", "low_s", "high_s"),
    [(None, 0.8, 1.6), (0.0, 0.8, 1.6), (7.0, 7.0, 7.0), (99.0, 30.0, 30.0)],
)
@pytest.mark.parametrize("throttled", [True, False])
def test_retry_after_is_honoured_and_clamped(
    asked_s: float | None, low_s: float, high_s: float, throttled: bool
) -> None:
    error = (
        Throttled("429", retry_after_s=asked_s)
        if throttled
        else Unavailable("503", kind=Reason.SERVER, status=503, retry_after_s=asked_s)
    )
    for move in (
        after(WATCHING, WatchFailed("7", error)),
        after(START.state, Failed(error)),
        after(Checking(), Failed(error)),
    ):
        assert low_s <= move.wait_s <= high_s


def test_broken_line_leads_to_a_new_watch_and_then_to_a_list() -> None:
    move = after(WATCHING, WatchFailed("7", BROKEN_LINE))
    assert move.machine.state == Watching("7", malformed=True)
    assert move.wait_s > 0.0
    assert after(move.machine.state, WatchFailed("7", BROKEN_LINE)).machine.state == Listing(
        ListReason.ERROR
    )
    assert after(
        move.machine.state, WatchFailed("9", BROKEN_LINE, worked=True)
    ).machine.state == Watching("9", malformed=True)


def test_html_instead_of_a_watch_leads_to_a_new_watch_and_then_to_a_list() -> None:
    move = after(WATCHING, WatchFailed("7", BadResponse("html")))
    assert move.machine.state == Watching("7", malformed=True)
    again = after(move.machine.state, WatchFailed("7", BadResponse("html")))
    assert again.machine.state == Listing(ListReason.ERROR)


def test_regression_leads_to_a_quorum_list() -> None:
    move = after(WATCHING, Regressed())
    assert (move.machine.state, move.wait_s) == (Listing(ListReason.REGRESSION), 0.0)


def test_resync_is_a_list_at_once() -> None:
    move = after(WATCHING, ResyncDue())
    assert (move.machine.state, move.wait_s) == (Listing(ListReason.RESYNC), 0.0)
    assert move.machine.relists == Backoff()


@pytest.mark.parametrize("state", [START.state, WATCHING, Probing("7"), Checking()])
def test_crash_leads_to_a_list_after_a_backoff(state: State) -> None:
    move = after(state, Crashed())
    assert isinstance(move.machine.state, Listing)
    assert move.wait_s > 0.0


@pytest.mark.parametrize(
    ("state", "outcome"),
    [
        (START.state, Failed(NotFound("404"))),
        (START.state, Failed(NotFound("404"), page=3)),
        (WATCHING, WatchFailed("7", NotFound("404"))),
    ],
)
def test_404_is_checked_by_discovery_at_once(state: State, outcome: Outcome) -> None:
    move = after(state, outcome)
    assert (move.machine.state, move.wait_s, move.absent) == (Checking(), 0.0, False)


def test_absence_is_confirmed_at_once_where_nothing_is_held() -> None:
    move = after(Checking(), Checked(served=False, held=0))
    assert move.absent
    assert move.machine.state == Listing(ListReason.INITIAL, absences=1)


def test_absence_is_looked_at_twice_where_objects_are_held() -> None:
    move = after(Checking(), Checked(served=False, held=3))
    assert not move.absent
    assert (move.machine.state, move.wait_s) == (Checking(confirmed=1), 5.0)
    assert after(move.machine.state, Checked(served=False, held=3)).absent


def test_served_after_all_is_listed_again() -> None:
    move = after(Checking(), Checked(served=True, held=3))
    assert isinstance(move.machine.state, Listing)
    assert not move.absent
    assert move.wait_s > 0.0


def test_discovery_that_cannot_tell_gives_nothing_up() -> None:
    move = after(Checking(confirmed=1), Failed(REFUSED))
    assert isinstance(move.machine.state, Listing)
    assert not move.absent


def test_absent_resource_is_looked_for_forever_at_most_30_s_apart() -> None:
    state: State = Listing(ListReason.INITIAL, absences=1)
    for _ in range(100):
        move = after(state, Failed(NotFound("404")))
        state = move.machine.state
        assert isinstance(state, Listing)
        assert 0.0 < move.wait_s <= 30.0
        assert not move.absent
        assert move.machine.retries == Backoff()
    assert move.wait_s >= 22.5
    assert after(state, Listed("1")).machine.state == Watching("1")


@given(st.integers(0, 2**32), st.integers(0, 60))
def test_backoff_doubles_to_its_cap_and_never_beyond(seed: int, failures: int) -> None:
    backoff, wait_s = Backoff(failures, 0.0).after_failure(1.0, DEFAULT_TIMING, random.Random(seed))
    assert backoff == Backoff(failures + 1, 1.0)
    assert min(0.8 * 2**failures, 22.5) <= wait_s <= 30.0


def test_backoff_is_forgotten_after_two_good_minutes() -> None:
    _, wait_s = Backoff(9, 0.0).after_failure(120.0, DEFAULT_TIMING, random.Random(1))
    assert wait_s <= 1.6
    _, wait_s = Backoff(9, 0.0).after_failure(119.0, DEFAULT_TIMING, random.Random(1))
    assert wait_s > 20.0


ERRORS = st.sampled_from(
    [
        REFUSED,
        INTERNAL,
        TOO_LARGE,
        GATEWAY,
        Gone("410"),
        Forbidden("403"),
        NotFound("404"),
        BadResponse("x"),
        Throttled("429", retry_after_s=600.0),
        Unauthorized("401"),
        Invalid("400"),
    ]
)
OUTCOMES = {
    Listing: st.one_of(
        st.just(Listed("1")),
        st.builds(Failed, ERRORS, st.integers(1, 3), st.booleans()),
        st.builds(StreamRefused, ERRORS),
        st.just(Suspect()),
        st.just(Regressed()),
        st.just(Crashed()),
    ),
    Watching: st.one_of(
        st.builds(
            WatchEnded,
            st.just("2"),
            st.sampled_from(WatchEnd),
            st.floats(0.0, 600.0),
            st.integers(0, 3),
        ),
        st.builds(WatchFailed, st.just("2"), ERRORS | st.just(BROKEN_LINE), st.booleans()),
        st.builds(WatchUnanswered, st.just("2"), st.floats(90.0, 400.0)),
        st.just(Regressed()),
        st.just(ResyncDue()),
        st.just(Crashed()),
    ),
    Probing: st.one_of(
        st.just(Checked(served=True)),
        st.builds(Failed, ERRORS),
        st.just(Regressed()),
        st.just(Crashed()),
    ),
    Checking: st.one_of(
        st.builds(Checked, st.booleans(), st.integers(0, 1)),
        st.builds(Failed, ERRORS),
        st.just(Crashed()),
    ),
}


@given(st.data(), st.sampled_from([START, START_STREAMED]))
def test_no_wait_is_longer_than_30_s_and_no_loop_is_without_one(
    data: st.DataObject, start: Machine
) -> None:
    """In any ten steps that bring nothing good there is a wait, so that requests stay bounded."""
    machine, rng, in_vain = start, random.Random(1), 0
    timing = WatchTiming()
    for _ in range(30):
        outcome = data.draw(OUTCOMES[type(machine.state)])
        move = step(machine, outcome, now_s=0.0, took_s=0.0, timing=timing, rng=rng)
        assert 0.0 <= move.wait_s <= 30.0
        good = isinstance(outcome, Listed | ResyncDue | WatchUnanswered) or (
            isinstance(outcome, WatchEnded) and (outcome.lasted_s >= 1.0 or outcome.how == "idle")
        )
        in_vain = 0 if good or move.wait_s > 0.0 else in_vain + 1
        assert in_vain < 10
        machine = move.machine
