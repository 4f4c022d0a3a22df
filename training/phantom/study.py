"""A patient's study on disk: axial T2 and what must not be graded, with the truth beside it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from io import BytesIO
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from pydicom.uid import ExplicitVRLittleEndian, JPEG2000Lossless, JPEGLSLossless, RLELossless

from stenosis_node.domain import SliceGeometry
from training.phantom import GENERATOR_VERSION, headers
from training.phantom.acquisition import acquire
from training.phantom.canvas import Canvas, Pose
from training.phantom.coronal import paint_coronal
from training.phantom.headers import Identity
from training.phantom.patient import Patient, PatientSlice
from training.phantom.protocols import AXIAL_T1, AXIAL_T2, LOCALIZER, SAGITTAL_T2, Protocol, site_of
from training.phantom.readers import READERS, Reading, read
from training.phantom.sagittal import SacProfile
from training.phantom.words import SliceContent


class Compression(StrEnum):
    """Transfer syntax of the files; all lossless."""

    NONE = "none"
    JPEG_LS = "jpeg-ls"
    JPEG_2000 = "jpeg-2000"
    RLE = "rle"


_SYNTAX: Final = {
    Compression.NONE: ExplicitVRLittleEndian,
    Compression.JPEG_LS: JPEGLSLossless,
    Compression.JPEG_2000: JPEG2000Lossless,
    Compression.RLE: RLELossless,
}
_DECOY_REASON: Final = {
    LOCALIZER: "localizer",
    SAGITTAL_T2: "sagittal-locator",
    AXIAL_T1: "t1-weighted",
}
"""Why the node should not grade a series (:class:`stenosis_node.domain.SeriesReason`)."""
_SAGITTAL_X_MM: Final = tuple(4.4 * k for k in range(-5, 6))


@dataclass(frozen=True, slots=True)
class Image:
    """Pixels and place of one instance, before headers."""

    number: int
    pixels: npt.NDArray[np.uint16]
    geometry: SliceGeometry


def identity_of(patient: Patient) -> Identity:
    age = round(25 + 60 * patient.build.age)
    key = f"{patient.seed}/{patient.index}/{patient.purpose}"
    site = site_of(patient.vendor, 0 if patient.clean else patient.seed + patient.index)
    return Identity(key, patient.seed, patient.index, age, site)


def write_study(patient: Patient, folder: Path, *, compression: Compression = Compression.NONE) -> dict[str, Any]:
    """Write all series below ``folder`` and return the truth (JSON-ready).

    Instance numbers run from the lowest slab up, slices within a slab down, as some scanners number them: reading order
    is not instance order. Raises OSError when the disk does not take it.
    """
    identity = identity_of(patient)
    write = _Writer(identity, folder, compression)
    localizer, sagittal, axial_t2, axial_t1 = identity.site.protocols
    write.series(localizer, _localizer(patient))
    write.series(sagittal, _sagittal(patient))
    slices = list(patient.axial_slices())
    numbers = instance_numbers([s.slab for s in slices])
    axial = [Image(n, s.image.pixels, s.geometry) for n, s in zip(numbers, slices, strict=True)]
    paths = write.series(axial_t2, axial)
    write.series(
        axial_t1,
        (Image(n, t1.image.pixels, t1.geometry) for n, t1 in zip(numbers, patient.axial_slices(t1=True), strict=True)),
    )
    readings = {reader.name: read(patient, reader) for reader in READERS}
    return {
        "generator_version": GENERATOR_VERSION,
        "seed": patient.seed,
        "index": patient.index,
        "study_instance_uid": identity.study_uid,
        "vendor": patient.vendor.value,
        "fov_mm": round(patient.fov_mm, 1),
        "axial_t2": {
            "series_instance_uid": identity.series_uid(axial_t2),
            "slices": [
                _slice_truth(identity, n, path.relative_to(folder), s)
                | {"readings": {name: _reading(labels[k], s) for name, labels in readings.items()}}
                for k, (n, path, s) in enumerate(zip(numbers, paths, slices, strict=True))
            ],
        },
        "decoys": [
            {
                "series_instance_uid": identity.series_uid(p),
                "series_description": p.description,
                "reason": _DECOY_REASON[p.number],
            }
            for p in (localizer, sagittal, axial_t1)
        ],
    }


def instance_numbers(slabs: list[int]) -> list[int]:
    """Instance Number of slices listed from head to foot: the last slab is numbered first."""
    order = sorted(range(len(slabs)), key=lambda k: (-slabs[k], k))
    numbers = [0] * len(slabs)
    for number, k in enumerate(order, start=1):
        numbers[k] = number
    return numbers


def _slice_truth(identity: Identity, number: int, path: Path, s: PatientSlice) -> dict[str, Any]:
    image = s.image
    return {
        "sop_instance_uid": identity.sop_uid(identity.site.protocol(AXIAL_T2), number),
        "path": path.as_posix(),
        "slab": s.slab,
        "z_mm": round(s.geometry.to_patient(image.pixels.shape[1] / 2, image.pixels.shape[0] / 2)[2], 2),
        "height_mm": round(s.height_mm, 2),
        "level": image.level,
        "kind": image.kind.value,
        "content": image.content.value,
        "grade": image.grade.value if image.grade else None,
        "subgrade": image.subgrade.value if image.subgrade else None,
        "box": [image.box.x0, image.box.y0, image.box.x1, image.box.y1] if image.box else None,
        "sac_area_mm2": None if image.sac_area_mm2 is None else round(image.sac_area_mm2, 1),
        "other_reason": image.reason.value if image.reason else None,
        "severity": None if image.severity is None else round(image.severity, 4),
        "lookalike": image.lookalike.value if image.lookalike else None,
        "ambiguous": image.ambiguous,
        "fat_suppressed": image.fat_suppressed,
    }


def _reading(reading: Reading, s: PatientSlice) -> dict[str, Any]:
    """A reader's label. The box is drawn by hand: none where the slice is refused."""
    box = None if reading.content is SliceContent.OTHER else s.image.box
    drawn = reading.drawn_box(box, s.image.spacing_mm, s.image.pixels.shape) if box else None
    return {
        "content": reading.content.value,
        "grade": reading.grade.value if reading.grade else None,
        "box": [drawn.x0, drawn.y0, drawn.x1, drawn.y1] if drawn else None,
    }


