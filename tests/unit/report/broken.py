"""Breaking one thing in a good document."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from io import BytesIO

import pydicom
from pydicom.dataset import Dataset

from stenosis_node.domain import Document, DocumentKind
from stenosis_node.report import codes
from stenosis_node.report.codes import Code

Edit = Callable[[Dataset], None]


def rewritten(document: Document, edit: Edit) -> Document:
    ds = pydicom.dcmread(BytesIO(document.content))
    edit(ds)
    buffer = BytesIO()
    ds.save_as(buffer, enforce_file_format=True)
    alternatives = tuple(same_content(other, buffer.getvalue()) for other in document.alternatives)
    return replace(document, content=buffer.getvalue(), alternatives=alternatives)


def same_content(alternative: Document, content: bytes) -> Document:
    """An alternative broken in the same way, so that only the rule in question is."""
    ds = pydicom.dcmread(BytesIO(content))
    ds.SOPClassUID = ds.file_meta.MediaStorageSOPClassUID = alternative.sop_class_uid
    ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = alternative.sop_instance_uid
    ds.SeriesInstanceUID = alternative.series_instance_uid
    buffer = BytesIO()
    ds.save_as(buffer, enforce_file_format=True)
    return replace(alternative, content=buffer.getvalue())


def with_report(documents: Sequence[Document], edit: Edit) -> tuple[Document, ...]:
    return tuple(rewritten(d, edit) if d.kind is DocumentKind.SR else d for d in documents)


def with_capture(documents: Sequence[Document], edit: Edit, index: int = 3) -> tuple[Document, ...]:
    return tuple(rewritten(d, edit) if i == index else d for i, d in enumerate(documents))


def named(parent: Dataset, name: Code) -> list[Dataset]:
    return [i for i in parent.ContentSequence if i.ConceptNameCodeSequence[0].CodeValue == name.value]


def one(parent: Dataset, name: Code) -> Dataset:
    return named(parent, name)[0]


def qualitative(ds: Dataset) -> Dataset:
    return one(ds, codes.QUALITATIVE)
