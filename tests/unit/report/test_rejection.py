"""The note that withdraws documents: what it says, and what independent programs say of it."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path

import pytest
from pydicom import Dataset, dcmread

from stenosis_node.config import Peer, Report
from stenosis_node.deliver import send
from stenosis_node.domain import Document, DocumentKind
from stenosis_node.report import rejection_note, rejection_note_key
from tests.conftest import require_tool
from tests.unit.dicom_peers import orthanc, rest

from .conftest import Result
from .test_validators import DCENTVFY_ALLOWED, JARS, run

WHY = "Recalled: the bundle grades mirrored images"
CREATED = datetime(2026, 2, 3, 4, 5, 6, tzinfo=UTC)
DCIODVFY_ALLOWED = (
    re.compile(r"^KeyObjectSelectionDocument$"),
    # asked for by IHE AI Results 6.5.3.1, in the standard since 2021
    re.compile(r"^Warning - </Contr\S+/DeviceUID\(0018,1002\)> - Attribute is not present in standard DICOM IOD$"),
)


@pytest.fixture(scope="module")
def rejected(good: Result) -> tuple[Document, ...]:
    """Some of the captures, the presentation state, and the report in the class that the peer took."""
    (state,) = [document for document in good.documents if document.kind is DocumentKind.GSPS]
    (report,) = [document for document in good.documents if document.kind is DocumentKind.SR]
    return (*good.documents[:3], state, report.alternatives[0])


@pytest.fixture(scope="module")
def note(rejected: tuple[Document, ...]) -> Document:
    return rejection_note(rejected, why=WHY, created=CREATED, settings=Report())


@pytest.fixture(scope="module")
def file(note: Document, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("note") / "kos.dcm"
    path.write_bytes(note.content)
    return path


def parsed(document: Document) -> Dataset:
    return dcmread(BytesIO(document.content))


def test_evidence_and_content_name_exactly_what_was_delivered(note: Document, rejected: tuple[Document, ...]) -> None:
    ds = parsed(note)
    (study,) = ds.CurrentRequestedProcedureEvidenceSequence
    evidence = {
        (series.SeriesInstanceUID, ref.ReferencedSOPClassUID, ref.ReferencedSOPInstanceUID)
        for series in study.ReferencedSeriesSequence
        for ref in series.ReferencedSOPSequence
    }
    assert study.StudyInstanceUID == ds.StudyInstanceUID
    assert evidence == {(d.series_instance_uid, d.sop_class_uid, d.sop_instance_uid) for d in rejected}
    selected = [item for item in ds.ContentSequence if "ReferencedSOPSequence" in item]
    assert [(i.ValueType, i.ReferencedSOPSequence[0].ReferencedSOPInstanceUID) for i in selected] == [
        ("COMPOSITE" if d.kind in (DocumentKind.SR, DocumentKind.GSPS) else "IMAGE", d.sop_instance_uid)
        for d in rejected
    ]


def test_title_and_reason(note: Document) -> None:
    ds = parsed(note)
    title = ds.ConceptNameCodeSequence[0]
    assert (title.CodeValue, title.CodingSchemeDesignator) == ("113037", "DCM")
    assert "CodingSchemeVersion" not in title
    assert [i.TextValue for i in ds.ContentSequence if i.ValueType == "TEXT" and i.RelationshipType == "CONTAINS"] == [
        WHY
    ]
    assert ds.SeriesDescription == "DEMO NOT CLINICAL AI stenosis results withdrawn"


def test_the_note_belongs_to_patient_study_and_equipment_of_the_documents(note: Document, good: Result) -> None:
    ds, source = parsed(note), parsed(good.documents[0])
    for keyword in ("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyInstanceUID", "StudyDate",
                    "StudyTime", "StudyID", "AccessionNumber", "ReferringPhysicianName", "Manufacturer",
                    "SoftwareVersions", "StationName"):  # fmt: skip
        assert ds[keyword].value == source[keyword].value, keyword
    assert ds.SeriesInstanceUID not in {d.series_instance_uid for d in good.documents}


def test_the_same_withdrawal_gives_the_same_bytes_and_another_one_another_uid(
    note: Document, rejected: tuple[Document, ...]
) -> None:
    assert rejection_note(rejected, why=WHY, created=CREATED, settings=Report()) == note
    fewer = rejection_note(rejected[1:], why=WHY, created=CREATED, settings=Report())
    other = rejection_note(rejected, why="Superseded by revision 2", created=CREATED, settings=Report())
    assert len({d.sop_instance_uid for d in (note, fewer, other)}) == 3
    assert rejection_note_key(rejected, WHY) == rejection_note_key(rejected[::-1], WHY)
    assert rejection_note_key(rejected, WHY) != rejection_note_key(rejected[1:], WHY)


def test_a_reason_on_several_lines_is_one_line(rejected: tuple[Document, ...]) -> None:
    ds = parsed(rejection_note(rejected, why="first\r\n\tsecond\x1b[1m", created=CREATED, settings=Report()))
    assert [i.TextValue for i in ds.ContentSequence if i.ValueType == "TEXT"][-1] == "first second [1m"


def test_nothing_to_reject_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one"):
        rejection_note([], why=WHY, created=CREATED, settings=Report())


def test_dciodvfy(file: Path) -> None:
    lines = run(require_tool("dciodvfy", "dicom3tools"), "-new", file)
    assert "KeyObjectSelectionDocument" in lines
    assert [line for line in lines if not any(p.match(line) for p in DCIODVFY_ALLOWED)] == []


def test_dcentvfy_finds_it_consistent_with_the_documents(
    file: Path, rejected: tuple[Document, ...], tmp_path: Path
) -> None:
    paths = [tmp_path / f"{i}.dcm" for i in range(len(rejected))]
    for path, document in zip(paths, rejected, strict=True):
        path.write_bytes(document.content)
    lines = run(require_tool("dcentvfy", "dicom3tools"), *paths, file)
    assert [line for line in lines if not DCENTVFY_ALLOWED.match(line)] == []


def test_dcmtk_reads_it_as_a_key_object_selection(file: Path) -> None:
    lines = run(require_tool("dsrdump", "dcmtk"), file)
    assert lines[0] == "Key Object Selection Document"
    assert any("Key Object Description" in line and WHY[:20] in line for line in lines)
    assert [line for line in lines if line.startswith(("E:", "F:"))] == []


@pytest.mark.slow
def test_pixelmed(file: Path) -> None:
    java = require_tool("java", "default-jre-headless")
    jars = [Path("/usr/share/java") / f"{name}.jar" for name in JARS]
    if not jars[0].exists():
        require_tool("pixelmed.jar", "libpixelmed-java")
    limits = [f"-Djdk.xml.xpath{name}=0" for name in ("ExprGrpLimit", "ExprOpLimit", "TotalOpLimit")]
    said = run(
        java, "-Xmx2g", *limits, "-cp", ":".join(map(str, jars)), "com.pixelmed.validate.DicomSRValidator",
        "-checktemplateid", "-checkcontentitemorder", file,
    )  # fmt: skip
    for expected in ("Found KeyObjectSelectionDocument IOD", "IOD validation complete"):
        assert expected in said  # without these lines it crashed, whatever its exit code
    assert any(line.startswith("Found Root Template TID_2010") for line in said)
    assert [line for line in said if line.startswith(("Error", "Warning")) or "illegal" in line.lower()] == []


def test_orthanc_takes_it_and_files_it_with_the_study(
    note: Document, rejected: tuple[Document, ...], tmp_path: Path
) -> None:
    with orthanc(tmp_path / "orthanc") as (port, url):
        peer = Peer(ae_title="ORTHANC", host="127.0.0.1", port=port)
        statuses: list[int] = []
        send((*rejected, note), peer, calling_ae_title="STENOSIS", confirmed=(),
             on_status=lambda s: statuses.append(s.status or 0))  # fmt: skip
        assert statuses == [0] * (len(rejected) + 1)
        (study,) = rest(f"{url}/studies")
        series = [rest(f"{url}/series/{s}") for s in rest(f"{url}/studies/{study}")["Series"]]
        assert sorted(s["MainDicomTags"]["Modality"] for s in series) == ["KO", "OT", "PR", "SR"]
        (instance,) = next(s["Instances"] for s in series if s["MainDicomTags"]["Modality"] == "KO")
        assert dcmread(BytesIO(rest(f"{url}/instances/{instance}/file"))) == parsed(note)