class _Writer:
    def __init__(self, identity: Identity, folder: Path, compression: Compression) -> None:
        self._identity, self._folder, self._compression = identity, folder, compression

    def series(self, protocol: Protocol, images: Iterator[Image] | list[Image]) -> list[Path]:
        """Write one series; returns paths in the order given."""
        folder = self._folder / protocol.folder
        folder.mkdir(parents=True)
        paths = []
        for image in images:
            normal = np.asarray(image.geometry.normal)
            ds = headers.make_instance(
                self._identity,
                protocol,
                image.pixels,
                image.geometry,
                number=image.number,
                window=float(np.percentile(image.pixels, 99.7)),
                location_mm=float(normal @ np.asarray(image.geometry.position)),
            )
            if self._compression is not Compression.NONE:
                ds.compress(_SYNTAX[self._compression], generate_instance_uid=False)
            path = folder / f"{image.number:04d}.dcm"
            encoded = BytesIO()  # pydicom would wrap the OSError of a full disk beyond recognition
            ds.save_as(encoded, enforce_file_format=True)
            path.write_bytes(encoded.getvalue())
            paths.append(path)
        return paths


def _sagittal(patient: Patient) -> Iterator[Image]:
    spacing, n = 0.9375, 320
    profile = patient.sac_profile()
    for number, x in enumerate(_SAGITTAL_X_MM, start=1):
        yield _sagittal_image(patient, profile, number, x, n, spacing)


def _sagittal_image(patient: Patient, profile: SacProfile, number: int, x_mm: float, n: int, spacing: float) -> Image:
    middle = patient.spine.discs[2].position
    centre = (x_mm, middle[1] + 10, middle[2] + 10)
    pixels = patient.sagittal_image(x_mm, (n, n), spacing, centre, profile)
    half = spacing * (n - 1) / 2
    corner = (x_mm, centre[1] - half, centre[2] + half)
    return Image(number, pixels, SliceGeometry(corner, (0.0, 1.0, 0.0), (0.0, 0.0, -1.0), spacing, spacing, 4.0))


def _localizer(patient: Patient) -> Iterator[Image]:
    """Three planes in one series, low resolution."""
    n, spacing = 192, 2.1
    yield _sagittal_image(patient, patient.sac_profile(), 1, 0.0, n, spacing)
    middle = patient.spine.discs[2].position
    half = spacing * (n - 1) / 2
    canvas = Canvas((n, n), spacing, Pose(0.0, middle[2]), warp_mm=0.5, bend_mm=0.0, rng=patient.stream("coronal warp"))
    paint_coronal(
        canvas, patient.stream("coronal"), spine=patient.spine, build=patient.build, tissues=patient.tissues,
        y_mm=middle[1],
    )  # fmt: skip
    noise = patient.stream("noise", "coronal")
    pixels = acquire(patient.scanner, noise, canvas.water, canvas.fat, canal=None)
    corner = (-half, middle[1], middle[2] + half)
    yield Image(2, pixels, SliceGeometry(corner, (1.0, 0.0, 0.0), (0.0, 0.0, -1.0), spacing, spacing, 8.0))
    for number, pick in ((3, 0.25), (4, 0.75)):
        overview = patient.overview_slice(pick, (n, n), spacing)
        yield Image(number, overview.image.pixels, overview.geometry)
