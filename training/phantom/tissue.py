"""Signals of tissues (CSF = 1) from proton density, T1, T2 and the sequence, with domain randomisation.

Relaxation times are those of docs and textbooks at 1.5 T (domain notes 1.3); fat stays bright in a turbo spin echo.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import numpy as np

Signal = tuple[float, float]
"""(water, fat)"""


@dataclass(frozen=True, slots=True)
class Tissues:
    """Signal per tissue relative to CSF; ``marrow_fat`` goes to the fat map, the rest but ``fat`` to water."""

    csf: float
    fat: float
    muscle: float
    cord: float
    root: float
    crowded: float
    """A sac so full of roots that none can be told apart (grades C and D)."""
    marrow: float
    marrow_fat: float
    cortex: float
    flavum: float
    annulus: float
    nucleus: float
    fluid: float
    dura: float
    vessel: float
    organ: float
    kidney: float
    fat_suppressed: bool = False

    @property
    def marrow_signal(self) -> Signal:
        return self.marrow, self.marrow_fat


def _spin_echo(tr: float, te: float, density: float, t1: float, t2: float) -> float:
    return float(density * (1 - np.exp(-tr / t1)) * np.exp(-te / t2))


def sample_tissues(
    rng: np.random.Generator, *, wildness: float = 0.0, fat_suppressed: bool = False, nucleus: float | None = None
) -> Tissues:
    """T2 TSE signals with jittered sequence and relaxation times.

    ``wildness`` (0 to 1) blends towards random contrast of everything but the order CSF > root, which carries the
    label. ``nucleus`` (0 degenerate to 1 healthy) sets the disc.
    """
    tr, te = rng.uniform(2800, 5500), rng.uniform(80, 125)

    def jitter(value: float, spread: float) -> float:
        return float(value * np.exp(spread * rng.standard_normal()))

    csf = _spin_echo(tr, te, 1.0, 4000, jitter(1300, 0.25))
    fat = _spin_echo(tr, te, 0.95, 300, jitter(140, 0.18)) / csf
    cord = _spin_echo(tr, te, 0.75, 900, jitter(80, 0.08)) / csf
    marrow_share = rng.uniform(0.3, 0.6)
    root = cord * rng.uniform(0.8, 1.05)
    health = rng.uniform(0, 1) if nucleus is None else nucleus
    tissues = Tissues(
        csf=1.0,
        fat=fat,
        muscle=_spin_echo(tr, te, 0.85, 1000, jitter(45, 0.1)) / csf + 0.03,
        cord=cord,
        root=root,
        crowded=rng.uniform(0.75, 1.15) * root + rng.uniform(0, 0.06),
        marrow=(1 - marrow_share) * _spin_echo(tr, te, 0.6, 900, jitter(55, 0.1)) / csf,
        marrow_fat=marrow_share * fat * rng.uniform(0.55, 0.85),
        cortex=rng.uniform(0.02, 0.07),
        flavum=rng.uniform(0.07, 0.17),
        annulus=rng.uniform(0.06, 0.14),
        nucleus=0.13 + 0.45 * health * rng.uniform(0.8, 1.2),
        fluid=rng.uniform(0.4, 0.95),
        dura=rng.uniform(0.08, 0.22),
        vessel=rng.uniform(0.02, 0.25),
        organ=rng.uniform(0.22, 0.5),
        kidney=rng.uniform(0.45, 0.8),
    )
    if wildness > 0:
        tissues = _randomise(rng, tissues, wildness)
    if fat_suppressed:
        left = rng.uniform(0.05, 0.3)
        tissues = replace(
            tissues,
            fat=tissues.fat * left,
            marrow_fat=tissues.marrow_fat * left,
            marrow=tissues.marrow * 1.2,
            kidney=rng.uniform(0.7, 1.3),
            fat_suppressed=True,
        )
    return tissues


_FREE = frozenset({"csf", "cortex", "dura", "vessel", "fluid", "crowded", "fat_suppressed"})


def _randomise(rng: np.random.Generator, tissues: Tissues, wildness: float) -> Tissues:
    """Multiply each tissue by a lognormal factor (spread 0.7 at full wildness); CSF stays brighter than roots."""
    drawn = {
        f.name: float(np.clip(getattr(tissues, f.name) * np.exp(0.7 * wildness * rng.standard_normal()), 0.01, 1.3))
        for f in fields(tissues)
        if f.name not in _FREE
    }
    drawn["kidney"] = float(np.clip(drawn["kidney"] * np.exp(rng.uniform(-0.3, 0.7)), 0.1, 1.4))
    drawn["root"] = min(drawn["root"], 0.6)
    drawn["cord"] = min(drawn["cord"], 0.7)
    drawn["crowded"] = float(np.clip(drawn["root"] * rng.uniform(0.8, 1.2), 0.08, 0.58))
    return replace(tissues, **drawn)  # type: ignore[arg-type]  # every name in it is a float field


def t1_tissues(rng: np.random.Generator) -> Tissues:
    """T1 spin-echo signals, fat = 1: dark CSF, so that a T1 decoy looks like one."""
    tr, te = rng.uniform(480, 650), rng.uniform(9, 13)
    fat = _spin_echo(tr, te, 0.95, 280, 80)

    def s(density: float, t1: float, t2: float) -> float:
        return _spin_echo(tr, te, density, t1, t2) / fat

    return Tissues(
        csf=s(1.0, 4000, 1300),
        fat=1.0,
        muscle=s(0.85, 950, 45),
        cord=s(0.78, 860, 80),
        root=s(0.75, 900, 80),
        crowded=s(0.78, 1100, 90),
        marrow=0.45 * s(0.7, 800, 60),
        marrow_fat=0.42,
        cortex=0.05,
        flavum=0.2,
        annulus=s(0.6, 900, 30),
        nucleus=s(0.85, 1100, 90),
        fluid=s(0.95, 2500, 600),
        dura=0.2,
        vessel=0.08,
        organ=s(0.8, 700, 50),
        kidney=s(0.85, 1100, 90),
    )
