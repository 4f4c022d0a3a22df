"""Our documents element by element: what an upgrade of highdicom or pydicom would change is seen as a difference.

A change that is meant: STENOSIS_TEST_GOLDEN=write pytest tests/unit/report/test_golden.py, and read the difference.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pydicom
import pytest
from pydicom.dataset import Dataset

from stenosis_node.domain import Document
from stenosis_node.report import check, compose, readback

from . import mr_study

GOLDEN = Path(__file__).with_name("golden")
NAMES = ("overview", "capture", "presentation-state", "report")


@pytest.fixture(scope="module")
def documents(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Document]:
    """Of two slabs with a cord, a grade, nothing located and a slice that abstains; with a sagittal slice."""
    folder = tmp_path_factory.mktemp("golden")
    series, sagittal = mr_study.classic(folder, (2, 2)), mr_study.sagittal(folder)
    found = mr_study.findings(series, "cD-?")
    made = compose(found, [series], mr_study.context(found), sagittal)
    check(made, found, [series], sagittal)
    return dict(zip(NAMES, (*made[:2], *made[-2:]), strict=True))


@pytest.mark.parametrize("name", NAMES)
def test_every_element_is_as_it_was(documents: dict[str, Document], name: str) -> None:
    ds = readback.read(documents[name])
    text = "\n".join(_lines(ds.file_meta, {}, 0)) + "\n\n" + "\n".join(_lines(ds, {}, 0)) + "\n"
    file = GOLDEN / f"{name}.txt"
    if os.environ.get("STENOSIS_TEST_GOLDEN") == "write":
        file.write_text(text, encoding="utf-8")
    assert text == file.read_text(encoding="utf-8")


def _lines(ds: Dataset, uids: dict[str, int], depth: int) -> Iterator[str]:
    """Codes on one line each; our UIDs as numbers, for they change with every word; pixels as their length."""
    for element in ds:
        lead = f"{'  ' * depth}{element.keyword} {element.VR}"
        if element.VR != "SQ":
            yield f"{lead} {_value(element, uids)}"
            continue
        yield lead
        for item in element.value:
            if "CodeValue" in item and len(item) == 3:
                yield f"{'  ' * depth}  ({item.CodeValue}, {item.CodingSchemeDesignator}, {item.CodeMeaning})"
            else:
                yield f"{'  ' * depth}  -"
                yield from _lines(item, uids, depth + 1)


def _value(element: pydicom.DataElement, uids: dict[str, int]) -> str:
    value: Any = element.value
    if element.keyword in ("ImplementationVersionName", "FileMetaInformationGroupLength"):
        return "..."
    if isinstance(value, bytes):
        return f"{len(value)} bytes"
    if element.VR == "UI" and str(value).startswith("2.25."):
        return f"uid {uids.setdefault(str(value), len(uids) + 1)}"
    return str(value).replace("\r", "\\r").replace("\n", "\\n")
