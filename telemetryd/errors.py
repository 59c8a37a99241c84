"""The whole exception tree, and the closed list of reasons a failure is reported under.

The type decides whether something is retried; the reason only names it for people and metrics.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import TypedDict, Unpack


class Reason(StrEnum):
    """Why an export failed: the closed list shown in status, logs and metric labels."""

    MISSING_NAMESPACE = "missing_namespace"
    NAMESPACE_TERMINATING = "namespace_terminating"
    FORBIDDEN = "forbidden"
    IMMUTABLE = "immutable"
    WRONG_TYPE = "wrong_type"
    OVERSIZE = "oversize"
    FIELD_CONFLICT = "field_conflict"
    NOT_TELEMETRY = "not_telemetry"
    CONFLICT = "conflict"
    TIMEOUT = "timeout"
    CONNECT = "connect"
    THROTTLED = "throttled"
    SERVER = "server"
    AUTH = "auth"
    REJECTED = "rejected"
    STORAGE = "storage"
    INTERNAL = "internal"


class UnreadableReason(StrEnum):
    """Why one object can't be read: label ``reason`` of the decode error counter."""

    MALFORMED = "malformed"
    TYPE = "type"
    MISSING = "missing"
    OVERSIZE = "oversize"


class TelemetrydError(Exception):
    """Root of every error that telemetryd raises on purpose."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong with the configuration.

    Attributes:
        where: File, environment variable or option that holds it.
        key: Key path in it (``exporters.NAME.interval``), empty where the whole is meant.
        message: What is wrong and what would be right, in one line.
        line: Of the file, 0 where none is known.
    """

    where: str
    key: str
    message: str
    line: int = 0

    def __str__(self) -> str:
        where = f"{self.where}:{self.line}" if self.line else self.where
        return ": ".join(part for part in (where, self.key, self.message) if part)


class ConfigError(TelemetrydError):
    """The configuration, a kubeconfig, a token or a certificate can't be used.

    Attributes:
        problems: Every problem found, in the order of the file; at least one.
    """

    def __init__(self, *problems: Problem) -> None:
        super().__init__("; ".join(str(problem) for problem in problems))
        self.problems = problems


class NotReady(TelemetrydError):
    """There is no snapshot to export yet.

    Attributes:
        waiting_for: What is missing, each named (``informer nodes.management.cattle.io``).
    """

    def __init__(self, waiting_for: tuple[str, ...]) -> None:
        super().__init__(f"waiting for {', '.join(waiting_for)}")
        self.waiting_for = waiting_for


class NotLeading(TelemetrydError):
    """This replica isn't the leader, or can't know any more that it is: it must not write."""


class ManagerError(TelemetrydError):
    """The exporter manager refuses a call: the message names the exporter and why."""


class UnknownExporter(TelemetrydError):
    """The configuration has no exporter of that name."""


class CommandRefused(TelemetrydError):
    """A command over the control socket isn't carried out: the message says why."""


class NoDaemon(TelemetrydError):
    """No daemon listens on the control socket, or it gave no answer."""


class SpoolError(TelemetrydError):
    """Undelivered payloads can't be read, copied or sent by hand: the message says why."""


class UnreadableObject(TelemetrydError):
    """One object's JSON doesn't hold what is declared for its kind."""

    def __init__(self, reason: UnreadableReason, message: str) -> None:
        super().__init__(message)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Cause:
    """One entry of ``Status.details.causes`` (meta/v1 StatusCause)."""

    reason: str
    message: str
    field: str


class Denier(StrEnum):
    """The part of an API server that refused a request, as its message shows."""

    AUTHORIZER = "authorizer"
    """RBAC or another authorizer: the user has no right to the verb."""
    QUOTA = "quota"
    POLICY = "policy"
    """A ValidatingAdmissionPolicy or MutatingAdmissionPolicy."""
    WEBHOOK = "webhook"
    """An admission webhook that refused, or that the API server could not call."""
    ADMISSION = "admission"
    """Another admission plugin."""
    UNKNOWN = "unknown"
    """The answer does not show it; perhaps a proxy in front of the API server."""


