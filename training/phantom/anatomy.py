"""Sizes by vertebral level, the body they belong to, and what stenosis does to the canal (Schizas 2010)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from training.phantom.canvas import ANGLES, bump, contour_area, ellipse, radius_at
from training.phantom.fields import F32
from training.phantom.words import Lookalike, RootPattern, SliceContent, SliceKind


@dataclass(frozen=True, slots=True)
class LevelSizes:
    """Healthy means, mm; ``roots`` is how many strands one slice shows."""

    body_half_width: float
    body_half_depth: float
    canal_half_width: float
    sac_ap: float
    sac_width: float
    psoas: float
    roots: int
    erector: float
    """Scale of the erector spinae."""


LEVELS: Final[dict[str, LevelSizes]] = {
    "T11": LevelSizes(18.0, 15.0, 9.5, 14.0, 15.5, 0.0, 26, 0.80),
    "T12": LevelSizes(20.5, 16.0, 11.0, 15.0, 17.5, 6.0, 30, 0.88),
    "L1": LevelSizes(21.5, 16.0, 11.2, 15.0, 18.0, 9.5, 34, 0.95),
    "L2": LevelSizes(22.3, 16.5, 11.2, 14.3, 17.5, 14.0, 30, 1.00),
    "L3": LevelSizes(23.3, 17.0, 11.4, 13.6, 17.0, 18.0, 24, 1.05),
    "L4": LevelSizes(24.3, 17.3, 11.9, 13.0, 17.0, 21.5, 18, 1.05),
    "L5": LevelSizes(25.8, 17.3, 13.0, 12.3, 16.0, 20.0, 12, 0.95),
    "S1": LevelSizes(25.0, 15.0, 14.0, 10.5, 13.0, 16.0, 8, 0.70),
}
LEVEL_NAMES: Final = tuple(LEVELS)

_INDEX: Final = (0.1, 0.375, 0.625, 0.9)
"""Severity in the middle of each grade: the tables below are read between these points."""
SAC_AREA_MM2: Final = (
    (140.0, 92.0, 66.0, 48.0),
    (45.0, 28.0, 22.0, 18.0),
    (62.0, 45.0, 30.0, 16.0),
    (270.0, 165.0, 120.0, 95.0),
)
"""Mean, sd, lowest, highest by severity. They overlap on purpose: Schizas' grades are not areas."""
_AP_OVER_WIDTH: Final = ((0.66, 0.5, 0.42, 0.35), (0.92, 0.85, 0.85, 0.8))
_LATERAL_FAT_MM: Final = ((0.3, 0.1, 0.0, 0.0), (1.6, 0.8, 0.5, 0.2))
_POSTERIOR_FAT_MM: Final = (1.8, 6.0)
_EFFACED: Final = ((0.0, 0.5, 0.68, 0.82, 0.88), (1.0, 0.95, 0.68, 0.06, 0.0))
"""Share of the posterior fat that is left, by severity."""


def _by_severity(table: tuple[float, ...], severity: float) -> float:
    return float(np.interp(severity, _INDEX, table))


@dataclass(frozen=True, slots=True)
class Build:
    """What one patient's slices share."""

    scale: float
    """Body size, 1 = mean adult."""
    age: float
    """0 (twenties) to 1 (eighties)."""
    infiltration: float
    """Fat in the muscles, 0 to 1.1."""
    obesity: float
    """0 to 1: depth of the subcutaneous fat."""
    cortex: float
    """Scale of cortical thickness."""
    asymmetry: float
    """Right-left difference of muscles and joints, about -1 to 1."""


def sample_build(rng: np.random.Generator) -> Build:
    age = rng.uniform(0, 1)
    return Build(
        scale=float(np.clip(rng.normal(1.0, 0.07), 0.84, 1.2)),
        age=age,
        infiltration=float(np.clip(rng.normal(0.22 + 0.5 * age, 0.2), 0, 1.1)),
        obesity=float(rng.uniform(0, 1) ** 1.3),
        cortex=float(rng.uniform(0.6, 1.25)),
        asymmetry=float(rng.normal(0, 0.5)),
    )


