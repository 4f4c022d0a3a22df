"""send(): everything or nothing, each answer reported, each failure classified; over real sockets."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from types import SimpleNamespace

import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import (
    BasicTextSRStorage,
    Comprehensive3DSRStorage,
    ComprehensiveSRStorage,
    ImplicitVRLittleEndian,
    SecondaryCaptureImageStorage,
)
from pynetdicom.dimse_primitives import C_ECHO
from pynetdicom.presentation import build_context

from stenosis_node.config import Peer
from stenosis_node.deliver import DocumentStatus, send, storing
from stenosis_node.deliver.statuses import judge
from stenosis_node.domain import Document
from stenosis_node.errors import PermanentError, TransientError
from stenosis_node.wire.association import associate
from tests.conftest import free_port
from tests.unit.deliver.conftest import StartArchive, dataset_bytes
from tests.unit.dicom_peers import rest, storescp

Documents = tuple[Document, ...]


def run(documents: Documents, peer: Peer, confirmed: frozenset[str] = frozenset()) -> list[DocumentStatus]:
    statuses: list[DocumentStatus] = []
    send(documents, peer, calling_ae_title="STENOSIS", confirmed=confirmed, on_status=statuses.append)
    return statuses


def test_order_and_bytes(documents: Documents, start_archive: StartArchive) -> None:
    archive = start_archive()
    statuses = run(documents, archive.peer())
    assert [s.sop_instance_uid for s in statuses] == [d.sop_instance_uid for d in documents]
    assert {(s.status, s.text) for s in statuses} == {(0, "stored")}
    assert list(archive.received) == [d.sop_instance_uid for d in documents]
    for document in documents:
        assert archive.received[document.sop_instance_uid] == dataset_bytes(document)
    assert archive.associations == 1


def test_confirmed_documents_are_not_sent_again(documents: Documents, start_archive: StartArchive) -> None:
    archive = start_archive()
    overview, capture, report = documents
    run(documents, archive.peer(), frozenset({overview.sop_instance_uid, report.alternatives[1].sop_instance_uid}))
    assert list(archive.received) == [capture.sop_instance_uid]
    run(documents, archive.peer(), frozenset(d.sop_instance_uid for d in documents))
    assert archive.associations == 1  # nothing due, nobody bothered


@pytest.mark.parametrize(("accepted", "position"), [(ComprehensiveSRStorage, 0), (BasicTextSRStorage, 1)])
def test_report_falls_back_to_the_first_accepted_alternative(
    documents: Documents, start_archive: StartArchive, accepted: str, position: int
) -> None:
    archive = start_archive(classes=(accepted, SecondaryCaptureImageStorage))
    run(documents, archive.peer())
    report = documents[2].alternatives[position]
    assert list(archive.received) == [
        documents[0].sop_instance_uid,
        documents[1].sop_instance_uid,
        report.sop_instance_uid,
    ]
    assert archive.received[report.sop_instance_uid] == dataset_bytes(report)


def test_the_class_the_peer_took_last_time_is_tried_first(documents: Documents, start_archive: StartArchive) -> None:
    archive = start_archive()
    plain = documents[2].alternatives[0]
    send(
        documents, archive.peer(), calling_ae_title="S", confirmed=(), on_status=lambda _: None,
        report_class=plain.sop_class_uid,
    )  # fmt: skip
    assert list(archive.received)[2:] == [plain.sop_instance_uid]
    other = start_archive(classes=(Comprehensive3DSRStorage, SecondaryCaptureImageStorage))
    send(
        documents, other.peer(), calling_ae_title="S", confirmed=(), on_status=lambda _: None,
        report_class=plain.sop_class_uid,
    )  # fmt: skip
    assert list(other.received)[2:] == [documents[2].sop_instance_uid]


def test_a_class_that_is_accepted_and_then_refused_is_replaced(
    documents: Documents, start_archive: StartArchive
) -> None:
    archive = start_archive()
    report, plain = documents[2], documents[2].alternatives[0]
    archive.answer = lambda uid: 0x0122 if uid == report.sop_instance_uid else 0
    statuses = run(documents, archive.peer())
    assert [(s.sop_instance_uid, s.confirmed) for s in statuses[2:]] == [
        (report.sop_instance_uid, False),
        (plain.sop_instance_uid, True),
    ]


def test_out_of_resources_and_then_well(documents: Documents, start_archive: StartArchive) -> None:
    """The second attempt sends what the first did not get confirmed, and nothing else."""
    archive = start_archive()
    answers = {documents[1].sop_instance_uid: [0xA700, 0]}
    archive.answer = lambda uid: answers[uid].pop(0) if uid in answers else 0
    with pytest.raises(TransientError, match="out of resources"):
        run(documents, archive.peer())
    archive.received.clear()
    run(documents, archive.peer(), frozenset({documents[0].sop_instance_uid}))
    assert list(archive.received) == [documents[1].sop_instance_uid, documents[2].sop_instance_uid]
    assert archive.associations == 2


def test_nothing_is_sent_when_one_class_is_refused(documents: Documents, start_archive: StartArchive) -> None:
    archive = start_archive(classes=(Comprehensive3DSRStorage,))
    with pytest.raises(PermanentError, match="Secondary Capture Image Storage; nothing was sent"):
        run(documents, archive.peer())
    archive_without_sr = start_archive(classes=(SecondaryCaptureImageStorage,))
    with pytest.raises(
        PermanentError, match="Comprehensive 3D SR Storage or Comprehensive SR Storage or Basic Text SR"
    ):
        run(documents, archive_without_sr.peer())
    assert not archive.received
    assert not archive_without_sr.received


def test_a_peer_that_takes_no_class_at_all(documents: Documents, start_archive: StartArchive) -> None:
    with pytest.raises(PermanentError, match="does not accept"):
        run(documents, start_archive(classes=()).peer())


def test_implicit_vr_when_the_peer_has_nothing_else(documents: Documents, start_archive: StartArchive) -> None:
    archive = start_archive(syntaxes=(ImplicitVRLittleEndian,))
    assert len(run(documents, archive.peer())) == 3
    assert archive.received[documents[2].sop_instance_uid] != dataset_bytes(documents[2])


@pytest.mark.parametrize("status", [0xB000, 0xB006, 0xB007, 0xB123, 0x0111])
def test_warnings_count_as_stored_and_say_that_there_was_a_comment(
    documents: Documents, start_archive: StartArchive, status: int
) -> None:
    def answer(uid: str) -> Dataset:
        ds = Dataset()
        ds.Status = status
        ds.ErrorComment = "patient ID coerced"
        return ds

    archive = start_archive()
    archive.answer = answer
    statuses = run(documents, archive.peer())
    assert [(s.status, s.confirmed) for s in statuses] == [(status, True)] * 3
    assert all(s.text.endswith("; the peer gave a comment, which its own log has") for s in statuses)


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (0xA700, TransientError),
        (0xA702, TransientError),
        (0x0110, TransientError),
        (0x0213, TransientError),
        (0xD123, TransientError),
        (0xA900, PermanentError),
        (0xC000, PermanentError),
        (0xC123, PermanentError),
        (0x0122, PermanentError),
        (0x0124, PermanentError),
    ],
)
def test_failures_are_classified(
    documents: Documents, start_archive: StartArchive, status: int, error: type[Exception]
) -> None:
    archive = start_archive()
    archive.answer = lambda uid: status if uid == documents[1].sop_instance_uid else 0
    statuses: list[DocumentStatus] = []
    with pytest.raises(error, match=f"0x{status:04X}"):
        send(documents, archive.peer(), calling_ae_title="S", confirmed=(), on_status=statuses.append)
    assert [(s.status, s.confirmed) for s in statuses] == [(0, True), (status, False)]
    assert documents[2].sop_instance_uid not in archive.received  # the report is not sent after a failed capture


@pytest.mark.parametrize("status", [0xB000, 0xA900])
def test_the_comment_of_the_peer_which_may_quote_the_patient_is_nowhere(
    documents: Documents, start_archive: StartArchive, status: int, caplog: pytest.LogCaptureFixture
) -> None:
    def answer(uid: str) -> Dataset:
        ds = Dataset()
        ds.Status, ds.ErrorComment = status, "X1 is not Hong^Gildong"
        return ds

    archive = start_archive()
    archive.answer = answer
    statuses: list[DocumentStatus] = []
    told = ""
    with caplog.at_level("DEBUG", "stenosis_node"):
        try:
            send(documents, archive.peer(), calling_ae_title="S", confirmed=(), on_status=statuses.append)
        except PermanentError as error:
            told = str(error)
    said = judge(status).meaning
    assert {s.text for s in statuses} == {f"{said}; the peer gave a comment, which its own log has"}
    assert "Hong" not in told + caplog.text
    assert bool(told) == (status == 0xA900)


@contextmanager
def trickling(port: int) -> Iterator[int]:
    """The port of a way to a peer that takes 1 kB each 20 ms after the first 8 kB, and keeps little in buffers."""
    with socket.socket() as listener, socket.create_connection(("127.0.0.1", port)) as onward:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        listener.bind(("127.0.0.1", 0))
        listener.listen()

        def back(incoming: socket.socket) -> None:
            with suppress(OSError):
                while data := onward.recv(65536):
                    incoming.sendall(data)

        def forth() -> None:
            incoming, _ = listener.accept()
            threading.Thread(target=back, args=(incoming,), daemon=True).start()
            passed = 0
            with incoming, suppress(OSError):
                while data := incoming.recv(1024):
                    onward.sendall(data)
                    passed += len(data)
                    time.sleep(0.02 if passed > 8192 else 0)

        thread = threading.Thread(target=forth, daemon=True)
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            thread.join(5)
            # a close alone reaches nobody while `back` waits in recv: the peer's thread would outlive every test
            onward.shutdown(socket.SHUT_RDWR)


def test_a_peer_that_takes_the_bytes_in_driblets_is_given_up(
    documents: Documents, start_archive: StartArchive, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storing, "SLOWEST_BYTES_PER_S", 10_000_000)
    ds = dcmread(BytesIO(documents[0].content))
    ds.PixelData = bytes(8_000_000)  # takes 160 s at the pace of this peer
    content = BytesIO()
    ds.save_as(content)
    with trickling(start_archive().port) as port:
        peer = Peer(ae_title="ARCHIVE", host="127.0.0.1", port=port, timeout_s=1)
        begin = time.monotonic()
        with pytest.raises(TransientError, match=r"did not answer for document [\d.]+ within 2 s"):
            run((replace(documents[0], content=content.getvalue()),), peer)
        assert time.monotonic() - begin < 8


def test_wrong_called_ae_title_is_permanent(documents: Documents, start_archive: StartArchive) -> None:
    archive = start_archive()
    with pytest.raises(PermanentError, match="does not know the called AE title 'WRONG'"):
        run(documents, archive.peer().model_copy(update={"ae_title": "WRONG"}))


def test_too_many_associations_is_transient(documents: Documents, start_archive: StartArchive) -> None:
    archive = start_archive(limit=1)
    echo = [build_context("1.2.840.10008.1.1")]
    with (
        associate(archive.peer(), echo, calling_ae_title="OTHER"),
        pytest.raises(TransientError, match="rejected the association for now"),
    ):
        run(documents, archive.peer())


def test_a_response_is_not_lost_to_the_polling_thread(documents: Documents, start_archive: StartArchive) -> None:
    """pynetdicom's association thread takes what it finds in the queue and throws responses away."""
    with associate(start_archive().peer(), [build_context("1.2.840.10008.1.1")], calling_ae_title="S") as association:
        response = C_ECHO()
        response.MessageIDBeingRespondedTo, response.Status = 1, 0
        association.dimse.msg_queue.put((1, response))
        time.sleep(0.1)  # it polls every millisecond
        assert association.dimse.get_msg(block=True) == (1, response)


