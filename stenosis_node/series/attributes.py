"""Typed look-ups in headers. Attributes may be absent, empty, of the wrong VR or hold anything at all."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, MutableSequence, Sequence
from typing import Any, Final

from pydicom.dataset import Dataset

FUNCTIONAL_GROUPS: Final = (
    "PlanePositionSequence",
    "PlaneOrientationSequence",
    "PixelMeasuresSequence",
    "MREchoSequence",
    "MRTimingAndRelatedParametersSequence",
    "MRImageFrameTypeSequence",
    "MRModifierSequence",
    "MRDiffusionSequence",
    "MRReceiveCoilSequence",
    "FrameContentSequence",
    "FrameAnatomySequence",
    "PixelValueTransformationSequence",
    # Legacy Converted Enhanced MR keeps the attributes of the classic instances here (PS3.3 C.7.6.16.2.25)
    "UnassignedPerFrameConvertedAttributesSequence",
    "UnassignedSharedConvertedAttributesSequence",
)

MAX_INTEGER: Final = 2**31 - 1
"""Of the VRs IS and SL (PS3.5 table 6.2-1), and of what is written down about a series."""

_NO_TEXT: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
"""Control characters and halves of surrogate pairs: no database, log or report has a use for them."""


class Attributes:
    """A chain of data sets; the first that has a value for an attribute answers."""

    def __init__(self, *chain: Dataset) -> None:
        self._chain = chain

    def values(self, keyword: str) -> tuple[Any, ...]:
        """All values, empty when the attribute is absent, empty or malformed."""
        for dataset in self._chain:
            value = read_value(dataset, keyword)
            found = tuple(value) if isinstance(value, MutableSequence | tuple) else (value,)
            if found and any(item is not None and item != "" for item in found):
                return found
        return ()

    def text(self, keyword: str) -> str:
        """The whole value as one stripped line (values joined by a backslash), without control characters."""
        joined = "\\".join(str(item) for item in self.values(keyword) if not isinstance(item, bytes))
        return " ".join(_NO_TEXT.sub(" ", joined).split())

    def words(self, keyword: str) -> tuple[str, ...]:
        """The values as upper-case code strings without control characters; empty values stay in place."""
        return tuple(
            "" if item is None else _NO_TEXT.sub(" ", str(item)).strip().upper() for item in self.values(keyword)
        )

    def numbers(self, keyword: str) -> tuple[float, ...]:
        """The values as finite numbers; empty when one of them is none."""
        try:
            numbers = tuple(float(item) for item in self.values(keyword))
        except (TypeError, ValueError, OverflowError):
            return ()
        return numbers if all(math.isfinite(number) for number in numbers) else ()

    def number(self, keyword: str) -> float | None:
        """The first value as a finite number."""
        return next(iter(self.numbers(keyword)), None)

    def integer(self, keyword: str) -> int | None:
        """The first value as an integer of 32 bits with sign; None when it is none, or does not fit."""
        number = self.number(keyword)
        return None if number is None or not -MAX_INTEGER - 1 <= number <= MAX_INTEGER else int(number)

    def items(self, keyword: str) -> tuple[Dataset, ...]:
        """Items of a sequence; empty when it is absent or no sequence."""
        return tuple(item for item in self.values(keyword) if isinstance(item, Dataset))


def read_value(dataset: Dataset, keyword: str) -> Any:
    """One value, None when pydicom cannot make sense of the bytes."""
    try:
        return dataset.get(keyword)
    except Exception:  # noqa: BLE001  conversion of hostile bytes fails in many ways, all meaning "no value"
        return None


def frame_attributes(header: Dataset) -> Iterator[Attributes]:
    """One chain per frame of an enhanced instance: its functional groups, the shared ones, the instance."""
    top = Attributes(header)
    shared = _groups(top.items("SharedFunctionalGroupsSequence")[:1])
    for frame in top.items("PerFrameFunctionalGroupsSequence"):
        yield Attributes(*_groups((frame,)), *shared, header)


def _groups(holders: Sequence[Dataset]) -> tuple[Dataset, ...]:
    groups = (Attributes(holder).items(keyword)[:1] for holder in holders for keyword in FUNCTIONAL_GROUPS)
    return tuple(item for group in groups for item in group)
