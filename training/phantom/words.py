"""What a phantom slice is called, and what is known about it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

import numpy as np
import numpy.typing as npt

from stenosis_node.domain import Grade, PixelBox


class SliceContent(StrEnum):
    """What a reader would say the canal holds. ``other``: not to be graded (or no canal on the slice at all)."""

    ROOTLET = "rootlet"
    CORD = "cord"
    OTHER = "other"


class Subgrade(StrEnum):
    """Schizas' four looks of grade A."""

    A1 = "A1"
    A2 = "A2"
    A3 = "A3"
    A4 = "A4"


class RootPattern(StrEnum):
    """Where the roots lie while there is room for them."""

    DORSAL = "dorsal"
    HORSESHOE = "horseshoe"
    CENTRAL = "central"


class Lookalike(StrEnum):
    """What resembles stenosis, or hides it, and is none."""

    LIPOMATOSIS = "lipomatosis"
    """Fat squeezes the sac: small, yet CSF between the roots."""
    CLUMPS = "clumps"
    """Arachnoiditis: roots stuck together in a few strands."""
    EMPTY = "empty"
    """Arachnoiditis: roots stuck to the wall, the sac looks empty."""


class SliceKind(StrEnum):
    """Where the plane cuts. From ``caudal`` on there is no canal to find."""

    DISC = "disc"
    FORAMEN = "foramen"
    PEDICLE = "pedicle"
    SACRUM = "sacrum"
    CAUDAL = "caudal"
    SOFT_TISSUE = "soft-tissue"
    SAGITTAL = "sagittal"
    NOISE = "noise"

    @property
    def has_canal(self) -> bool:
        return self in (SliceKind.DISC, SliceKind.FORAMEN, SliceKind.PEDICLE, SliceKind.SACRUM)


class OtherReason(StrEnum):
    """Why a slice with a canal is not gradable."""

    SCREWS = "screws"
    DEFORMITY = "deformity"
    POST_OP = "post-op"
    QUALITY = "quality"


@dataclass(frozen=True, slots=True, kw_only=True)
class PhantomSlice:
    """One slice and its truth."""

    pixels: npt.NDArray[np.uint16]
    """``[rows, columns]``, 12 bits."""
    spacing_mm: tuple[float, float]
    """(between rows, between columns)"""
    box: PixelBox | None
    """Bounds of the dural sac in pixel edges; None when the slice has no canal."""
    sac: npt.NDArray[np.bool_] | None
    content: SliceContent
    grade: Grade | None
    """Only for rootlet slices."""
    subgrade: Subgrade | None
    level: str | None
    """Vertebral level, ``T11`` to ``S1``."""
    kind: SliceKind
    reason: OtherReason | None = None
    ambiguous: bool = False
    """The conus ends here: readers differ between rootlet and cord."""
    severity: float | None = None
    """Index behind the grade (:mod:`training.phantom.severity`)."""
    lookalike: Lookalike | None = None
    fat_suppressed: bool = False
    """Grades C and D cannot be told apart without bright fat: keep these out of grade training."""

    @property
    def sac_area_mm2(self) -> float | None:
        return None if self.sac is None else float(self.sac.sum()) * self.spacing_mm[0] * self.spacing_mm[1]
