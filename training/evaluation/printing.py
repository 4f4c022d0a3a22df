"""Agreement as text for people."""

from __future__ import annotations

from collections.abc import Sequence

from training.evaluation.columns import ColumnAgreement
from training.evaluation.comparison import RaterComparison
from training.evaluation.scoring import with_bounds

_NAMES = {
    "accuracy": "accuracy",
    "macro_f1": "macro-F1",
    "kappa": "kappa",
    "kappa_linear": "kappa, linear weights",
    "kappa_quadratic": "kappa, quadratic weights",
    "severe_sensitivity": "sensitivity, C or worse",
    "severe_specificity": "specificity, C or worse",
}
_TESTS = {
    "p_unpaired": "unpaired t-test (as Won 2025 printed)",
    "p_paired": "paired t-test",
    "p_stuart_maxwell": "Stuart-Maxwell",
}


def agreement_text(found: ColumnAgreement) -> str:
    """What was compared, the confusion matrix, scores with intervals, and P values."""
    result = found.agreement
    lines = [f"{found.a} and {found.b}: {result.n} slices", *_accounted(found), ""]
    width = max(6, *(len(label) for label in result.labels))
    lines.append(f"rows {found.a}, columns {found.b}")
    lines.append(" " * width + "".join(f"{label:>{width + 2}}" for label in result.labels))
    for label, row in zip(result.labels, result.confusion, strict=True):
        lines.append(f"{label:<{width}}" + "".join(f"{cell:>{width + 2}}" for cell in row))
    lines.append("")
    scores = {name: getattr(result, key) for key, name in _NAMES.items() if hasattr(result, key)}
    limits = {name: result.intervals.get(key) for key, name in _NAMES.items()}
    for label, value in result.f1.items():
        scores[f"F1 {label}"], limits[f"F1 {label}"] = value, result.intervals.get(f"f1 {label}")
    lines += [f"{name:<26}{number(value)}  {_interval(limits[name])}".rstrip() for name, value in scores.items()]
    lines.append("")
    lines += [f"P, {name:<40}{p_value(getattr(result, key))}" for key, name in _TESTS.items()]
    return "\n".join(lines)


def comparison_text(found: RaterComparison) -> str:
    """Scores of both raters and their difference."""
    lines = [
        f"A {found.a} and B {found.b} against {found.truth}: {found.n} slices",
        f"{found.clusters} values of {found.cluster} resampled",
        f"no answer (an error): A {found.missed[0]}, B {found.missed[1]}",
    ]
    if found.unmatched:
        lines.append(f"labelled but not in both files, left out: {found.unmatched}")
    lines += ["", f"{'':<26}{'A':<26}{'B':<26}B - A"]
    for key, one in found.scores.items():
        cells = (
            with_bounds(one.a, one.a_bounds),
            with_bounds(one.b, one.b_bounds),
            with_bounds(one.difference, one.difference_bounds),
        )
        lines.append(f"{_NAMES[key]:<26}" + "".join(f"{cell:<26}" for cell in cells).rstrip())
    return "\n".join([*lines, "", "Brackets: 95 % of the same resamples of patients. Kappas: slices both answered."])


def number(value: float | None, digits: int = 3) -> str:
    """Fixed digits; a dash for what is not defined."""
    return "-" if value is None else f"{value:.{digits}f}"


def p_value(value: float | None) -> str:
    """Four digits, or in powers of ten when that shows nothing."""
    if value is None:
        return "-"
    return f"{value:.4f}" if value >= 0.0001 else f"{value:.1e}"


def _accounted(found: ColumnAgreement) -> list[str]:
    lines = [f"left out: {n} where {why}" for why, n in found.left_out.items()]
    if any(found.unmatched):
        first, second = found.unmatched
        lines.append(f"no partner in the other file: {first} of the first file, {second} of the second")
    if not found.agreement.intervals:
        few = found.cluster is not None and found.agreement.clusters < 2
        return [*lines, f"no intervals: one {found.cluster} cannot be resampled" if few else "no intervals"]
    if found.cluster is None:
        return [
            *lines,
            "intervals: rows resampled one by one, for no column names the patient (too narrow then)",
        ]
    return [*lines, f"intervals: 95 %, {found.agreement.clusters} values of {found.cluster} resampled"]


def _interval(limits: Sequence[float | None] | None) -> str:
    return "" if limits is None else f"{number(limits[0])} to {number(limits[1])}"
