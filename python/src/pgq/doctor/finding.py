"""What the doctor returns: what is wrong, and what it could not see."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal

Severity = Literal["error", "warning", "note"]
# The worst first.
SEVERITIES: Final[tuple[Severity, ...]] = ("error", "warning", "note")
PAGE: Final = "docs/doctor.md"


@dataclass(frozen=True)
class Finding:
    """
    Something that is wrong.

    ``severity`` is ``error`` where jobs do not run or may be harmed, ``warning`` where they soon may be, ``note`` for
    what an operator should know. ``title`` says what is wrong, ``meaning`` what that means for the jobs, and ``remedy``
    which statement or command mends it. ``details`` has the same in numbers and names, for programs.
    """

    code: str
    severity: Severity
    title: str
    meaning: str
    remedy: str
    details: Mapping[str, Any] = field(default_factory=dict)

    @property
    def page(self) -> str:
        """Where the documentation describes the finding."""
        return f"{PAGE}#{self.code}"

    def as_dict(self) -> dict[str, Any]:
        """Return what ``pgq doctor --json`` prints of the finding."""
        return {
            "code": self.code,
            "severity": self.severity,
            "title": self.title,
            "meaning": self.meaning,
            "remedy": self.remedy,
            "page": self.page,
            "details": dict(self.details),
        }


@dataclass(frozen=True)
class Unseen:
    """
    Something that could not be checked.

    ``code`` is that of the finding that may be there all the same. ``reason`` says why it was not looked for, and
    ``remedy`` what lets the doctor see it; None: nothing does.
    """

    code: str
    reason: str
    remedy: str | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return what ``pgq doctor --json`` prints of it."""
        return {"code": self.code, "reason": self.reason, "remedy": self.remedy}


@dataclass(frozen=True)
class Examination:
    """The findings, the worst first, and what could not be checked."""

    findings: tuple[Finding, ...]
    unseen: tuple[Unseen, ...]

    @property
    def is_healthy(self) -> bool:
        """Whether no finding is an error."""
        return all(finding.severity != "error" for finding in self.findings)
