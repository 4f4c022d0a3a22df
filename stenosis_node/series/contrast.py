"""Is a slice a conventional T2-weighted turbo spin echo? Headers first; names where headers are silent or too coarse.

Typical for the lumbar spine: T2 turbo spin echo TR 2500 to 6000 ms, TE 80 to 130 ms; T1 TR 400 to 800, TE 8 to 20;
proton density TR above 1500, TE 10 to 50; myelographic sequences TE 200 to 1000.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from stenosis_node.domain import SeriesReason
from stenosis_node.series.headers import Acquisition
from stenosis_node.series.objection import Objection

T2_TE_MS: Final = (60.0, 180.0)
T2_TR_MIN_MS: Final = 1800.0
T1_TE_MAX_MS: Final = 40.0
T1_TR_MAX_MS: Final = 1300.0
STIR_TI_MS: Final = (50.0, 350.0)
SINGLE_SHOT_ECHOES: Final = 100

_KINDS: Final[tuple[tuple[SeriesReason, frozenset[str], str], ...]] = (
    (SeriesReason.MOSAIC, frozenset({"MOSAIC"}), "each image is a mosaic of many small slices"),
    (SeriesReason.LOCALIZER, frozenset({"LOCALIZER"}), "a localizer"),
    (
        SeriesReason.SCREEN_SAVE,
        frozenset({"SCREEN SAVE", "CAPTURE", "POSDISP", "SECONDARY CAPTURE", "SNAPSHOT"}),
        "a picture of a screen",
    ),
    (
        SeriesReason.DIFFUSION,
        frozenset({"ADC", "EADC", "TRACEW", "DIFFUSION", "DWI", "FA", "TENSOR", "TENSOR_B0", "CALC_BVALUE"}),
        "diffusion",
    ),
    (
        SeriesReason.DERIVED,
        frozenset(
            {"MPR", "CSA MPR", "CSA RESAMPLED", "REFORMATTED", "RESAMPLED", "PROJECTION IMAGE", "MIP", "MIN IP", "MNIP"}
            | {"MAX_IP", "MIN_IP", "SUBTRACT", "SUBTRACTION", "COMPOSED", "COMP_SP", "COMP_AD", "T1 MAP", "T2 MAP"}
            | {"T2_STAR MAP", "T2STAR MAP", "R2 MAP", "CURVED MPR", "VOLREN", "VOLUME RENDERING"}
        ),
        "computed from other images",
    ),
)
_PHASE: Final = frozenset({"P", "PHASE", "PHASE MAP", "REAL", "IMAGINARY", "R", "I"})
_DIXON: Final = {
    "W": "water",
    "WATER": "water",
    "F": "fat",
    "FAT": "fat",
    "OP": "opposed-phase",
    "OPP_PHASE": "opposed-phase",
    "OUT_PHASE": "opposed-phase",
    "OUT_OF_PHASE": "opposed-phase",
    "OPPOSED_PHASE": "opposed-phase",
    "FAT_FRACTION": "fat-fraction",
    "FF": "fat-fraction",
}
_GRADIENT_TYPES: Final = frozenset({"M_FFE", "FFE", "M_B0", "M_B1", "SWI"})
_GRADIENT_NAME: Final = re.compile(
    r"^\*?(?:fl|tfl|tfi|fi|me|medic|ci|dess|psif|tru|qfl)\d*[23]d|^\*?(?:T1)?T?FFE|GRE|SPGR|MERGE|COSMIC|FIESTA|LAVA",
    re.IGNORECASE,
)
_PLANAR_NAME: Final = re.compile(r"^\*?ep(?:fid|se|i|_|2d|b)|EPI", re.IGNORECASE)
_SINGLE_SHOT_NAME: Final = re.compile(r"^\*?h\d?[23]d|haste|ssfse|ss-?tse|ssh", re.IGNORECASE)
_VOLUME_NAME: Final = re.compile(r"^\*?(?:spc|spcir|spcr|tse|tser)\w*3d|^\*?spc|cube|vista", re.IGNORECASE)

_LEVELS: Final = re.compile(r"[ctls]\d{1,2}\s*-\s*[ctls]?\d{1,2}", re.IGNORECASE)
_NO_FAT_SUPPRESSION: Final = re.compile(r"(?:no|non|without|w/o)[ _-]*(?:fs|fat[ _-]?s)\w*", re.IGNORECASE)


def _word(pattern: str) -> re.Pattern[str]:
    return re.compile(rf"(?<![a-z0-9])(?:{pattern})(?![a-z])", re.IGNORECASE)


_SAYS_T2: Final = re.compile(r"(?<![a-z0-9])t2(?![0-9*]|[ _-]?star)", re.IGNORECASE)
_SAYS_T1: Final = re.compile(r"(?<![a-z0-9])t1(?![0-9])", re.IGNORECASE)
_SAYS_PD: Final = _word(r"pdw?|proton[ _-]?density|dp")
_SAYS_GRADIENT: Final = re.compile(
    r"(?<![a-z0-9])t2[ _-]?(?:\*|star)|(?<![a-z])(?:gre|ffe|merge|medic|fl2d)(?![a-z])", re.I
)
_SAYS_LOCALIZER: Final = _word(r"loc|locali[sz]ers?|scouts?|surveys?|3[ _-]?plane|three[ _-]?plane|aahscout")
_SPOKEN: Final[tuple[tuple[SeriesReason, re.Pattern[str], str], ...]] = (
    (SeriesReason.DIFFUSION, _word(r"dwi|dti|adc|diff|diffusion|b\d{3,4}"), "diffusion"),
    (
        SeriesReason.MYELOGRAM,
        re.compile(r"myelo|(?<![a-z])(?:haste|ssfse|sstse)(?![a-z])", re.I),
        "a myelogram or single-shot sequence",
    ),
    (SeriesReason.STIR, re.compile(r"(?<![a-z])(?:t2[ _-]?)?(?:stir|tirm|flair)", re.I), "inversion recovery"),
    (
        SeriesReason.FAT_SUPPRESSED,
        re.compile(
            r"(?<![a-z])(?:t2)?(?:fs|fatsat|fat[ _-]?sat|fat[ _-]?sup\w*|spair|spir|chess|proset|we|water|wfs)(?![a-z])"
            r"|dixon\w*[ _-](?:w|f|opp?|out)(?![a-z0-9])|^fat[: ]|(?<![a-z])(?:opp?|out)[ _-]?(?:of[ _-]?)?phase",
            re.IGNORECASE,
        ),
        "fat-suppressed",
    ),
)


@dataclass(frozen=True, slots=True)
class Weighting:
    """Whether the weighting is T2, and how that was found out."""

    objection: Objection | None
    note: str
    """For the sentence of a chosen series, when the numbers alone did not decide."""


def kind_objections(acquisition: Acquisition, name: str) -> Iterator[Objection]:
    """From Image Type: pictures that are no primary images at all; and what the name calls a localizer."""
    words = frozenset(acquisition.image_type)
    shown = "\\".join(acquisition.image_type)
    for reason, tokens, clause in _KINDS:
        if found := tokens & words:
            yield Objection(reason, f"{clause} (Image Type {shown}: {sorted(found)[0]})")
    if acquisition.image_type[:2] == ("DERIVED", "SECONDARY"):
        yield Objection(SeriesReason.DERIVED, f"computed from other images (Image Type {shown})")
    if _PHASE & set(acquisition.image_type[2:3]) or acquisition.component in ("PHASE", "REAL", "IMAGINARY"):
        yield Objection(SeriesReason.DERIVED, f"no magnitude image (Image Type {shown})")
    if _SAYS_LOCALIZER.search(name):
        yield Objection(SeriesReason.LOCALIZER, f"a localizer, going by the name '{name}'")


def sequence_objections(acquisition: Acquisition, name: str) -> Iterator[Objection]:
    """From the sequence, its timing and, at last, its name. ``name`` is the series description (or protocol name)."""
    yield from _family(acquisition)
    yield from _fat(acquisition)
    if acquisition.dimensions == "3D" or (
        not acquisition.dimensions and _VOLUME_NAME.search(acquisition.sequence_name)
    ):
        yield Objection(SeriesReason.THREE_DIMENSIONAL, f"a 3D acquisition ({_sequence(acquisition)})")
    if (objection := weighting(acquisition, name).objection) is not None:
        yield objection
    spoken = _NO_FAT_SUPPRESSION.sub(" ", name)
    for reason, pattern, clause in _SPOKEN:
        if pattern.search(spoken):
            yield Objection(reason, f"{clause}, going by the name '{name}'")


def _family(acquisition: Acquisition) -> Iterator[Objection]:
    words = frozenset(acquisition.scanning_sequence)
    types = frozenset(acquisition.image_type)
    shown, te, ti = _sequence(acquisition), acquisition.te_ms, acquisition.ti_ms
    if (acquisition.b_value or 0) > 0 or acquisition.contrast == "DIFFUSION" or "ep_b" in acquisition.sequence_name:
        b_value = "" if acquisition.b_value is None else f", b = {acquisition.b_value:g} s/mm2"
        yield Objection(SeriesReason.DIFFUSION, f"diffusion ({shown}{b_value})")
    gradient = (
        ("GR" in words and "SE" not in words)
        or acquisition.echo_pulse == "GRADIENT"
        or bool(types & _GRADIENT_TYPES)
        or bool(_GRADIENT_NAME.search(acquisition.sequence_name) and "SE" not in words)
    )
    if "EP" in words or acquisition.echo_planar or _PLANAR_NAME.search(acquisition.sequence_name):
        yield Objection(SeriesReason.GRADIENT_ECHO, f"an echo-planar sequence ({shown})")
    elif gradient:
        yield Objection(SeriesReason.GRADIENT_ECHO, f"a gradient-echo sequence ({shown})")
    if te is not None and te >= T2_TE_MS[1]:
        yield Objection(SeriesReason.MYELOGRAM, f"TE {te:.4g} ms shows fluid alone, like a myelogram ({shown})")
    elif (acquisition.echo_train or 0) >= SINGLE_SHOT_ECHOES and not gradient:
        yield Objection(SeriesReason.MYELOGRAM, f"single-shot, {acquisition.echo_train} echoes in a train ({shown})")
    elif _SINGLE_SHOT_NAME.search(acquisition.sequence_name):
        yield Objection(SeriesReason.MYELOGRAM, f"a single-shot sequence ({shown})")
    if "M_IR" in types or "IR" in words or acquisition.inversion or (ti is not None and ti >= STIR_TI_MS[0]):
        if ti is None or STIR_TI_MS[0] <= ti <= STIR_TI_MS[1]:
            at = "" if ti is None else f", TI {ti:.4g} ms"
            yield Objection(SeriesReason.STIR, f"inversion recovery with suppressed fat ({shown}{at})")
        elif ti > STIR_TI_MS[1]:
            yield Objection(SeriesReason.NOT_T2, f"inversion recovery, TI {ti:.4g} ms ({shown})")


def _fat(acquisition: Acquisition) -> Iterator[Objection]:
    shown = "\\".join(acquisition.image_type)
    if image := next((_DIXON[word] for word in acquisition.image_type[2:] if word in _DIXON), None):
        yield Objection(SeriesReason.FAT_SUPPRESSED, f"the {image} image of a Dixon acquisition (Image Type {shown})")
    if "FS" in acquisition.scan_options:
        yield Objection(
            SeriesReason.FAT_SUPPRESSED, "fat is suppressed (Scan Options FS), grade C or D needs bright fat"
        )
    elif acquisition.fat:
        yield Objection(SeriesReason.FAT_SUPPRESSED, f"{acquisition.fat}; grade C or D needs bright fat")


def weighting(acquisition: Acquisition, name: str) -> Weighting:
    """T2 or not: by TE and TR, else by Acquisition Contrast, else by name."""
    te, tr, unit = _times(acquisition)
    shown = ", ".join([f"TR {tr:.4g} ms" if tr else "TR blank", f"TE {te:.4g} ms" if te else "TE blank"]) + unit
    low, high = T2_TE_MS
    if te is None:
        if tr is not None and tr <= T1_TR_MAX_MS:
            return Weighting(Objection(SeriesReason.T1_WEIGHTED, f"TR is too short for T2 ({shown})"), "")
        return _named_weighting(acquisition, name, shown)
    if te < low:
        return Weighting(_short_echo(te, tr, shown), "")
    if te >= high:
        return Weighting(None, "")  # the myelogram rule speaks
    if tr is None:
        return Weighting(None, "TR is blank; TE decides")
    if tr < T2_TR_MIN_MS:
        return Weighting(Objection(SeriesReason.NOT_T2, f"TR is too short for T2 ({shown})"), "")
    return Weighting(None, unit.strip(" ()"))


def _short_echo(te: float, tr: float | None, shown: str) -> Objection:
    if te <= T1_TE_MAX_MS and (tr is None or tr <= T1_TR_MAX_MS):
        return Objection(SeriesReason.T1_WEIGHTED, f"T1-weighted ({shown})")
    if tr is not None and tr > T1_TR_MAX_MS:
        return Objection(SeriesReason.PD_WEIGHTED, f"proton density or intermediate weighting ({shown})")
    return Objection(SeriesReason.NOT_T2, f"TE is too short for T2 ({shown})")


def _named_weighting(acquisition: Acquisition, name: str, shown: str) -> Weighting:
    """TE was blanked (anonymisers do that): take what the scanner or the operator called it."""
    contrast = acquisition.contrast or next((w for w in acquisition.image_type[2:3] if w in ("T1", "T2")), "")
    if contrast == "T2":
        return Weighting(None, f"{shown}; the header calls the contrast T2")
    if contrast in ("T1", "PROTON_DENSITY", "FLUID_ATTENUATED", "STIR", "T2_STAR", "DIFFUSION", "PERFUSION"):
        return Weighting(Objection(SeriesReason.NOT_T2, f"the header calls the contrast {contrast} ({shown})"), "")
    words = _LEVELS.sub(" ", name)
    t1, t2, pd = bool(_SAYS_T1.search(words)), bool(_SAYS_T2.search(words)), bool(_SAYS_PD.search(words))
    if _SAYS_GRADIENT.search(words):
        return Weighting(
            Objection(SeriesReason.GRADIENT_ECHO, f"{shown}, and the name '{name}' means gradient echo"), ""
        )
    if t2 and not t1 and not pd:
        return Weighting(None, f"{shown}; only the name '{name}' says T2")
    if t1 and not t2:
        return Weighting(Objection(SeriesReason.T1_WEIGHTED, f"{shown}, and the name '{name}' says T1"), "")
    if pd:
        return Weighting(Objection(SeriesReason.PD_WEIGHTED, f"{shown}, and the name '{name}' says proton density"), "")
    return Weighting(Objection(SeriesReason.NOT_T2, f"nothing says T2 ({shown}, name '{name}')"), "")


def _times(acquisition: Acquisition) -> tuple[float | None, float | None, str]:
    """TE and TR in ms; converters that wrote seconds are undone (no spin echo has TE below 0.3 ms)."""
    te, tr = acquisition.te_ms, acquisition.tr_ms
    if te is not None and tr is not None and te < 0.3 and tr < 15 and "GR" not in acquisition.scanning_sequence:
        return te * 1000, tr * 1000, " (the header has seconds)"
    return te, tr, ""


def _sequence(acquisition: Acquisition) -> str:
    """The sequence as the header names it."""
    parts = ["\\".join(acquisition.scanning_sequence), acquisition.sequence_name, acquisition.dimensions]
    te = "" if acquisition.te_ms is None else f"TE {acquisition.te_ms:.4g} ms"
    return ", ".join(part for part in (*parts, te) if part) or "sequence not named"
