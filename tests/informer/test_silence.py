"""When looks are due: whatever a stream has brought, a miss is noticed in time."""

import itertools
import math

from hypothesis import given, settings
from hypothesis import strategies as st

from telemetryd.informer.backoff import DEFAULT_TIMING
from telemetryd.informer.silence import Silence
from tests.support.sampling import examples

NOTICED_S = 45.0
_TIMES = st.lists(st.floats(0.1, 600.0), max_size=12)


def noticed_after(
    *, opened_s: float, gaps: list[float], events: list[float], cut_s: float, marked: bool
) -> tuple[float, list[float]]:
    """How long a miss goes unnoticed where all that is open dies at once, and when looks began.

    Times count from when the stream was opened. The last bookmark comes after the last of ``gaps``,
    which are between them; what is opened later works, and brings at once what was missed.
    """
    timing = DEFAULT_TIMING
    bookmarks = [opened_s + sum(gaps[: number + 1]) for number in range(len(gaps))]
    cut_s += opened_s
    lines = sorted(
        [(at_s, True) for at_s in bookmarks] + [(opened_s + at_s, False) for at_s in events]
    )
    lines = [(at_s, mark) for at_s, mark in lines if at_s < cut_s]
    silence = Silence(opened_s, timing, marked=marked, marks=0)
    looks: list[float] = []
    marks, ends_at_s, gone_at_s = 0, math.inf, math.inf
    while True:
        line_at_s = lines[0][0] if lines else math.inf
        now_s = min(line_at_s, silence.look_at_s, silence.over_at_s, ends_at_s, gone_at_s)
        if now_s == silence.over_at_s:
            return now_s - cut_s, looks
        if now_s == line_at_s:
            silence.heard(now_s)
            marks += lines.pop(0)[1]
            silence.mark(marks)
        elif now_s == ends_at_s:
            ends_at_s = gone_at_s = math.inf
            silence.end(now_s, missed=False)
        elif now_s == gone_at_s:
            ends_at_s = gone_at_s = math.inf
            silence.end(now_s, missed=None)
        elif now_s >= cut_s:
            return now_s + timing.doubt_s - cut_s, looks
        else:
            looks.append(now_s)
            ends_at_s = now_s + silence.begin(now_s)
            gone_at_s = ends_at_s + timing.look_timeout_s
            if ends_at_s >= cut_s:
                ends_at_s = math.inf
            silence.clear(now_s)


_GAPS = st.floats(60.0, 62.3)


@given(
    st.floats(0.0, 5.0),
    st.one_of(
        st.lists(_GAPS, min_size=10, max_size=10),
        st.lists(_GAPS, max_size=3),  # bookmarks stop, or never come
    ),
    _TIMES,
    st.floats(1.0, 600.0),
    st.booleans(),
)
@settings(max_examples=examples(1000))
def test_miss_is_noticed_within_45_s_whether_bookmarks_come_stop_or_never_come(
    opened_s: float, gaps: list[float], events: list[float], cut_s: float, marked: bool
) -> None:
    late_s, _ = noticed_after(
        opened_s=opened_s, gaps=gaps, events=events, cut_s=cut_s, marked=marked
    )
    # Below 0: the stream, idle for so long, had another in its place before.
    assert late_s <= NOTICED_S


@given(st.floats(0.0, 5.0), st.lists(st.floats(60.0, 61.3), min_size=60, max_size=60))
@settings(max_examples=examples(100))
def test_hour_without_a_change_has_a_look_for_each_second_bookmark(
    opened_s: float, gaps: list[float]
) -> None:
    _, looks = noticed_after(opened_s=opened_s, gaps=gaps, events=[], cut_s=3600.0, marked=True)
    assert len(looks) <= 30
    assert all(after - before >= 90.0 for before, after in itertools.pairwise(looks))
