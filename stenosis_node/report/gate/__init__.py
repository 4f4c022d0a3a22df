"""The gate: nothing leaves that has not been read back and proven.

Rules that no validator covers, on pydicom alone, without the composer: its tables of codes and words are all it shares
with it. Each rule has a name; a broken variant of a good document is the test of each.
"""

from __future__ import annotations

from collections.abc import Sequence

from stenosis_node.domain import AxialSeries, Document, DocumentKind, SagittalSlice, StudyFindings
from stenosis_node.errors import PermanentError
from stenosis_node.report import wording
from stenosis_node.report.gate.capture_rules import capture_faults
from stenosis_node.report.gate.content_rules import content_faults
from stenosis_node.report.gate.evidence import Evidence, Fault, Opened
from stenosis_node.report.gate.header_rules import header_faults, set_faults
from stenosis_node.report.gate.presentation_rules import presentation_faults
from stenosis_node.report.gate.rejection_rules import check_rejection_note
from stenosis_node.report.gate.report_rules import report_faults
from stenosis_node.report.wanted import EVERYTHING, Wanted

__all__ = ["Fault", "check", "check_rejection_note", "faults"]


def check(
    documents: Sequence[Document],
    findings: StudyFindings,
    series: Sequence[AxialSeries],
    sagittal: SagittalSlice | str = wording.NO_SAGITTAL,
    wanted: Wanted = EVERYTHING,
) -> None:
    """Raise PermanentError naming every broken rule; return when the documents may leave.

    wanted  which documents there must be, and no others
    """
    found = faults(documents, findings, series, sagittal, wanted)
    if found:
        lines = "\n".join(f"{fault.rule}: {fault.sentence}" for fault in found)
        raise PermanentError(f"our own documents broke {len(found)} rules and were not sent; report this:\n{lines}")


def faults(
    documents: Sequence[Document],
    findings: StudyFindings,
    series: Sequence[AxialSeries],
    sagittal: SagittalSlice | str = wording.NO_SAGITTAL,
    wanted: Wanted = EVERYTHING,
) -> tuple[Fault, ...]:
    """Every broken rule."""
    evidence = Evidence.gather(findings, series, sagittal if isinstance(sagittal, SagittalSlice) else None)
    opened: list[Opened] = []
    found: list[Fault] = []
    for document in documents:
        for one in (document, *document.alternatives):
            try:
                opened.append(Opened.of(one, alternative=one is not document))
            except Exception as error:  # noqa: BLE001  pydicom raises anything on broken bytes
                name = type(error).__name__
                found.append(Fault("readable", f"{one.kind} {one.sop_instance_uid} cannot be read back ({name})"))
    if found:
        return tuple(found)
    found += set_faults(documents, opened, evidence, wanted)
    report = next((o for o in opened if o.is_report and not o.alternative), None)
    for entry in opened:
        found += header_faults(entry, evidence)
        if entry.document.kind in (DocumentKind.SC, DocumentKind.SC_OVERVIEW):
            found += capture_faults(entry, report, evidence)
    states = [o for o in opened if o.document.kind is DocumentKind.GSPS]
    found += presentation_faults(states, report, evidence, wanted)
    if report is not None:
        found += report_faults(report, evidence)
        overview = next((o for o in opened if o.document.kind is DocumentKind.SC_OVERVIEW), None)
        found += content_faults(report, overview, evidence)
    return tuple(found)
