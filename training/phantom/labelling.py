"""The truth of phantom studies as rows of the label manifest: one per slice for the truth and for each reader."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Any

from stenosis_node.domain import Grade, PixelBox
from training.labels.rows import TRUTH, BoxSource, LabelRow, Region


def label_rows(truth: dict[str, Any], folder: str) -> Iterator[LabelRow]:
    """Rows of one study from what :func:`training.phantom.study.write_study` returns.

    ``folder`` is that of the study, relative to the manifest's.
    """
    key = f"phantom-{truth['generator_version']}-{truth['seed']}-{truth['index']}"
    for s in truth["axial_t2"]["slices"]:
        sayings = {TRUTH: {name: s[name] for name in ("content", "grade", "box")}} | s["readings"]
        flags = [name for name in ("ambiguous", "fat-suppressed") if s[name.replace("-", "_")]]
        flags += [code for code in (s["other_reason"], s["lookalike"]) if code]
        for reader, said in sayings.items():
            yield LabelRow(
                study_uid=truth["study_instance_uid"],
                series_uid=truth["axial_t2"]["series_instance_uid"],
                sop_uid=s["sop_instance_uid"],
                path=str(PurePosixPath(folder) / s["path"]),
                patient_key=key,
                z_mm=s["z_mm"],
                level=s["level"] or "",
                box=PixelBox(*said["box"]) if said["box"] else None,
                box_source=BoxSource.PHANTOM if said["box"] else None,
                region=Region(said["content"]),
                grade=Grade(said["grade"]) if said["grade"] else None,
                reader=reader,
                vendor=truth["vendor"],
                fov_mm=truth["fov_mm"],
                dsca_mm2=s["sac_area_mm2"],
                flags=tuple(flags),
            )
