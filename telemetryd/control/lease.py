"""The Lease of leader election: what it means to a candidate, and how it is read and written.

The rules are those of client-go (tools/leaderelection), which trusts only local time: a holder's
term ends one duration after its record was last *seen to change*, whatever times it contains.
The object is read, created and replaced as a whole.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import msgspec
import orjson

from telemetryd.bounds import identifier
from telemetryd.config.settings import MIN_DEADLINE_TO_RETRY
from telemetryd.errors import BadResponse
from telemetryd.kube import objects
from telemetryd.kube.objects import StoredMeta
from telemetryd.kube.requests import Requests
from telemetryd.kube.responses import printable
from telemetryd.redaction import OURS

_API_VERSION = "coordination.k8s.io/v1"
RELEASED_DURATION_S = 1
MIN_REQUEST_TIMEOUT_S = 1.0


@dataclass(frozen=True, slots=True)
class LeaseTiming:
    """How long a term lasts and how it is renewed, in seconds.

    Attributes:
        duration_s: A term, counted from the time its renewal was sent.
        renew_deadline_s: A leader that can't renew for this long stops.
        retry_period_s: Between renewals, and between a candidate's checks.
    """

    duration_s: float = 15.0
    renew_deadline_s: float = 10.0
    retry_period_s: float = 2.0

    def __post_init__(self) -> None:
        if not self.duration_s > self.renew_deadline_s:
            raise ValueError("the lease duration must exceed the renew deadline")
        if not self.renew_deadline_s > MIN_DEADLINE_TO_RETRY * self.retry_period_s > 0:
            raise ValueError(
                f"the renew deadline must exceed {MIN_DEADLINE_TO_RETRY:g} retry periods"
            )

    @property
    def request_timeout_s(self) -> float:
        """Of one request: if it hangs, another one must fit into the deadline."""
        return max(MIN_REQUEST_TIMEOUT_S, self.renew_deadline_s / 2)


@dataclass(frozen=True, slots=True)
class LeaseRecord:
    """A Lease as the API server holds it.

    Attributes:
        holder: ``spec.holderIdentity``, empty if it was released.
        duration_s: ``spec.leaseDurationSeconds``, None if missing or invalid.
        transitions: ``spec.leaseTransitions``: the epoch of the last term.
        resource_version: Changes with every write, also a renewal.
        uid: Differs for a Lease that was created again.
    """

    holder: str
    duration_s: float | None
    transitions: int
    resource_version: str
    uid: str


@dataclass(frozen=True, slots=True)
class Observed:
    """The last state that was seen, and since when it has been the same.

    ``record`` is None if there is no Lease; ``since_s`` is local boot time.
    """

    record: LeaseRecord | None
    since_s: float


def observe(before: Observed | None, record: LeaseRecord | None, now_s: float) -> Observed:
    """What is known after a read: a change starts a new term by the local clock."""
    if before is not None and before.record == record:
        return before
    return Observed(record, now_s)


def wait_s(observed: Observed, identity: str, *, timing: LeaseTiming, now_s: float) -> float:
    """Seconds until a candidate may take the Lease, unless it changes; 0 for now.

    A released Lease may be taken at once, because the guarded work ends before a release. So may
    one with our own name: a late write of ours got through, and no one else's did. Any other, or a
    missing one, must stay the same for a whole term: its holder may not know yet.

    ``timing`` counts if the record has no duration; ``now_s`` is local boot time.
    """
    record = observed.record
    if record is not None and record.holder in ("", identity):
        return 0.0
    duration_s = timing.duration_s
    if record is not None and record.duration_s is not None:
        duration_s = record.duration_s
    return max(0.0, observed.since_s + duration_s - now_s)


class _LeaseSpec(msgspec.Struct, gc=False, rename="camel"):
    """What is read of ``spec`` (coordination/v1 LeaseSpec)."""

    holder_identity: str | None = None
    lease_duration_seconds: int | None = None
    lease_transitions: int | None = None


class _Lease(msgspec.Struct, gc=False):
    kind: str
    metadata: StoredMeta
    spec: _LeaseSpec | None = None


_DECODER = msgspec.json.Decoder(_Lease)


@dataclass(frozen=True, slots=True)
class FetchedLease:
    """A Lease, and the whole object, so that what others wrote there stays."""

    record: LeaseRecord
    document: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Term:
    """What a write puts into the Lease.

    Attributes:
        holder: Identity, empty for a release.
        duration_s: Whole seconds.
        transitions: The epoch.
        begins: A new term, whose time of acquisition is now.
    """

    holder: str
    duration_s: int
    transitions: int
    begins: bool


class LeaseApi:
    """One Lease; its requests should have a connection pool of their own."""

    def __init__(
        self, requests: Requests, *, namespace: str, name: str, now: Callable[[], float]
    ) -> None:
        """Nothing is requested yet; ``now`` is Unix time in seconds, for times that people read."""
        self._requests = requests
        self._namespace = namespace
        self._name = name
        self._now = now
        self._collection = f"/apis/{_API_VERSION}/namespaces/{namespace}/leases"

    async def read(self, timeout_s: float) -> FetchedLease | None:
        """The Lease, None for none.

        Raises:
            KubeError: It can't be read, or isn't a Lease.
        """
        return await objects.get(
            self._requests, f"{self._collection}/{self._name}", parse_lease, timeout_s=timeout_s
        )

    async def create(self, term: Term, timeout_s: float) -> FetchedLease:
        """Make the Lease.

        Raises:
            Conflict: It exists already.
            KubeError: It can't be made.
        """
        document = {
            "apiVersion": _API_VERSION,
            "kind": "Lease",
            "metadata": {"namespace": self._namespace, "name": self._name},
        }
        return await objects.create(
            self._requests,
            self._collection,
            render_lease(document, term, self._now()),
            parse_lease,
            timeout_s=timeout_s,
        )

    async def replace(self, over: FetchedLease, term: Term, timeout_s: float) -> FetchedLease:
        """Write over the Lease as it was read, and over no other state of it.

        Raises:
            Conflict: It has changed since.
            NotFound: It is gone.
            KubeError: It can't be written.
        """
        return await objects.replace(
            self._requests,
            f"{self._collection}/{self._name}",
            render_lease(over.document, term, self._now()),
            parse_lease,
            timeout_s=timeout_s,
        )


def parse_lease(answer: bytes) -> FetchedLease:
    """The Lease in an answer.

    Missing and invalid values of ``spec`` read as none: a holder without a duration has ours.

    Raises:
        BadResponse: It isn't a Lease.
    """
    try:
        lease = _DECODER.decode(answer)
        document = orjson.loads(answer)
    except (msgspec.MsgspecError, orjson.JSONDecodeError, UnicodeError, RecursionError) as error:
        raise BadResponse(f"the answer isn't a Lease: {error}") from error
    meta = lease.metadata
    if lease.kind != "Lease" or not meta.uid or not meta.resource_version:
        kind = printable(lease.kind, 100)
        raise BadResponse(f"the answer isn't a Lease but a {kind!r} or has no identity")
    spec = lease.spec or _LeaseSpec()
    duration_s = spec.lease_duration_seconds
    return FetchedLease(
        record=LeaseRecord(
            holder=identifier(OURS.redact(spec.holder_identity or "")),
            duration_s=float(duration_s) if duration_s is not None and duration_s > 0 else None,
            transitions=max(0, spec.lease_transitions or 0),
            resource_version=meta.resource_version,
            uid=meta.uid,
        ),
        document=document,
    )


def render_lease(document: Mapping[str, Any], term: Term, now_s: float) -> dict[str, Any]:
    """The object to write: ``spec`` as the term says, all else as it is."""
    spec = dict(document.get("spec") or {})
    renewed = render_micro_time(now_s)
    spec |= {
        "holderIdentity": term.holder,
        "leaseDurationSeconds": term.duration_s,
        "leaseTransitions": term.transitions,
        "renewTime": renewed,
    }
    if term.begins or "acquireTime" not in spec:
        spec["acquireTime"] = renewed
    return {**document, "spec": spec}


def whole_seconds(duration_s: float) -> int:
    """A duration as the Lease can say it: never less than it is."""
    return max(1, math.ceil(duration_s))


def render_micro_time(now_s: float) -> str:
    """A time as meta/v1 MicroTime writes it: UTC, six digits, ``Z``."""
    moment = datetime.fromtimestamp(now_s, UTC)
    return moment.strftime("%Y-%m-%dT%H:%M:%S.%fZ")
