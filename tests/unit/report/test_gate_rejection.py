"""A broken variant of every rule on rejection notes."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from pydicom.dataset import Dataset

from stenosis_node.config import Report
from stenosis_node.domain import Document
from stenosis_node.errors import PermanentError
from stenosis_node.report import gate, rejection_note
from stenosis_node.report.gate import check_rejection_note
from stenosis_node.report.gate.rejection_rules import rejection_faults

from . import mr_study
from .broken import Edit, rewritten
from .conftest import Result


@pytest.fixture(scope="module")
def rejected(good: Result) -> list[Document]:
    return [good.documents[0], good.documents[-1]]


@pytest.fixture(scope="module")
def note(rejected: list[Document]) -> Document:
    return rejection_note(rejected, why="The bundle is recalled", created=mr_study.CREATED, settings=Report())


def content(ds: Dataset, kind: str) -> list[Dataset]:
    return [item for item in ds.ContentSequence if item.ValueType == kind]


def drop_selected(ds: Dataset) -> None:
    ds.ContentSequence.remove(content(ds, "COMPOSITE")[0])


def drop_evidence(ds: Dataset) -> None:
    ds.CurrentRequestedProcedureEvidenceSequence[0].ReferencedSeriesSequence.pop()


FAULTS: list[tuple[str, Edit]] = [
    ("note-identity", lambda ds: setattr(ds, "SeriesInstanceUID", "1.2.3")),
    ("note-title", lambda ds: setattr(ds.ConceptNameCodeSequence[0], "CodeValue", "113001")),
    ("note-title", lambda ds: setattr(ds.ContentTemplateSequence[0], "TemplateIdentifier", "1500")),
    ("note-reason", lambda ds: ds.ContentSequence.remove(content(ds, "TEXT")[-1])),
    ("note-selection", drop_selected),
    ("note-evidence", drop_evidence),
    ("note-patient", lambda ds: setattr(ds, "PatientID", "SOMEBODY ELSE")),
    ("note-patient", lambda ds: setattr(ds, "StudyInstanceUID", "1.2.3")),
    ("demonstration", lambda ds: setattr(ds, "SeriesDescription", "AI stenosis results withdrawn")),
]


@pytest.mark.parametrize(("rule", "edit"), FAULTS, ids=[f"{i}-{r}" for i, (r, _) in enumerate(FAULTS)])
def test_broken_note(note: Document, rejected: list[Document], rule: str, edit: Edit) -> None:
    assert {fault.rule for fault in rejection_faults(rewritten(note, edit), rejected)} == {rule}


def test_a_good_note_passes_and_one_for_other_documents_does_not(note: Document, rejected: list[Document]) -> None:
    check_rejection_note(note, rejected)
    with pytest.raises(PermanentError, match=r"broke 2 rules(?s:.*)note-selection(?s:.*)note-evidence"):
        check_rejection_note(note, rejected[:1])


def test_every_rule_has_a_broken_variant() -> None:
    text = (Path(gate.__file__).parent / "rejection_rules.py").read_text(encoding="utf-8")
    assert set(re.findall(r'Fault\("([a-z-]+)"', text)) - {"readable"} == {rule for rule, _ in FAULTS}
