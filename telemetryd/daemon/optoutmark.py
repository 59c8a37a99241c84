"""The opt-out's mark on the Secrets that exist, for replicas that know nothing of it themselves.

Each replica reads it before it begins to export, and again whenever it has become the leader. The
leader alone writes it, by merge patch of two annotations: one says since when it is opted out, the
other when an opt-in ended that, for replicas that remember it. No Secret is ever created for it.
"""

import logging
from collections.abc import Callable
from typing import Final

import anyio
import msgspec
import orjson

from telemetryd.config import Config, SecretExporterConfig
from telemetryd.daemon.restrictions import Restrictions
from telemetryd.errors import Forbidden, Invalid, KubeError, NotFound, NotLeading
from telemetryd.export.payloads.payload import parse_rfc3339, render_rfc3339
from telemetryd.kube.requests import Requests

log = logging.getLogger(__name__)

ANNOTATION: Final = "telemetryd/opted-out"
ENDED_ANNOTATION: Final = "telemetryd/opted-in"
FIELD_MANAGER: Final = "telemetryd-opt-out"
"""Not the exporter's: what that applies must not take the mark away."""

REQUEST_TIMEOUT_S: Final = 10.0
RETRY_S: Final = 2.0
LOOK_S: Final = 60.0
"""Between looks while it is opted out: a Secret may be made, or another replica may lead."""

_MERGE: Final = "application/merge-patch+json"
_LONGEST_FACTOR: Final = 5


class _Annotations(msgspec.Struct, frozen=True, gc=False):
    opted_out: str | None = msgspec.field(name=ANNOTATION, default=None)
    opted_in: str | None = msgspec.field(name=ENDED_ANNOTATION, default=None)


class _Metadata(msgspec.Struct, frozen=True, gc=False):
    uid: str
    version: str = msgspec.field(name="resourceVersion")
    annotations: _Annotations | None = None


class _Secret(msgspec.Struct, frozen=True, gc=False):
    metadata: _Metadata


