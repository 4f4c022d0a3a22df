"""Rules on the Structured Report: what it says is what the networks said, of these images, and nothing is left out."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator

from stenosis_node.domain import (
    BundleStatus,
    Content,
    CordSlice,
    Grade,
    GradedSlice,
    NotGradable,
    SliceFinding,
    Unreadable,
    finding_box,
)
from stenosis_node.report import codes, readback, wording
from stenosis_node.report.gate.content_rules import refused
from stenosis_node.report.gate.evidence import Evidence, Fault, Opened, Place
from stenosis_node.report.readback import Item

GRADE_OF = {(c.value, c.scheme): g for g, c in codes.SCHIZAS_VALUE.items()}
SCORE_OF = {(c.value, c.scheme): g for g, c in codes.GRADE_SCORE.items()}


def report_faults(report: Opened, evidence: Evidence) -> Iterator[Fault]:
    """Every rule on the SR."""
    root = report.root
    yield from _frame(report)
    yield from _flags(report, evidence)
    yield from _algorithm(report)
    yield from _references(report, evidence)
    groups = [g for m in root.named(codes.MEASUREMENTS) for g in m.named(codes.GROUP)]
    yield from _tracking(groups)
    for group in groups:
        yield from _region(group, evidence)
        yield from _numbers(group)
    slices = [g for g in groups if g.first(codes.SCHIZAS_WORST) is None]
    slabs = [g for g in groups if g.first(codes.SCHIZAS_WORST) is not None]
    yield from _outcomes(root, slices, evidence)
    yield from _slabs(slabs, evidence)
    yield from _overall(root, evidence)


def _frame(report: Opened) -> Iterator[Fault]:
    """What TID 1500 and our own order ask of the top level."""
    root = report.root
    if root.template != "1500" or root.name != (codes.REPORT.value, codes.REPORT.scheme):
        yield Fault("template", "the root is not an Imaging Measurement Report of template 1500")
    groups = [g for m in root.named(codes.MEASUREMENTS) for g in m.children]
    if any(g.template != "1410" or g.name != (codes.GROUP.value, codes.GROUP.scheme) for g in groups):
        yield Fault("template", "a measurement group is not one of template 1410")
    for name in (codes.LANGUAGE, codes.OBSERVER_TYPE, codes.DEVICE_UID, codes.PROCEDURE_REPORTED):
        if root.first(name) is None:
            yield Fault("context", f"{name.meaning} is missing")
    for name in (codes.IMAGE_LIBRARY, codes.QUALITATIVE):
        if root.first(name) is None:
            yield Fault("content", f"{name.meaning} is missing")
    declared = {str(i.get("CodingSchemeDesignator")) for i in report.ds.get("CodingSchemeIdentificationSequence") or ()}
    used = {i.name[1] for i in root.walk()} | {i.code[1] for i in root.walk() if i.code}
    if any(scheme.startswith("99") and scheme not in declared for scheme in used):
        yield Fault("scheme", "a private coding scheme is used but not declared")
    known = {(c.value, c.scheme): c.meaning for c in _table()}
    for item in root.walk():
        pairs = [(item.name, item.meaning)] if item.name[0] else []
        pairs += [((item.code[0], item.code[1]), item.code[2])] if item.code else []
        for code, meaning in pairs:
            if known.get(code) != meaning:
                yield Fault("codes", f"code {code} with meaning '{meaning}' is not in our table")


def _table() -> Iterator[codes.Code]:
    for value in vars(codes).values():
        if isinstance(value, codes.Code):
            yield value
        elif isinstance(value, tuple):
            yield from (v for v in value if isinstance(v, codes.Code))
        elif isinstance(value, dict):
            yield from (v for v in value.values() if isinstance(v, codes.Code))


def _flags(report: Opened, evidence: Evidence) -> Iterator[Fault]:
    ds = report.ds
    unreadable = any(isinstance(f, Unreadable) for f in evidence.findings.values())
    if ds.get("CompletionFlag") != ("PARTIAL" if unreadable else "COMPLETE"):
        yield Fault("completion", "Completion Flag is PARTIAL exactly when a chosen image could not be read")
    if ds.get("VerificationFlag") != "UNVERIFIED":
        yield Fault("verification", "Verification Flag must be UNVERIFIED: no person has seen this")
    demonstration = evidence.study.bundle.status is BundleStatus.DEMONSTRATION
    if ds.get("PreliminaryFlag") != ("PRELIMINARY" if demonstration else "FINAL"):
        yield Fault("preliminary", "Preliminary Flag does not fit the status of the bundle")
    earlier = [
        readback.reference(item)
        for study in ds.get("PredecessorDocumentsSequence") or ()
        for series in study.get("ReferencedSeriesSequence") or ()
        for item in series.get("ReferencedSOPSequence") or ()
    ]
    revised = re.search(r"REVISION \d+", str(ds.get("SeriesDescription") or "")) is not None
    if revised and "supersedes" in str(ds.SeriesDescription) and not earlier:
        yield Fault("predecessor", "a revision does not name the reports it supersedes")
    if earlier and not revised:
        yield Fault("predecessor", "predecessors are named, but the series is not called a revision")
    if any(ref[1] == str(ds.get("SOPInstanceUID")) for ref in earlier):
        yield Fault("predecessor", "the report names itself as its predecessor")


def _algorithm(report: Opened) -> Iterator[Fault]:
    """IHE AI Results 6.5.3.1: content items agree with Contributing Equipment, which agrees with the header."""
    ds, root = report.ds, report.root
    ours = next(iter(ds.get("ContributingEquipmentSequence") or ()), None)
    if ours is None:
        return
    model, version = str(ours.get("ManufacturerModelName")), str(ours.get("SoftwareVersions"))
    pairs = (
        (codes.DEVICE_UID, str(ours.get("DeviceUID"))),
        (codes.DEVICE_MANUFACTURER, str(ours.get("Manufacturer"))),
        (codes.DEVICE_MODEL, model),
        (codes.DEVICE_SERIAL, str(ours.get("DeviceSerialNumber"))),
    )
    for name, expected in pairs:
        item = root.first(name)
        if (item.text if item is not None else "") != expected and not (item is None and name is codes.DEVICE_UID):
            yield Fault("air", f"{name.meaning} and Contributing Equipment differ")
    for group in (g for m in root.named(codes.MEASUREMENTS) for g in m.named(codes.GROUP)):
        said = [i.text for i in (group.first(codes.ALGORITHM_NAME), group.first(codes.ALGORITHM_VERSION)) if i]
        if said != [model, version]:
            yield Fault("air", "Algorithm Identification of a measurement group and Contributing Equipment differ")


def _references(report: Opened, evidence: Evidence) -> Iterator[Fault]:
    used = {ref for item in report.root.walk() for ref in item.refs}
    if not all(evidence.knows(ref) or evidence.is_locator(ref) for ref in used):
        yield Fault("reference", "the report refers to an image that is not one of the graded series")
    results = [i for name in (codes.MEASUREMENTS, codes.QUALITATIVE) for i in report.root.named(name)]
    if any(evidence.is_locator(ref) for item in results for i in item.walk() for ref in i.refs):
        yield Fault("locator", "a result stands on the sagittal slice, which only orients the reader")
    library = {ref for item in report.root.named(codes.IMAGE_LIBRARY) for i in item.walk() for ref in i.refs}
    if {(ref[1], ref[2]) for ref in library if not evidence.is_locator(ref)} != set(evidence.slices):
        yield Fault("library", "the image library does not hold exactly the images of the graded series")
    listed = {
        (str(study.get("StudyInstanceUID")), str(series.get("SeriesInstanceUID")), *readback.reference(item)[:2])
        for study in report.ds.get("CurrentRequestedProcedureEvidenceSequence") or ()
        for series in study.get("ReferencedSeriesSequence") or ()
        for item in series.get("ReferencedSOPSequence") or ()
    }
    study_uid = evidence.study.study_instance_uid
    if listed != {(study_uid, evidence.owner(ref[1]), *ref[:2]) for ref in used}:
        yield Fault("evidence", "the evidence sequence is not exactly the set of images referred to")


def _tracking(groups: list[Item]) -> Iterator[Fault]:
    uids = [uid.text for g in groups if (uid := g.first(codes.TRACKING_UID)) is not None]
    names = [name.text for g in groups if (name := g.first(codes.TRACKING_ID)) is not None and name.text]
    if len(uids) != len(groups) or len(names) != len(groups) or len(set(uids)) != len(uids):
        yield Fault("tracking", "measurement groups need a tracking identifier and a tracking UID of their own")
    elif len(set(names)) != len(names):
        yield Fault("tracking", "two measurement groups have the same tracking identifier")


def place_of(group: Item) -> Place | None:
    """The slice a measurement group's region was drawn on."""
    region = group.first(codes.IMAGE_REGION)
    refs = [ref for child in (region.children if region else ()) for ref in child.refs]
    return (refs[0][1], refs[0][2]) if len(refs) == 1 else None


