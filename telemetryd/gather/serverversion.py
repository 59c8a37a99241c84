"""The API server's own version: on plain Kubernetes the version and the build of the product.

``GET /version`` is allowed to every user. It is requested regularly and after each loss of contact,
because a cluster may be upgraded meanwhile; the last good answer is kept.
"""

import logging
import random
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import anyio
import msgspec

from telemetryd.config import IdentityConfig
from telemetryd.errors import BadResponse, KubeError
from telemetryd.gather import texts
from telemetryd.gather.build_info import UNKNOWN
from telemetryd.informer.store import Reader
from telemetryd.kube.requests import Requests
from telemetryd.model import Record
from telemetryd.timing import Retry

log = logging.getLogger(__name__)

PATH: Final = "/version"
TIMEOUT_S: Final = 10.0
MAX_BODY_BYTES: Final = 16 * 1024
"""Of an answer; a real one has some three hundred bytes."""

_VERSION: Final = re.compile(r"[!-~]{1,256}")
_COMMIT: Final = re.compile(r"[!-~]{1,128}")
_JITTER: Final = 0.25


@dataclass(frozen=True, slots=True)
class VersionTiming:
    """When to request it; each pause is shortened by up to a quarter.

    Attributes:
        refresh_s: After a good answer.
        retry_base_s: After the first bad one; doubles with each further one.
        retry_cap_s: At most.
    """

    refresh_s: float = 300.0
    retry_base_s: float = 1.0
    retry_cap_s: float = 60.0


DEFAULT_TIMING: Final = VersionTiming()


class _VersionInfo(msgspec.Struct, gc=False, rename="camel"):
    """What is read of version.Info (k8s.io/apimachinery)."""

    git_version: str | None = None
    git_commit: str | None = None


class ServerVersion:
    """Keeps the API server's version and build commit."""

    def __init__(
        self,
        client: Requests,
        *,
        nodes: Reader[Record],
        overrides: IdentityConfig,
        rng: random.Random,
        timing: VersionTiming = DEFAULT_TIMING,
    ) -> None:
        """Send nothing yet.

        Args:
            client: The API server.
            nodes: When its informer recovers, the version is requested again.
            overrides: ``git_hash`` replaces the commit.
            rng: Spreads the requests.
            timing: When to make them.
        """
        self._client = client
        self._nodes = nodes
        self._override = overrides.git_hash
        self._rng = rng
        self._timing = timing
        self._known: _VersionInfo | None = None
        self._in_trouble = False
        self._ask_now = anyio.Event()
        self._handlers: list[Callable[[], None]] = []
        nodes.on_change(self._nodes_changed)

    @property
    def version(self) -> str | None:
        """``gitVersion`` in the form of ``texts``, None before the first good answer."""
        return self._known.git_version if self._known is not None else None

    def git_hash(self) -> str | None:
        """The build commit; ``unknown`` if the answer has none, None before the first."""
        if self._override is not None:
            return self._override
        return None if self._known is None else self._known.git_commit

    def override(self, overrides: IdentityConfig) -> None:
        """Use other overrides."""
        self._override = overrides.git_hash
        self._announce()

    def on_change(self, handler: Callable[[], None]) -> None:
        """Call the handler whenever version or commit may have changed."""
        self._handlers.append(handler)

    async def run(self) -> None:
        """Request it until cancelled."""
        timing = self._timing
        retry = Retry(timing.retry_base_s, timing.retry_cap_s, self._rng, jitter=_JITTER)
        while True:
            self._ask_now = anyio.Event()
            try:
                self._settle(await self._ask())
                retry.succeeded()
                pause_s = timing.refresh_s * self._rng.uniform(1 - _JITTER, 1.0)
            except KubeError as error:
                level = logging.DEBUG if retry.failures else logging.WARNING
                log.log(level, "cannot get the version of the API server error=%r", str(error))
                pause_s = retry.failed(anyio.current_time())
            with anyio.move_on_after(pause_s):
                await self._ask_now.wait()

    async def _ask(self) -> _VersionInfo:
        """One request.

        Raises:
            KubeError: No answer.
            BadResponse: The answer has no version.
        """
        body = await self._client.request(
            "GET", PATH, timeout_s=TIMEOUT_S, max_bytes=MAX_BODY_BYTES
        )
        try:
            answer = msgspec.json.decode(body, type=_VersionInfo)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise BadResponse(f"GET {PATH}: not a version", status=200) from error
        if answer.git_version is None or not _VERSION.fullmatch(answer.git_version):
            raise BadResponse(f"GET {PATH}: names no gitVersion", status=200)
        if answer.git_commit is None or not _COMMIT.fullmatch(answer.git_commit):
            answer.git_commit = UNKNOWN
        answer.git_version = texts.kubernetes_version(answer.git_version)
        answer.git_commit = texts.build_commit(answer.git_commit)
        return answer

    def _settle(self, answer: _VersionInfo) -> None:
        if answer != self._known:
            self._known = answer
            log.info("version of the API server known version=%s", answer.git_version)
            self._announce()

    def _announce(self) -> None:
        for handler in self._handlers:
            handler()

    def _nodes_changed(self) -> None:
        in_trouble = bool(self._nodes.status().last_error)
        if self._in_trouble and not in_trouble:
            self._ask_now.set()
        self._in_trouble = in_trouble
