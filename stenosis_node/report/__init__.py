"""Findings become documents: one Structured Report and Secondary Captures per study, proven before they leave."""

from stenosis_node.report.compose import compose
from stenosis_node.report.gate import check
from stenosis_node.report.html import capture_png, render_html
from stenosis_node.report.identity import Predecessor, ReportContext, content_key
from stenosis_node.report.rejection import rejection_note, rejection_note_key

__all__ = [
    "Predecessor",
    "ReportContext",
    "capture_png",
    "check",
    "compose",
    "content_key",
    "rejection_note",
    "rejection_note_key",
    "render_html",
]
