"""A leader that is stopped in the middle of a write, past its term, while another takes over.

It stops itself exactly between the fence and the send, or between the send and the answer, of the
first attempt or of the one that follows a 401. What it sends once it goes on is too late:
preconditions, or the receiver's rule, must refuse it.
"""

import itertools
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.apiserver.admin import Admin, Object
from tests.apiserver.process import ApiServer
from tests.support.daemon import TOP_LEVEL
from tests.support.sampling import sampled
from tests.support.waiting import until
from tests.system.late import WITHIN_S, Replica, make_token, receiving, running
from tests.system.rancher import SECRET, TARGET_NAMESPACE, Rancher
from tests.system.replicas import SECRET as SECRET_EXPORTER
from tests.system.requests import NO_EXPORTERS
from tests.system.scc import SECRET as REQUESTED_SECRET
from tests.system.scc import SERVED, Scc

EPOCH = "telemetryd/epoch"
INTERVALS_S = 2.5
"""For two runs of the new leader, and for whatever the late one might still do."""

REQUESTS = """
[secret_requests]
enabled = true
interval = "1s"
cleanup = "delete"
"""
DELIVERY = """
[[exporters]]
name = "delivery"
type = "http"
format = "fleet"
interval = "1s"
max_silence = "1s"
splay_max = "0s"
spool = false
compress = false
retry_base = "200ms"
url = "{url}"
bearer_token_file = "{token}"
"""


@pytest.fixture
def rancher(admin: Admin) -> Iterator[Rancher]:
    with Rancher.built(admin, clusters=1, nodes=1) as fleet:
        yield fleet


MOMENTS = {
    "before-at once": ("before", 0),
    "before-after a 401": ("before", 1),
    "after-at once": ("after", 0),
    "after-after a 401": ("after", 1),
}
"""Before or after its bytes leave, and how often the API server refuses the write before that."""


@pytest.fixture
def when(moment: str) -> str:
    return MOMENTS[moment][0]


@pytest.fixture
def refusals(moment: str) -> int:
    return MOMENTS[moment][1]


def moments(always: str) -> pytest.MarkDecorator:
    """The test meets this moment each time, and the others where slow tests are asked for."""
    return pytest.mark.parametrize("moment", sampled(MOMENTS, always))


@pytest.fixture
def prepare(admin: Admin, refusals: int) -> Callable[[Replica, str, str], None]:
    """Has the next such request of a replica refused so often."""

    def refuse(late: Replica, method: str, resource: str) -> None:
        if refusals:
            late.refuse_next(method, resource, make_token(admin))

    return refuse


Prepare = Callable[[Replica, str, str], None]
SECRET_NAME = SECRET.rpartition("/")[2]


@pytest.mark.timeout(400)
@moments("before-after a 401")
def test_late_patch_of_the_secret_changes_nothing(
    tmp_path: Path,
    apiserver: ApiServer,
    rancher: Rancher,
    when: str,
    refusals: int,
    prepare: Prepare,
) -> None:
    with running(tmp_path, apiserver, SECRET_EXPORTER) as pair:
        late = pair.leader()
        until(rancher.secret, "the Secret", deadline_s=WITHIN_S)
        prepare(late, "PATCH", SECRET_NAME)
        other = pair.freeze(
            late,
            '"kind":"Secret"',
            lambda: rancher.add_node("local", 1),
            when=when,
            skip=refusals,
        )
        rancher.add_node("local", 2)
        epoch = str(other.epoch())
        until(lambda: _written_under(rancher, epoch), "its write", deadline_s=WITHIN_S)
        time.sleep(INTERVALS_S)
        written = rancher.secret()
        late.go_on()
        time.sleep(INTERVALS_S)
        assert rancher.secret() == written
        assert other.leading()
        # Once it has been asked to end, the late one leads again.
        epoch = str(other.epoch())
        assert other.daemon.stop() == 0
        late.daemon.wait_for("its next term", late.leading, WITHIN_S)
        rancher.add_node("local", 3)
        written = until(lambda: _written_under(rancher, str(late.epoch())), "its write")
        assert int(written["metadata"]["annotations"][EPOCH]) > int(epoch)


@pytest.mark.long
@pytest.mark.timeout(400)
@moments("before-at once")
def test_late_creation_of_the_secret_is_corrected_at_the_next_run(
    tmp_path: Path,
    apiserver: ApiServer,
    rancher: Rancher,
    when: str,
    refusals: int,
    prepare: Prepare,
) -> None:
    with running(tmp_path, apiserver, SECRET_EXPORTER) as pair:
        late = pair.leader()
        begun_under = str(late.epoch())
        until(rancher.secret, "the Secret", deadline_s=WITHIN_S)
        prepare(late, "PATCH", SECRET_NAME)
        other = pair.freeze(
            late,
            '"kind":"Secret"',
            lambda: rancher.admin.delete(SECRET),
            when=when,
            skip=refusals,
        )
        rancher.add_node("local", 1)
        epoch = str(other.epoch())
        assert epoch != begun_under
        corrected = until(lambda: _written_under(rancher, epoch), "its write", deadline_s=WITHIN_S)
        time.sleep(INTERVALS_S)
        secret = rancher.secret()
        assert secret is not None
        newest = _digest(secret)
        late.daemon.signal(signal.SIGCONT)
        if when == "before":
            # Nothing can be a precondition of a creation: it writes over what was made meanwhile.
            versions = _versions_after(rancher, secret)
            assert begun_under in itertools.takewhile(epoch.__ne__, versions)
            corrected = until(
                lambda: _written_under(rancher, epoch), "the correction", deadline_s=WITHIN_S
            )
        assert _digest(corrected) == newest
        late.go_on()
        time.sleep(INTERVALS_S)
        assert rancher.secret() == corrected


