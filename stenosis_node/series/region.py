"""Which part of the body the texts of a series name. Texts are weak: they veto, they never choose."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from stenosis_node.series.headers import SeriesHeaders

_LUMBAR: Final = re.compile(
    r"lumb|lomb|lendenw|lendewerv|lws|lwk|요추|요천추|腰|поясн"
    r"|(?<![a-z])l[ _.-]?(?:s[ _.-]?)?sp(?!a)"
    r"|(?<![a-z0-9])l[1-5]\s*(?:[-/_~]|to)?\s*(?:l?[1-5]|s\s?1?)(?![0-9a-z])",
    re.IGNORECASE,
)
_OTHERS: Final = {
    "cervical spine": r"cervi|hws|hwk|(?<![a-z])neck|경추|頸椎|頚椎|шейн|(?<![a-z])c[ _.-]?sp(?!a)"
    r"|(?<![a-z0-9])c[1-7]\s*[-/_~]\s*c?[1-8](?![0-9])",
    "thoracic spine": r"thorac|thorax|bws|bwk|(?<![a-z])dorsal|흉추|胸椎|грудн|(?<![a-z])[td][ _.-]?spine"
    r"|(?<![a-z0-9])th?\d{1,2}\s*[-~]\s*th?\d{1,2}(?![0-9])",
    "head": r"brain|(?<![a-z])head|skull|cerebr|orbit|pituit|(?<![a-z])iacs?(?![a-z])|(?<![a-z])tmj|sinus|뇌|두부|頭",
    "pelvis": r"pelvi|(?<![a-z])hips?(?![a-z])|prostat|uter(?:us|ine)|ovar|rectum|rectal|bladder|sacroil|sacrum|coccyx"
    r"|(?<![a-z])si[ _-]?j(?:oint)?s?(?![a-z])|(?<![a-z])(?:peri)?anal(?![a-z])|fistula|골반|骨盤|beckenb?",
    "abdomen": r"abdom|liver|(?<![a-z])renal|kidney|pancrea|mrcp|bowel|enterogra|복부|腹",
    "limb": r"knee|shoulder|ankle|wrist|elbow|(?<![a-z])(?:foot|hand|femur|thigh|tibia|calf|leg)(?![a-z])|슬관절|무릎",
    "chest": r"breast|mamma|(?<![a-z])(?:chest|heart|cardiac|aorta)(?![a-z])",
}
_OTHER_PATTERNS: Final = {name: re.compile(pattern, re.IGNORECASE) for name, pattern in _OTHERS.items()}
_HEAD_COIL: Final = re.compile(r"head|brain|(?<![a-z])h[ce]\d", re.IGNORECASE)
_SPINE_COIL: Final = re.compile(
    r"spine|ctl|neck|(?<![a-z])(?:sp|ne|hns|nv)(?![a-z])|body|torso|(?<![a-z])bo\d", re.IGNORECASE
)


@dataclass(frozen=True, slots=True)
class Region:
    """What the texts say about the body part."""

    lumbar: bool
    """Some text names the lumbar spine."""
    veto: str
    """Another body part that decides against the series; empty when none does."""
    source: str
    """Where the veto was read."""


def named_region(series: SeriesHeaders) -> Region:
    """The series' own texts speak first, then Body Part Examined together with the study's description.

    A lumbar name beats another one at the same level ("C- and L-spine"), unless Body Part Examined sides with the
    other. ABDOMEN as body part is no veto: scanners set it for lumbar protocols. Where all texts are silent, as of an
    anonymised brain, a coil made for heads alone speaks.
    """
    own = f"{series.description} | {series.protocol}"
    if _LUMBAR.search(own):
        return Region(True, "", "")
    if name := _other(own):
        return Region(False, name, "series description or protocol")
    body = "" if series.body_part.strip().upper() == "ABDOMEN" else _spaced(series.body_part)
    study = series.study_description
    lumbar_body, lumbar_study = bool(_LUMBAR.search(body)), bool(_LUMBAR.search(study))
    body_name, study_name = _other(body), _other(study)
    if lumbar_body:
        return Region(True, "", "")
    if body_name and not (lumbar_study and body_name != study_name):
        return Region(lumbar_study, body_name, "Body Part Examined")
    if study_name and not lumbar_study:
        return Region(False, study_name, "study description")
    if not lumbar_study and _HEAD_COIL.search(series.coil) and not _SPINE_COIL.search(series.coil):
        return Region(False, "head", "receive coil")
    return Region(lumbar_study, "", "")


def _spaced(body_part: str) -> str:
    """The defined terms LSPINE, CSPINE, TSPINE, LSSPINE ... as the patterns expect them."""
    return re.sub(r"\b(LS|L|C|T)SPINE\b", r"\1-spine", body_part, flags=re.IGNORECASE)


def _other(text: str) -> str:
    return next((name for name, pattern in _OTHER_PATTERNS.items() if pattern.search(text)), "")
