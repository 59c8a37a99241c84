"""The scenarios of what the API server answers, of the network between, and of credentials."""

import asyncio
import json
import time

from aiohttp import web

from tests.apiserver.crds import NODES, collection
from tests.apiserver.fixtures import rancher_node
from tests.faults import acts
from tests.faults.acts import answer, error, event, refusal
from tests.faults.bench import NODES_ID, Bench
from tests.faults.matrix import one_list, others_go_on, scenario, spoil_a_list
from tests.faults.proxy import Act, Exchange

# -- server


@scenario(6, asks_at_most=16, lists=2)
def list_of_a_server_that_lags_behind_is_not_believed(bench: Bench) -> None:
    held = bench.informer()["objects"]
    rule = bench.proxy.rule("nodes", "list", acts.older_and_empty("1"), times=1)
    one_list(bench)
    bench.until("the answer was had", lambda: rule.met)
    assert bench.informer()["objects"] == held


@scenario(7, asks_at_most=12, lists=1, quick=True)
def history_gone_in_the_stream_makes_one_list(bench: Bench) -> None:
    one_list(bench)
    bench.until("a list", bench.lists_begun)


@scenario(8, asks_at_most=24)
def history_gone_for_every_watch_is_no_loop(bench: Bench) -> None:
    bench.proxy.rule("nodes", "watch", refusal(410, "Expired"))
    bench.proxy.hang_up("nodes")
    bench.until("a list", bench.lists_begun)
    time.sleep(3)
    assert bench.lists_begun() <= 3


@scenario(9, asks_at_most=16, lists=2, quick=True, pages=True)
def continue_token_expired_during_a_list_makes_one_whole_list(bench: Bench) -> None:
    held = bench.informer()["objects"]
    gone = refusal(410, "Expired", metadata={"continue": "never-follow", "resourceVersion": "1"})
    rule = bench.proxy.rule("nodes", "list", acts.second_page(gone), times=2)
    one_list(bench)
    bench.until("page 2 was asked for", lambda: rule.met == 2)
    assert bench.informer()["objects"] == held
    bench.until("a whole list", lambda: bench.lists_begun() == 2)
    asks = bench.proxy.asks(bench.begin_s, "nodes", "list")
    assert not [each for each in asks if each.query.get("continue") == "never-follow"]
    assert "limit" not in asks[-1].query


@scenario(10, asks_at_most=12, lists=1)
def internal_error_in_the_stream_makes_one_list(bench: Bench) -> None:
    bench.proxy.say("nodes", error(500, "InternalError", message="PrevKv=nil"), "end")
    bench.until("a list", bench.lists_begun)


@scenario(11, asks_at_most=12, lists=1)
def error_without_a_code_counts_as_internal(bench: Bench) -> None:
    bench.proxy.say("nodes", event("ERROR", {"kind": "Status"}), "end")
    bench.until("a list", bench.lists_begun)


@scenario(12, asks_at_most=6, lists=0)
def throttled_watch_waits_as_long_as_it_is_told(bench: Bench) -> None:
    bench.proxy.rule("nodes", "watch", refusal(429, "TooManyRequests", "3"), times=1)
    bench.proxy.hang_up("nodes")
    bench.until("asked again", lambda: bench.watches_asked() == 2)
    refused, again = bench.proxy.asks(bench.begin_s, "nodes", "watch")
    assert 2.9 <= again.at_s - refused.at_s <= 20
    assert refused.query["resourceVersion"] == again.query["resourceVersion"]


@scenario(12, asks_at_most=8, lists=0)
def throttled_watch_understands_dates_and_garbage(bench: Bench) -> None:
    for retry_after, least_s in ((acts.http_date(time.time() + 4), 2.0), ("soon", 0.5)):
        begin_s = time.monotonic()
        bench.proxy.rule("nodes", "watch", refusal(429, "Throttled", retry_after), times=1)
        bench.proxy.hang_up("nodes")
        bench.until_watched("nodes", 2, since_s=begin_s)
        refused, again = bench.proxy.asks(begin_s, "nodes", "watch")
        assert least_s <= again.at_s - refused.at_s <= 20
        bench.until("all is well", lambda: not bench.error())


@scenario(12, asks_at_most=6, lists=0)
def throttled_watch_waits_half_a_minute_at_most(bench: Bench) -> None:
    bench.proxy.rule("nodes", "watch", refusal(429, "TooManyRequests", "86400"), times=1)
    bench.proxy.hang_up("nodes")
    bench.until("asked again", lambda: bench.watches_asked() == 2, 40)
    refused, again = bench.proxy.asks(bench.begin_s, "nodes", "watch")
    assert 25 <= again.at_s - refused.at_s <= 60