@pytest.mark.long
@pytest.mark.timeout(400)
@moments("after-at once")
def test_late_status_of_a_request_changes_nothing(
    tmp_path: Path, apiserver: ApiServer, scc: Scc, when: str, refusals: int, prepare: Prepare
) -> None:
    scc.namespace(TARGET_NAMESPACE, None)
    with running(tmp_path, apiserver, REQUESTS, TOP_LEVEL + NO_EXPORTERS) as pair:
        late = pair.leader()
        prepare(late, "PATCH", "status")
        pair.freeze(late, '"status":{', scc.ask, when=when, skip=refusals)
        until(lambda: scc.conditions() == SERVED or None, "the status", deadline_s=WITHIN_S)
        time.sleep(INTERVALS_S)
        said = scc.request()
        late.go_on()
        time.sleep(INTERVALS_S)
        assert scc.request() == said


@pytest.mark.long
@pytest.mark.timeout(400)
@moments("after-after a 401")
def test_late_delete_of_a_secret_leaves_what_was_written_since(
    tmp_path: Path, apiserver: ApiServer, scc: Scc, when: str, refusals: int, prepare: Prepare
) -> None:
    scc.namespace(TARGET_NAMESPACE, None)

    def withdraw() -> None:
        scc.delete()
        scc.finalize()

    with running(tmp_path, apiserver, REQUESTS, TOP_LEVEL + NO_EXPORTERS) as pair:
        late = pair.leader()
        scc.ask()
        until(
            lambda: scc.payload() and (scc.conditions() == SERVED or None),
            "the Secret",
            deadline_s=WITHIN_S,
        )
        prepare(late, "DELETE", REQUESTED_SECRET)
        pair.freeze(late, '"preconditions":{', withdraw, when=when, skip=refusals)
        if when == "after":
            until(lambda: scc.secret() is None or None, "the deletion", deadline_s=WITHIN_S)
        scc.ask()
        until(scc.payload, "its payload", deadline_s=WITHIN_S)
        until(lambda: scc.conditions() == SERVED or None, "the status", deadline_s=WITHIN_S)
        written = scc.secret()
        late.go_on()
        time.sleep(INTERVALS_S)
        assert scc.secret() == written


@pytest.mark.long
@pytest.mark.timeout(400)
@moments("before-after a 401")
def test_late_post_is_refused_by_the_rule_of_receivers(
    tmp_path: Path, apiserver: ApiServer, rancher: Rancher, when: str, refusals: int
) -> None:
    token = tmp_path / "token"
    token.write_text("0")
    with receiving(token) as receiver:
        config = DELIVERY.format(url=receiver.url, token=token)
        with running(tmp_path, apiserver, config) as pair:
            late = pair.leader()
            until(lambda: receiver.taken or None, "a delivery", deadline_s=WITHIN_S)

            def begin() -> None:
                receiver.unauthorized = refusals

            other = pair.freeze(late, '"delivery":', begin, when=when, skip=refusals)
            epoch = other.epoch()
            until(lambda: receiver.held[0] == epoch or None, "its delivery", deadline_s=WITHIN_S)
            refused = len(receiver.refused)
            late.go_on()
            if when == "before":
                until(
                    lambda: len(receiver.refused) > refused or None,
                    "the refusal",
                    deadline_s=WITHIN_S,
                )
                assert max(receiver.refused)[0] < epoch
            time.sleep(INTERVALS_S)
            assert receiver.held[0] == epoch
        assert receiver.taken == sorted(receiver.taken)


def _written_under(rancher: Rancher, epoch: str) -> Object | None:
    """The Secret, once this epoch is on it."""
    secret = rancher.secret()
    if secret is None or secret["metadata"]["annotations"][EPOCH] != epoch:
        return None
    return secret


def _versions_after(rancher: Rancher, secret: Object) -> Iterator[str]:
    """The epochs of the Secret's versions that follow, as a watch gives them."""
    collection, _, name = SECRET.rpartition("/")
    with rancher.admin.watch(
        collection,
        fieldSelector=f"metadata.name={name}",
        resourceVersion=secret["metadata"]["resourceVersion"],
        timeoutSeconds=WITHIN_S,
    ) as events:
        for event in events:
            yield event["object"]["metadata"]["annotations"][EPOCH]


def _digest(secret: Object | None) -> str:
    assert secret is not None
    return str(secret["metadata"]["annotations"]["telemetryd/digest"])
