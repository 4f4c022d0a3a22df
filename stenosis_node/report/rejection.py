"""Rejection notes: Key Object Selections that withdraw documents we delivered (IHE IOCM, RAD-66; TID 2010).

One title serves for a recall and for a superseded revision, (113037, DCM, "Rejected for Patient Safety Reasons"): the
only one that leaves the archive no choice (docs/decisions/0006). The Key Object Description says which of both it is.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from copy import deepcopy
from datetime import datetime
from io import BytesIO
from typing import Final

from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence as Items
from pydicom.uid import KeyObjectSelectionDocumentStorage

from stenosis_node.config import Report
from stenosis_node.domain import Document, DocumentKind, SliceRef
from stenosis_node.report import codes, encoding, tree, wording
from stenosis_node.report.identity import derived_uid
from stenosis_node.report.objects import TRANSFER_SYNTAX, to_bytes
from stenosis_node.report.source import OPTIONAL, PATIENT, STUDY, text_of
from stenosis_node.report.tree import CONTAINS, CONTEXT, MODIFIER, Encoded

EQUIPMENT: Final = ("Manufacturer", "ManufacturerModelName", "DeviceSerialNumber", "StationName", "SoftwareVersions")
IMAGES: Final = (DocumentKind.SC, DocumentKind.SC_OVERVIEW)
SERIES_OFFSET: Final = 3
"""Added to the series number of the reports."""


def rejection_note_key(rejected: Sequence[Document], why: str) -> str:
    """Spool key of the note about these documents: hex SHA-256."""
    uids = sorted(document.sop_instance_uid for document in rejected)
    return hashlib.sha256("\x1e".join(["rejection-note", why, *uids]).encode()).hexdigest()


def rejection_note(rejected: Sequence[Document], *, why: str, created: datetime, settings: Report) -> Document:
    """The note that withdraws exactly these documents.

    rejected  of one study, at least one, each in the SOP class that was delivered
    why       a sentence, written into the note as its Key Object Description
    created   aware; all times in the note
    raises    ValueError when there is nothing to reject
    """
    if not rejected:
        raise ValueError("a rejection note names at least one document")
    source = dcmread(BytesIO(rejected[0].content), stop_before_pixels=True)
    key = rejection_note_key(rejected, why)
    series_uid = derived_uid(key, created.isoformat(), "series")
    uid = derived_uid(key, created.isoformat(), "kos")
    ds = _header(source, created, settings)
    ds.SeriesInstanceUID = series_uid
    ds.CurrentRequestedProcedureEvidenceSequence = Items([_evidence(source.StudyInstanceUID, rejected)])
    ds.update(tree.root(codes.REJECTED_FOR_SAFETY, _content(source, rejected, _printable(why)), "2010"))
    encoding.prepare(ds)
    sop_class = str(KeyObjectSelectionDocumentStorage)
    return Document(
        kind=DocumentKind.KOS,
        sop_class_uid=sop_class,
        sop_instance_uid=uid,
        series_instance_uid=series_uid,
        transfer_syntax_uid=TRANSFER_SYNTAX,
        content=to_bytes(ds, sop_class, uid),
    )


def _header(source: Dataset, created: datetime, settings: Report) -> Dataset:
    """Patient, study and equipment as in the rejected documents, so that the note goes where they went."""
    ds = Dataset()
    ds.SpecificCharacterSet = "ISO_IR 192"
    for keyword in (*PATIENT, *STUDY, *EQUIPMENT):
        setattr(ds, keyword, text_of(source, keyword))
    for keyword in OPTIONAL:
        if keyword != "PositionReferenceIndicator" and (text := text_of(source, keyword)):
            setattr(ds, keyword, text)
    ds.StudyInstanceUID = source.StudyInstanceUID
    ds.Modality = "KO"
    date, time = created.strftime("%Y%m%d"), created.strftime("%H%M%S")
    ds.InstanceCreationDate = ds.ContentDate = ds.SeriesDate = date
    ds.InstanceCreationTime = ds.ContentTime = ds.SeriesTime = time
    ds.SeriesNumber = settings.series_number + SERIES_OFFSET
    demonstration = text_of(source, "SeriesDescription").startswith(wording.DEMO_SERIES)
    ds.SeriesDescription = " ".join([wording.DEMO_SERIES] * demonstration + [wording.WITHDRAWN_SERIES])
    ds.InstanceNumber = 1
    ds.ReferencedPerformedProcedureStepSequence = Items()
    ds.ContributingEquipmentSequence = Items(_contributors(source, created))
    return ds


def _contributors(source: Dataset, created: datetime) -> list[Dataset]:
    """This node, as in the rejected documents. The scanner had no part in the note."""
    ours = deepcopy(_ours(source))
    for item in ours:
        item.ContributionDateTime = created.strftime("%Y%m%d%H%M%S%z")
        item.ContributionDescription = "Withdrawal of documents"
    return ours


def _ours(source: Dataset) -> list[Dataset]:
    def purpose(item: Dataset) -> str:
        return str(item.PurposeOfReferenceCodeSequence[0].CodeValue)

    equipment = source.get("ContributingEquipmentSequence") or []
    return [item for item in equipment if purpose(item) == codes.PROCESSING_EQUIPMENT.value]


def _evidence(study_uid: str, rejected: Sequence[Document]) -> Dataset:
    """The rejected documents by series; archives take what is rejected from here."""
    study = Dataset()
    study.StudyInstanceUID = study_uid
    by_series: dict[str, list[Dataset]] = {}
    for document in rejected:
        by_series.setdefault(document.series_instance_uid, []).append(tree.reference(_ref(document)))
    study.ReferencedSeriesSequence = Items()
    for uid, references in by_series.items():
        series = Dataset()
        series.SeriesInstanceUID = uid
        series.ReferencedSOPSequence = Items(references)
        study.ReferencedSeriesSequence.append(series)
    return study


def _content(source: Dataset, rejected: Sequence[Document], why: str) -> list[Encoded]:
    """TID 2010 below its root, in the order of its rows."""
    return [
        tree.code(MODIFIER, codes.LANGUAGE, codes.ENGLISH),
        tree.code(CONTEXT, codes.OBSERVER_TYPE, codes.DEVICE),
        *_observer(source),
        tree.text(CONTAINS, codes.KEY_OBJECT_DESCRIPTION, why),
        *map(_selected, rejected),
    ]


def _observer(source: Dataset) -> list[Encoded]:
    """TID 1004, in agreement with the equipment."""
    uids = [item.DeviceUID for item in _ours(source) if "DeviceUID" in item]
    texts = (
        (codes.DEVICE_NAME, "StationName"),
        (codes.DEVICE_MANUFACTURER, "Manufacturer"),
        (codes.DEVICE_MODEL, "ManufacturerModelName"),
        (codes.DEVICE_SERIAL, "DeviceSerialNumber"),
    )
    named = [tree.text(CONTEXT, code, text) for code, keyword in texts if (text := text_of(source, keyword))]
    return [*(tree.uidref(CONTEXT, codes.DEVICE_UID, uid) for uid in uids[:1]), *named]


def _selected(document: Document) -> Encoded:
    """A reference without a concept name: TID 2010 has no purpose of reference."""
    item = Dataset()
    item.RelationshipType = CONTAINS
    item.ValueType = "IMAGE" if document.kind in IMAGES else "COMPOSITE"
    item.ReferencedSOPSequence = Items([tree.reference(_ref(document))])
    return encoding.item(item)


def _ref(document: Document) -> SliceRef:
    return SliceRef(document.series_instance_uid, document.sop_class_uid, document.sop_instance_uid, None)


def _printable(text: str) -> str:
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())