def _region(group: Item, evidence: Evidence) -> Iterator[Fault]:
    region, place = group.first(codes.IMAGE_REGION), place_of(group)
    if region is None or place is None or region.graphic != "POLYLINE" or len(region.points) != 10:
        yield Fault("region", "a measurement group has no closed box on one image")
        return
    xs, ys = region.points[0::2], region.points[1::2]
    rows, columns = evidence.sizes.get(place[0], (0, 0))
    x0, x1, y0, y1 = min(xs), max(xs), min(ys), max(ys)
    if region.points != (x0, y0, x1, y0, x1, y1, x0, y1, x0, y0) or not (x0 < x1 and y0 < y1):
        yield Fault("region", "a region is not a closed rectangle")
    elif not (x0 >= 0 and y0 >= 0 and x1 <= columns and y1 <= rows):
        yield Fault("box-inside", "a box reaches outside its image")
    finding = evidence.findings.get(place)
    box = finding_box(finding) if finding is not None else None
    if box is None or not all(
        math.isclose(a, b, rel_tol=1e-5, abs_tol=1e-3)
        for a, b in zip((x0, y0, x1, y1), (box.x0, box.y0, box.x1, box.y1), strict=True)
    ):
        yield Fault("box", "a box is not the one that was located on its image")


def _numbers(group: Item) -> Iterator[Fault]:
    for item in group.children:
        if item.kind == "NUM" and (
            item.unit != "%" or item.number is None or not 0 <= item.number <= 100 or math.isnan(item.number)
        ):
            yield Fault("score-range", "a network score is not between 0 and 100 percent")