@scenario(13, asks_at_most=12, lists=1)
def version_that_the_server_has_not_reached_makes_one_list(bench: Bench) -> None:
    causes = {"causes": [{"reason": "ResourceVersionTooLarge", "message": "Too large"}]}
    act = refusal(504, "Timeout", details=causes)
    bench.proxy.rule("nodes", "watch", act, times=1)
    bench.proxy.hang_up("nodes")
    bench.until("a list", bench.lists_begun)
    (first, *_) = bench.proxy.asks(bench.begin_s, "nodes", "list")
    assert "resourceVersion" not in first.query


@scenario(17, asks_at_most=24)
def watches_that_close_at_once_are_asked_for_once_a_second_at_most(bench: Bench) -> None:
    bench.proxy.rule("nodes", "watch", acts.end_at_once)
    bench.proxy.hang_up("nodes")
    bench.until("asked again", lambda: bench.watches_asked() >= 2)
    time.sleep(10)
    assert bench.watches_asked() <= 12


@scenario(57, asks_at_most=40)
def denied_watch_is_shown_and_replaced_by_slow_lists(bench: Bench) -> None:
    denied = refusal(403, "Forbidden")
    bench.proxy.rule("nodes", "watch", denied)
    bench.proxy.rule("nodes", "list", acts.as_stream(denied))
    bench.proxy.hang_up("nodes")
    bench.until("it shows", bench.error)
    bench.touch()
    nodes = len(bench.admin.list(collection(NODES)))
    bench.until("a list brings it", lambda: bench.informer()["objects"] == nodes, 40)
    assert bench.lists_begun() <= 2


@scenario(20, asks_at_most=6, lists=0)
def namespace_that_goes_takes_its_records_along(bench: Bench) -> None:
    bench.admin.delete(collection(NODES, "sentinel-c-2"))
    left = len(bench.admin.list(collection(NODES)))
    bench.until("they are gone", lambda: bench.informer()["objects"] == left)
    for number in range(3):
        bench.rancher.add_node("sentinel-c-2", number)


# -- network


@scenario(22, asks_at_most=6, lists=0, quick=True)
def connection_reset_within_a_line_leaves_the_version_where_it_was(bench: Bench) -> None:
    half_a_line(bench, "abort")


@scenario(23, asks_at_most=6, lists=0)
def watch_that_ends_within_a_line_leaves_the_version_where_it_was(bench: Bench) -> None:
    half_a_line(bench, "end")


def half_a_line(bench: Bench, then: str) -> None:
    """A node that was never made, sent by halves."""
    version = bench.informer()["resource_version"]
    ghost = rancher_node("local", "sentinel-ghost")
    ghost["metadata"] |= {"uid": "ghost", "resourceVersion": str(int(version) + 1)}
    bench.proxy.say("nodes", event("ADDED", ghost)[:-20], then)
    bench.until("another watch", bench.watches_asked)
    (again,) = bench.proxy.asks(bench.begin_s, "nodes", "watch")
    assert again.query["resourceVersion"] == version


@scenario(24, asks_at_most=20, lists=0)
def refused_connections_are_shown_and_need_no_list(bench: Bench) -> None:
    bench.proxy.close_door()
    try:
        bench.until("it shows", bench.error)
        assert bench.daemon.get("/livez")[0] == 200
        assert bench.daemon.ready(), "what was synced stays synced"
    finally:
        bench.proxy.open_door()


@scenario(26, asks_at_most=16, lists=0)
def watch_of_a_byte_a_second_holds_up_no_other(bench: Bench) -> None:
    bench.proxy.rule("nodes", "watch", acts.drip)
    bench.proxy.hang_up("nodes")
    bench.until("it drips", bench.watches_asked)
    others_go_on(bench)


@scenario(29, asks_at_most=16)
def html_in_the_place_of_a_list_is_refused(bench: Bench) -> None:
    spoil_a_list(bench, answer(200, acts.HTML, "text/html"))


@scenario(29, asks_at_most=12)
def html_in_the_place_of_a_watch_is_refused(bench: Bench) -> None:
    bench.proxy.rule("nodes", "watch", answer(200, acts.HTML, "text/html"), times=1)
    bench.proxy.hang_up("nodes")
    bench.until("it shows", bench.error)


@scenario(30, asks_at_most=16, lists=2)
def truncated_gzip_is_no_list(bench: Bench) -> None:
    spoil_a_list(bench, acts.truncated_gzip)


@scenario(31, asks_at_most=20, lists=0)
def certificate_of_another_or_of_yesterday_is_refused(bench: Bench) -> None:
    for days, address in ((10, "127.0.0.2"), (-1, "127.0.0.1")):
        bench.proxy.wrong_certificate(address=address, days=days)
        begin_s = time.monotonic()
        bench.until("it shows", lambda: "certificate" in bench.error())
        assert not bench.proxy.asks(begin_s), "nothing is sent to it, and no token"


