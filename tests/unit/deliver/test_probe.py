"""probe(): tells before go-live what a delivery would meet."""

from __future__ import annotations

from pathlib import Path

from pydicom.uid import ComprehensiveSRStorage, SecondaryCaptureImageStorage

from stenosis_node.config import Peer
from stenosis_node.deliver import probe
from stenosis_node.deliver.probe import AcceptedClass
from tests.conftest import free_port
from tests.unit.deliver.conftest import StartArchive
from tests.unit.dicom_peers import storescp


def test_accepted_and_refused_classes(start_archive: StartArchive) -> None:
    archive = start_archive(classes=(ComprehensiveSRStorage, SecondaryCaptureImageStorage))
    report = probe(archive.peer(), calling_ae_title="STENOSIS")
    assert report.echo_ok
    assert report.error is None
    assert report.accepted == (
        AcceptedClass(ComprehensiveSRStorage, "Comprehensive SR Storage", ("Explicit VR Little Endian",)),
        AcceptedClass(SecondaryCaptureImageStorage, "Secondary Capture Image Storage", ("Explicit VR Little Endian",)),
    )
    assert "Comprehensive 3D SR Storage" in report.refused
    assert report.report_class == ComprehensiveSRStorage
    assert report.address == f"ARCHIVE at 127.0.0.1 port {archive.port}"
    assert 0 < report.seconds < 3


def test_no_verification(start_archive: StartArchive) -> None:
    report = probe(start_archive(echo=False).peer(), calling_ae_title="STENOSIS")
    assert not report.echo_ok
    assert report.error is not None
    assert "does not accept C-ECHO" in report.error
    assert report.accepted


def test_unreachable_and_rejected(start_archive: StartArchive) -> None:
    nobody = probe(Peer(ae_title="A", host="127.0.0.1", port=free_port(), timeout_s=1), calling_ae_title="S")
    assert (nobody.echo_ok, nobody.accepted, nobody.refused) == (False, (), ())
    assert nobody.error is not None
    assert "refused the connection" in nobody.error
    wrong = probe(start_archive().peer().model_copy(update={"ae_title": "X"}), calling_ae_title="S")
    assert wrong.error is not None
    assert "called AE title 'X'" in wrong.error


def test_dcmtk_and_orthanc(tmp_path: Path, orthanc_server: tuple[int, str]) -> None:
    with storescp(tmp_path / "in") as port:
        report = probe(Peer(ae_title="ANY", host="127.0.0.1", port=port), calling_ae_title="STENOSIS")
        assert report.echo_ok
        assert "Comprehensive 3D SR Storage" in {one.name for one in report.accepted}
        assert "Storage Commitment Push Model SOP Class" in report.refused
    report = probe(Peer(ae_title="ORTHANC", host="127.0.0.1", port=orthanc_server[0]), calling_ae_title="STENOSIS")
    assert report.echo_ok
    assert {s for one in report.accepted if "3D SR" in one.name for s in one.transfer_syntaxes} == {
        "Explicit VR Little Endian",
        "Implicit VR Little Endian",
    }
    taken = {one.name for one in report.accepted}
    assert {"Storage Commitment Push Model SOP Class", "Key Object Selection Document Storage"} <= taken
