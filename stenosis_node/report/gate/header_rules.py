"""Rules on headers and on the set of documents as a whole."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from pydicom.dataset import Dataset
from pydicom.uid import (
    Comprehensive3DSRStorage,
    ComprehensiveSRStorage,
    EnhancedSRStorage,
    ExplicitVRLittleEndian,
    GrayscaleSoftcopyPresentationStateStorage,
    SecondaryCaptureImageStorage,
)

from stenosis_node.domain import (
    BundleStatus,
    CordSlice,
    Document,
    DocumentKind,
    GradedSlice,
    NotGradable,
)
from stenosis_node.report import codes, wording
from stenosis_node.report.gate.evidence import Evidence, Fault, Opened, Place
from stenosis_node.report.gate.presentation_rules import texts_of
from stenosis_node.report.wanted import Wanted

REPORT_CLASSES = (Comprehensive3DSRStorage, ComprehensiveSRStorage, EnhancedSRStorage)
CLASSES = {
    DocumentKind.SR: REPORT_CLASSES,
    DocumentKind.SC: (SecondaryCaptureImageStorage,),
    DocumentKind.SC_OVERVIEW: (SecondaryCaptureImageStorage,),
    DocumentKind.GSPS: (GrayscaleSoftcopyPresentationStateStorage,),
}
LEVEL_NAME = re.compile(r"\b([TL]\d{1,2}\s*[-/]\s*([LS]?\d)|L[1-5]\b|S1\b)")


def set_faults(
    documents: Sequence[Document], opened: Sequence[Opened], evidence: Evidence, wanted: Wanted
) -> Iterator[Fault]:
    """Order, number and names of the documents."""
    kinds = [d.kind for d in documents]
    if not kinds or kinds[0] is not DocumentKind.SC_OVERVIEW or kinds[-1] is not DocumentKind.SR:
        yield Fault("order", "the overview comes first and the SR last, after everything it stands for")
    if kinds.count(DocumentKind.SR) != 1 or kinds.count(DocumentKind.SC_OVERVIEW) != 1:
        yield Fault("order", "a result has exactly one SR and one overview")
    uids = [o.document.sop_instance_uid for o in opened]
    if len(set(uids)) != len(uids):
        yield Fault("unique", "two documents have the same SOP Instance UID")
    taken = set(evidence.series_of) | {s.series_instance_uid for s in evidence.study.series}
    if taken & (set(uids) | {o.document.series_instance_uid for o in opened}):
        yield Fault("unique", "a document has a UID of the source")
    yield from _alternatives(opened)
    yield from _captures(documents, opened, evidence, wanted)


def _alternatives(opened: Sequence[Opened]) -> Iterator[Fault]:
    """What is proven of a report holds for its alternatives: nothing but class, UID and series is different."""
    primary = next((o for o in opened if o.is_report and not o.alternative), None)
    for other in (o for o in opened if o.alternative):
        if primary is None or primary.encoded != other.encoded or "ContentSequence" not in other.ds:
            yield Fault("alternative", f"{other.name} does not have the content of the report it stands in for")


def _captures(
    documents: Sequence[Document], opened: Sequence[Opened], evidence: Evidence, wanted: Wanted
) -> Iterator[Fault]:
    shown: dict[Place, Document] = {}
    for one in opened:
        if one.document.kind is DocumentKind.SC:
            for item in one.ds.get("SourceImageSequence") or ():
                frame = item.get("ReferencedFrameNumber")
                shown[(str(item.ReferencedSOPInstanceUID), int(frame) if frame else None)] = one.document
    drawable = {
        place
        for place, finding in evidence.findings.items()
        if isinstance(finding, GradedSlice | CordSlice | NotGradable) and evidence.slices[place].pixels is not None
    }
    key = {p for p in drawable if isinstance(evidence.findings[p], NotGradable)}
    key |= {p for p in drawable & set(shown) if shown[p].key and evidence.grade(p) is not None}  # which: see below
    expected = {"all": drawable, "key": key, "overview": set[Place]()}[wanted.captures]
    if set(shown) != expected or len(shown) != sum(d.kind is DocumentKind.SC for d in documents):
        yield Fault("captures", "not exactly one capture for each image with something to show that is wanted")
        return
    if wanted.captures == "overview":
        return
    for place, finding in evidence.findings.items():
        if isinstance(finding, NotGradable) and place in shown and not shown[place].key:
            yield Fault("key", f"the capture of {place[0]}, which is not gradable, is not marked as a key image")
    for places in evidence.slabs().values():
        worst = evidence.worst(places)
        keys = [p for p in places if p in shown and shown[p].key and evidence.grade(p) is not None]
        if worst is not None and [evidence.grade(p) for p in keys] != [worst]:
            yield Fault("key", "a slab has not exactly one graded key image, of its worst grade")


def header_faults(one: Opened, evidence: Evidence) -> Iterator[Fault]:
    """Rules for every document."""
    ds, document = one.ds, one.document
    meta = ds.file_meta
    stored = (str(ds.get("SOPInstanceUID")), str(ds.get("SOPClassUID")), str(ds.get("SeriesInstanceUID")))
    if (
        stored != (document.sop_instance_uid, document.sop_class_uid, document.series_instance_uid)
        or (
            str(meta.get("MediaStorageSOPInstanceUID")),
            str(meta.get("MediaStorageSOPClassUID")),
        )
        != stored[:2]
    ):
        yield Fault("identity", f"{one.name}: its UIDs are not the same in the file, its meta header and our records")
    if meta.get("TransferSyntaxUID") != ExplicitVRLittleEndian or document.transfer_syntax_uid != str(
        ExplicitVRLittleEndian
    ):
        yield Fault("identity", f"{one.name}: not in Explicit VR Little Endian")
    if ds.get("SOPClassUID") not in CLASSES.get(document.kind, ()):
        yield Fault("identity", f"{one.name}: unexpected SOP class {ds.get('SOPClassUID')}")
    yield from _patient(one, evidence)
    yield from _safety(one, evidence)
    yield from _equipment(one)


def _patient(one: Opened, evidence: Evidence) -> Iterator[Fault]:
    ds = one.ds
    if str(ds.get("StudyInstanceUID")) != evidence.study.study_instance_uid:
        yield Fault("study", f"{one.name}: Study Instance UID is not that of the images")
    if ds.get("SpecificCharacterSet") != "ISO_IR 192":
        yield Fault("patient", f"{one.name}: texts are not declared as UTF-8")
    for keyword in ("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyDate", "AccessionNumber"):
        if keyword not in ds:
            yield Fault("patient", f"{one.name}: Type 2 attribute {keyword} is missing")
    for keyword, readings in evidence.patient.items():
        if str(ds.get(keyword) or "") not in readings:
            yield Fault("patient", f"{one.name}: {keyword} is not the one of the images")


def _safety(one: Opened, evidence: Evidence) -> Iterator[Fault]:
    ds, status = one.ds, evidence.study.bundle.status
    description = str(ds.get("SeriesDescription") or "")
    if (status is BundleStatus.DEMONSTRATION) != description.startswith(wording.DEMO_SERIES):
        yield Fault("demonstration", f"{one.name}: Series Description does not fit a bundle of status {status}")
    said = [description, str(ds.get("ImageComments") or ""), *(i.text for i in one.root.walk())]
    said += [i.meaning for i in one.root.walk()]
    said += texts_of(ds)
    if any("probab" in text.lower() for text in said):
        yield Fault("network-score", f"{one.name}: a network score is called a probability")
    if any(LEVEL_NAME.search(text) for text in said):
        yield Fault("level-name", f"{one.name}: names a disc level, which axial images alone do not tell")
    if any(pattern.search(text) for pattern in _identifying(ds) for text in said):
        yield Fault("patient-text", f"{one.name}: the patient's name or ID stands outside its attribute")


def _identifying(ds: Dataset) -> Iterator[re.Pattern[str]]:
    """Name and ID as they must not stand in a text; those too short to be told from other words are left out."""
    for group in str(ds.get("PatientName") or "").split("="):
        parts = [re.escape(part) for part in re.split(r"[\^ ]+", group) if part]
        if len(parts) > 1 or len(group) > 5:
            yield re.compile(r"(?<!\w)" + r"[\^ ,]+".join(parts) + r"(?!\w)")
    number = str(ds.get("PatientID") or "")
    if len(number) > 4:
        yield re.compile(r"(?<![\w.])" + re.escape(number) + r"(?![\w.])")


def _equipment(one: Opened) -> Iterator[Fault]:
    """Every object names the algorithm in an item of its own (IHE AI Results 6.5.3.1)."""
    ds = one.ds
    ours = [
        item
        for item in ds.get("ContributingEquipmentSequence") or ()
        if any(
            c.get("CodeValue") == codes.PROCESSING_EQUIPMENT.value
            for c in item.get("PurposeOfReferenceCodeSequence") or ()
        )
    ]
    if len(ours) != 1:
        yield Fault("air", f"{one.name}: not exactly one Contributing Equipment item describes the algorithm")
        return
    item = ours[0]
    for keyword in ("Manufacturer", "ManufacturerModelName", "SoftwareVersions", "DeviceSerialNumber"):
        if not item.get(keyword) or item.get(keyword) != ds.get(keyword):
            yield Fault("air", f"{one.name}: {keyword} of Contributing Equipment and of the header differ")
    if item.get("ManufacturerModelName") != wording.ALGORITHM or not item.get("DeviceUID"):
        yield Fault("air", f"{one.name}: Contributing Equipment does not name the algorithm and the device")
