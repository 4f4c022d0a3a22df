"""Drawn slices as the node would read them from a series."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np

from stenosis_node.domain import AxialSeries, AxialSlice, SliceGeometry, SliceRef
from training.phantom.words import PhantomSlice

_PREFIX: Final = "1.2.826.0.1.3680043.2.1125."
_PITCH_MM: Final = 4.4


def as_series(slices: Sequence[PhantomSlice]) -> AxialSeries:
    """One slab from head to foot, whatever the slices show."""
    return AxialSeries(
        study_instance_uid=_PREFIX + "1",
        series_instance_uid=_PREFIX + "2",
        series_number=1,
        frame_of_reference_uid=None,
        slices=tuple(
            AxialSlice(
                SliceRef(_PREFIX + "2", "1.2.840.10008.5.1.4.1.1.4", f"{_PREFIX}3.{index}", None),
                path=Path(f"phantom-{index}.dcm"),
                instance_number=index + 1,
                geometry=SliceGeometry(
                    (0.0, 0.0, -_PITCH_MM * index), (1.0, 0.0, 0.0), (0.0, 1.0, 0.0), *item.spacing_mm, 4.0
                ),
                slab=0,
                pixels=item.pixels.astype(np.float32),
            )
            for index, item in enumerate(slices)
        ),
    )