# -- configuration


@scenario(42, asks_at_most=40, lists=0)
def token_that_is_refused_is_read_again(bench: Bench) -> None:
    old = bench.tokens[-1]
    bench.token_file.write_text(f"\n{bench.new_token()}\n")
    bench.proxy.rule("*", "*", acts.refuse_token(old))
    watch_anew(bench)
    bench.token_file.write_text("")
    watch_anew(bench)
    bench.token_file.unlink()
    watch_anew(bench)
    bench.token_file.write_text(bench.tokens[-1])


def watch_anew(bench: Bench) -> None:
    """All watches end and are opened again, for long enough not to count as refused."""
    asked = bench.watches_asked()
    bench.proxy.hang_up()
    bench.until("asked again", lambda: bench.watches_asked() > asked)
    bench.until("watched again", bench.watching)
    bench.until("all is well", bench.settled)


# -- two at once


@scenario(24, 42, asks_at_most=30, lists=0)
def token_rotated_during_a_partition_converges(bench: Bench) -> None:
    old = bench.tokens[-1]
    bench.proxy.close_door()
    try:
        bench.until("it shows", bench.error)
        bench.token_file.write_text(bench.new_token())
        bench.proxy.rule("*", "*", acts.refuse_token(old))
        bench.touch()
    finally:
        bench.proxy.open_door()
    bench.until("watched again", lambda: bench.proxy.watches("nodes"), 40)


@scenario(8, 9, asks_at_most=24, pages=True)
def history_gone_during_the_list_that_its_loss_made(bench: Bench) -> None:
    gone = refusal(410, "Expired")
    bench.proxy.rule("nodes", "watch", gone, times=2)
    bench.proxy.rule("nodes", "list", acts.second_page(gone), times=2)
    one_list(bench)
    bench.touch()
    bench.until("a whole list", lambda: bench.lists_begun() >= 2)


# -- lists as streams


def only_once_and_then_in_pages(bench: Bench, act: Act) -> None:
    """A daemon whose first list of nodes gets this answer to its stream."""
    bench.proxy.rule("nodes", "list", acts.as_stream(act))
    bench.daemon = bench.restart(False)
    assert bench.informer()["list_method"] == "pages"
    assert not bench.error()
    one_list(bench)
    bench.until("another list", lambda: bench.lists_begun() >= 3)
    asks = bench.proxy.asks(bench.begin_s, "nodes", "list")
    assert sum(asked.is_stream for asked in asks) == 1


@scenario(14, asks_at_most=60, lists=3)
def streaming_list_that_is_refused_is_made_in_pages(bench: Bench) -> None:
    only_once_and_then_in_pages(bench, refusal(422, "Invalid"))


@scenario(15, asks_at_most=60, lists=3)
def streaming_list_that_goes_on_without_an_end_is_made_in_pages(bench: Bench) -> None:
    lines = event("ADDED", bench.node()) + event("BOOKMARK", {"metadata": {"resourceVersion": "1"}})

    async def endless(exchange: Exchange) -> web.StreamResponse:
        response = await exchange.start()
        await response.write(lines)
        await asyncio.Event().wait()
        return response

    only_once_and_then_in_pages(bench, endless)


# -- long silence, each of another resource, at the same time


@scenario(16, 21, 25, 26, asks_at_most=40, lists=0)
def watches_that_fall_silent_are_opened_again_and_cost_no_list(bench: Bench) -> None:
    """Nodes are blackholed, clusters lack bookmarks, settings headers; features drip."""

    def no_bookmarks(line: bytes) -> bytes:
        return b"" if json.loads(line)["type"] == "BOOKMARK" else line

    bench.proxy.edit("nodes", lambda _: b"")
    bench.proxy.edit("clusters", no_bookmarks)
    bench.proxy.rule("settings", "watch", acts.silence, times=1)
    bench.proxy.rule("features", "watch", acts.drip, times=1)
    bench.proxy.hang_up("settings")
    bench.proxy.hang_up("features")
    bench.touch()
    held = bench.informer()["objects"]
    bench.until_watched("nodes", 1, 45)
    assert bench.proxy.asks(bench.begin_s, "nodes", "look"), "nothing was looked for"
    bench.until_watched("clusters", 1, 100)
    assert bench.informer()["objects"] == held
    for resource in ("settings", "features"):
        bench.until_watched(resource, 2, 100)
    assert not bench.error(NODES_ID), "an idle watch is no trouble"
    assert not bench.error("clusters.management.cattle.io")
