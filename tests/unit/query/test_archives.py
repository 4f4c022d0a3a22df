"""What real archives answer: Orthanc and DCMTK's dcmqrscp."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from pydicom import dcmread
from pydicom.uid import generate_uid

from stenosis_node.config import Peer
from stenosis_node.errors import PermanentError, TransientError
from stenosis_node.query import FetchedInstance, find_instances, get_instances, move_instances
from tests.conftest import free_port
from tests.unit.dicom_peers import orthanc, storescp
from tests.unit.query.conftest import Study, dcmqrscp, store


@pytest.fixture(scope="module")
def destination(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[int, Path]]:
    """A storage provider that plays our receiving side, and its folder."""
    folder = tmp_path_factory.mktemp("moved") / "files"
    with storescp(folder) as port:
        yield port, folder


@pytest.fixture(scope="module", params=["orthanc", "dcmqrscp"])
def archive(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    study: Study,
    destination: tuple[int, Path],
) -> Iterator[Peer]:
    """An archive that has the study and knows NODE as a move destination."""
    folder = tmp_path_factory.mktemp(request.param) / "archive"
    if request.param == "orthanc":
        modalities = {"node": ["NODE", "127.0.0.1", destination[0]]}
        with orthanc(folder, DicomModalities=modalities, DicomAlwaysAllowMove=True) as (port, _):
            store(list(study.folder.iterdir()), port, "ORTHANC", "--decompress-never")
            yield Peer(ae_title="ORTHANC", host="127.0.0.1", port=port, timeout_s=10)
    else:
        with dcmqrscp(folder, known={"NODE": destination[0]}) as port:
            store(list(study.folder.iterdir()), port, "QRSCP")
            yield Peer(ae_title="QRSCP", host="127.0.0.1", port=port, timeout_s=10)


def test_every_instance_of_mr_series_is_found_and_no_other(archive: Peer, study: Study) -> None:
    found = find_instances(archive, study.uid, calling_ae_title="NODE")

    assert {i.sop_instance_uid for i in found} == study.mr
    for instance in found:
        dataset = study.datasets[instance.sop_instance_uid]
        assert instance.series_instance_uid == dataset.SeriesInstanceUID
        assert instance.sop_class_uid in ("", dataset.SOPClassUID)


def test_an_unknown_study_has_no_instances(archive: Peer) -> None:
    assert find_instances(archive, generate_uid(), calling_ae_title="NODE") == ()


def test_get_brings_only_what_was_asked_for_as_it_is(archive: Peer, study: Study, tmp_path: Path) -> None:
    known = find_instances(archive, study.uid, calling_ae_title="NODE")
    wanted = known[1:4] + known[6:8]
    kept: dict[str, FetchedInstance] = {}
    told: list[tuple[int, int]] = []

    outcome = get_instances(
        archive,
        study.uid,
        wanted,
        calling_ae_title="NODE",
        keep=lambda one: kept.__setitem__(one.sop_instance_uid, one),
        max_object_bytes=1_000_000,
        progress=lambda done, total: told.append((done, total)),
    )

    assert (outcome.asked, outcome.completed, outcome.failed) == (5, 5, 0)
    assert kept.keys() == {i.sop_instance_uid for i in wanted}
    assert told == [(n, 5) for n in range(1, 6)]
    for uid, instance in kept.items():
        path = tmp_path / uid
        path.write_bytes(b"".join(instance.chunks))
        read, sent = dcmread(path), study.datasets[uid]
        assert read.file_meta.TransferSyntaxUID == instance.transfer_syntax_uid
        if archive.ae_title == "ORTHANC":  # dcmqrscp keeps everything uncompressed
            assert instance.transfer_syntax_uid == sent.file_meta.TransferSyntaxUID
            assert read.PixelData == sent.PixelData
        assert (read.pixel_array == sent.pixel_array).all()
        assert instance.series_instance_uid == sent.SeriesInstanceUID


def test_move_sends_only_what_was_asked_for(archive: Peer, study: Study, destination: tuple[int, Path]) -> None:
    known = find_instances(archive, study.uid, calling_ae_title="NODE")
    wanted = known[2:3] + known[5:7]
    for path in destination[1].iterdir():
        path.unlink()

    outcome = move_instances(archive, study.uid, wanted, calling_ae_title="NODE", destination="NODE")

    assert (outcome.completed, outcome.failed) == (3, 0)
    assert {dcmread(path).SOPInstanceUID for path in destination[1].iterdir()} == {i.sop_instance_uid for i in wanted}


def test_a_destination_nobody_knows_is_said_to_be_registered_there(archive: Peer, study: Study) -> None:
    known = find_instances(archive, study.uid, calling_ae_title="NODE")

    with pytest.raises((PermanentError, TransientError), match=r"register it there|answered 0x"):
        move_instances(archive, study.uid, known, calling_ae_title="NODE", destination="NOWHERE")


def test_nobody_there() -> None:
    peer = Peer(ae_title="GONE", host="127.0.0.1", port=free_port(), timeout_s=2)

    with pytest.raises(TransientError, match="nothing listens there"):
        find_instances(peer, "1.2.3", calling_ae_title="NODE")
