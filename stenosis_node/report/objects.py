"""What all objects we make have in common: headers, equipment, bytes."""

from __future__ import annotations

from io import BytesIO

from pydicom import dcmwrite
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence as Items
from pydicom.uid import UID, ExplicitVRLittleEndian

from stenosis_node.domain import (
    IMPLEMENTATION_CLASS_UID,
    IMPLEMENTATION_VERSION_NAME,
    BundleStatus,
    StudyFindings,
)
from stenosis_node.report import codes, identity, wording
from stenosis_node.report.identity import ReportContext
from stenosis_node.report.source import StudyHeader
from stenosis_node.report.tree import coded

TRANSFER_SYNTAX = str(ExplicitVRLittleEndian)


def new_object(
    study: StudyHeader, findings: StudyFindings, context: ReportContext, *, kind: str, series: str, number: int
) -> Dataset:
    """A data set with patient, study, series, equipment and SOP common attributes; class and UID come later.

    kind    what the Series Description says
    series  Series Instance UID
    number  Series Number
    """
    status = findings.bundle.status
    supersedes = max((p.revision for p in context.predecessors), default=None)
    version = identity.algorithm_version(findings)
    ds = Dataset()
    ds.SpecificCharacterSet = "ISO_IR 192"
    study.apply(ds)
    ds.InstanceCreationDate = ds.ContentDate = ds.SeriesDate = context.date
    ds.InstanceCreationTime = ds.ContentTime = ds.SeriesTime = context.time
    ds.SeriesInstanceUID = series
    ds.SeriesNumber = number
    ds.SeriesDescription = wording.series_description(kind, status, context.revision, supersedes)
    ds.Manufacturer = context.settings.manufacturer
    ds.ManufacturerModelName = wording.ALGORITHM
    ds.DeviceSerialNumber = context.settings.device_serial_number
    ds.StationName = context.settings.station_name[:16]
    ds.SoftwareVersions = version
    ds.ContributingEquipmentSequence = Items([_ourselves(findings, context, version), _scanner(study)])
    return ds


def _ourselves(findings: StudyFindings, context: ReportContext, version: str) -> Dataset:
    item = Dataset()
    item.PurposeOfReferenceCodeSequence = Items([coded(codes.PROCESSING_EQUIPMENT)])
    item.Manufacturer = context.settings.manufacturer
    item.StationName = context.settings.station_name[:16]
    item.ManufacturerModelName = wording.ALGORITHM
    item.DeviceSerialNumber = context.settings.device_serial_number
    item.SoftwareVersions = version
    item.DeviceUID = context.device_uid
    item.ContributionDateTime = context.created.strftime("%Y%m%d%H%M%S%z")
    item.ContributionDescription = identity.contribution(findings)
    return item


def _scanner(study: StudyHeader) -> Dataset:
    item = Dataset()
    item.PurposeOfReferenceCodeSequence = Items([coded(codes.ACQUISITION_EQUIPMENT)])
    item.Manufacturer = study.acquisition["Manufacturer"] or "unknown"
    for keyword, value in study.acquisition.items():
        if value:
            setattr(item, keyword, value)
    item.ContributionDescription = "Acquisition equipment of the source images"
    return item


def is_preliminary(status: BundleStatus) -> bool:
    """Whether the SR must say PRELIMINARY."""
    return status is BundleStatus.DEMONSTRATION


def to_bytes(ds: Dataset, sop_class_uid: str, sop_instance_uid: str) -> bytes:
    """The Part 10 file of an object, after giving it its class and UID."""
    ds.SOPClassUID, ds.SOPInstanceUID = sop_class_uid, sop_instance_uid
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = UID(sop_class_uid)
    meta.MediaStorageSOPInstanceUID = UID(sop_instance_uid)
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.ImplementationClassUID = UID(IMPLEMENTATION_CLASS_UID)
    meta.ImplementationVersionName = IMPLEMENTATION_VERSION_NAME
    ds.file_meta = meta
    buffer = BytesIO()
    dcmwrite(buffer, ds, enforce_file_format=True)
    return buffer.getvalue()
