"""Documents to send, and a peer that answers as told."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from io import BytesIO
from socketserver import BaseServer

import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import (
    UID,
    BasicTextSRStorage,
    Comprehensive3DSRStorage,
    ComprehensiveSRStorage,
    ExplicitVRLittleEndian,
    SecondaryCaptureImageStorage,
)
from pynetdicom import AE, evt
from pynetdicom.transport import ThreadedAssociationServer

from stenosis_node.config import Peer
from stenosis_node.domain import Document, DocumentKind
from tests.unit.dicom_peers import orthanc

SR_CLASSES = (Comprehensive3DSRStorage, ComprehensiveSRStorage, BasicTextSRStorage)


def make_document(number: int, sop_class: str, kind: DocumentKind, alternatives: tuple[Document, ...] = ()) -> Document:
    """A small document with a Korean name, nested sequences and, for captures, pixels."""
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.file_meta.MediaStorageSOPClassUID = UID(sop_class)
    ds.file_meta.MediaStorageSOPInstanceUID = UID(f"2.25.{1000 + number}")
    ds.SpecificCharacterSet = ["", "ISO 2022 IR 149"]
    ds.SOPClassUID = sop_class
    ds.SOPInstanceUID = f"2.25.{1000 + number}"
    ds.StudyInstanceUID = "1.2.3"
    ds.SeriesInstanceUID = "2.25.77"
    ds.PatientName = "Hong^Gildong=洪^吉洞=홍^길동"
    ds.PatientID = "X1"
    if kind is DocumentKind.SR:
        ds.Modality = "SR"
        leaf = Dataset()
        leaf.ValueType = "TEXT"
        leaf.TextValue = "synthetic"
        ds.ContentSequence = Sequence([leaf, leaf])
    else:
        ds.Modality = "OT"
        ds.Rows, ds.Columns, ds.SamplesPerPixel, ds.BitsAllocated = 64, 64, 3, 8
        ds.PhotometricInterpretation = "RGB"
        ds.PixelData = bytes(range(256)) * 48
    buffer = BytesIO()
    ds.save_as(buffer, enforce_file_format=True)
    return Document(
        kind=kind,
        sop_class_uid=str(sop_class),
        sop_instance_uid=str(ds.SOPInstanceUID),
        series_instance_uid=str(ds.SeriesInstanceUID),
        transfer_syntax_uid=str(ExplicitVRLittleEndian),
        content=buffer.getvalue(),
        alternatives=alternatives,
    )


@pytest.fixture(scope="session")
def documents() -> tuple[Document, ...]:
    """Two captures, then an SR with two alternatives: the order in which they are delivered."""
    text = make_document(4, BasicTextSRStorage, DocumentKind.SR)
    plain = make_document(3, ComprehensiveSRStorage, DocumentKind.SR)
    report = make_document(2, Comprehensive3DSRStorage, DocumentKind.SR, alternatives=(plain, text))
    overview = make_document(0, SecondaryCaptureImageStorage, DocumentKind.SC_OVERVIEW)
    capture = make_document(1, SecondaryCaptureImageStorage, DocumentKind.SC)
    return overview, capture, report


@pytest.fixture(scope="session")
def orthanc_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[int, str]]:
    """DICOM port and REST address of one Orthanc, which takes seconds to start."""
    with orthanc(tmp_path_factory.mktemp("orthanc")) as addresses:
        yield addresses


def dataset_bytes(document: Document) -> bytes:
    """The encoded data set of a document, without preamble and file meta information."""
    buffer = BytesIO(document.content)
    meta_length = dcmread(buffer, stop_before_pixels=True).file_meta.FileMetaInformationGroupLength
    return document.content[132 + 12 + meta_length :]


@dataclass
class Archive:
    """A pynetdicom peer: what it takes, what it answers, and what it got."""

    port: int
    answer: Callable[[str], int | Dataset] = lambda uid: 0x0000
    received: dict[str, bytes] = field(default_factory=dict)
    associations: int = 0

    def peer(self, timeout_s: float = 3) -> Peer:
        return Peer(ae_title="ARCHIVE", host="127.0.0.1", port=self.port, timeout_s=timeout_s)


StartArchive = Callable[..., Archive]


@pytest.fixture
def start_archive() -> Iterator[StartArchive]:
    """Start a peer that accepts the given SOP classes in the given transfer syntaxes (all documents in Explicit VR)."""
    servers: list[ThreadedAssociationServer] = []

    def start(
        classes: tuple[str, ...] = (*SR_CLASSES, SecondaryCaptureImageStorage),
        syntaxes: tuple[str, ...] = (ExplicitVRLittleEndian,),
        *,
        echo: bool = True,
        limit: int = 10,
    ) -> Archive:
        ae = AE("ARCHIVE")
        ae.require_called_aet = True
        ae.maximum_associations = limit
        for sop_class in classes:
            ae.add_supported_context(sop_class, list(syntaxes))
        if echo:
            ae.add_supported_context("1.2.840.10008.1.1")

        def store(event: evt.Event) -> int | Dataset:
            uid = str(event.request.AffectedSOPInstanceUID)
            archive.received[uid] = event.encoded_dataset(include_meta=False)
            return archive.answer(uid)

        def count(event: evt.Event) -> None:
            archive.associations += 1

        server = ae.make_server(
            ("127.0.0.1", 0),
            evt_handlers=[(evt.EVT_C_STORE, store), (evt.EVT_REQUESTED, count)],
            server_class=ThreadedAssociationServer,
        )
        assert isinstance(server, ThreadedAssociationServer)
        servers.append(server)
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        archive = Archive(port=server.server_address[1])
        return archive

    yield start
    for server in servers:
        BaseServer.shutdown(server)  # pynetdicom's own knows only servers that it started itself
        server.server_close()
