"""The Secret sink: keeps ``data.payload`` of one Secret up to date, by server-side apply.

It owns four annotations and one data key, and changes nothing else of the Secret. It never changes
a Secret that others made for another purpose.
"""

from collections.abc import Callable, Mapping
from dataclasses import InitVar, dataclass, field
from typing import Any, Final

from telemetryd.errors import (
    Conflict,
    ConflictError,
    Denier,
    ExportError,
    Forbidden,
    Invalid,
    KubeError,
    NotFound,
    PermanentError,
    Reason,
    RetryableError,
    Throttled,
    Unauthorized,
    Unavailable,
)
from telemetryd.export.exporter import ExportContext, Outcome
from telemetryd.export.payloads.payload import beside, parse_digest, parse_rfc3339, render_rfc3339
from telemetryd.export.sinks.secretobject import (
    Contention,
    FoundSecret,
    parse_secret,
    render_secret,
)
from telemetryd.kube import objects
from telemetryd.kube.objects import UNPARSABLE, StoredMeta
from telemetryd.kube.requests import Fence, Requests
from telemetryd.kube.responses import ANONYMOUS, explain_denial
from telemetryd.model import Payload

MAX_PAYLOAD_BYTES: Final = 1 << 20
"""Limit of the values of a Secret (core/v1 MaxSecretSize)."""

_PART_OF: Final = "scc.cattle.io/part-of"
_LAST_CHANGED: Final = "scc.cattle.io/last-changed"
_DIGEST: Final = "telemetryd/digest"
_EPOCH: Final = "telemetryd/epoch"
ANNOTATIONS: Final = (
    beside(f"annotation {_PART_OF}", "The word telemetry", "a constant"),
    beside(f"annotation {_LAST_CHANGED}", "When the content last changed", "the clock"),
    beside(f"annotation {_DIGEST}", "SHA-256 of the payload's facts", "computed"),
    beside(f"annotation {_EPOCH}", "Term of the leader", "the Lease; 0 without leader election"),
)
"""What else is written to the Secret."""

_TOO_LARGE: Final = 413


