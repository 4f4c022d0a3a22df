"""Numbers and names as an administrator reads them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

HINDRANCE: Final = "hindrance"
"""The value of a decision that says why a series is not gradable; continues "was not graded: "."""
GAPS: Final = "position_gaps"
"""The value of a decision that says where the steps between slices are too wide."""


def span(values: Iterable[float | None], unit: str = "") -> str:
    """``"4000 ms"``, or ``"90 to 120 ms"`` when the values differ; empty when there is none."""
    known = sorted(value for value in values if value is not None)
    if not known:
        return ""
    low, high = f"{known[0]:.4g}", f"{known[-1]:.4g}"
    text = low if low == high else f"{low} to {high}"
    return f"{text} {unit}" if unit else text


def count(number: int, noun: str) -> str:
    """``"1 slice"``, ``"3 slices"``."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def listing(values: Iterable[str]) -> str:
    """Distinct values in order of first sight, separated by commas."""
    return ", ".join(dict.fromkeys(value for value in values if value))
