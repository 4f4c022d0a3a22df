"""Procedural phantoms of axial T2 lumbar MR with exact truth: sac, canal box, content and Schizas grade.

They prove that the machinery works and let a detector learn without a real pixel. They say nothing about accuracy on
patients. Geometry is in mm in a frame whose origin is the centre of the dural sac, +x towards image right (patient
left), +y towards the back (image down).
"""

from __future__ import annotations

GENERATOR_VERSION = "2"
"""Part of every recorded truth: the same seed gives the same phantom only within one version."""