def test_a_rejection_is_not_lost_when_the_peer_hangs_up_at_once(
    documents: Documents, start_archive: StartArchive, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The negotiating thread looks late, as it does on a busy machine: the connection is closed by then."""

    class LateEvent(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            happened = super().wait(timeout)
            time.sleep(0.5)
            return happened

    archive = start_archive()
    late = SimpleNamespace(Event=LateEvent, enumerate=threading.enumerate)
    monkeypatch.setattr("pynetdicom.transport.threading", late)
    with pytest.raises(PermanentError, match="called AE title 'WRONG'"):
        run(documents, archive.peer().model_copy(update={"ae_title": "WRONG"}))


def test_nobody_there_is_transient(documents: Documents) -> None:
    begin = time.monotonic()
    with pytest.raises(TransientError, match=r"A at 127.0.0.1 port .* refused the connection"):
        run(documents, Peer(ae_title="A", host="127.0.0.1", port=free_port(), timeout_s=2))
    assert time.monotonic() - begin < 3


def test_a_host_that_does_not_resolve_is_transient(documents: Documents) -> None:
    with pytest.raises(TransientError, match="check the host"):
        run(documents, Peer(ae_title="A", host="no-such-host.invalid", port=104, timeout_s=2))


@pytest.fixture(params=["silent", "half a PDU", "one byte a second", "garbage", "closes"])
def rude_peer(request: pytest.FixtureRequest) -> Iterator[Peer]:
    """A peer that takes the connection and then misbehaves."""
    stop = threading.Event()
    listener = socket.create_server(("127.0.0.1", 0))

    def behave() -> None:
        try:
            connection, _ = listener.accept()
        except OSError:
            return
        with connection:
            match request.param:
                case "half a PDU":
                    connection.sendall(b"\x02\x00\x00\x00\x01\x00abc")
                case "one byte a second":
                    connection.sendall(b"\x02\x00\x00\x00\x01\x00")
                    while not stop.wait(0.3):
                        connection.sendall(b"x")
                case "garbage":
                    connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
                case "closes":
                    return
            stop.wait(20)

    thread = threading.Thread(target=behave)
    thread.start()
    yield Peer(ae_title="RUDE", host="127.0.0.1", port=listener.getsockname()[1], timeout_s=1)
    stop.set()
    listener.close()
    thread.join(5)


def test_a_rude_peer_costs_no_more_than_its_time_limit(documents: Documents, rude_peer: Peer) -> None:
    threads = set(threading.enumerate())
    begin = time.monotonic()
    with pytest.raises(TransientError):
        run(documents, rude_peer)
    assert time.monotonic() - begin < 4
    deadline = time.monotonic() + 4
    while set(threading.enumerate()) - threads and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not set(threading.enumerate()) - threads, "a thread stays with a peer that hangs"


def test_a_peer_that_never_answers_the_store(documents: Documents, start_archive: StartArchive) -> None:
    release = threading.Event()

    def hang(uid: str) -> int:
        release.wait(20)
        return 0

    archive = start_archive()
    archive.answer = hang
    begin = time.monotonic()
    statuses: list[DocumentStatus] = []
    with pytest.raises(TransientError, match="did not answer for document"):
        send(documents, archive.peer(timeout_s=1), calling_ae_title="S", confirmed=(), on_status=statuses.append)
    assert time.monotonic() - begin < 4
    assert statuses == [DocumentStatus(documents[0].sop_instance_uid, None, "no answer", confirmed=False)]
    release.set()


# ------------------------------------------------------------------- independent implementations


def test_dcmtk_stores_what_we_send(documents: Documents, tmp_path: Path) -> None:
    with storescp(tmp_path / "in") as port:
        statuses = run(documents, Peer(ae_title="DCMTK", host="127.0.0.1", port=port))
    assert [s.status for s in statuses] == [0, 0, 0]
    stored = {str(dcmread(p).SOPInstanceUID): p.read_bytes() for p in (tmp_path / "in").iterdir()}
    for document in documents:
        assert stored[document.sop_instance_uid].endswith(dataset_bytes(document))


@pytest.mark.parametrize("option", ["--refuse", "--abort-after", "--abort-during"])
def test_dcmtk_refuses_or_aborts(documents: Documents, tmp_path: Path, option: str) -> None:
    with storescp(tmp_path / "in", option) as port, pytest.raises(TransientError, match=r"reject|abort"):
        run(documents, Peer(ae_title="DCMTK", host="127.0.0.1", port=port, timeout_s=3))


def test_orthanc_holds_what_we_sent(documents: Documents, orthanc_server: tuple[int, str]) -> None:
    port, url = orthanc_server
    run(documents, Peer(ae_title="ORTHANC", host="127.0.0.1", port=port))
    held = {}
    for name in rest(f"{url}/instances"):
        content = rest(f"{url}/instances/{name}/file")
        held[rest(f"{url}/instances/{name}/tags?simplify")["SOPInstanceUID"]] = content
    with pytest.raises(PermanentError, match="called AE title"):
        run(documents, Peer(ae_title="OTHER", host="127.0.0.1", port=port))
    assert set(held) == {d.sop_instance_uid for d in documents}
    for document in documents:
        assert held[document.sop_instance_uid].endswith(dataset_bytes(document))
