"""Which series of a study are axial T2 of the lumbar spine, and why; and from their files to slices with pixels."""

from stenosis_node.series.files import find_files
from stenosis_node.series.headers import Scan, SeriesHeaders, SliceHeader, UnreadableFile, scan
from stenosis_node.series.reading import read
from stenosis_node.series.rules import choose
from stenosis_node.series.sagittal import NO_LOCATOR, find_sagittal, read_sagittal
from stenosis_node.series.wording import GAPS, HINDRANCE

__all__ = [
    "GAPS",
    "HINDRANCE",
    "NO_LOCATOR",
    "Scan",
    "SeriesHeaders",
    "SliceHeader",
    "UnreadableFile",
    "choose",
    "find_files",
    "find_sagittal",
    "read",
    "read_sagittal",
    "scan",
]
