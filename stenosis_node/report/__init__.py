"""Findings become documents: one Structured Report and Secondary Captures per study, proven before they leave."""

from stenosis_node.report.compose import compose
from stenosis_node.report.delivered import Delivered, Found, find_results
from stenosis_node.report.gate import check, check_rejection_note
from stenosis_node.report.html import capture_png, render_delivered, render_html
from stenosis_node.report.identity import Predecessor, ReportContext, content_key
from stenosis_node.report.rejection import rejection_note, rejection_note_key
from stenosis_node.report.text import render_text
from stenosis_node.report.view import SCHEMA, SCHEMA_VERSION, as_json
from stenosis_node.report.wanted import Wanted

__all__ = [
    "SCHEMA",
    "SCHEMA_VERSION",
    "Delivered",
    "Found",
    "Predecessor",
    "ReportContext",
    "Wanted",
    "as_json",
    "capture_png",
    "check",
    "check_rejection_note",
    "compose",
    "content_key",
    "find_results",
    "rejection_note",
    "rejection_note_key",
    "render_delivered",
    "render_html",
    "render_text",
]