def _outcomes(root: Item, groups: list[Item], evidence: Evidence) -> Iterator[Fault]:
    """Every chosen image is accounted for exactly once: silence must never read as "no stenosis"."""
    said: dict[Place, list[str]] = {}
    for group in groups:
        place, outcome = place_of(group), group.first(codes.OUTCOME)
        if place is not None and place in evidence.findings:
            said.setdefault(place, []).append(outcome.code[0] if outcome and outcome.code else "")
            yield from _slice_group(group, evidence.findings[place], evidence.isolated(place))
    for item in (i for q in root.named(codes.QUALITATIVE) for i in q.named(codes.OUTCOME)):
        for ref in (ref for child in item.children for ref in child.refs):
            said.setdefault((ref[1], ref[2]), []).append(item.code[0] if item.code else "")
    whole = refused(evidence)
    expected = {
        place: [
            codes.SERIES_NOT_GRADED.value
            if finding.ref.series_instance_uid in whole
            else codes.OUTCOME_VALUE[finding.outcome].value
        ]
        for place, finding in evidence.findings.items()
    }
    if said != expected:
        yield Fault("silence", "an image of a graded series is not reported exactly once with its outcome")


def _slice_group(group: Item, finding: SliceFinding, isolated: bool) -> Iterator[Fault]:
    grade = group.first(codes.SCHIZAS)
    scores = [(SCORE_OF[i.name], i.number or 0.0) for i in group.children if i.name in SCORE_OF]
    if not isinstance(finding, GradedSlice):
        if grade is not None or scores:
            yield Fault("no-grade", "an image without a grade has a grade or scores of grades")
    else:
        values = dict(scores)
        said = GRADE_OF.get((grade.code[0], grade.code[1])) if grade and grade.code else None
        if said is not finding.grade:
            yield Fault("grade", "a grade is not the one the network gave")
        if len(scores) != 4 or set(values) != set(Grade) or abs(sum(values.values()) - 100) > 0.05:
            yield Fault("scores", "the scores of the four grades are not complete or do not sum to 100 percent")
        elif any(abs(values[g] - 100 * finding.scores[g]) > 0.006 for g in Grade):
            yield Fault("scores", "a score is not the one the network gave")
        elif said is not None and values[said] < max(values.values()):
            yield Fault("argmax", "the grade is not the one with the highest score")
        numbers = [i for i in group.children if i.kind == "NUM"]
        if numbers and SCORE_OF.get(numbers[0].name) is not finding.grade:
            yield Fault("first-score", "the score of the predicted grade does not come first")
    yield from _other_scores(group, finding)
    mark = group.first(codes.AGREEMENT)
    if (mark is not None) != isolated:
        yield Fault("isolated", "the mark of an isolated slice is missing or wrong")
    match finding:
        case GradedSlice():
            expected: Content | None = Content.ROOTLET
        case CordSlice():
            expected = Content.CORD
        case NotGradable():
            expected = finding.content
        case _:
            expected = None
    content = group.first(codes.CONTENT)
    value = codes.CONTENT_VALUE[expected].value if expected is not None else None
    if (content.code[0] if content and content.code else None) != value:
        yield Fault("canal-content", "the content of the canal is not the one the network gave")