class OptOutMark:
    """Reads and writes the mark on the Secrets of the exporters that are configured.

    Attributes:
        looked: Every one of these Secrets has been read, or can't be for reasons that keep an
            exporter from writing it too.
    """

    def __init__(
        self,
        client: Requests,
        restrictions: Restrictions,
        config: Config,
        *,
        wanted: Callable[[], bool],
        now: Callable[[], float],
        changed: Callable[[], None],
    ) -> None:
        """Nothing is asked before ``run``.

        Args:
            client: The API server; writes only while this replica leads.
            restrictions: Learn of a mark, and say whether there must be one.
            config: At the start.
            wanted: Whether anything may be asked of the API server about the opt-out.
            now: Unix time in seconds.
            changed: Called when ``looked`` has changed.
        """
        self._client = client
        self._restrictions = restrictions
        self._wanted = wanted
        self._now = now
        self._on_looked = changed
        self._places = _places_of(config)
        self._looked = self._put_off = False
        self._seen: set[tuple[str, str]] = set()
        self._wake = anyio.Event()
        restrictions.on_change(self.wake)

    @property
    def looked(self) -> bool:
        """As of the class; stays so until ``forget``: a reload must not hold up what it leaves."""
        return self._looked or self._all_seen()

    def forget(self) -> None:
        """Another replica may have marked them meanwhile: nothing is known until the next look."""
        self._looked = False
        self._seen.clear()
        self.wake()

    def follow(self, config: Config) -> None:
        """A reload: these exporters' Secrets count now."""
        self._places = _places_of(config)
        self.wake()

    async def look(self, config: Config) -> None:
        """Read the Secrets that a reload adds, before anything is sent to them."""
        self._places = _places_of(config)
        if self._wanted() and not self._all_seen():
            with anyio.move_on_after(REQUEST_TIMEOUT_S):
                await self._look_at_all()

    def wake(self) -> None:
        """Look again."""
        self._wake.set()
        self._wake = anyio.Event()

    async def run(self) -> None:
        """Keep the marks as the restrictions say; ends only when cancelled."""
        failures = 0
        while True:
            wake = self._wake
            if self._must_look():
                failures = 0 if await self._look_at_all() else failures + 1
            pause_s = None
            if failures:
                pause_s = RETRY_S * min(failures, _LONGEST_FACTOR)
            elif self._put_off or self._restrictions.opted_out_since is not None:
                pause_s = LOOK_S
            with anyio.move_on_after(pause_s):
                await wake.wait()

    def _must_look(self) -> bool:
        restrictions = self._restrictions
        if not self._wanted():
            return restrictions.opted_in_at is not None and restrictions.opted_out_since is None
        opted_out = restrictions.opted_out_since is not None
        return not self._all_seen() or opted_out or restrictions.ended_at() is not None

    def _all_seen(self) -> bool:
        return self._seen >= set(self._places)

    async def _look_at_all(self) -> bool:
        """Whether every Secret is as it must be."""
        looked, marked, settled = self.looked, [], True
        self._put_off = False
        for namespace, name in self._places:
            secret = f"{namespace}/{name}"
            try:
                has_mark = await self._look(namespace, name)
            except NotLeading:
                has_mark, self._put_off = False, True  # the leader writes it, or we do later
            except (Forbidden, Invalid, msgspec.MsgspecError) as error:
                # Who may not read or write this Secret can't export to it either.
                log.debug("opt-out mark failed secret=%s error=%r", secret, str(error))
                has_mark = False
            except KubeError as error:
                log.debug("opt-out mark delayed secret=%s error=%r", secret, str(error))
                settled = False
                continue
            self._seen.add((namespace, name))
            if has_mark:
                marked.append(f"Secret {secret}, annotation {ANNOTATION}")
        self._restrictions.marked = tuple(marked)
        self._looked = self.looked
        if self._looked and not looked:
            self._on_looked()
        return settled

    async def _look(self, namespace: str, name: str) -> bool:
        """Read one Secret, and write its mark where it must change; whether it has it then.

        Raises:
            KubeError: The API server refuses or can't be reached.
            NotLeading: The mark must change, and this replica doesn't lead.
            MsgspecError: The answer is no Secret.
        """
        secret = f"{namespace}/{name}"
        path = f"/api/v1/namespaces/{namespace}/secrets/{name}"
        try:
            answer = await self._client.request("GET", path, timeout_s=REQUEST_TIMEOUT_S)
        except NotFound:
            self._put_off |= self._restrictions.opted_in_at is not None  # others learn of it later
            return False
        metadata = msgspec.json.decode(answer, type=_Secret).metadata
        annotations = metadata.annotations or _Annotations()
        restrictions = self._restrictions
        opted_in_at = parse_rfc3339(annotations.opted_in or "")
        if opted_in_at is not None and annotations.opted_out is None:
            where = f"Secret {secret}, annotation {ENDED_ANNOTATION}"
            restrictions.note_opt_in(where, opted_in_at)
        since = restrictions.opted_out_since
        if annotations.opted_out is not None:
            marked_since = parse_rfc3339(annotations.opted_out)
            restrictions.marked_since = max(marked_since or 0.0, restrictions.marked_since)
            if since is not None:
                return True
            ended_at = restrictions.ended_at(marked_since)
            if ended_at is None:
                where = f"Secret {secret}, annotation {ANNOTATION}"
                restrictions.note_mark(where, self._now() if marked_since is None else marked_since)
                return True
            await self._write(path, metadata, {ANNOTATION: None, ENDED_ANNOTATION: ended_at})
            log.info("opt-out mark removed secret=%s", secret)
        elif since is not None:
            await self._write(path, metadata, {ANNOTATION: since, ENDED_ANNOTATION: None})
            log.info("opt-out marked secret=%s", secret)
            return True
        elif restrictions.opted_in_at is not None and restrictions.opted_in_at > (opted_in_at or 0):
            await self._write(path, metadata, {ENDED_ANNOTATION: restrictions.opted_in_at})
            log.info("opt-in noted secret=%s", secret)
        return False

    async def _write(
        self, path: str, metadata: _Metadata, annotations: dict[str, float | None]
    ) -> None:
        patch = {
            "metadata": {
                "uid": metadata.uid,
                "resourceVersion": metadata.version,
                "annotations": {
                    name: None if at is None else render_rfc3339(at)
                    for name, at in annotations.items()
                },
            }
        }
        await self._client.request(
            "PATCH",
            path,
            params={"fieldManager": FIELD_MANAGER},
            body=orjson.dumps(patch),
            content_type=_MERGE,
            timeout_s=REQUEST_TIMEOUT_S,
        )


def _places_of(config: Config) -> tuple[tuple[str, str], ...]:
    exporters = (each for each in config.exporters if isinstance(each, SecretExporterConfig))
    return tuple((each.namespace, each.secret) for each in exporters)
