"""The record of deliveries finds two writers, and lets one after the other pass."""

import urllib.request

import pytest

from tests.support.sink import Post, Sink, receiving

FIRST = Post(1.0, 2.0, "one", epoch=3, sequence=10)
WRONG = {
    "at once": Post(1.5, 2.5, "two", epoch=4, sequence=10),
    "within": Post(1.2, 1.3, "two", epoch=4, sequence=10),
    "under one epoch": Post(3.0, 4.0, "two", epoch=3, sequence=11),
    "an epoch that came back": Post(3.0, 4.0, "two", epoch=2, sequence=11),
    "a sequence that fell": Post(3.0, 4.0, "one", epoch=3, sequence=9),
}


@pytest.mark.parametrize("second", WRONG.values(), ids=WRONG)
def test_record_of_two_writers_is_a_breach(second: Post) -> None:
    sink = Sink()
    for post in (second, FIRST):
        sink.note(post)
    with pytest.raises(AssertionError, match="and then"):
        sink.check()


def test_record_of_one_after_the_other_is_none() -> None:
    sink = Sink()
    for post in (
        FIRST,
        Post(2.5, 2.6, "one", epoch=3, sequence=10),
        Post(2.6, 3.0, "two", epoch=4, sequence=1),
        Post(3.0, 3.5, "one", epoch=6, sequence=11),
    ):
        sink.note(post)
    sink.check()
    assert [post.began_s for post in sink.posts(2.55)] == [2.6, 3.0]


def test_delivery_is_recorded_with_its_sender_and_headers() -> None:
    with receiving() as sink:
        headers = {"Telemetryd-Epoch": "7", "Telemetryd-Sequence": "42"}
        request = urllib.request.Request(sink.url("one"), b"{}", headers)
        with urllib.request.urlopen(request, timeout=30) as answer:
            assert answer.status == 204
    (post,) = sink.posts()  # it is noted once the answer is out, which leaving waits for
    assert (post.sender, post.epoch, post.sequence) == ("one", 7, 42)
    assert post.began_s <= post.ended_s
