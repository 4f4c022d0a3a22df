"""Rules on rejection notes: a note withdraws exactly the documents it was made for, of the same patient and study."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from io import BytesIO

import pydicom
from pydicom.dataset import Dataset
from pydicom.uid import KeyObjectSelectionDocumentStorage

from stenosis_node.domain import Document, DocumentKind
from stenosis_node.errors import PermanentError
from stenosis_node.report import codes, readback, wording
from stenosis_node.report.gate.evidence import Fault

SAME = (
    "PatientName",
    "PatientID",
    "PatientBirthDate",
    "PatientSex",
    "StudyInstanceUID",
    "StudyDate",
    "AccessionNumber",
)


def check_rejection_note(note: Document, rejected: Sequence[Document]) -> None:
    """Raise PermanentError naming every broken rule; return when the note may leave."""
    found = rejection_faults(note, rejected)
    if found:
        lines = "\n".join(f"{fault.rule}: {fault.sentence}" for fault in found)
        raise PermanentError(f"our own rejection note broke {len(found)} rules and was not sent; report this:\n{lines}")


def rejection_faults(note: Document, rejected: Sequence[Document]) -> tuple[Fault, ...]:
    """Every broken rule."""
    try:
        ds = readback.read(note)
        root = readback.tree(ds)
        source = pydicom.dcmread(BytesIO(rejected[0].content), stop_before_pixels=True)
    except Exception as error:  # noqa: BLE001  pydicom raises anything on broken bytes
        return (Fault("readable", f"note {note.sop_instance_uid} cannot be read back ({type(error).__name__})"),)
    return (*_note(ds, root, note), *_selection(ds, root, rejected), *_header(ds, source))


def _note(ds: Dataset, root: readback.Item, note: Document) -> Iterator[Fault]:
    stored = tuple(str(ds.get(k)) for k in ("SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID"))
    if note.kind is not DocumentKind.KOS or stored != (
        str(KeyObjectSelectionDocumentStorage),
        note.sop_instance_uid,
        note.series_instance_uid,
    ):
        yield Fault("note-identity", "the note is not the Key Object Selection our records name")
    title = codes.REJECTED_FOR_SAFETY
    if root.name != (title.value, title.scheme) or root.meaning != title.meaning or root.template != "2010":
        yield Fault("note-title", f"the note is not titled '{title.meaning}' in template 2010")
    why = root.first(codes.KEY_OBJECT_DESCRIPTION)
    if why is None or not why.text:
        yield Fault("note-reason", "the note does not say why")


def _selection(ds: Dataset, root: readback.Item, rejected: Sequence[Document]) -> Iterator[Fault]:
    expected = sorted((d.sop_class_uid, d.sop_instance_uid) for d in rejected)
    selected = sorted(ref[:2] for item in root.walk() for ref in item.refs)
    if selected != expected:
        yield Fault("note-selection", "the note does not select exactly the documents to withdraw")
    listed = sorted(
        (str(series.get("SeriesInstanceUID")), *readback.reference(item)[:2])
        for study in ds.get("CurrentRequestedProcedureEvidenceSequence") or ()
        for series in study.get("ReferencedSeriesSequence") or ()
        for item in series.get("ReferencedSOPSequence") or ()
    )
    if listed != sorted((d.series_instance_uid, d.sop_class_uid, d.sop_instance_uid) for d in rejected):
        yield Fault("note-evidence", "the evidence of the note is not exactly the documents to withdraw")


def _header(ds: Dataset, source: Dataset) -> Iterator[Fault]:
    for keyword in SAME:
        if str(ds.get(keyword) or "") != str(source.get(keyword) or ""):
            yield Fault("note-patient", f"{keyword} of the note is not that of the documents to withdraw")
    demonstration = str(source.get("SeriesDescription") or "").startswith(wording.DEMO_SERIES)
    if str(ds.get("SeriesDescription") or "").startswith(wording.DEMO_SERIES) != demonstration:
        yield Fault("demonstration", "Series Description of the note does not fit the status of the bundle")