@dataclass(frozen=True, slots=True)
class Canal:
    """The sac of one slice and what surrounds it. Contours are tables about the sac centre, mm."""

    content: SliceContent
    severity: float
    pattern: RootPattern
    lookalike: Lookalike | None
    level: str
    sizes: LevelSizes
    kind: SliceKind
    narrowing: float
    """0 open to 1 extreme: drives joints, flavum, disc."""
    sac: F32
    epidural: F32
    """Outer edge of the epidural fat."""
    flavum: F32
    """Outer edge of the ligamentum flavum (equal to ``epidural`` where there is none)."""
    flavum_mm: float
    posterior_fat_mm: float
    half_width: float
    """Of the bony canal at the joints."""
    joint_growth: float
    disc_bulge: float
    herniation: tuple[float, float, float] | None
    """(relative height, angle, width) of a focal bulge of the disc contour."""
    gap_mm: float
    """Between the vertebral body and the sac."""
    cord_fullness: float
    """1 at the lumbar enlargement, 0 at the tip; only for cord slices."""

    @property
    def front(self) -> float:
        """Distance from the sac centre to its ventral edge."""
        return radius_at(self.sac, -np.pi / 2)

    @property
    def back(self) -> float:
        """Distance from the sac centre to its dorsal edge."""
        return radius_at(self.sac, np.pi / 2)

    @property
    def side(self) -> float:
        return max(radius_at(self.sac, 0.0), radius_at(self.sac, np.pi))


def plan_canal(
    rng: np.random.Generator,
    *,
    build: Build,
    level: str,
    kind: SliceKind,
    content: SliceContent,
    severity: float,
    pattern: RootPattern = RootPattern.DORSAL,
    lookalike: Lookalike | None = None,
    cord_fullness: float = 1.0,
    sizes: LevelSizes | None = None,
) -> Canal:
    """Draw the shapes of one canal. The same generator state with more severity gives the same patient, worse.

    ``sizes`` are by default those of ``level``; a patient's slices interpolate between levels.
    """
    sizes = sizes or LEVELS[level]
    cord = content is SliceContent.CORD
    narrowing = float(np.interp(severity, (0.0, 0.15, 0.375, 0.625, 0.95), (0.0, 0.1, 0.45, 0.75, 1.0)))
    u = rng.uniform(0, 1, 18)
    area, ap_over_width = _sac_size(rng, sizes, build, severity, kind, u, cord=cord)
    fatty = lookalike is Lookalike.LIPOMATOSIS and not cord
    if fatty:
        area *= 0.45 + 0.2 * u[17]
    trefoil = -0.01 + 0.06 * u[2] + (narrowing + 0.5 * fatty) * (0.02 + 0.14 * u[3])
    flattening = 0.10 * u[4] + narrowing * 0.16 * u[5]
    sac = _sac_contour(rng, area, ap_over_width, trefoil, flattening)

    flavum_mm = 2.0 + 1.4 * u[6] + narrowing * (1.2 + 2.2 * u[7])
    low, high = (_by_severity(t, severity) for t in _LATERAL_FAT_MM)
    lateral = low + (high - low) * u[8]
    if kind is not SliceKind.DISC:
        lateral += (0.5 + u[9]) * (1 - narrowing)
    if level in ("L5", "S1"):
        lateral += (1 + 3 * u[9]) * max(0.0, 1 - 4 * severity)
    low, high = _POSTERIOR_FAT_MM
    left = float(np.interp(severity, *_EFFACED))
    posterior = (low + (high - low) * u[10]) * left * (0.6 if kind is SliceKind.PEDICLE else 1.0)
    if cord:
        posterior *= 0.35
    if fatty:
        lateral, posterior = lateral + 1.5 + 2 * u[9], posterior + 3 * left
    epidural = sac + lateral * (0.35 + 0.65 * np.cos(ANGLES) ** 2)
    epidural = epidural + lateral * 0.8 * (bump(-0.75, 0.4) + bump(-np.pi + 0.75, 0.4))
    epidural = epidural + posterior * bump(np.pi / 2, 0.34 + 0.12 * u[11])
    thickness = _flavum_profile(flavum_mm, kind, rng)
    half_width = max(float(sac.max()) + 2.5 + 1.5 * u[12], sizes.canal_half_width * build.scale * (0.85 + 0.15 * u[13]))
    bulge, angle, herniated = rng.uniform(0.05, 0.16), np.pi / 2 + rng.normal(0, 0.35), rng.random() < narrowing * 0.5
    return Canal(
        content=content,
        severity=severity,
        pattern=pattern,
        lookalike=lookalike,
        level=level,
        sizes=sizes,
        kind=kind,
        narrowing=narrowing,
        sac=sac,
        epidural=epidural.astype(np.float32),
        flavum=(epidural + thickness).astype(np.float32),
        flavum_mm=flavum_mm,
        posterior_fat_mm=posterior,
        half_width=half_width,
        joint_growth=1 + 0.32 * narrowing + 0.14 * (2 * u[14] - 1) + 0.15 * build.age,
        disc_bulge=0.12 * u[15] + 0.02 * (1 - narrowing) - 0.10 * narrowing,
        herniation=(bulge, angle, 0.22) if herniated else None,
        gap_mm=0.5 + 1.5 * u[16],
        cord_fullness=cord_fullness,
    )


