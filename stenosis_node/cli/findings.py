"""What was found on the slices of a result, counted: read from the spool, without torch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from stenosis_node.domain import (
    CanalNotFound,
    CordSlice,
    Grade,
    GradedSlice,
    NotGradable,
    SliceFinding,
    StudyFindings,
    Unreadable,
    worst,
)
from stenosis_node.errors import NodeError


@dataclass(frozen=True, slots=True)
class Outcomes:
    """Number of slices per outcome. Each slice of the graded series is in exactly one of them."""

    graded: dict[Grade, int]
    """Every grade, zeros included."""
    cord: int
    canal_not_found: int
    not_gradable: dict[str, int]
    """By reason, like ``unreadable``."""
    unreadable: dict[str, int]

    def sentence(self) -> str:
        """All of it in words, what was not found left out."""
        grades = ", ".join(f"{grade} {count}" for grade, count in self.graded.items() if count)
        parts = [f"{sum(self.graded.values())} graded" + f" ({grades})" * bool(grades)]
        if self.cord:
            parts.append(f"{self.cord} cord")
        if self.canal_not_found:
            parts.append(f"{self.canal_not_found} canal not found")
        for name, reasons in (("not gradable", self.not_gradable), ("unreadable", self.unreadable)):
            parts += [f"{count} {name}: {reason}" for reason, count in reasons.items()]
        return "; ".join(parts)

    def headline(self) -> str:
        """The worst grade, and how many slices have none that should."""
        grade = worst([grade for grade, count in self.graded.items() if count])
        missing = {
            "canal not found": self.canal_not_found,
            "not gradable": sum(self.not_gradable.values()),
            "unreadable": sum(self.unreadable.values()),
        }
        if grade is not None:
            parts = [f"worst grade {grade}"]
        elif self.cord or len(self.unreadable) != 1 or self.canal_not_found or self.not_gradable:
            parts = ["no slice graded"] + [f"{self.cord} cord"] * bool(self.cord)
        else:
            return f"no slice graded: {next(iter(self.unreadable))}"
        return ", ".join(parts + [f"{count} {name}" for name, count in missing.items() if count])


def read_outcomes(spool: Path, chosen_key: str) -> Outcomes | None:
    """Outcomes stored under a result's key; None when they were deleted or cannot be read from here."""
    from stenosis_node.spool import Spool

    if not spool.is_dir():
        return None
    with suppress(NodeError, ValueError):  # a disk that is full or broken, or findings of another version
        stored = Spool(spool).findings(chosen_key)
        if stored is not None:
            findings = StudyFindings.from_json(stored)
            return count_outcomes(finding for series in findings.series for finding in series.slices)
    return None


def count_outcomes(findings: Iterable[SliceFinding]) -> Outcomes:
    """Count the slices of a study."""
    grades: Counter[Grade] = Counter()
    not_gradable: Counter[str] = Counter()
    unreadable: Counter[str] = Counter()
    cord = lost = 0
    for finding in findings:
        match finding:
            case GradedSlice():
                grades[finding.grade] += 1
            case CordSlice():
                cord += 1
            case CanalNotFound():
                lost += 1
            case NotGradable():
                not_gradable[finding.reason] += 1
            case Unreadable():
                unreadable[finding.reason] += 1
    return Outcomes({grade: grades[grade] for grade in Grade}, cord, lost, dict(not_gradable), dict(unreadable))
