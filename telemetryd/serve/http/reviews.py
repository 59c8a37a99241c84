"""Whether a bearer token may see a path: the API server decides, and the result is cached briefly.

By TokenReview (whose token is it?) and SubjectAccessReview (may that user ``get`` the path?), as
controller-runtime and kube-state-metrics protect their metrics. A token is sent only to the API
server: the cache has its digest, and no log line or message has the token.
"""

import logging
from collections import OrderedDict
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Final, TypeAlias

import anyio
import msgspec

from telemetryd.errors import KubeError, Reason, Throttled, Unavailable
from telemetryd.kube import objects
from telemetryd.kube.requests import Requests
from telemetryd.kube.responses import printable
from telemetryd.limiter import FairRate
from telemetryd.redaction import OURS

log = logging.getLogger(__name__)

REVIEW_S: Final = 5.0
"""For both reviews of a request, within the 10 s of a scrape by Prometheus' default."""
ALLOWED_S: Final = 60.0
"""How long a revoked token or right still works: controller-runtime caches a TokenReview for 1 min
and an allowed SubjectAccessReview for 5 min."""
DENIED_S: Final = 10.0
"""How long until a new right works; 30 s in controller-runtime."""
MOST_KEPT: Final = 256
"""Reviews of each kind; a Prometheus needs one. Fewer tokens than this are refused in 10 s."""
MOST_REVIEWS: Final = 8
"""Of unknown tokens at the same time."""
REVIEWS_PER_S: Final = 20.0
"""Of unknown tokens from all clients: a flood of invalid ones costs the API server no more."""
BURST: Final = 20
"""Of unknown tokens after a quiet time: clients reconnect together after a restart."""
TURN_S: Final = 6.0
"""To wait for a review of an unknown token. With the review it ends before a connection's 10 s."""
JUDGE_S: Final = 8.0
"""For the wait and the reviews together."""

_TOKEN_REVIEWS = "/apis/authentication.k8s.io/v1/tokenreviews"  # noqa: S105 - a path
_ACCESS_REVIEWS = "/apis/authorization.k8s.io/v1/subjectaccessreviews"
_VERB = "get"

_Key: TypeAlias = tuple[bytes, str]


@dataclass(frozen=True, slots=True)
class Review:
    """The API server's decision on a token and a path.

    ``user`` is None where the token is invalid.
    """

    allowed: bool
    user: str | None = None


class _User(msgspec.Struct, gc=False):
    username: str = ""
    uid: str = ""
    groups: list[str] = []
    extra: dict[str, list[str]] = {}


class _Authentication(msgspec.Struct, gc=False):
    authenticated: bool = False
    user: _User | None = None


class _TokenReview(msgspec.Struct, gc=False):
    status: _Authentication


class _Access(msgspec.Struct, gc=False):
    allowed: bool = False
    denied: bool = False


class _AccessReview(msgspec.Struct, gc=False):
    status: _Access


_TOKEN_REVIEW = msgspec.json.Decoder(_TokenReview)
_ACCESS_REVIEW = msgspec.json.Decoder(_AccessReview)


@dataclass(slots=True)
class _SharedReview:
    """A review in progress, shared by all callers with the same token and path."""

    lock: anyio.Lock = field(default_factory=anyio.Lock)
    callers: int = 0
    review: Review | None = None
    error: KubeError | None = None


class _Cache:
    """Reviews of one kind, for a time; the oldest are dropped where there are too many."""

    def __init__(self, for_s: float) -> None:
        self._for_s = for_s
        self._reviews: OrderedDict[_Key, tuple[float, Review]] = OrderedDict()

    def find(self, key: _Key) -> Review | None:
        found = self._reviews.get(key)
        return found[1] if found and anyio.current_time() < found[0] else None

    def __contains__(self, key: _Key) -> bool:
        """Whether there is one, even if it is out of date."""
        return key in self._reviews

    def keep(self, key: _Key, review: Review) -> None:
        self.drop(key)
        self._reviews[key] = (anyio.current_time() + self._for_s, review)
        if len(self._reviews) > MOST_KEPT:
            self._reviews.popitem(last=False)

    def drop(self, key: _Key) -> None:
        self._reviews.pop(key, None)


