"""How a site's images look: vendor, matrix, field of view, contrast and the scanner's habits.

Training patients and the held-out test set come from two vendors; the shifted test set comes from the third, with
contrasts and fields of view that training patients do not have.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum

import numpy as np

from training.phantom.acquisition import Scanner, sample_scanner
from training.phantom.fields import Shape


class Vendor(StrEnum):
    SIEMENS = "siemens"
    GE = "ge"
    PHILIPS = "philips"


@dataclass(frozen=True, slots=True)
class Look:
    vendor: Vendor
    matrix: int
    fov_mm: float
    wildness: float
    """How far contrasts leave physics, 0 to 1."""
    clean: bool

    def scanner(self, rng: np.random.Generator, shape: Shape) -> Scanner:
        """One series' acquisition with what is typical of the vendor."""
        scanner = sample_scanner(rng, shape, clean=self.clean or rng.random() < 0.6)
        match self.vendor:
            case Vendor.GE:  # interpolated to a larger matrix, receive field often left as it is
                return replace(scanner, resolution=scanner.resolution * 0.88, coil_gain=scanner.coil_gain * 1.15)
            case Vendor.PHILIPS:  # receive field corrected, filtered, narrower band
                return replace(
                    scanner,
                    coil_gain=0.25 * scanner.coil_gain,
                    coil_side=0.3 * scanner.coil_side,
                    apodisation=0.35 + 0.4 * scanner.apodisation,
                    fat_shift_px=1.5 * scanner.fat_shift_px,
                    gamma=0.85 * scanner.gamma,
                )
            case _:
                return scanner


def sample_look(rng: np.random.Generator, *, shifted: bool, clean: bool, vendor: Vendor | None = None) -> Look:
    """``clean``: a good clinical scan without odd contrast."""
    usual = Vendor(rng.choice([Vendor.SIEMENS, Vendor.GE], p=[0.65, 0.35]))
    matrix = int(rng.choice([256, 320, 384]))
    wide, odd, u, v = rng.random() < 0.5, rng.random() < 0.4, rng.random(), rng.random()
    if clean:
        return Look(vendor or Vendor.SIEMENS, matrix, 170 + 40 * u, 0.0, clean=True)
    if shifted:
        fov = 240 + 60 * u if wide else 112 + 28 * u
        return Look(vendor or Vendor.PHILIPS, matrix, fov, 0.45 + 0.3 * v, clean=False)
    return Look(vendor or usual, matrix, 150 * (230 / 150) ** u, 0.4 * v if odd else 0.0, clean=False)
