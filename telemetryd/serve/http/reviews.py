"""Whether a bearer token may see a path: asked of the API server, and kept for a moment.

By TokenReview (whose token is it?) and SubjectAccessReview (may that user ``get`` the path?), as
controller-runtime and kube-state-metrics guard their metrics. A token is sent to the API server and
nowhere else: it is kept as its digest, and no log line and no message holds it. What is answered
to a client belongs to ``security``.
"""

import logging
from collections import OrderedDict
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Final, TypeAlias, TypeVar

import anyio
import msgspec

from telemetryd.errors import KubeError, Reason, Throttled, Unavailable
from telemetryd.kube import objects
from telemetryd.kube.requests import Requests
from telemetryd.kube.responses import printable
from telemetryd.limiter import FairRate
from telemetryd.redaction import OURS

T = TypeVar("T")

log = logging.getLogger(__name__)

REVIEW_S: Final = 5.0
"""For both reviews of a request, within the 10 s that Prometheus gives a scrape by default."""
ALLOWED_S: Final = 60.0
"""A token that is revoked, or a right that is withdrawn, goes on for so long: controller-runtime
keeps who someone is for 1 min, and that something is allowed for 5 min."""
DENIED_S: Final = 10.0
"""A right that is granted works after so long; controller-runtime's is 30 s."""
MOST_KEPT: Final = 256
"""Verdicts of each kind; a Prometheus needs one. Fewer tokens than this are refused in 10 s."""
MOST_REVIEWS: Final = 8
"""Of unknown tokens at a time."""
REVIEWS_PER_S: Final = 20.0
"""Of unknown tokens, of all clients: what a flood of made-up ones costs the API server."""
BURST: Final = 20
"""Of them after a quiet time: clients come together after a restart."""
TURN_S: Final = 6.0
"""For a turn at these. With the review itself it ends before a connection's 10 s."""
JUDGE_S: Final = 8.0
"""For all of it."""

_TOKEN_REVIEWS = "/apis/authentication.k8s.io/v1/tokenreviews"  # noqa: S105 - a path
_ACCESS_REVIEWS = "/apis/authorization.k8s.io/v1/subjectaccessreviews"
_VERB = "get"

