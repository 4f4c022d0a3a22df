"""Every code a document uses, once, with where it comes from.

Standard schemes: DCM (PS3.16 annex D), SCT (SNOMED CT), LN (LOINC), UCUM, UMLS, RFC5646. No standard code exists for
the Schizas grade; those concepts live in the private scheme ``99LSSG``, which each document declares in its Coding
Scheme Identification Sequence. A private code value never changes its meaning; a new meaning gets a new value.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from stenosis_node.domain import Content, Grade


class Code(NamedTuple):
    """A coded concept and the place that defines it."""

    value: str
    scheme: str
    meaning: str
    source: str = ""


PRIVATE_SCHEME: Final = "99LSSG"
PRIVATE_SCHEME_NAME: Final = "Lumbar spinal stenosis grading, private codes of stenosis-node"


def _dcm(value: str, meaning: str, source: str) -> Code:
    return Code(value, "DCM", meaning, source)


def _private(value: str, meaning: str) -> Code:
    return Code(value, PRIVATE_SCHEME, meaning, "this table")


# --------------------------------------------------------------------------- document structure
REPORT: Final = _dcm("126000", "Imaging Measurement Report", "CID 7021")
LANGUAGE: Final = _dcm("121049", "Language of Content Item and Descendants", "TID 1204")
ENGLISH: Final = Code("en-US", "RFC5646", "English (United States)", "CID 5000")
OBSERVER_TYPE: Final = _dcm("121005", "Observer Type", "TID 1002")
DEVICE: Final = _dcm("121007", "Device", "CID 270")
DEVICE_UID: Final = _dcm("121012", "Device Observer UID", "TID 1004")
DEVICE_NAME: Final = _dcm("121013", "Device Observer Name", "TID 1004")
DEVICE_MANUFACTURER: Final = _dcm("121014", "Device Observer Manufacturer", "TID 1004")
DEVICE_MODEL: Final = _dcm("121015", "Device Observer Model Name", "TID 1004")
DEVICE_SERIAL: Final = _dcm("121016", "Device Observer Serial Number", "TID 1004")
PROCEDURE_REPORTED: Final = _dcm("121058", "Procedure reported", "TID 1500")
MRI: Final = Code("25056-3", "LN", "MRI unspecified body region", "CID 100")
SUMMARY: Final = _dcm("121111", "Summary", "CID 7002")
COMMENT: Final = _dcm("121106", "Comment", "TID 1001 and many")
IMAGE_LIBRARY: Final = _dcm("111028", "Image Library", "TID 1600")
IMAGE_LIBRARY_GROUP: Final = _dcm("126200", "Image Library Group", "TID 1600")
MEASUREMENTS: Final = _dcm("126010", "Imaging Measurements", "TID 1500")
GROUP: Final = _dcm("125007", "Measurement Group", "TID 1410")
QUALITATIVE: Final = Code("C0034375", "UMLS", "Qualitative Evaluations", "TID 1500")

# --------------------------------------------------------------------------- image library (TID 1602, 1604)
MODALITY: Final = _dcm("121139", "Modality", "TID 1602")
MR: Final = _dcm("MR", "Magnetic Resonance", "CID 29")
FRAME_OF_REFERENCE: Final = _dcm("112227", "Frame of Reference UID", "TID 1602")
ROWS: Final = _dcm("110910", "Pixel Data Rows", "TID 1602")
COLUMNS: Final = _dcm("110911", "Pixel Data Columns", "TID 1602")
HORIZONTAL_SPACING: Final = _dcm("111026", "Horizontal Pixel Spacing", "TID 1604")
VERTICAL_SPACING: Final = _dcm("111066", "Vertical Pixel Spacing", "TID 1604")
SLICE_THICKNESS: Final = _dcm("112225", "Slice Thickness", "TID 1604")
SPACING_BETWEEN_SLICES: Final = _dcm("112226", "Spacing between slices", "TID 1604")
POSITION: Final = tuple(
    _dcm(str(110901 + i), f"Image Position (Patient) {axis}", "TID 1604") for i, axis in enumerate("XYZ")
)
ORIENTATION: Final = tuple(
    _dcm(str(110904 + i), f"Image Orientation (Patient) {line} {axis}", "TID 1604")
    for i, (line, axis) in enumerate((line, axis) for line in ("Row", "Column") for axis in "XYZ")
)

# --------------------------------------------------------------------------- measurement groups (TID 1410)
TRACKING_ID: Final = _dcm("112039", "Tracking Identifier", "TID 1410")
TRACKING_UID: Final = _dcm("112040", "Tracking Unique Identifier", "TID 1410")
FINDING: Final = _dcm("121071", "Finding", "TID 1410")
SPINAL_CANAL: Final = Code("61853006", "SCT", "Spinal canal", "SNOMED CT body structure; CID 4")
FINDING_SITE: Final = Code("363698007", "SCT", "Finding Site", "TID 1410")
LUMBAR_SPINE: Final = Code("122496007", "SCT", "Lumbar spine", "CID 4")
ALGORITHM_NAME: Final = _dcm("111001", "Algorithm Name", "TID 4019")
ALGORITHM_VERSION: Final = _dcm("111003", "Algorithm Version", "TID 4019")
IMAGE_REGION: Final = _dcm("111030", "Image Region", "TID 1410")
SOURCE: Final = Code("260753009", "SCT", "Source", "CID 1602 usage of TID 1410")

# --------------------------------------------------------------------------- our concepts
CANAL_SCORE: Final = _private("S-CANAL", "Network score of spinal canal location")
CONTENT_SCORE: Final = _private("S-CONTENT", "Network score of canal content")
GRADE_SCORE: Final = {g: _private(f"S-SCHIZAS-{g}", f"Network score of Schizas grade {g}") for g in Grade}
CONTENT: Final = _private("CANAL-CONTENT", "Neural content of spinal canal")
CONTENT_VALUE: Final = {
    Content.ROOTLET: Code("7173007", "SCT", "Cauda equina", "SNOMED CT body structure, HL7 body-site map"),
    Content.CORD: Code("2748008", "SCT", "Spinal cord", "SNOMED CT body structure; CID 4"),
}
SCHIZAS: Final = _private("SCHIZAS", "Schizas grade of lumbar spinal stenosis")
SCHIZAS_WORST: Final = _private("SCHIZAS-WORST", "Worst Schizas grade of slab")
SCHIZAS_OVERALL: Final = _private("SCHIZAS-OVERALL", "Worst Schizas grade of examination")
SCHIZAS_VALUE: Final = {g: _private(f"SCHIZAS-{g}", f"Schizas grade {g}") for g in Grade}
NOT_GRADED: Final = _private("NOT-GRADED", "Not graded, which does not exclude stenosis")
AGREEMENT: Final = _private("NEIGHBOURS", "Agreement with neighbouring images")
ISOLATED: Final = _private("ISOLATED", "Isolated slice, both neighbours in the slab are grade A")
OUTCOME: Final = _private("OUTCOME", "Grading outcome of image")
OUTCOME_VALUE: Final = {
    "graded": _private("O-GRADED", "Graded"),
    "cord": _private("O-CORD", "Spinal cord in canal, Schizas grades do not apply"),
    "not_gradable": _private("O-NOT-GRADABLE", "Not gradable, which does not exclude stenosis"),
    "canal_not_found": _private("O-NO-CANAL", "Spinal canal not found, which does not exclude stenosis"),
    "unreadable": _private("O-UNREADABLE", "Image could not be read, which does not exclude stenosis"),
}
SERIES_NOT_GRADED: Final = _private("O-SERIES", "Series not graded, which does not exclude stenosis")
"""Outcome of all images of an axial T2 series that is not fit for grading."""
SLAB_RESULT: Final = _private("SLAB-RESULT", "Result of slab")
RULE: Final = _private("RULE", "Aggregation rule")
READERS: Final = _private("READERS", "Agreement with readers")
WARNING: Final = _private("WARNING", "Warning")
OTHER_SERIES: Final = _private("OTHER-SERIES", "Other series of the study")
SLAB_POSITIONS: Final = _private("SLAB-POSITIONS", "Place of the slabs")

# --------------------------------------------------------------------------- rejection notes (TID 2010)
REJECTED_FOR_SAFETY: Final = _dcm("113037", "Rejected for Patient Safety Reasons", "CID 7010")
KEY_OBJECT_DESCRIPTION: Final = _dcm("113012", "Key Object Description", "TID 2010")

# --------------------------------------------------------------------------- units
PERCENT: Final = Code("%", "UCUM", "Percent", "CID 7181")
MILLIMETRE: Final = Code("mm", "UCUM", "mm", "CID 7181")
PIXELS: Final = Code("{pixels}", "UCUM", "Pixels", "TID 1602")
UNIT_VECTOR: Final = Code("{-1:1}", "UCUM", "{-1:1}", "TID 1604")

# --------------------------------------------------------------------------- headers
PROCESSING_EQUIPMENT: Final = _dcm("109102", "Processing Equipment", "CID 7005; IHE AI Results 6.5.3.1")
ACQUISITION_EQUIPMENT: Final = _dcm("109101", "Acquisition Equipment", "CID 7005")
RESAMPLED: Final = _dcm("113085", "Spatial resampling", "CID 7203")
SOURCE_IMAGE: Final = _dcm("121322", "Source image for image processing operation", "CID 7202")
