"""The opt-out: the Rancher setting that says it, and its mark on the Secrets.

The setting is watched on its own; nothing else is requested while it opts out. The watch outlives
an opt-out and a collection, so that no change can be missed in between. What an opt-out does is
decided in ``collector``.

The mark is for replicas that don't know of the opt-out. Each replica reads it before it starts to
export, and again when it has become the leader. Only the leader writes it, by merge patch of two
annotations: one says since when telemetry is opted out, the other when an opt-in ended that, for
replicas that remember the opt-out. No Secret is ever created for it.
"""

import logging
from collections.abc import Callable
from typing import Final

import anyio
import msgspec
import orjson

from telemetryd.config import Config, SecretExporterConfig
from telemetryd.config.restrictions import OUT, PERMITTING
from telemetryd.config.values import show
from telemetryd.daemon.collection import Informers
from telemetryd.daemon.restrictions import Restrictions
from telemetryd.errors import Forbidden, Invalid, KubeError, NotFound, NotLeading
from telemetryd.export.payloads.payload import parse_rfc3339, render_rfc3339
from telemetryd.gather.project import OPT_OUT, OPT_OUT_SETTING
from telemetryd.kube.objects import StoredMeta
from telemetryd.kube.requests import Requests
from telemetryd.model import Delta, SettingRecord

log = logging.getLogger(__name__)

FIRST_LOOK_S: Final = 2.0
"""The fleet isn't listed for this long at the start, so that the setting is read first."""

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


class OptOutSetting:
    """Follows the setting.

    Attributes:
        out: It opts out now.
        known: It has been read, or is known to be missing.
        looked: It is known, or couldn't be read in time.
        problem: What is wrong with its value, empty for nothing.
        informers: The one that watches it.
    """

    def __init__(
        self,
        informers: Informers,
        *,
        note: Callable[[str | None], None],
        changed: Callable[[], None],
    ) -> None:
        """Nothing runs before ``run``.

        ``note`` gets each value, None for an invalid or missing one; ``changed`` is called when an
        attribute has changed.
        """
        self.informers = informers
        self._informer = informers.make(OPT_OUT)
        self._note = note
        self._changed = changed
        self.out = False
        self.known = False
        self.looked = False
        self.problem = ""
        self._informer.reader.subscribe(self._follow)
        self._informer.reader.on_change(self._note_synced)

    async def run(self) -> None:
        """Watch the setting; returns only when cancelled."""
        async with anyio.create_task_group() as group:
            group.start_soon(self._give_up_waiting)
            group.start_soon(self.informers.run)

    async def _give_up_waiting(self) -> None:
        await anyio.sleep(FIRST_LOOK_S)
        if not self.looked:
            self.looked = True
            self._changed()

    def _note_synced(self) -> None:
        if self._informer.reader.synced and not self.known and not self.problem:
            self.known = self.looked = True
            self._changed()

    def _follow(self, delta: Delta[SettingRecord]) -> None:
        record = delta.new
        value = record.value if isinstance(record, SettingRecord) else None
        problem = ""
        if record is not None and value is None:
            problem = "can't be read"
        elif value and value != OUT and value not in PERMITTING:
            problem = f"is {show(value)}"
        if problem:
            problem = f"setting {OPT_OUT_SETTING} {problem}: give it the value in, prompt or out"
        if problem and problem != self.problem:
            log.error("opt-out setting damaged: it changes nothing error=%r", problem)
        elif self.out and not value:
            log.warning(
                "opt-out setting without a value: collection stays off until it has another value"
                " or an opt-in setting=%s",
                "deleted" if record is None else "emptied",
            )
        self.problem = problem
        self.out = value == OUT
        self._note(None if problem else value)
        self._note_synced()
        self._changed()


class MarkAnnotations(msgspec.Struct, frozen=True, gc=False):
    """The mark, and the time of an opt-in that ended one."""

    opted_out: str | None = msgspec.field(name=ANNOTATION, default=None)
    opted_in: str | None = msgspec.field(name=ENDED_ANNOTATION, default=None)


class _MarkedMeta(StoredMeta, gc=False):
    annotations: MarkAnnotations | None = None


class MarkedSecret(msgspec.Struct, gc=False):
    """What is read of a Secret for the mark."""

    metadata: _MarkedMeta


class OptOutMark:
    """Reads and writes the mark on the Secrets of the configured exporters."""

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
        """Nothing is requested before ``run``.

        Args:
            client: The API server; writes only while this replica leads.
            restrictions: Learn of a mark, and say whether there must be one.
            config: At the start.
            wanted: Whether the API server may be asked about the opt-out.
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
        self._refused: set[str] = set()
        self._wake = anyio.Event()
        restrictions.on_change(self.wake)

    @property
    def looked(self) -> bool:
        """Whether every Secret has been read, or can't be for reasons that stop its exporter too.

        Stays so until ``forget``: a reload must not hold up the exporters that it doesn't change.
        """
        return self._looked or self._all_seen()

    def forget(self) -> None:
        """Another replica may have marked them: nothing is known until they are read again."""
        self._looked = False
        self._seen.clear()
        self.wake()

    def follow(self, config: Config) -> None:
        """Put a configuration in force."""
        self._places = _places_of(config)
        self.wake()

    async def look(self, config: Config) -> None:
        """Read the Secrets that a reload adds, before anything is sent to them."""
        self._places = _places_of(config)
        if self._wanted() and not self._all_seen():
            with anyio.move_on_after(REQUEST_TIMEOUT_S):
                await self._look_at_all()

    def wake(self) -> None:
        """Check again."""
        self._wake.set()
        self._wake = anyio.Event()

    async def run(self) -> None:
        """Keep the marks as the restrictions require; ends only when cancelled."""
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
                # Nothing shows that there is a mark, and nothing else may suffer from this Secret.
                level = logging.DEBUG if secret in self._refused else logging.WARNING
                self._refused.add(secret)
                log.log(level, "opt-out mark failed secret=%s error=%r", secret, str(error))
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
        metadata = msgspec.json.decode(answer, type=MarkedSecret).metadata
        annotations = metadata.annotations or MarkAnnotations()
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
        self, path: str, metadata: _MarkedMeta, annotations: dict[str, float | None]
    ) -> None:
        patch = {
            "metadata": {
                **metadata.members(),
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
    """Also those of exporters that are off: an opt-out on one Secret holds for all exporters."""
    exporters = (each for each in config.exporters if isinstance(each, SecretExporterConfig))
    return tuple((each.namespace, each.secret) for each in exporters)