@dataclass(slots=True, eq=False, kw_only=True)
class SecretExporter:
    """Writes payloads to one Secret, unless it holds them already.

    Each call reads the Secret by name, so that what was deleted or altered is written again.
    Another writer of the same fields is overruled only where the Secret is telemetry (its payload
    looks like that, or we created it), and only once the other payload has not changed for the
    quiet period, or with ``takeover``.

    The author of a SecretRequest may lack the right to write the Secret that it names. So in a
    Secret that a request names, nothing is overruled without ``takeover``, no data are added to a
    Secret of others, and messages don't describe such a Secret.

    Attributes:
        namespace: Of the Secret; must exist.
        max_silence_s: After so many seconds an unchanged payload is written again.
        quiet_period_s: Another writer is overruled once its payload stayed the same so long.
        takeover: Overrule another writer at once.
        requested: A SecretRequest names the Secret, not the configuration.
        now: Unix time in seconds.
        clock: Seconds that never jump, for the quiet period.
        saw_epoch: Called with the leadership epoch that each found Secret names.
        written_at: After an export, when the payload in the Secret was written: Unix time in
            seconds by the API server's clock, None where it doesn't say.
    """

    requests: Requests = field(kw_only=False)
    namespace: str
    secret: str
    max_silence_s: float
    timeout_s: float
    quiet_period_s: InitVar[float]
    takeover: InitVar[bool]
    requested: bool = False
    now: Callable[[], float]
    clock: InitVar[Callable[[], float]]
    saw_epoch: Callable[[int], None] = lambda _: None
    written_at: float | None = field(default=None, init=False)
    _contention: Contention = field(init=False)

    def __post_init__(
        self, quiet_period_s: float, takeover: bool, clock: Callable[[], float]
    ) -> None:
        self._contention = Contention(self, quiet_period_s, takeover, self.requested, clock)

    @property
    def _path(self) -> str:
        return f"/api/v1/namespaces/{self.namespace}/secrets/{self.secret}"

    async def export(self, payload: Payload, context: ExportContext) -> Outcome:
        """Write the payload to the Secret.

        Raises:
            RetryableError: The API server can't be reached or is busy, or the Secret changed
                between reading and writing.
            ConflictError: Another writer owns it; nothing was written.
            PermanentError: Writing is not allowed, or the Secret can't hold the payload.
        """
        if len(payload.body) > MAX_PAYLOAD_BYTES:
            raise self._oversize(f"the payload has {len(payload.body)} bytes")
        found = await self._read()
        if found is not None:
            self._check(found)
        self._contention.observe(found)
        last_changed = self._plan(found, payload)
        if last_changed is None:
            self.written_at = None if found is None else found.written_at
            self._contention.resolve(found)
            return Outcome.UNCHANGED
        if found is not None:
            self._require_writable(found)
        document = self._render(payload, last_changed=last_changed, epoch=context.epoch)
        try:
            answer = await self._apply(document, found, fence=context.fence)
        except Conflict as exc:
            if not exc.has_cause("FieldManagerConflict"):
                raise self._translate(exc) from exc
            self._contention.require_right_to_force(found, exc)
            answer = await self._force(document, found, context.fence)
        except KubeError as exc:
            verb = "create or patch" if found is None else "patch"
            raise self._translate(exc, verb=verb, creating=found is None) from exc
        else:
            if found is None and self.requested:
                await self._leave_to_others(answer, context.fence)
        self.written_at = _written_at(answer)
        self._contention.resolve()
        return Outcome.WRITTEN

    async def aclose(self) -> None:
        """Nothing is held: the client is the caller's."""

    def __str__(self) -> str:
        return f"Secret {self.namespace}/{self.secret}"

    async def _read(self) -> FoundSecret | None:
        try:
            return await objects.get(
                self.requests, self._path, parse_secret, timeout_s=self.timeout_s
            )
        except KubeError as exc:
            raise self._translate(exc, verb="get") from exc

    def _check(self, found: FoundSecret) -> None:
        if self.requested:
            self._require_telemetry(found)
        self.saw_epoch(found.epoch)
        if found.type != "Opaque":
            raise PermanentError(
                Reason.WRONG_TYPE,
                f"{self} has type {found.type!r}, not Opaque, which can't be changed: delete it, "
                "or configure another name",
            )

    def _require_writable(self, found: FoundSecret) -> None:
        if found.immutable:
            raise PermanentError(
                Reason.IMMUTABLE,
                f"{self} is immutable, which can't be undone: delete it, or configure another name",
            )
        self._require_telemetry(found)

    def _plan(self, found: FoundSecret | None, payload: Payload) -> str | None:
        """The ``last-changed`` to write, None where nothing must be written.

        The payload in the Secret decides, not what an annotation says about it.
        """
        now_s = self.now()
        content = None if found is None else parse_digest(found.payload or b"")
        if found is None or content is None or content[0] != payload.digest:
            return render_rfc3339(now_s)
        written_at = content[1]
        silent = written_at is not None and abs(now_s - written_at) < self.max_silence_s
        notes = found.annotations
        kept = notes.last_changed if parse_rfc3339(notes.last_changed or "") is not None else None
        labelled = (notes.part_of, notes.digest) == ("telemetry", payload.digest) and kept
        # Another writer of the same content may leave out annotations: that needs no write.
        if silent and (labelled or not found.ours):
            return None
        return kept or render_rfc3339(now_s)

    def _render(self, payload: Payload, *, last_changed: str, epoch: int) -> Mapping[str, Any]:
        annotations = {
            _PART_OF: "telemetry",
            _LAST_CHANGED: last_changed,
            _DIGEST: payload.digest,
            _EPOCH: str(epoch),
        }
        return render_secret(self.namespace, self.secret, payload.body, annotations)

    async def _apply(
        self,
        document: Mapping[str, Any],
        found: FoundSecret | None,
        *,
        fence: Fence,
        force: bool = False,
    ) -> bytes:
        return await objects.apply(
            self.requests,
            self._path,
            document,
            over=None if found is None else StoredMeta(found.uid, found.resource_version),
            force=force,
            fence=fence,
            timeout_s=self.timeout_s,
        )

    async def _force(
        self, document: Mapping[str, Any], found: FoundSecret | None, fence: Fence
    ) -> bytes:
        self._contention.count_force()
        try:
            return await self._apply(document, found, fence=fence, force=True)
        except KubeError as exc:
            if isinstance(exc, Conflict):
                self._contention.uncount_force()
            raise self._translate(exc) from exc

    async def _leave_to_others(self, answer: bytes, fence: Fence) -> None:
        """Remove our fields from a Secret that others created between our read and our write.

        An apply can't require that the Secret doesn't exist.

        Raises:
            ExportError: Others created it.
        """
        made = objects.parsed(answer, parse_secret, f"PATCH {self._path}")
        if made.alone and not made.shared:
            return
        names = {"name": self.secret, "namespace": self.namespace}
        nothing = {"apiVersion": "v1", "kind": "Secret", "metadata": names}
        try:
            await self._apply(nothing, made, fence=fence)
        except KubeError as exc:
            raise self._translate(exc) from exc
        raise self._not_telemetry()

    def _require_telemetry(self, found: FoundSecret) -> None:
        apart = found.alone and found.type == "Opaque"
        if found.made or (found.telemetry and (apart or not self.requested)):
            return
        if self.requested or found.payload:
            who = ", ".join(sorted({other.manager for other in found.others}))
            raise self._not_telemetry("" if self.requested else who)

    def _not_telemetry(self, who: str = "") -> ConflictError:
        return ConflictError(
            Reason.NOT_TELEMETRY,
            f"{self} exists and isn't telemetry{who and f', but written by {who}'}: nothing was"
            " written; name another Secret, or delete this one if it isn't needed",
        )

    def _translate(
        self, exc: KubeError, *, verb: str = "patch", creating: bool = False
    ) -> ExportError:
        """The API server's error, as one whose message has the fix."""
        match exc:
            case NotFound() if creating:
                reason = Reason.MISSING_NAMESPACE
                text = (
                    f"namespace {self.namespace} doesn't exist: create it "
                    f"(kubectl create namespace {self.namespace})"
                )
            case Forbidden() if exc.has_cause("NamespaceTerminating"):
                reason = Reason.NAMESPACE_TERMINATING
                text = (
                    f"namespace {self.namespace} is being deleted and takes no {self}: wait for "
                    "its end and create it again"
                )
            case Forbidden():
                denied_by_content = exc.denier not in {Denier.AUTHORIZER, Denier.UNKNOWN}
                reason = Reason.REJECTED if denied_by_content else Reason.FORBIDDEN
                grant = (
                    f"grant get, create, patch on secrets with resourceNames [{self.secret}] by a "
                    f"Role in {self.namespace}"
                )
                text = explain_denial(exc, f"{verb} {self}", grant=grant)
            case Unauthorized(status=403):
                reason = Reason.AUTH
                text = f"{ANONYMOUS}: {exc.said}"
            case Unauthorized():
                reason = Reason.AUTH
                text = "the API server doesn't accept the credential: renew it"
            case Invalid():
                return self._refusal(exc)
            case _:
                return self._transient(exc)
        return PermanentError(reason, text)

    def _transient(self, exc: KubeError) -> RetryableError:
        match exc:
            case Throttled():
                text = "the API server is throttling"
                return RetryableError(Reason.THROTTLED, text, retry_after_s=exc.retry_after_s)
            case Unavailable(status=None):
                return RetryableError(exc.kind, str(exc), retry_after_s=exc.retry_after_s)
            case Unavailable(denier=Denier.WEBHOOK):
                text = explain_denial(exc, f"write {self}", grant="")
                return RetryableError(exc.kind, text, retry_after_s=exc.retry_after_s)
            case Unavailable():
                # What the server says of a failed write may quote the Secret.
                text = f"the API server failed on {self}: status {exc.status} {exc.reason}".rstrip()
                return RetryableError(exc.kind, text, retry_after_s=exc.retry_after_s)
            case Conflict() | NotFound():
                return RetryableError(Reason.CONFLICT, f"{self} changed between read and write")
            case _:
                return RetryableError(Reason.SERVER, str(exc))

    def _refusal(self, exc: Invalid) -> PermanentError:
        # The server's own text may quote values; its causes' reasons and fields don't.
        if exc.status == _TOO_LARGE or exc.has_cause("FieldValueTooLong"):
            return self._oversize("the API server finds it too large with what else it holds")
        causes = ", ".join(f"{cause.reason} at {cause.field}" for cause in exc.causes)
        return PermanentError(
            Reason.REJECTED, f"the API server refuses {self}: status {exc.status} {causes}".rstrip()
        )

    def _oversize(self, what: str) -> PermanentError:
        return PermanentError(
            Reason.OVERSIZE, f"{self} can't hold more than {MAX_PAYLOAD_BYTES} bytes: {what}"
        )


def _written_at(answer: bytes) -> float | None:
    """When the payload was written, by the answer to an apply; None where it doesn't say."""
    try:
        return parse_secret(answer).written_at
    except UNPARSABLE:
        return None  # it was written all the same