def _sac_size(
    rng: np.random.Generator,
    sizes: LevelSizes,
    build: Build,
    severity: float,
    kind: SliceKind,
    u: np.ndarray,
    *,
    cord: bool,
) -> tuple[float, float]:
    """(area mm2, AP over width)"""
    z = rng.standard_normal()
    if cord:
        return float(np.clip(190 + 30 * z, 120, 270)), 0.75 + 0.2 * u[0]
    mean, sd, low, high = (_by_severity(t, severity) for t in SAC_AREA_MM2)
    healthy = np.pi / 4 * sizes.sac_ap * sizes.sac_width * 0.92 * build.scale**2
    healthy *= (1 if kind is SliceKind.DISC else 1.08) * (0.7 + 0.4 * u[1])
    share = float(np.clip((0.3 - severity) / 0.2, 0, 1))
    mean += share * (healthy - mean)
    flat, round_ = (_by_severity(t, severity) for t in _AP_OVER_WIDTH)
    return float(np.clip(mean + sd * z, low, high)), flat + (round_ - flat) * u[0]


def _sac_contour(rng: np.random.Generator, area: float, ap_over_width: float, trefoil: float, flattening: float) -> F32:
    lobes = (
        (3, trefoil, np.pi / 2),
        (2, 0.03 * rng.standard_normal(), rng.uniform(0, 6)),
        (1, 0.03 * rng.standard_normal(), 0.0),
    )
    radii = ellipse(1.0, ap_over_width, power=rng.uniform(2.0, 2.5), lobes=lobes)
    radii = radii * (1 - flattening * bump(-np.pi / 2, 0.55))
    sac: F32 = (radii * np.sqrt(area / contour_area(radii))).astype(np.float32)
    return sac


def _flavum_profile(flavum_mm: float, kind: SliceKind, rng: np.random.Generator) -> F32:
    """Thickness by angle: a V from the joints to the midline; thin behind the upper lamina."""
    scale = {SliceKind.DISC: 1.0, SliceKind.FORAMEN: 0.75}.get(kind, 0.25)
    profile = np.zeros_like(ANGLES)
    for side in (-1, 1):
        size = flavum_mm * rng.uniform(0.88, 1.12)
        profile = np.maximum(profile, size * bump(np.pi / 2 + side * 0.82, 0.42))
    thickness: F32 = scale * np.maximum(profile, 0.45 * flavum_mm * bump(np.pi / 2, 0.55))
    return thickness
