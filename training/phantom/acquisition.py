"""From tissue maps to a magnitude image: chemical shift, coil, bands, k-space, motion, ghosts, noise, 12 bits."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import fft

from training.phantom.fields import F32, Shape, smooth_field


@dataclass(frozen=True, slots=True)
class Scanner:
    """One series' acquisition. Positions and widths of bands are in half fields of view, -1 (front) to 1 (back)."""

    phase_is_vertical: bool
    """Phase encoding runs front to back; the frequency axis, along which fat shifts, is then horizontal."""
    fat_shift_px: float
    coil_gain: float
    """Exponent of the surface coil's fall-off towards the front."""
    coil_y: float
    coil_side: float
    coil_tilt: float
    bias_seed: int
    """The slow part of the receive field is the same for all slices of a series."""
    saturation: tuple[float, float, float, float] | None
    """Anterior saturation band: (edge, depth, steepness, tilt)."""
    resolution: float
    """Share of k-space along frequency that was acquired; the rest is interpolation."""
    phase_resolution: float
    """Share of ``resolution`` along phase."""
    apodisation: float
    """0 leaves Gibbs ringing."""
    ghost: tuple[int, float] | None
    """Pulsation ghost: (shift in px along phase, strength)."""
    noise: float
    """Standard deviation relative to CSF at the canal."""
    gamma: float
    border: tuple[float, bool]
    """Black margin as a share of the field of view, and whether it is on all four sides."""
    wrap: float
    peak: float
    """Stored value of the 99.5th percentile when no gain is given."""


def sample_scanner(rng: np.random.Generator, shape: Shape, *, poor: bool = False, clean: bool = False) -> Scanner:
    """``poor``: a slice a reader would refuse; ``clean``: the artefacts stay rare and mild (a good clinical scan)."""
    rarely = 0.3 if clean else 1.0
    saturation = None
    if rng.random() < 0.5:
        saturation = (rng.uniform(-0.9, -0.4), rng.uniform(0.5, 0.95), rng.uniform(15, 40), rng.uniform(-0.15, 0.15))
    ghost = None
    if rng.random() < 0.2 * rarely:
        ghost = (int(rng.uniform(0.08, 0.35) * shape[0]), rng.uniform(0.02, 0.07))
    low, high = (-2.0, -1.45) if clean else (-2.2, -1.05)
    return Scanner(
        phase_is_vertical=bool(rng.random() < 0.6),
        fat_shift_px=rng.uniform(0.4, 1.3 if clean else 1.8) * float(rng.choice([-1, 1])),
        coil_gain=rng.uniform(0, 0.6) if rng.random() < 0.45 else rng.uniform(0.6, 1.2 if clean else 2.0),
        coil_y=rng.uniform(0.2, 1.0),
        coil_side=rng.uniform(0, 0.35),
        coil_tilt=rng.uniform(-0.15, 0.15),
        bias_seed=int(rng.integers(2**31)),
        saturation=saturation,
        resolution=rng.uniform(0.72 if clean else 0.5, 0.97),
        phase_resolution=rng.uniform(0.75 if clean else 0.62, 1.0),
        apodisation=rng.uniform(0, 0.35),
        ghost=ghost,
        noise=rng.uniform(0.1, 0.25) if poor else 10 ** rng.uniform(low, high),
        gamma=rng.uniform(0.8, 1.25) if rng.random() < 0.3 * rarely else 1.0,
        border=(rng.uniform(0.005, 0.05) if rng.random() < 0.25 * rarely else 0.0, bool(rng.random() < 0.4)),
        wrap=rng.uniform(0.1, 0.4) if rng.random() < 0.06 * rarely else 0.0,
        peak=rng.uniform(500, 1800),
    )