def _other_scores(group: Item, finding: SliceFinding) -> Iterator[Fault]:
    """Scores of location and content: those of the networks, and no content score without a content."""
    expected: dict[codes.Code, float] = {}
    match finding:
        case GradedSlice() | CordSlice():
            expected = {codes.CONTENT_SCORE: finding.content_score, codes.CANAL_SCORE: finding.box_score}
        case NotGradable():
            expected = {codes.CANAL_SCORE: finding.box_score} if finding.box_score is not None else {}
        case _:
            pass
    for name in (codes.CONTENT_SCORE, codes.CANAL_SCORE):
        said = [item.number for item in group.named(name)]
        score = expected.get(name)
        if len(said) != (score is not None) or any(
            n is None or score is None or abs(n - 100 * score) > 0.006 for n in said
        ):
            yield Fault("other-scores", f"{name.meaning} is not the one the network gave")


def _slabs(groups: list[Item], evidence: Evidence) -> Iterator[Fault]:
    said = []
    for group in groups:
        place, item = place_of(group), group.first(codes.SCHIZAS_WORST)
        if place is None or place not in evidence.slices or item is None or item.code is None:
            continue
        piece = evidence.slices[place]
        grade = GRADE_OF.get((item.code[0], item.code[1]))
        said.append((piece.ref.series_instance_uid, piece.slab, grade))
        if evidence.grade(place) is not grade:
            yield Fault("slab", "the worst grade of a slab stands on an image of another grade")
    expected = [
        (series, slab, worst)
        for (series, slab), places in evidence.slabs().items()
        if (worst := evidence.worst(places)) is not None
    ]
    if sorted(said, key=str) != sorted(expected, key=str):
        yield Fault("slab", "not exactly one group per graded slab, with the worst grade of its images")


def _slab_words(root: Item, evidence: Evidence) -> Iterator[Fault]:
    """What is said of the slabs in words: their worst grades, or that stenosis is not excluded."""
    sentences = [i.text for q in root.named(codes.QUALITATIVE) for i in q.named(codes.SLAB_RESULT)]
    said = Counter(found[1] for text in sentences if (found := re.search(r"worst Schizas ([A-D])\b", text)))
    worst = Counter(str(grade) for places in evidence.slabs().values() if (grade := evidence.worst(places)) is not None)
    silent = [t for t in sentences if "worst Schizas" not in t and wording.NO_EXCLUSION not in t]
    if said != worst or silent or not sentences:
        yield Fault(
            "slab-words", "the sentences on the slabs do not say their worst grades, or leave one without a word"
        )


def _overall(root: Item, evidence: Evidence) -> Iterator[Fault]:
    worst = evidence.worst(list(evidence.slices))
    expected = codes.SCHIZAS_VALUE[worst] if worst is not None else codes.NOT_GRADED
    said = [i.code for q in root.named(codes.QUALITATIVE) for i in q.named(codes.SCHIZAS_OVERALL)]
    if [c[:2] if c else None for c in said] != [(expected.value, expected.scheme)]:
        yield Fault("overall", "the overall grade is not the worst of all images")
    yield from _slab_words(root, evidence)
    summary = root.first(codes.SUMMARY)
    top = [i for i in root.children if i.relationship == "CONTAINS"]
    if summary is None or not top or top[0] is not summary:
        yield Fault("summary", "the summary does not come first")
        return
    if wording.NOT_VERIFIED not in summary.text:
        yield Fault("not-verified", "the summary does not say that nobody verified the result")
    banner = wording.BANNER[evidence.study.bundle.status]
    if banner is not None and banner[1:] not in summary.text:
        yield Fault("summary-status", "the summary does not say what the weights are")
    words = f"Worst Schizas grade {worst} " if worst is not None else wording.NO_EXCLUSION
    if words not in summary.text:
        yield Fault("summary-grade", "the summary does not say the overall result")