class KubeAnswer(TypedDict, total=False):
    """What an answer of the API server says beside its message; see ``KubeError``."""

    status: int | None
    reason: str
    causes: tuple[Cause, ...]
    retry_after_s: float | None


class KubeError(TelemetrydError):
    """A call to the API server failed.

    Attributes:
        status: HTTP status, or the code of an ERROR event; None where there was no answer.
        reason: ``Status.reason`` of the answer, empty where it had none.
        causes: ``Status.details.causes`` of the answer.
        denier: The part of the API server that refused the request.
        retry_after_s: Seconds the server asks for, None where it names none.
        said: ``Status.message`` of the answer on one line, bounded, empty where it had none. It
            may quote what was sent, unless the request was denied (see ``denier``).
    """

    def __init__(self, message: str, **of_answer: Unpack[KubeAnswer]) -> None:
        super().__init__(message)
        self.status = of_answer.get("status")
        self.reason = of_answer.get("reason", "")
        self.causes = of_answer.get("causes", ())
        self.retry_after_s = of_answer.get("retry_after_s")
        self.denier = Denier.UNKNOWN
        self.said = ""

    def has_cause(self, reason: str) -> bool:
        """Whether any of the answer's causes has this reason."""
        return any(cause.reason == reason for cause in self.causes)


class Unauthorized(KubeError):
    """401: the credential isn't accepted. 403 of ``system:anonymous``: there was no credential."""


class Forbidden(KubeError):
    """403, or another 4xx by which an admission policy or webhook refuses: see ``denier``."""


class NotFound(KubeError):
    """404: no such object, or no such resource."""


class Conflict(KubeError):
    """409: stale precondition, existing object, or fields that another manager owns."""


class Gone(KubeError):
    """410: the resource version or the continue token is too old."""


class Invalid(KubeError):
    """400, 405, 406, 413, 415, 422: the API server refuses the request itself."""


class Throttled(KubeError):
    """429."""


class Unavailable(KubeError):
    """No answer, or a 5xx.

    Attributes:
        kind: ``Reason.CONNECT``, ``Reason.TIMEOUT`` or ``Reason.SERVER``; ``Reason.AUTH`` if
            nothing was asked because the credential isn't there yet.
    """

    def __init__(self, message: str, *, kind: Reason, **of_answer: Unpack[KubeAnswer]) -> None:
        super().__init__(message, **of_answer)
        self.kind = kind


class BadResponse(KubeError):
    """A success whose body isn't what was asked for: another kind, HTML, truncated, too large."""


class TooLarge(BadResponse):
    """A success whose body is longer than the caller allows: asking for less may help."""


class ExportError(TelemetrydError):
    """An exporter could not deliver.

    Attributes:
        reason: One of the closed list.
    """

    def __init__(self, reason: Reason, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class RetryableError(ExportError):
    """Worth another attempt within the same run.

    Attributes:
        retry_after_s: Seconds the destination asks for, None where it names none.
    """

    def __init__(self, reason: Reason, message: str, *, retry_after_s: float | None = None) -> None:
        super().__init__(reason, message)
        self.retry_after_s = retry_after_s


class OutrankedError(RetryableError):
    """The receiver has a payload of a higher epoch and sequence: worth another attempt above it."""

    def __init__(self, message: str, *, epoch: int, sequence: int) -> None:
        super().__init__(Reason.REJECTED, message)
        self.epoch = epoch
        self.sequence = sequence


class PermanentError(ExportError):
    """Another attempt with the same payload can't succeed."""


class ConflictError(PermanentError):
    """Another writer owns the destination: nothing was written."""


class QuantityError(TelemetrydError, ValueError):
    """A Kubernetes quantity is missing or can't be parsed."""


class HistoryError(TelemetrydError):
    """The store of the history can't be opened, read or written."""