_Key: TypeAlias = tuple[bytes, str]


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the API server says of a token and a path.

    Attributes:
        allowed: The path may be shown.
        user: Whose token it is, None where it is nobody's.
    """

    allowed: bool
    user: str | None = None


class _User(msgspec.Struct, gc=False):
    username: str = ""
    uid: str = ""
    groups: list[str] = []
    extra: dict[str, list[str]] = {}


class _Whose(msgspec.Struct, gc=False):
    authenticated: bool = False
    user: _User | None = None


class _TokenReview(msgspec.Struct, gc=False):
    status: _Whose


class _Access(msgspec.Struct, gc=False):
    allowed: bool = False
    denied: bool = False


class _AccessReview(msgspec.Struct, gc=False):
    status: _Access


_TOKEN_REVIEW = msgspec.json.Decoder(_TokenReview)
_ACCESS_REVIEW = msgspec.json.Decoder(_AccessReview)


@dataclass(slots=True)
class _Asking:
    """A review on its way, shared by all who want to know the same."""

    lock: anyio.Lock = field(default_factory=anyio.Lock)
    callers: int = 0
    verdict: Verdict | None = None
    error: KubeError | None = None


class _Kept:
    """Verdicts of one kind, for a time; the oldest go where there are too many."""

    def __init__(self, for_s: float) -> None:
        self._for_s = for_s
        self._verdicts: OrderedDict[_Key, tuple[float, Verdict]] = OrderedDict()

    def find(self, key: _Key) -> Verdict | None:
        found = self._verdicts.get(key)
        return found[1] if found and anyio.current_time() < found[0] else None

    def __contains__(self, key: _Key) -> bool:
        """Whether there was one, be it out of date."""
        return key in self._verdicts

    def keep(self, key: _Key, verdict: Verdict) -> None:
        self.drop(key)
        self._verdicts[key] = (anyio.current_time() + self._for_s, verdict)
        if len(self._verdicts) > MOST_KEPT:
            self._verdicts.popitem(last=False)

    def drop(self, key: _Key) -> None:
        self._verdicts.pop(key, None)


class Reviews:
    """Asks the API server, once for all who want to know the same at one time."""

    def __init__(
        self, requests: Requests, *, allowed_s: float = ALLOWED_S, denied_s: float = DENIED_S
    ) -> None:
        """Ask nothing yet.

        Args:
            requests: To the API server, as an account that may create both kinds of reviews.
            allowed_s: For how long it holds that a token is allowed something.
            denied_s: For how long it holds that it isn't.
        """
        self._requests = requests
        self._allowed = _Kept(allowed_s)
        self._denied = _Kept(denied_s)
        self._nobodys = _Kept(denied_s)
        self._turns = FairRate(REVIEWS_PER_S, burst=BURST, at_once=MOST_REVIEWS)
        self._asked: dict[_Key, _Asking] = {}
        self._failing = False

    async def judge(self, token: str, path: str, peer: str = "") -> Verdict:
        """Whether the token's user may ``get`` the path; within ``JUDGE_S``.

        Args:
            token: Bounded printable text of any form.
            path: The nonResourceURL.
            peer: Address of the client, by which unknown tokens take turns.

        Raises:
            Throttled: No turn beside other unknown tokens in time.
            Unavailable: No answer came in time.
            KubeError: It can't be found out now. In any case nothing may be shown.
        """
        digest = sha256(token.encode()).digest()
        key = (digest, path)
        kept = self._allowed.find(key) or self._denied.find(key) or self._nobodys.find((digest, ""))
        if kept is not None:
            return kept
        asking = self._asked.get(key)
        if asking is None:
            asking = self._asked[key] = _Asking()
        asking.callers += 1
        try:
            with anyio.fail_after(JUDGE_S):
                # A caller that hangs up leaves the review to the next one.
                async with asking.lock:
                    if asking.verdict is None and asking.error is None:
                        await self._take_turn(key, asking, token, peer)
        except TimeoutError as error:
            raise Unavailable(f"no review within {JUDGE_S:g} s", kind=Reason.TIMEOUT) from error
        finally:
            asking.callers -= 1
            is_over = asking.verdict is not None or asking.error is not None
            if (is_over or not asking.callers) and self._asked.get(key) is asking:
                del self._asked[key]
        if asking.verdict is None:
            raise asking.error or Unavailable("no review", kind=Reason.CONNECT)
        return asking.verdict

    async def _take_turn(self, key: _Key, asking: _Asking, token: str, peer: str) -> None:
        """Wait until it may be found out, and find out.

        Raises:
            Throttled: No turn in time.
        """
        if key in self._allowed:  # made-up tokens don't delay one that was good a minute ago
            await self._settle(key, asking, token)
            return
        async with AsyncExitStack() as stack:
            try:
                with anyio.fail_after(TURN_S):
                    await stack.enter_async_context(self._turns.turn(peer))
            except TimeoutError as error:
                raise Throttled("too many unknown tokens at a time") from error
            await self._settle(key, asking, token)

    async def _settle(self, key: _Key, asking: _Asking, token: str) -> None:
        """Find out, for all who wait for it."""
        with OURS.hiding(token):
            await self._find_out(key, asking, token)

    async def _find_out(self, key: _Key, asking: _Asking, token: str) -> None:
        try:
            asking.verdict = verdict = await self._review(token, key[1])
        except KubeError as error:
            asking.error = error
            log.log(
                logging.DEBUG if self._failing else logging.WARNING,
                "who asks can't be reviewed, nothing is shown error=%r",
                OURS.redact(str(error)),
            )
            self._failing = True
        else:
            self._failing = False
            self._keep(key, verdict)

    def _keep(self, key: _Key, verdict: Verdict) -> None:
        if verdict.allowed:
            self._allowed.keep(key, verdict)
            self._denied.drop(key)
            return
        self._allowed.drop(key)
        if verdict.user is None:
            self._nobodys.keep((key[0], ""), verdict)  # for every path
        else:
            self._denied.keep(key, verdict)

    async def _review(self, token: str, path: str) -> Verdict:
        """Ask for both.

        Raises:
            Unavailable: Not both are answered in time.
            BadResponse: An answer isn't a review.
            KubeError: One is refused.
        """
        try:
            with anyio.fail_after(REVIEW_S):
                user = await self._whose(token)
                if user is None:
                    return Verdict(allowed=False)
                return Verdict(await self._may(user, path), printable(user.username))
        except TimeoutError as error:
            raise Unavailable(f"no review within {REVIEW_S:g} s", kind=Reason.TIMEOUT) from error

    async def _whose(self, token: str) -> _User | None:
        body = {
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenReview",
            "spec": {"token": token},
        }
        status = (await self._review_by(_TOKEN_REVIEWS, body, _TOKEN_REVIEW.decode)).status
        return status.user if status.authenticated else None

    async def _may(self, user: _User, path: str) -> bool:
        asked = {
            "user": user.username,
            "uid": user.uid,
            "groups": user.groups,
            "extra": user.extra,
            "nonResourceAttributes": {"path": path, "verb": _VERB},
        }
        body = {
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SubjectAccessReview",
            "spec": asked,
        }
        status = (await self._review_by(_ACCESS_REVIEWS, body, _ACCESS_REVIEW.decode)).status
        return status.allowed and not status.denied

    async def _review_by(
        self, path: str, body: Mapping[str, object], parse: Callable[[bytes], T]
    ) -> T:
        return await objects.create(self._requests, path, body, parse, timeout_s=REVIEW_S)
