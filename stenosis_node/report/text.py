"""A report as plain text of 80 columns, in the order a reader needs it: who, the result, the slabs, the images."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Sequence
from typing import Final

from stenosis_node.domain import Grade
from stenosis_node.report import wording
from stenosis_node.report.view import SERIES_OUTCOME, ImageResult, Report

WIDTH: Final = 80
NAMES: Final = 16
"""Columns of the names in the head."""


def render_text(report: Report) -> str:
    """The whole report, ending with a newline. Lines have at most 80 columns, East Asian characters counted as two."""
    lines: list[str] = []
    lines += folded(report.title or "AI stenosis report")
    lines.append("=" * WIDTH)
    for name, value in facts(report):
        lines += folded(value, first=f"{name:<{NAMES}}", rest=" " * NAMES)
    lines += ["", *folded(report.summary), ""]
    lines += [f"Worst Schizas grade of the examination: {report.grade or 'none given'}", ""]
    if report.slab_sentences:
        lines += _heading("Slabs, from head to foot")
        for sentence in report.slab_sentences:
            lines += folded(sentence, first="- ", rest="  ")
        lines.append("")
    if any(image.outcome != SERIES_OUTCOME for image in report.images):
        lines += _heading("Images, from head to foot (percentages are network scores)")
        lines += _images(report.images)
        lines.append("")
    for statement in report.statements:
        lines += [*_heading(statement.meaning), *folded(statement.text), ""]
    lines += _heading("Origin")
    lines += folded(f"{report.algorithm or wording.ALGORITHM} Version {report.version}.")
    lines.append(f"SR {report.sop_instance_uid}")
    lines += [f"supersedes {uid}" for uid in report.supersedes]
    return "\n".join(line.rstrip() for line in lines) + "\n"


def facts(report: Report) -> list[tuple[str, str]]:
    """Patient, study and standing of a report as (name, value); what is unknown is left out."""
    person = report.person
    study = " ".join(text for text in (day(person.study_date), person.study_description) if text)
    found = [
        ("Patient", " = ".join(" ".join(g.replace("^", " ").split()) for g in person.name.split("=") if g.strip("^ "))),
        ("Patient ID", person.patient_id),
        ("Born", day(person.birth_date)),
        ("Sex", person.sex),
        ("Study", study),
        ("Accession", person.accession_number),
        ("Report", moment(report.created)),
        ("Status", report.status),
    ]
    return [(name, value) for name, value in found if value.strip()]


def day(text: str) -> str:
    """A DA for people."""
    return f"{text[:4]}-{text[4:6]}-{text[6:8]}" if len(text) == 8 and text.isdigit() else text


def moment(created: str) -> str:
    """An ISO 8601 time for people, to the minute, with its zone."""
    if not created:
        return ""
    date, _, clock = created.partition("T")
    zone = clock[8:]
    named = {"": "time of the node", "+00:00": "UTC"}.get(zone, f"UTC{zone}")
    return f"{date} {clock[:5]} ({named})"


def _heading(text: str) -> list[str]:
    return [text, "-" * min(columns(text), WIDTH)]


def _images(images: Sequence[ImageResult]) -> Iterator[str]:
    shown = [image for image in images if image.outcome != SERIES_OUTCOME]
    labels = min(max(columns(image.label) for image in shown), 36)
    if any(image.grade is not None for image in shown):
        yield " " * labels + "  grade" + "".join(f"{grade:>7}" for grade in Grade)
    for image in shown:
        lead = image.label + " " * (labels - columns(image.label)) + f"    {image.grade or '-'}  "
        words = wording.shares(image.scores) if image.grade is not None else {}
        result = "".join(f"{words[grade]:>7}" for grade in Grade if grade in words)
        yield from folded(result or f"   {image.words or image.outcome_words}", first=lead, rest=" " * columns(lead))
        for note in _notes(image):
            yield from folded(note, first="    ", rest="    ")


def _notes(image: ImageResult) -> Iterator[str]:
    if image.isolated:
        yield image.isolated
    reason = image.comment if image.grade is None else ""
    if reason:
        yield reason
    if "does not exclude" in image.outcome_words:
        yield wording.NO_EXCLUSION


# --------------------------------------------------------------------------- lines


def columns(text: str) -> int:
    """Columns on a terminal."""
    return sum(0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)


def folded(text: str, *, first: str = "", rest: str = "") -> list[str]:
    """Text in lines of at most :data:`WIDTH` columns; ``first`` and ``rest`` lead them. Long words are cut."""
    lines: list[str] = []
    line, empty = first, True
    for word in text.replace(" %", "\xa0%").split(" "):  # a number keeps its unit
        gap = "" if empty else " "
        if not empty and columns(line + gap + word) > WIDTH:
            lines.append(line)
            line, gap = rest, ""
        line, empty = line + gap + word, False
        while columns(line) > WIDTH:
            cut = len(line)
            while columns(line[:cut]) > WIDTH:
                cut -= 1
            lines.append(line[:cut])
            line = rest + line[cut:]
    return [done.replace("\xa0", " ") for done in (*lines, line)]
