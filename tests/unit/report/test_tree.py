"""Content items put together from parts are those that highdicom makes whole."""

from __future__ import annotations

import pytest
from highdicom import sr
from pydicom.dataset import Dataset

from stenosis_node.domain import SliceRef
from stenosis_node.report import codes, encoding, tree
from stenosis_node.report.codes import Code


def concept(code: Code) -> sr.CodedConcept:
    return sr.CodedConcept(code.value, code.scheme, code.meaning)


NAME = concept(codes.COMMENT)


@pytest.mark.parametrize("value", [0.0, 100.0, 83.33, -0.70710678, 1.5e-05, -123.4567891234, 1 / 3, 512])
def test_a_number(value: float) -> None:
    number = float(f"{value:.8g}")
    whole = sr.NumContentItem(NAME, number, concept(codes.PERCENT), relationship_type="CONTAINS")
    assert tree.num(tree.CONTAINS, codes.COMMENT, value, codes.PERCENT) == encoding.item(whole)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_no_number_is_refused(value: float) -> None:
    with pytest.raises((ValueError, OverflowError)):
        tree.num(tree.CONTAINS, codes.COMMENT, value, codes.PERCENT)


@pytest.mark.parametrize("value", ["a", "ab", "", "Größe 5 µm", "홍길동", "line\r\nline", "back\\slash", "x" * 70_000])
def test_a_text(value: str) -> None:
    whole = sr.TextContentItem(NAME, value, "CONTAINS")
    assert tree.text(tree.CONTAINS, codes.COMMENT, value) == encoding.item(whole)


@pytest.mark.parametrize("value", ["1.2", "1.2.3", "2.25." + "1" * 59])
def test_a_uid(value: str) -> None:
    whole = sr.UIDRefContentItem(NAME, value, "HAS OBS CONTEXT")
    assert tree.uidref(tree.CONTEXT, codes.COMMENT, value) == encoding.item(whole)


@pytest.mark.parametrize("frame", [None, 1, 300])
@pytest.mark.parametrize("children", [0, 2])
def test_a_reference(frame: int | None, children: int) -> None:
    sop_class = "1.2.840.10008.5.1.4.1.1.4.1" if frame else "1.2.840.10008.5.1.4.1.1.4"
    whole: Dataset = sr.ImageContentItem(NAME, sop_class, "1.2.3.4", frame, relationship_type="SELECTED FROM")
    if children:
        whole.ContentSequence = [sr.TextContentItem(NAME, "below", "CONTAINS") for _ in range(children)]
    below = [tree.text(tree.CONTAINS, codes.COMMENT, "below")] * children
    ref = SliceRef("1.2", sop_class, "1.2.3.4", frame)
    assert tree.image("SELECTED FROM", codes.COMMENT, ref, below) == encoding.item(whole)