def acquire(
    scanner: Scanner,
    rng: np.random.Generator,
    water: F32,
    fat: F32,
    *,
    canal: tuple[int, int] | None,
    motion_px: float = 0.0,
    crosstalk: tuple[float, float, float] | None = None,
    gain: float | None = None,
) -> npt.NDArray[np.uint16]:
    """Image of the maps, 0 to 4095.

    ``canal``: (row, column) at which noise is scaled to CSF; ``motion_px``: size of a move during the scan;
    ``crosstalk``: dark band (centre, depth, width) where slabs cross; ``gain``: stored value of CSF at the canal,
    common to a series (None: each slice is windowed for itself).
    """
    shape = water.shape
    image = water + _shifted(fat, scanner.fat_shift_px, axis=1 if scanner.phase_is_vertical else 0)
    coil = _coil(scanner, (shape[0], shape[1]), crosstalk)
    image *= coil
    signal = _encode(scanner, rng, image, motion_px)
    if scanner.ghost:
        shift, strength = scanner.ghost
        axis = 0 if scanner.phase_is_vertical else 1
        signal = signal + strength * np.roll(signal, shift, axis) - strength * np.roll(signal, -shift, axis)
    if scanner.wrap:
        edge = np.clip((np.abs(np.linspace(-1, 1, shape[1], dtype=np.float32)) - 0.72) / 0.12, 0, 1)
        signal = signal + scanner.wrap * np.roll(signal, int(0.85 * shape[1]), 1) * edge
    here = float(coil[canal]) if canal else float(np.median(coil[shape[0] // 3 : -shape[0] // 3]))
    sigma = np.float32(scanner.noise * here)
    signal = signal.astype(np.complex64)
    signal.real += sigma * rng.standard_normal(shape, dtype=np.float32)
    signal.imag += sigma * rng.standard_normal(shape, dtype=np.float32)
    magnitude: F32 = np.abs(signal)
    if scanner.gamma != 1.0:
        magnitude = np.power(magnitude, np.float32(scanner.gamma))
    _blacken(magnitude, scanner.border)
    if gain is not None:
        magnitude *= np.float32(gain / here**scanner.gamma)
    else:
        top = float(np.partition(magnitude[::2, ::2].ravel(), -80)[-80]) or 1.0
        magnitude *= np.float32(scanner.peak / top)
    stored: npt.NDArray[np.uint16] = np.clip(magnitude, 0, 4095).astype(np.uint16)
    return stored


def _shifted(fat: F32, pixels: float, axis: int) -> F32:
    whole = int(np.floor(pixels))
    part = np.float32(pixels - whole)
    shifted: F32 = (1 - part) * np.roll(fat, whole, axis) + part * np.roll(fat, whole + 1, axis)
    return shifted


def _coil(scanner: Scanner, shape: Shape, crosstalk: tuple[float, float, float] | None) -> F32:
    y = np.linspace(-1, 1, shape[0], dtype=np.float32)[:, None]
    x = np.linspace(-1, 1, shape[1], dtype=np.float32)[None, :]
    slow = smooth_field(np.random.default_rng(scanner.bias_seed), shape, 3)
    coil = np.exp(
        scanner.coil_gain * 0.9 * (y - scanner.coil_y) - scanner.coil_side * x**2 + scanner.coil_tilt * x + 0.09 * slow
    )
    if scanner.saturation:
        edge, depth, steep, tilt = scanner.saturation
        coil *= 1 - depth / (1 + np.exp(np.clip((y - edge) * steep + tilt * 20 * x, -30, 30)))
    if crosstalk:
        centre, depth, width = crosstalk
        coil *= 1 - depth * np.exp(-(((y - centre) / width) ** 2))
    field: F32 = coil.astype(np.float32)
    return field


def _encode(scanner: Scanner, rng: np.random.Generator, image: F32, motion_px: float) -> npt.NDArray[np.complex64]:
    """Through k-space and back: limited resolution, ringing, and a move of the patient between shots."""
    rows, cols = image.shape
    across = scanner.resolution * scanner.phase_resolution
    down, along = (across, scanner.resolution) if scanner.phase_is_vertical else (scanner.resolution, across)
    window_rows = _window(rows, down, scanner.apodisation)
    if not motion_px:
        spectrum = fft.rfft2(image)
        spectrum *= window_rows[:, None] * _window(cols, along, scanner.apodisation)[None, : cols // 2 + 1]
        still: npt.NDArray[np.complex64] = fft.irfft2(spectrum, s=(rows, cols))
        return still
    spectrum = fft.fft2(image)
    spectrum *= window_rows[:, None] * _window(cols, along, scanner.apodisation)[None, :]
    n = rows if scanner.phase_is_vertical else cols
    frequency = np.fft.fftfreq(n)
    moved = (rng.random(n) < rng.uniform(0.1, 0.35)) & (np.abs(frequency) > 6 / n)
    phase = np.where(moved, np.exp(-2j * np.pi * frequency * motion_px), 1).astype(np.complex64)
    spectrum *= phase[:, None] if scanner.phase_is_vertical else phase[None, :]
    smeared: npt.NDArray[np.complex64] = fft.ifft2(spectrum)
    return smeared


def _window(n: int, share: float, apodisation: float) -> F32:
    k = np.abs(np.fft.fftfreq(n)) * 2
    t = np.clip((k - share * (1 - apodisation)) / (share * apodisation + 1e-6), 0, 1)
    window: F32 = (np.cos(np.pi / 2 * t) ** 2 * (k <= share)).astype(np.float32)
    return window


def _blacken(magnitude: F32, border: tuple[float, bool]) -> None:
    share, all_sides = border
    if share <= 0:
        return
    w = int(share * magnitude.shape[1]) + 1
    magnitude[:, :w] = 0
    magnitude[:, -w:] = 0
    if all_sides:
        magnitude[:w] = 0
        magnitude[-w:] = 0
