"""The table of codes, against pydicom's dictionaries, and the documents against the table."""

from __future__ import annotations

from collections.abc import Iterator
from io import BytesIO

import pydicom
from pydicom.dataset import Dataset
from pydicom.sr._concepts_dict import concepts

from stenosis_node.report import codes
from stenosis_node.report.codes import Code

from .conftest import Result
from .test_content import Study, rich  # noqa: F401  a fixture, hence F811 below

MEANINGS: dict[tuple[str, str], set[str]] = {}
for scheme, concepts_of in concepts.items():
    for values in concepts_of.values():
        for value, (meaning, *_) in values.items():
            MEANINGS.setdefault((scheme, value), set()).add(meaning)

# The dictionaries lack these; their sources are in the table.
UNKNOWN = {
    codes.ENGLISH,
    codes.QUALITATIVE,
    codes.PIXELS,
    codes.UNIT_VECTOR,
    codes.CONTENT_VALUE["rootlet"],
}


def table() -> list[Code]:
    found: list[Code] = []
    for entry in vars(codes).values():
        match entry:
            case Code():
                found.append(entry)
            case dict():
                found += [one for one in entry.values() if isinstance(one, Code)]
            case tuple():
                found += [one for one in entry if isinstance(one, Code)]
    return found


def coded_items(ds: Dataset) -> Iterator[tuple[str, str, str]]:
    for element in ds:
        if element.VR != "SQ":
            continue
        for item in element.value:
            if "CodeValue" in item:
                yield item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning
            yield from coded_items(item)


def test_standard_codes_mean_what_the_standard_says() -> None:
    for code in table():
        if code.scheme == codes.PRIVATE_SCHEME or code in UNKNOWN:
            assert (code.scheme, code.value) not in MEANINGS
            continue
        known = MEANINGS[code.scheme, code.value]
        full = f"{code.meaning} structure (body structure)"
        assert known & {code.meaning, full, f"{code.meaning} (attribute)"}, f"{code} is {known}"


def test_every_code_has_its_source_and_fits_its_attributes() -> None:
    for code in table():
        assert code.source, code
        assert len(code.value) <= 16, code
        assert len(code.scheme) <= 16, code
        assert len(code.meaning) <= 64, code


def test_a_code_stands_for_one_thing() -> None:
    by_value: dict[tuple[str, str], set[str]] = {}
    for code in table():
        by_value.setdefault((code.scheme, code.value), set()).add(code.meaning)
    assert [key for key, meanings in by_value.items() if len(meanings) > 1] == []


def test_documents_use_no_other_code_in_header_or_content(good: Result, rich: Study) -> None:  # noqa: F811
    known = {(code.value, code.scheme, code.meaning) for code in table()}
    for document in (*good.documents, *rich.documents):
        ds = pydicom.dcmread(BytesIO(document.content))
        assert set(coded_items(ds)) - known == set(), document.kind