class Reviews:
    """Asks the API server, once for all callers that ask the same at the same time."""

    def __init__(
        self, requests: Requests, *, allowed_s: float = ALLOWED_S, denied_s: float = DENIED_S
    ) -> None:
        """Nothing is asked yet.

        ``requests`` are of an account that may create both kinds of reviews.
        """
        self._requests = requests
        self._allowed = _Cache(allowed_s)
        self._denied = _Cache(denied_s)
        self._invalid = _Cache(denied_s)
        self._turns = FairRate(REVIEWS_PER_S, burst=BURST, at_once=MOST_REVIEWS)
        self._in_progress: dict[_Key, _SharedReview] = {}
        self._failing = False

    async def judge(self, token: str, path: str, peer: str = "") -> Review:
        """Whether the token's user may ``get`` the path; within ``JUDGE_S``.

        Whatever is raised, nothing may be shown.

        ``token`` is bounded printable text of any form; reviews of unknown tokens are shared fairly
        between ``peer`` addresses.

        Raises:
            Throttled: Too many unknown tokens.
            Unavailable: No answer in time.
            KubeError: The API server can't answer now.
        """
        digest = sha256(token.encode()).digest()
        key = (digest, path)
        kept = self._allowed.find(key) or self._denied.find(key) or self._invalid.find((digest, ""))
        if kept is not None:
            return kept
        shared = self._in_progress.get(key)
        if shared is None:
            shared = self._in_progress[key] = _SharedReview()
        shared.callers += 1
        try:
            with anyio.fail_after(JUDGE_S):
                # When a caller disconnects, the next one takes over the review.
                async with shared.lock:
                    if shared.review is None and shared.error is None:
                        await self._take_turn(key, shared, token, peer)
        except TimeoutError as error:
            raise Unavailable(f"no review within {JUDGE_S:g} s", kind=Reason.TIMEOUT) from error
        finally:
            shared.callers -= 1
            is_over = shared.review is not None or shared.error is not None
            if (is_over or not shared.callers) and self._in_progress.get(key) is shared:
                del self._in_progress[key]
        if shared.review is None:
            raise shared.error or Unavailable("no review", kind=Reason.CONNECT)
        return shared.review

    async def _take_turn(self, key: _Key, shared: _SharedReview, token: str, peer: str) -> None:
        """Wait until the review may be made, and make it.

        Raises:
            Throttled: It may not be made in time.
        """
        if key in self._allowed:  # invalid tokens don't delay one that was valid a minute ago
            await self._find_out(key, shared, token)
            return
        async with AsyncExitStack() as stack:
            try:
                with anyio.fail_after(TURN_S):
                    await stack.enter_async_context(self._turns.turn(peer))
            except TimeoutError as error:
                raise Throttled("too many unknown tokens at a time") from error
            await self._find_out(key, shared, token)

    async def _find_out(self, key: _Key, shared: _SharedReview, token: str) -> None:
        """Review, for all callers that wait for it."""
        with OURS.hiding(token):
            try:
                shared.review = review = await self._review(token, key[1])
            except KubeError as error:
                shared.error = error
                log.log(
                    logging.DEBUG if self._failing else logging.WARNING,
                    "token review failed, request refused error=%r",
                    OURS.redact(str(error)),
                )
                self._failing = True
            else:
                self._failing = False
                self._keep(key, review)

    def _keep(self, key: _Key, review: Review) -> None:
        if review.allowed:
            self._allowed.keep(key, review)
            self._denied.drop(key)
            return
        self._allowed.drop(key)
        if review.user is None:
            self._invalid.keep((key[0], ""), review)  # for every path
        else:
            self._denied.keep(key, review)

    async def _review(self, token: str, path: str) -> Review:
        """Make both reviews.

        Raises:
            Unavailable: No answer in time.
            BadResponse: An answer isn't a review.
            KubeError: A review is refused.
        """
        try:
            with anyio.fail_after(REVIEW_S):
                user = await self._user_of(token)
                if user is None:
                    return Review(allowed=False)
                return Review(await self._may(user, path), printable(user.username))
        except TimeoutError as error:
            raise Unavailable(f"no review within {REVIEW_S:g} s", kind=Reason.TIMEOUT) from error

    async def _user_of(self, token: str) -> _User | None:
        body = {
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenReview",
            "spec": {"token": token},
        }
        review = await objects.create(
            self._requests, _TOKEN_REVIEWS, body, _TOKEN_REVIEW.decode, timeout_s=REVIEW_S
        )
        status = review.status
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
        review = await objects.create(
            self._requests, _ACCESS_REVIEWS, body, _ACCESS_REVIEW.decode, timeout_s=REVIEW_S
        )
        return review.status.allowed and not review.status.denied
