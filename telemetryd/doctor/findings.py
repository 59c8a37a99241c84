"""What a check found, and how it is said: a line each, then the rules to add, then a summary."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum

from telemetryd.doctor.access import Access
from telemetryd.doctor.roles import Account, render_roles


class Grade(StrEnum):
    """How a check ended. Only a FAIL keeps telemetryd from doing its whole job."""

    PASS = "PASS"  # noqa: S105 - a grade
    WARN = "WARN"
    FAIL = "FAIL"


@dataclass(frozen=True, slots=True)
class CheckResult:
    """One line.

    Attributes:
        what: What was looked at.
        detail: What was seen.
        fix: What would help, empty where nothing needs help; every FAIL has one.
        missing: The right that is missing, where that is what was found.
    """

    grade: Grade
    what: str
    detail: str
    fix: str = ""
    missing: Access | None = None

    def __str__(self) -> str:
        said = "; ".join(part for part in (self.detail, self.fix) if part)
        return f"{self.grade}  {' '.join(self.what.split())}  {' '.join(said.split())}"


@dataclass(frozen=True, slots=True)
class Examination:
    """Everything that was found.

    Attributes:
        findings: In the order in which they are said.
        account: Who asked, where that is a ServiceAccount.
    """

    findings: tuple[CheckResult, ...]
    account: Account | None

    @property
    def failed(self) -> bool:
        """Whether anything is a FAIL."""
        return any(finding.grade is Grade.FAIL for finding in self.findings)

    @property
    def missing(self) -> tuple[Access, ...]:
        """The rights that are missing."""
        return tuple(found.missing for found in self.findings if found.missing is not None)


def passed(what: str, detail: str) -> CheckResult:
    """All is well."""
    return CheckResult(Grade.PASS, what, detail)


def warn(what: str, detail: str, fix: str = "", missing: Access | None = None) -> CheckResult:
    """Something to know of; the daemon does its job."""
    return CheckResult(Grade.WARN, what, detail, fix, missing)


def fail(what: str, detail: str, fix: str, missing: Access | None = None) -> CheckResult:
    """The daemon can't do its whole job like this."""
    return CheckResult(Grade.FAIL, what, detail, fix, missing)


def render_report(report: Examination) -> Iterator[str]:
    """The lines of a report, the summary last."""
    for finding in report.findings:
        yield str(finding)
    if report.missing:
        yield ""
        yield "The rules to add, for `kubectl apply -f -`:"
        yield from render_roles(report.missing, report.account).splitlines()
        yield ""
    yield _summary(report.findings)


def _summary(findings: Sequence[CheckResult]) -> str:
    counts = dict.fromkeys(Grade, 0)
    for finding in findings:
        counts[finding.grade] += 1
    said = ", ".join(f"{count} {grade}" for grade, count in counts.items())
    return f"{len(findings)} checks: {said}"
