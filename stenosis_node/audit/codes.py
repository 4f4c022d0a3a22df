"""The coded values of audit messages (PS3.16 CID 400 to 405, and RFC 3881 where DICOM keeps its values)."""

from __future__ import annotations

from typing import Final, NamedTuple


class Code(NamedTuple):
    """A coded value; in the message ``csd-code``, ``codeSystemName`` and ``originalText``."""

    value: str
    scheme: str
    meaning: str


def _dcm(value: str, meaning: str) -> Code:
    return Code(value, "DCM", meaning)


# CID 400: what happened
APPLICATION_ACTIVITY: Final = _dcm("110100", "Application Activity")
AUDIT_LOG_USED: Final = _dcm("110101", "Audit Log Used")
BEGIN_TRANSFERRING: Final = _dcm("110102", "Begin Transferring DICOM Instances")
INSTANCES_ACCESSED: Final = _dcm("110103", "DICOM Instances Accessed")
INSTANCES_TRANSFERRED: Final = _dcm("110104", "DICOM Instances Transferred")
STUDY_DELETED: Final = _dcm("110105", "DICOM Study Deleted")
EXPORT: Final = _dcm("110106", "Export")
QUERY: Final = _dcm("110112", "Query")
SECURITY_ALERT: Final = _dcm("110113", "Security Alert")

# CID 401: which kind of it
APPLICATION_START: Final = _dcm("110120", "Application Start")
APPLICATION_STOP: Final = _dcm("110121", "Application Stop")
NODE_AUTHENTICATION: Final = _dcm("110126", "Node Authentication")
NETWORK_CONFIGURATION: Final = _dcm("110128", "Network Configuration")
SECURITY_CONFIGURATION: Final = _dcm("110129", "Security Configuration")
SOFTWARE_CONFIGURATION: Final = _dcm("110131", "Software Configuration")
RESTRICTED_FUNCTION: Final = _dcm("110132", "Use of Restricted Function")
RECORDING_STOPPED: Final = _dcm("110133", "Audit Recording Stopped")

# CID 402: the part a participant plays
APPLICATION: Final = _dcm("110150", "Application")
LAUNCHER: Final = _dcm("110151", "Application Launcher")
DESTINATION: Final = _dcm("110152", "Destination Role ID")
SOURCE: Final = _dcm("110153", "Source Role ID")
DESTINATION_MEDIA: Final = _dcm("110154", "Destination Media")

# CID 405: media
URI_MEDIA: Final = _dcm("110037", "URI")

# what the identifier of an object is
STUDY_UID: Final = _dcm("110180", "Study Instance UID")
SOP_CLASS_UID: Final = _dcm("110181", "SOP Class UID")
NODE_ID: Final = _dcm("110182", "Node ID")
PATIENT_NUMBER: Final = Code("2", "RFC-3881", "Patient Number")
URI: Final = Code("12", "RFC-3881", "URI")
BUNDLE_DIGEST: Final = Code("bundle-digest", "99STENOSISNODE", "SHA-256 of the manifest of a weights bundle")
